"""Tables of numbers, and what the seconds in them depend on."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any


def machine(threads: int) -> dict[str, Any]:
    """What the seconds depend on."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": _cpu_name(),
        "cpus": os.cpu_count(),
        "threads": threads,
        "load_average_at_start": load,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def markdown(heading: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, first column to the left and numbers to the right.

    >>> print(markdown(["codec", "bits"], [["PNG", "4.47"]]), end="")
    | codec | bits |
    |---|---:|
    | PNG | 4.47 |
    """
    lines = [list(heading), *([str(cell) for cell in row] for row in rows)]
    text = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([text[0], "|---" + "|---:" * (len(heading) - 1) + "|", *text[1:]]) + "\n"


def aligned(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal, first column to the left and numbers to the right.

    >>> print(aligned(["codec", "bits"], [["PNG, 1", "4.47"]]), end="")
    codec   bits
    PNG, 1  4.47
    """
    lines = [heading, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heading))]
    text = [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
    return "".join(f"{line.rstrip()}\n" for line in text)


def html(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table.

    >>> print(html(["codec"], [["A & B"]]))
    <table>
    <tr><th>codec</th></tr>
    <tr><td>A &amp; B</td></tr>
    </table>
    """
    parts = [("th", heading), *(("td", row) for row in rows)]
    lines = ("".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) for tag, cells in parts)
    return "\n".join(["<table>", *(f"<tr>{line}</tr>" for line in lines), "</table>"])


def number(value: float | None, digits: int) -> str:
    """A number with so many digits after the point, or n/a.

    >>> number(2.5, 3), number(None, 1)
    ('2.500', 'n/a')
    """
    return "n/a" if value is None or math.isnan(value) else f"{value:.{digits}f}"
