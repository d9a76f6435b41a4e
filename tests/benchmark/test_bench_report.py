"""The table, the JSON object and the pages of a report."""

from __future__ import annotations

import json
from array import array
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from ardmzip.benchmark import report
from ardmzip.benchmark.dataset import Point, Problems, Result, Row

NAN = float("nan")


@pytest.fixture
def result() -> Result:
    rows = [
        Row("ardmzip", "ardmzip", "1", 3, 90, 2.5, 0.9, 4.0, 1.25, 2.0, 0.5),
        Row("png", "PNG, optimised", "2", 0, 0, NAN, None, NAN, NAN, NAN, NAN),
        Row("jxl-e9", "JPEG XL e9", "3", 3, 100, 2.778, 1.0, 10.0, 2.0, 100.0, 20.0),
        Row("xz", "xz -9, solid", "4", 3, 70, 2.0, 0.7, 10.0, 2.0, 100.0, 20.0),
    ]
    problems = Problems(lambda text: None)
    curve = [Point(5, 5.0, 3.0), Point(None, 54.0, 2.5)]
    split = {"encode": {"features": 100.0, "the rest": 50.0}, "decode": {"features": 120.0, "the rest": 40.0}}
    return Result(rows, 3, 3000, 9000, "JPEG XL e9", array("d", [5, 10, 15]), problems, ["a note"], 3, curve,
                  {"JPEG XL e9": 2.8}, split)  # fmt: skip


def test_the_table_on_the_terminal(result):
    assert report.tables.aligned(report.headings(result), report.cells(result)).splitlines() == [
        "codec           bits per sub-pixel  against JPEG XL e9  encode, images/s   MB/s  decode, images/s    MB/s",
        "xz -9, solid                 2.000             -30.0 %             10.00  2.000            100.00  20.000",
        "ardmzip                      2.500             -10.0 %              4.00  1.250              2.00   0.500",
        "JPEG XL e9                   2.778                   0             10.00  2.000            100.00  20.000",
        "PNG, optimised                 n/a                 n/a               n/a    n/a               n/a     n/a",
    ]
    assert "against" not in " ".join(report.headings(replace(result, reference=None)))


def test_json(result):
    text = json.dumps(report.as_json(result, "some set"), allow_nan=False)
    found = json.loads(text)
    assert found["dataset"] == "some set"
    assert found["codecs"]["png"]["bits_per_subpixel"] is None
    assert found["codecs"]["ardmzip"]["relative"] == 0.9
    assert found["gain_percent"] == {"p0": 5, "p10": 6, "p50": 10, "p90": 14, "p100": 15}
    assert found["curve"][1] == {"budget": None, "calls": 54.0, "bits_per_subpixel": 2.5}


def test_pages(result):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install 'ardmzip[bench]')")
    plots = report.plots(result)
    assert [plot.name for plot in plots] == ["calls", "gains", "times"]
    for plot in plots:
        assert ElementTree.fromstring(plot.svg).tag.endswith("svg")
    assert [plot.svg for plot in report.plots(result)] == [plot.svg for plot in plots], (
        "not the same for the same numbers"
    )
    about = report.tables.machine(2)
    page = report.markdown_page(
        result, "set", "model auto", about, {plot.name: f"r-{plot.name}.svg" for plot in plots}, plots
    )
    for text in (
        "# set\n",
        "| ardmzip | 2.500 | -10.0 % |",
        "all pixels were equal",
        "* a note",
        "(r-calls.svg)",
        "solid",
    ):
        assert text in page
    result.problems.add("<x>: broken")
    html = report.html_page(result, "a <set>", "model auto", about, plots)
    for text in ("a &lt;set&gt;", "<td>2.500</td>", "PROBLEMS: 1", "&lt;x&gt;: broken", "data:image/svg+xml;base64,"):
        assert text in html


def test_plots_without_numbers(result):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install 'ardmzip[bench]')")
    assert report.plots(replace(result, gains=array("d"), curve=[Point(None, 0.0, 2.0)], split={})) == []
