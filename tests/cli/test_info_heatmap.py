"""``ardmzip info --heatmap``, through the real executable."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import listing, refused, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """half.ardm, flat on the left and noise on the right, coded by the model; flat.ardm, which is not. Not to be
    changed."""
    folder = tmp_path_factory.mktemp("heatmap")
    array = np.full((40, 60, 3), 90, np.uint8)
    Image.fromarray(array).save(folder / "flat.png")
    array[:, 30:] = np.random.default_rng(3).integers(60, 120, (40, 30, 3))
    Image.fromarray(array).save(folder / "half.png")
    assert run("compress", "half.png", "-m", "photo", "--no-learn", cwd=folder).returncode == 0
    assert run("compress", "flat.png", cwd=folder).returncode == 0
    return folder


def test_a_map_beside_the_usual_lines(folder, tmp_path):
    plain = run("info", folder / "half.ardm", cwd=tmp_path)
    done = run("info", folder / "half.ardm", "--heatmap", "map.png", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, plain.stdout)
    (line,) = done.stderr
    match = re.fullmatch(r".*half\.ardm -> map\.png  black: no bits, white: (\d+\.\d\d) bits a pixel or more", line)
    assert match
    assert 10 < float(match[1]) < 40  # noise of 60 values in three channels takes 17.7 bits
    with Image.open(tmp_path / "map.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (60, 40))
        array = np.asarray(image).astype(int)
    assert array[:, :20].mean() < 40 < 100 < array[:, 40:].mean()
    assert list(listing(tmp_path)) == ["map.png"]


def test_json_and_stdin(folder, tmp_path):
    data = (folder / "half.ardm").read_bytes()
    done = run("info", "-", "--json", "--heatmap", "MAP.PNG", cwd=tmp_path, stdin=data)
    assert json.loads(done.stdout)["input"] == "-"
    assert done.stderr[0].startswith("stdin -> MAP.PNG  ")


def test_nothing_is_overwritten_unless_forced(folder, tmp_path):
    (tmp_path / "map.png").write_bytes(b"old")
    args = ("info", folder / "half.ardm", "--heatmap", "map.png")
    assert "exists already (-f overwrites it)" in refused(run(*args, cwd=tmp_path), 1)
    assert listing(tmp_path) == {"map.png": b"old"}
    assert run(*args, "-f", cwd=tmp_path).returncode == 0
    assert Image.open(tmp_path / "map.png").size == (60, 40)


def test_files_without_a_map(folder, tmp_path):
    line = refused(run("info", folder / "flat.ardm", "--heatmap", "map.png", cwd=tmp_path), 1)
    assert line.endswith("flat.ardm: the file was stored by a general coder and has no map of its bits")
    (tmp_path / "cut.ardm").write_bytes((folder / "half.ardm").read_bytes()[:-9])
    assert "damaged" in refused(run("info", "cut.ardm", "--heatmap", "map.png", cwd=tmp_path), 1)
    assert list(listing(tmp_path)) == ["cut.ardm"]


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["a.ardm", "b.ardm", "--heatmap", "map.png"], "--heatmap draws one FILE"),
        (["a.ardm", "--heatmap", "map.jpg"], "map.jpg: a map is a .png file"),
        (["a.ardm", "-f"], "-f is for --heatmap"),
    ],
)
def test_usage(args, problem, tmp_path):
    assert problem in refused(run("info", *args, cwd=tmp_path))
