"""The result of ``ardmzip bench`` as a table, as JSON, and as a page in Markdown or HTML with plots."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from ardmzip.benchmark import tables
from ardmzip.benchmark.dataset import SAMPLE_SIDE, Result
from ardmzip.benchmark.tables import number
from ardmzip.errors import ArdmError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Kinds of pages, by suffix.
SUFFIXES = (".md", ".html")


def headings(result: Result) -> list[str]:
    against = [f"against {result.reference}"] if result.reference else []
    return ["codec", "bits per sub-pixel", *against, "encode, images/s", "MB/s", "decode, images/s", "MB/s"]


def cells(result: Result) -> list[list[str]]:
    """The rows of the table of codecs, best first."""
    table = []
    for row in sorted(result.rows, key=lambda row: (math.isnan(row.bits_per_subpixel), row.bits_per_subpixel)):
        change = "n/a" if row.relative is None else f"{100 * (row.relative - 1):+.1f} %"
        change = "0" if row.label == result.reference else change
        table.append(
            [row.label, number(row.bits_per_subpixel, 3), *([change] if result.reference else []),
             number(row.encode_images_per_s, 2), number(row.encode_mb_per_s, 3),
             number(row.decode_images_per_s, 2), number(row.decode_mb_per_s, 3)]
        )  # fmt: skip
    return table


def size_line(result: Result) -> str:
    images = "1 image" if result.images == 1 else f"{result.images} images"
    return f"{images}, {result.pixels / 1e6:.2f} megapixels, {result.raw_bytes / 1e6:.2f} MB raw"


def as_json(result: Result, dataset: str) -> dict[str, Any]:
    """Everything but the plots."""
    keys = ("images", "pixels", "raw_bytes", "reference", "notes")
    found = {"dataset": dataset} | {key: getattr(result, key) for key in keys}
    found["codecs"] = {row.name: asdict(row) for row in result.rows}
    found["problems"] = result.problems.count
    if result.gains:
        found["gain_percent"] = {f"p{q}": round(float(np.percentile(result.gains, q)), 4) for q in (0, 10, 50, 90, 100)}
    if result.sample:
        found["curve"] = [asdict(point) for point in result.curve]
        found["ns_per_subpixel"] = result.split
    return _without_nan(found)


def _without_nan(value: Any) -> Any:
    """NaN is not JSON: it becomes null."""
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


# Plots


def need_matplotlib() -> None:
    """Raises ArdmError without it: before the work rather than after it."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise ArdmError("a report needs matplotlib: pip install 'ardmzip[bench]'") from error


def _figure(width: float = 7, height: float = 3.6) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def calls_plot(result: Result) -> Figure:
    """Bits per sub-pixel against network calls, and the other codecs as lines."""
    figure = _figure()
    axes = figure.subplots()
    points = [point for point in result.curve if point.calls > 0]
    calls, bits = [point.calls for point in points], [point.bits_per_subpixel for point in points]
    axes.plot(calls, bits, "o-", color="C0", label="ardmzip")
    for i, (x, y) in enumerate(zip(calls, bits, strict=True)):
        above = (0, 6) if i % 2 == 0 else (0, -13)  # neighbours may be close
        axes.annotate(f"{y:.3f}", (x, y), textcoords="offset points", xytext=above, ha="center", fontsize=8)
    for i, (label, value) in enumerate(result.sample_references.items(), 1):
        axes.axhline(value, color=f"C{i}", linestyle="--", linewidth=1, label=label)
    axes.set(xscale="log", xlabel="network calls", ylabel="bits per sub-pixel")
    ticks = sorted({round(x) for x in calls})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.margins(x=0.08, y=0.15)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def gains_plot(result: Result) -> Figure:
    """How many images become smaller than the reference, and by how much."""
    from matplotlib.ticker import MaxNLocator

    figure = _figure()
    axes = figure.subplots()
    gains = np.asarray(result.gains)
    axes.hist(gains, bins=min(60, max(5, round(math.sqrt(len(gains))))), color="C0")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axvline(float(np.median(gains)), color="C1", linestyle="--", label=f"median {np.median(gains):.1f} %")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel=f"smaller than {result.reference}, per cent", ylabel="images")
    axes.legend(fontsize=8)
    return figure


def split_plot(result: Result) -> Figure:
    """Time a sub-pixel by stage: a bar for the encoder and one for the decoder."""
    figure = _figure(7, 2.8)
    axes = figure.subplots()
    stages = list(dict.fromkeys(stage for times in result.split.values() for stage in times))
    left = np.zeros(len(result.split))
    for i, stage in enumerate(stages):
        widths = np.array([times.get(stage, 0.0) for times in result.split.values()])
        colour = "lightgray" if stage == "the rest" else f"C{i % 10}"
        axes.barh(list(result.split), widths, left=left, color=colour, label=stage)
        left += widths
    axes.invert_yaxis()
    axes.set(xlabel="nanoseconds a sub-pixel")
    axes.legend(fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.3))
    return figure


def _svg(figure: Figure) -> bytes:
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "ardmzip"}):  # the same file for the same numbers
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


# Pages


@dataclass(frozen=True)
class Plot:
    """A section of the page."""

    name: str
    title: str
    text: str
    svg: bytes


def plots(result: Result) -> list[Plot]:
    """The plots that there are numbers for."""
    found = []
    sample = f"the first {result.sample} image(s)" if result.sample > 1 else "the first image"
    where = f"Measured on {sample}, of larger ones {SAMPLE_SIDE} x {SAMPLE_SIDE} pixels from the middle"
    if any(point.calls > 0 for point in result.curve):
        text = f"{where}. Every file was decoded and compared."
        found.append(Plot("calls", "Bits per sub-pixel against network calls", text, _svg(calls_plot(result))))
    if result.gains:
        text = f"By how much ardmzip's file of each image is smaller than that of {result.reference}."
        found.append(Plot("gains", "Gains per image", text, _svg(gains_plot(result))))
    if result.split:
        text = f"{where}, on one thread; start-up and verification are not included."
        found.append(Plot("times", "Where ardmzip's time goes", text, _svg(split_plot(result))))
    return found


def _remarks(result: Result, options: str, about: Mapping[str, Any]) -> list[str]:
    load = about.get("load_average_at_start")
    busy = "" if load is None else f"; load average {load:.1f} when it began"
    good = not result.problems.count
    lines = [
        "Every file was decoded, and all pixels were equal to the original." if good else
        f"PROBLEMS: {result.problems.count}, the first of which are listed here.",
        "Bits per sub-pixel: all bits of the files, headers included, over the samples of all images. MB are 10^6 "
        "bytes of raw samples. Metadata is left out, palettes are written out.",
        "A solid compressor sees the raw samples of all images in one piece (blocks of 32 MiB): to read one image, all "
        "before it in its block have to be read. All other codecs make a file for each image.",
        f"Measured {about['date']}: {about['cpu']}, {about['cpus']} CPUs, {about['system']}, Python {about['python']}"
        f"{busy}. ardmzip and JPEG XL use {about['threads']} thread(s), the others one.",
        f"ardmzip's options: {options}",
    ]  # fmt: skip
    lines += [f"{row.label}: {row.version}" for row in result.rows]
    return lines + result.notes + [f"problem: {text}" for text in result.problems.first]


def markdown_page(
    result: Result, title: str, options: str, about: Mapping[str, Any], links: Mapping[str, str], found: list[Plot]
) -> str:
    """``links``: the file of each plot."""
    lines = [f"# {title}", "", f"{size_line(result)}.", "", tables.markdown(headings(result), cells(result))]
    lines += [f"* {remark}" for remark in _remarks(result, options, about)]
    for plot in found:
        lines += ["", f"## {plot.title}", "", f"![{plot.title}]({links[plot.name]})", "", plot.text]
    return "\n".join(lines) + "\n"


_STYLE = """body { font-family: sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse } th, td { padding: .3em .8em; border-bottom: 1px solid #ccc; text-align: right }
th:first-child, td:first-child { text-align: left } img { max-width: 100% }"""


def html_page(result: Result, title: str, options: str, about: Mapping[str, Any], found: list[Plot]) -> str:
    """A page of its own, plots included."""
    parts = [
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(title)}</title>',
        f"<style>{_STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n<p>{escape(size_line(result))}.</p>",
        tables.html(headings(result), cells(result)),
        "<ul>",
        *(f"<li>{escape(remark)}</li>" for remark in _remarks(result, options, about)),
        "</ul>",
    ]
    for plot in found:
        image = f"data:image/svg+xml;base64,{base64.b64encode(plot.svg).decode()}"
        parts += [
            f"<h2>{escape(plot.title)}</h2>",
            f'<p><img src="{image}" alt="{escape(plot.title)}"></p>\n<p>{escape(plot.text)}</p>',
        ]
    return "\n".join([*parts, "</body>", "</html>"]) + "\n"
