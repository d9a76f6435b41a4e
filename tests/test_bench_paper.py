"""The paper's experiment on tiny images with a tiny model."""

from __future__ import annotations

import numpy as np
import pytest

from ardmzip import model as models
from ardmzip.ardm import model as random_order
from ardmzip.benchmark.tables import machine
from bench import paper


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, random_integers):
    path = tmp_path_factory.mktemp("models") / "up16.safetensors"
    random_order.save(path, "up16", random_integers(16, False), {})
    return random_order.require(models.load(path))


def test_rows_are_those_of_real_files(tiny):
    y, x = np.mgrid[:6, :5]
    planes = np.stack([np.stack([90 + y + x + i, 80 + 2 * y, 70 + x]) for i in range(3)]).astype(np.uint8)
    found = paper.compare(tiny, planes, [(2, [10])], full=1)
    assert [(row["calls"], row["schedule"], row["images"]) for row in found["rows"]] == [
        (10, "even", 2), (10, "stage by stage", 2), (10, "best", 2),
    ]  # fmt: skip
    assert found["full"]["calls"] == 180
    assert [loss["calls"] for loss in found["losses"]] == [100, 180]
    for row in [*found["rows"], found["full"]]:
        assert 0 < row["stream_bits"] < row["file_bits"]
    page = paper.page({"up16": found}, {"PNG": 5.9}, {"thumb": 3.7}, machine(1))
    assert "| 10 | stage by stage | 2 |" in page
    assert "| ARDM-Upscale 4 (paper)" in page


def test_expected_bits_fall_with_calls_and_the_best_schedule(tiny):
    even, best = (paper.measure(tiny, np.full((1, 3, 6, 5), 99, np.uint8), 20, kind) for kind in (0, 2))
    assert best["expected_bits"] <= even["expected_bits"]


def test_the_plot_is_drawn(tiny, tmp_path):
    pytest.importorskip("matplotlib")
    paper.plot(tiny, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"


def test_wrong_models_and_sheets_end_in_one_line(tiny, tmp_path, capsys):
    assert paper.main([str(tmp_path / "none.png"), "--models", "photo"]) == 2
    assert capsys.readouterr().err.startswith("bench: ")
