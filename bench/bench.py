"""Compare ardmzip with other lossless codecs: ``python -m bench.bench FOLDER...``; see bench/README.md."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ardmzip.benchmark import codecs
from ardmzip.benchmark.codecs import available_threads
from ardmzip.benchmark.measure import Measurement, Summary, summarise
from ardmzip.benchmark.tables import machine
from bench import report
from bench.cifar import sheet_set
from bench.images import ImageSet, folder_sets
from bench.measure import SetResult, run_set

RESULTS = Path(__file__).parent / "results"
BUDGETS: tuple[int | None, ...] = (5, 10, 20, 40, None)
#: Measured for sheets of small images, too: from effort 4 on all phases and ways to turn them are compared.
OF_SHEETS = ["ardmzip-e4"]


@dataclass
class Progress:
    """Lines on stderr: one that rewrites itself on a terminal, else one every ten seconds."""

    title: str
    begin: float = field(default_factory=time.monotonic)
    printed: float = 0.0

    def __call__(self, done: int, of: int, text: str) -> None:
        now = time.monotonic()
        line = f"{self.title} {done}/{of} {now - self.begin:.0f} s: {text}"
        if sys.stderr.isatty():
            print(f"\r\x1b[K{line}", end="\n" if done == of else "", file=sys.stderr, flush=True)
        elif now - self.printed > 10 or done == of:
            self.printed = now
            print(line, file=sys.stderr, flush=True)


def limit_threads(threads: int) -> None:
    """Hold every codec to ``threads`` cores; to be called before torch and numba are imported."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = str(threads)
    if hasattr(os, "sched_setaffinity") and threads < available_threads():
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def make_codecs(names: Sequence[str], args: argparse.Namespace) -> tuple[list[codecs.Codec], dict[str, float]]:
    """The codecs that are installed, warmed up, and the start-up seconds of each."""
    made, startup = [], {}
    for name in names:
        begin = time.perf_counter()
        try:
            codec = codecs.make(name, args.threads, model=args.model, device=args.device)
        except codecs.MissingCodec as error:
            print(f"{(codecs.LABELS | codecs.EFFORTS)[name]} left out: {error}", file=sys.stderr)
            continue
        loading = time.perf_counter() - begin
        startup[name] = loading + codecs.warm_up(codec)
        made.append(codec)
    return made, startup


def measure_table(images: ImageSet, made: list[codecs.Codec], startup: dict[str, float], about: dict[str, Any],
                  notes: list[str], out: Path) -> tuple[SetResult, list[Summary]]:  # fmt: skip
    """All codecs on a set; writes OUT/SET.md and OUT/SET.json."""
    result = run_set(images, made, Progress(images.name))
    summaries = [summarise(codec, result.of(codec.name), startup[codec.name]) for codec in made]
    page = report.set_page(result, summaries, about, notes)
    (out / f"{images.name}.md").write_text(page)
    report.write_json(out / f"{images.name}.json", report.set_json(result, summaries, about, notes))
    print(page)
    return result, summaries


def measure_steps(images: ImageSet, args: argparse.Namespace, best: list[Measurement]) -> list[dict[str, Any]]:
    """Bits per sub-pixel of the files of a set for each budget of network calls.

    ``best``: the measurements without a budget where the table has them already, so that they are not repeated.
    """
    points = []
    for budget in BUDGETS:
        codec = codecs.make("ardmzip", args.threads, model=args.model, device=args.device, steps=budget)
        name = "best" if budget is None else str(budget)
        if budget is None and best:
            measurements = best
        else:
            measurements = run_set(images, [codec], Progress(f"{images.name}, {name} calls,")).measurements
        s = summarise(codec, measurements)
        points.append(
            {
                "budget": name,
                "network_calls": float("nan") if s.mean_network_calls is None else s.mean_network_calls,
                "images": s.images,
                "bytes": s.bytes,
                "bits_per_subpixel": s.bits_per_subpixel,
                "encode_s_per_mp": s.encode_s_per_mp,
                "decode_s_per_mp": s.decode_s_per_mp,
                "failures": list(s.failures),
            }
        )
    return points


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.bench", description="Compare lossless image codecs.")
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="folder of images, one set each")
    parser.add_argument("--cifar", action="append", default=[], type=Path, metavar="SHEET",
                        help="CIFAR-10 sheet, measured with one file an image (see bench/cifar.py)")  # fmt: skip
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="for results (default bench/results)")
    parser.add_argument("--threads", type=int, metavar="N", help="cores for every codec (default: all)")
    names = [*codecs.LABELS, *(name for name in codecs.EFFORTS if name not in codecs.LABELS)]
    default = f"all up to jxl-e9, and {OF_SHEETS[0]} for sheets"
    parser.add_argument("--codecs", nargs="+", choices=names, metavar="NAME",
                        help=f"some of {', '.join(names)} (default: {default})")  # fmt: skip
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images of each set")
    parser.add_argument("--steps-curve", action="store_true",
                        help="also: bits per sub-pixel against 5, 10, 20, 40 network calls and the best")  # fmt: skip
    parser.add_argument("--no-table", action="store_true", help="with --steps-curve: the curve only")
    parser.add_argument("--model", default="auto", help="ardmzip's model, a name or a file (default auto)")
    parser.add_argument("--device", default="cpu", help="ardmzip's device; the other codecs know only the CPU")
    args = parser.parse_args(argv)
    if not args.folders and not args.cifar:
        parser.error("give at least one FOLDER of images, or a --cifar SHEET")
    if args.no_table and not args.steps_curve:
        parser.error("--no-table without --steps-curve leaves nothing to measure")
    if args.threads is not None and not 1 <= args.threads <= available_threads():
        parser.error(f"--threads must be between 1 and {available_threads()}, the cores this process may use")
    if args.limit is not None and args.limit < 1:
        parser.error("--limit must be at least 1")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    args.threads = args.threads or available_threads()
    limit_threads(args.threads)
    about = machine(args.threads)
    try:
        sets = folder_sets(args.folders)
        sets += [sheet_set(args.cifar)] if args.cifar else []
    except (OSError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    sets = [images.first(args.limit) for images in sets]
    sheet = sets[-1] if args.cifar else None
    args.out.mkdir(parents=True, exist_ok=True)

    usual = args.codecs or list(codecs.LABELS)
    made, startup = make_codecs(["ardmzip"] if args.no_table else usual, args)
    more, warming = make_codecs(OF_SHEETS if sheet and not args.codecs and not args.no_table else [], args)
    has_ardmzip = any(codec.name == "ardmzip" for codec in made)
    if not made or (args.steps_curve and not has_ardmzip):
        print("bench: nothing to measure" if not made else "bench: the steps curve needs ardmzip", file=sys.stderr)
        return 2
    notes = [f"limited to the first {args.limit} image(s)"] if args.limit else []
    notes += [f"ardmzip's device: {args.device}"] if has_ardmzip else []

    failed, curves, references = False, {}, {}
    for images in sets:
        best: list[Measurement] = []
        if not args.no_table:
            here = [*made, *more] if images is sheet else made
            result, summaries = measure_table(images, here, startup | warming, about, notes, args.out)
            failed |= any(s.failures for s in summaries)
            best = result.of("ardmzip")
            references[images.name] = {s.label: s.bits_per_subpixel for s in summaries if s.codec.startswith("jxl")}
        if args.steps_curve:
            curves[images.name] = measure_steps(images, args, best)
            failed |= any(point["failures"] for point in curves[images.name])
            page = report.steps_page(curves, about)
            (args.out / "steps.md").write_text(page)
            report.write_json(args.out / "steps.json", {"machine": about, "notes": notes, "sets": curves})
            report.steps_plot(curves, references, args.out / "steps.png")
    if args.steps_curve:
        print(page)
    if failed:
        print("bench: not every image came back unchanged, see the results", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
