"""Tables in Markdown, results in JSON, and the plot of the steps curve."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ardmzip.benchmark.measure import Summary
from ardmzip.benchmark.tables import markdown, number
from bench.measure import SetResult

REFERENCE = "jxl-e9"


def table(summaries: Sequence[Summary]) -> str:
    """One row a codec; sizes also against JPEG XL e9, where that was measured on the same images."""
    reference = next((s for s in summaries if s.codec == REFERENCE), None)
    rows = []
    for s in summaries:
        size = "n/a"
        if reference is not None and not reference.failures and not s.failures and reference.bytes:
            size = f"{100 * (s.bytes / reference.bytes - 1):+.1f} %" if s is not reference else "0"
        rows.append(
            [s.label, number(s.bits_per_subpixel, 3), size, number(s.encode_s_per_mp, 2),
             number(s.decode_s_per_mp, 2), number(s.startup_s, 2)]
        )  # fmt: skip
    heading = ["codec", "bits per sub-pixel", "size against JPEG XL e9", "encode, s/MP", "decode, s/MP", "start-up, s"]
    return markdown(heading, rows)


def steps_table(points: Sequence[Mapping[str, Any]]) -> str:
    """One row a budget of network calls."""
    rows = [
        [point["budget"], number(point["network_calls"], 1), number(point["bits_per_subpixel"], 3),
         number(point["encode_s_per_mp"], 2), number(point["decode_s_per_mp"], 2)]
        for point in points
    ]  # fmt: skip
    heading = ["budget of network calls", "calls, mean", "bits per sub-pixel", "encode, s/MP", "decode, s/MP"]
    return markdown(heading, rows)


def set_page(result: SetResult, summaries: Sequence[Summary], about: Mapping[str, Any], notes: Sequence[str]) -> str:
    """The Markdown file of a set: the table, and how it was measured."""
    images = {m.image for m in result.measurements}
    pixels = sum({m.image: m.width * m.height for m in result.measurements}.values())
    failures = [f"{s.label}: {failure}" for s in summaries for failure in s.failures]
    good = "Every decoded image was equal to the original, pixel for pixel." if not failures else "**FAILURES**, below."
    lines = [f"# {result.name}", "", table(summaries)]
    lines += [f"{len(images)} image(s), {pixels / 1e6:.2f} megapixels. {good}", "", _machine_line(about), ""]
    lines += [f"* {s.label}: {s.version}" for s in summaries]
    lines += [f"* {note}" for note in notes]
    lines += [f"* left out: {text}" for text in result.skipped]
    lines += [f"* failed: {text}" for text in failures]
    return "\n".join(lines) + "\n"


def _machine_line(about: Mapping[str, Any]) -> str:
    load = about.get("load_average_at_start")
    busy = "" if load is None else f"; load average {load:.1f} when it began"
    return (
        f"Measured {about['date']} on {about['threads']} thread(s) for every codec: {about['cpu']}, "
        f"{about['cpus']} CPUs, {about['system']}, Python {about['python']}{busy}. Start-up (loading, first tiny "
        "image) is in its own column and not in the seconds per megapixel."
    )


#: Sets with more images than this are kept as totals; only failures are told one by one.
MOST_IMAGES = 100


def set_json(
    result: SetResult, summaries: Sequence[Summary], about: Mapping[str, Any], notes: Sequence[str]
) -> dict[str, Any]:
    """Everything that was measured on a set."""
    images = {m.image for m in result.measurements}
    return {
        "set": result.name,
        "machine": dict(about),
        "notes": list(notes),
        "codecs": {s.codec: asdict(s) for s in summaries},
        "skipped": result.skipped,
        "images": [asdict(m) for m in result.measurements if len(images) <= MOST_IMAGES or m.error],
    }


def write_json(path: Path, content: object) -> None:
    """JSON without NaN, which is not JSON: it becomes null."""
    path.write_text(json.dumps(_without_nan(content), indent=1) + "\n")


def _without_nan(x: Any) -> Any:
    if isinstance(x, Mapping):
        return {key: _without_nan(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [_without_nan(value) for value in x]
    return None if isinstance(x, float) and math.isnan(x) else x


def steps_page(curves: Mapping[str, Sequence[Mapping[str, Any]]], about: Mapping[str, Any]) -> str:
    """The Markdown file of the steps curve, one table a set."""
    lines = ["# Bits per sub-pixel against network calls", ""]
    lines += ["Sizes of real files, every one decoded and compared.", ""]
    for name, points in curves.items():
        lines += [f"## {name}", "", steps_table(points)]
        lines += [f"* failed: {failure}" for point in points for failure in point["failures"]]
    return "\n".join([*lines, _machine_line(about)]) + "\n"


def steps_plot(
    curves: Mapping[str, Sequence[Mapping[str, Any]]], references: Mapping[str, Mapping[str, float]], path: Path
) -> None:
    """Bits per sub-pixel against network calls, a line a set; dashed, other codecs (set -> label -> bits)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    figure, axes = plt.subplots(len(curves), 1, figsize=(7, 3.4 * len(curves)), squeeze=False, layout="constrained")
    for ax, (name, points) in zip(axes[:, 0], curves.items(), strict=True):
        calls, bits = [p["network_calls"] for p in points], [p["bits_per_subpixel"] for p in points]
        ax.plot(calls, bits, "o-", color="C0", label="ardmzip")
        for point in points:
            if not math.isnan(point["bits_per_subpixel"]):
                label = f"{point['bits_per_subpixel']:.3f}"
                at = (point["network_calls"], point["bits_per_subpixel"])
                ax.annotate(label, at, textcoords="offset points", xytext=(0, 6), ha="center", fontsize=8)
        for i, (label, value) in enumerate(references.get(name, {}).items()):
            ax.axhline(value, color=f"C{i + 1}", linestyle="--", linewidth=1, label=label)
        ax.set(title=name, xscale="log", xlabel="network calls", ylabel="bits per sub-pixel")
        ax.xaxis.set_major_formatter(ScalarFormatter())
        ax.xaxis.set_minor_formatter(NullFormatter())
        ticks = sorted({round(c) for c in calls if not math.isnan(c)})
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.margins(x=0.08, y=0.15)
        ax.grid(alpha=0.3)
        ax.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
