"""The paper's compression experiment (arXiv 2110.02037, section 5): bits by the number of network calls.

    python -m bench.paper SHEET [--models oa-small] [--images 1000:100 100:20,50,500] [--full 8]

codes CIFAR-10 images (bench/cifar.py) one by one, with the schedule of the dynamic programme and with evenly spaced
calls, decodes all of them and compares; and, on fewer images, with one call for each sub-pixel and stage, which is the
model's full likelihood. Writes paper.md, paper.json and a plot of L_t with the chosen calls for each model.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from ardmzip import model as models
from ardmzip import network
from ardmzip.ardm import codec, schedule
from ardmzip.ardm.model import RandomModel, require
from ardmzip.ardm.order import SPREADS
from ardmzip.benchmark import codecs
from ardmzip.benchmark.measure import run_one
from ardmzip.benchmark.tables import machine, markdown
from ardmzip.container import pack, unpack
from ardmzip.errors import ArdmError
from ardmzip.image import to_planes
from bench import report
from bench.cifar import cut
from bench.images import read

RESULTS = Path(__file__).parent / "results"
#: The paper's table 4: bits per dimension of its coded CIFAR-10 test images, per image, at 500 and at 100 calls.
PUBLISHED = (
    ("ARDM-Upscale 4 (paper), about 120 M parameters, 8 TPUs, 2 weeks", 2.71, 2.76),
    ("OA-ARDM (paper), the same", 2.73, 2.75),
    ("IDF++ (paper)", 3.26, None),
    ("IDF (paper)", 3.34, None),
    ("FLIF (paper)", 4.19, None),
)
OTHERS = ("png", "webp", "jxl-e7")
#: Images that are decoded in lock-step.
TOGETHER = 50


def measure(model: RandomModel, planes: np.ndarray, calls: int, kind: int) -> dict[str, Any]:
    """Sizes and seconds of real files, each decoded and compared."""
    backend = network.backend()
    order = codec.choose_order(*planes.shape[2:], model, calls, kind)
    begun = time.perf_counter()
    files = [pack(codec.encode(one, model, backend, order)) for one in planes]
    encoded = time.perf_counter()
    for first in range(0, len(files), TOGETHER):
        part = slice(first, first + TOGETHER)
        found = codec.decode_many([unpack(data) for data in files[part]], model, backend)
        if not np.array_equal(found, planes[part]):
            raise ArdmError(f"{model.name}: decoded images differ from the originals")
    decoded = time.perf_counter()
    streams = sum(words.nbytes for data in files for words in unpack(data).segments)
    loss = model.loss_for(planes[0].size)
    expected = schedule.cost(loss, model.calls(planes[0].size, order.calls, kind)) / (planes[0].size * 2.0**16)
    return {
        "calls": order.calls,
        "schedule": SPREADS[kind],
        "images": len(planes),
        "stream_bits": 8 * streams / planes.size,
        "file_bits": 8 * sum(map(len, files)) / planes.size,
        "expected_bits": expected,
        "encode_s_per_image": (encoded - begun) / len(planes),
        "decode_s_per_image": (decoded - encoded) / len(planes),
    }


def compare(model: RandomModel, planes: np.ndarray, plan: list[tuple[int, list[int]]], full: int) -> dict[str, Any]:
    """All rows of a model: full likelihood, then budgets."""
    rows = []
    for images, budgets in plan:
        kinds = [schedule.EVEN, schedule.BEST] if model.stages == 1 else [0, 1, 2]
        for calls in budgets:
            for kind in kinds:
                rows.append(measure(model, planes[:images], calls, kind))
                say(model.name, rows[-1])
    complete = measure(model, planes[:full], planes[0].size * model.stages, schedule.BEST)
    say(model.name, complete)
    # what the budgets lose, on the very images of the full likelihood
    losses = []
    for calls in (100, 500):
        some = measure(model, planes[:full], calls, schedule.BEST)
        losses.append({"calls": calls, "over_full": some["stream_bits"] / complete["stream_bits"] - 1, **some})
        say(model.name, losses[-1])
    return {"id": model.id.hex(), "card": model.card, "rows": rows, "full": complete, "losses": losses}


def say(name: str, row: dict[str, Any]) -> None:
    print(
        f"{name}: {row['calls']} calls ({row['schedule']}), {row['images']} images: {row['stream_bits']:.4f} bits, "
        f"{row['file_bits']:.4f} with headers",
        flush=True,
    )


def page(results: dict[str, Any], others: dict[str, float], lattice: dict[str, Any], about: dict[str, Any]) -> str:
    """The Markdown page."""
    lines = ["# CIFAR-10 test images: the paper's models", ""]
    for name, found in results.items():
        rows = [
            [row["calls"], row["schedule"], row["images"], f"{row['stream_bits']:.3f}", f"{row['file_bits']:.3f}",
             f"{row['encode_s_per_image']:.2f}", f"{row['decode_s_per_image']:.2f}"]
            for row in [*found["rows"], {**found["full"], "schedule": "one digit a call"}]
        ]  # fmt: skip
        heading = ["calls", "schedule", "images", "bits per dimension", "with headers", "encode, s", "decode, s"]
        lines += [f"## {name} ({found['id']})", "", markdown(heading, rows)]
        for loss in found["losses"]:
            lines.append(
                f"* {loss['calls']} calls against one digit a call, on the same {loss['images']} images: "
                f"{loss['stream_bits']:.3f} against {found['full']['stream_bits']:.3f}, "
                f"{100 * loss['over_full']:+.1f} %"
            )
        lines.append("")
    rows = [[f"{name}, files", f"{bits:.3f}", ""] for name, bits in others.items()]
    rows += [[f"{name} (lattice, learning head), files", f"{bits:.3f}", ""] for name, bits in lattice.items()]
    rows += [[f"{name}, published", f"{a:.2f}", "" if b is None else f"{b:.2f}"] for name, a, b in PUBLISHED]
    lines += ["## Beside", "", markdown(["", "bits per dimension (500 calls)", "100 calls"], rows)]
    lines += [
        f"Measured {about['date']}: {about['cpu']}, {about['cpus']} CPUs, Python {about['python']}. Every file was "
        "decoded and compared. Bits per dimension are those of the rANS streams; a file of 32x32 pixels has about 29 "
        "bytes beside them.",
        "",
    ]
    return "\n".join(lines)


def plot(model: RandomModel, path: Path, budget: int = 50) -> None:
    """L_t of every stage, with the calls of a budget, as the paper's figures show it."""
    from matplotlib.figure import Figure

    size = 3072
    loss = model.loss_for(size) / 2.0**16
    starts = model.calls(size, budget, schedule.BEST)
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(1, model.stages, sharey=True, squeeze=False)[0]
    for stage, (axis, curve, own) in enumerate(zip(axes, loss, starts, strict=True)):
        steps = np.arange(size)
        coded = curve[np.array(own)[np.searchsorted(own, steps, side="right") - 1]]
        axis.fill_between(steps, curve, coded, step="post", alpha=0.35, label="what the calls add")
        axis.plot(steps, curve, color="black", linewidth=1, label="L_t")
        axis.plot(own, curve[list(own)], "|", color="tab:red", markersize=8, label=f"{len(own)} calls")
        axis.set(xlabel="digits known", title=f"stage {stage + 1}" if model.stages > 1 else model.name, ylim=(0, None))
        axis.legend(fontsize=7)
    axes[0].set_ylabel("bits")
    if model.stages > 1:
        figure.suptitle(model.name)
    figure.savefig(path, dpi=120)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.paper", description="The paper's compression experiment.")
    parser.add_argument("sheet", type=Path, metavar="SHEET", help="CIFAR-10 test images, see bench/cifar.py")
    parser.add_argument("--models", nargs="+", default=["oa-small"], metavar="MODEL")
    parser.add_argument("--lattice", nargs="*", default=["thumb"], metavar="MODEL", help="lattice models beside them")
    parser.add_argument(
        "--images", nargs="+", type=_plan, default=[_plan("1000:100"), _plan("100:20,50,500")],
        metavar="N:CALLS,CALLS", help="budgets of network calls, and on how many images (1000:100 100:20,50,500)",
    )  # fmt: skip
    parser.add_argument("--full", type=int, default=8, metavar="N", help="images that are coded with all calls")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="for results (default bench/results)")
    return parser.parse_args(argv)


def _plan(text: str) -> tuple[int, list[int]]:
    """
    >>> _plan("100:20,50")
    (100, [20, 50])
    """
    images, _, budgets = text.partition(":")
    return int(images), [int(calls) for calls in budgets.split(",")]


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        pixels = cut(read(args.sheet))
        loaded = [require(models.load(name)) for name in args.models]
        planes = np.stack([to_planes(image) for image in pixels])
        results = {model.name: compare(model, planes, args.images, args.full) for model in loaded}
    except (ArdmError, OSError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    most = max(images for images, _ in args.images)
    others: dict[str, float] = {}
    lattice: dict[str, float] = {}
    named = [(codecs.make(name), others) for name in OTHERS]
    named += [(codecs.make("ardmzip", model=name), lattice) for name in args.lattice]
    for i, (one, into) in enumerate(named):
        found = [run_one(one, str(k), np.ascontiguousarray(image)) for k, image in enumerate(pixels[:most])]
        if any(m.error for m in found):
            print(f"bench: {one.label}: {next(m.error for m in found if m.error)}", file=sys.stderr)
            return 1
        name = one.label if into is others else args.lattice[i - len(OTHERS)]
        into[name] = 8 * sum(m.bytes for m in found) / pixels[:most].size
        print(f"{name}: {into[name]:.4f}", flush=True)
    about = machine(2)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "paper.md").write_text(page(results, others, lattice, about))
    report.write_json(
        args.out / "paper.json", {"machine": about, "models": results, "others": others, "lattice": lattice}
    )  # fmt: skip
    for model in loaded:
        plot(model, args.out / f"paper-{model.name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
