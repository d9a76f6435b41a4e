"""The command line's options for learning heads, and names of compressed files, through the real executable."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ardmzip
from ardmzip import model
from ardmzip.cli.compress import _learned
from ardmzip.container import unpack
from ardmzip.learning import Gain
from ardmzip.schedule import best_batches, learning_grid
from ardmzip.streams import LIMIT, batches

ROOT = Path(ardmzip.__file__).parent.parent
WIDTH, HEIGHT = 64, 48
ATOM = WIDTH * HEIGHT // 4  # pixels of a head at level 0
#: The line of -v that tells share and size of every level.
LEVELS = r"  bits by level: " + "; ".join(
    rf"{name}: (\d+\.\d) %, (\d+\.\d\d\d){unit}"
    for name, unit in (("level 0", " a sub-pixel"), ("level 1", ""), ("coarser", ""))
)
CURVE = (0.02 * np.log1p(learning_grid(24) / 500)).astype(np.float32)


def run(*args: str | Path, cwd: Path, stdin: bytes = b"", code: int = 0) -> subprocess.CompletedProcess:
    """Run ardmzip; stdout stays bytes, stderr becomes its lines."""
    command = [sys.executable, "-m", "ardmzip", *map(str, args)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=cwd, env=environment, input=stdin, capture_output=True, timeout=300)
    done.stderr = done.stderr.decode().splitlines()
    assert done.returncode == code, done.stderr
    return done


def schedule(*args: str | Path, cwd: Path) -> dict[str, str]:
    """The lines of ``ardmzip schedule`` below the table, by what they begin with."""
    lines = run("schedule", "--size", f"{WIDTH}x{HEIGHT}", *args, cwd=cwd).stdout.decode().splitlines()
    found = (re.fullmatch(r"(\S.*?) {2,}(.*)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """img.png; it compressed as yes.ardm, no.ardm and three.ardm; models curve, flat, frozen and quick, whose card says
    that its heads do not learn. Not to be changed."""
    folder = tmp_path_factory.mktemp("learning")
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    array = np.stack([3 * x, 4 * y, 2 * x + 2 * y], -1) + rng.integers(0, 12, (HEIGHT, WIDTH, 3))
    Image.fromarray(array.clip(0, 255).astype(np.uint8)).save(folder / "img.png")
    m = model.load("photo")
    frozen = {name: tensor for name, tensor in m.tensors.items() if not name.startswith("learning.")}
    for name, tensors, curve in (
        ("curve", m.tensors, CURVE), ("flat", m.tensors, np.zeros(5)), ("frozen", frozen, None)
    ):  # fmt: skip
        path = folder / f"{name}.safetensors"
        model.save(path, name, tensors, m.loss, m.side_mean, m.side_std, m.card, curve)
    card = m.card | {"recipe": m.card["recipe"] | {"learn": False}}
    model.save(folder / "quick.safetensors", "quick", m.tensors, m.loss, m.side_mean, m.side_std, card, CURVE)
    run("compress", "img.png", "-o", "yes.ardm", "-m", "photo", cwd=folder)
    run("compress", "img.png", "-o", "no.ardm", "--no-learn", "-m", "photo", cwd=folder)
    run("compress", "img.png", "-o", "three.ardm", "--batches", "3", "-m", "curve.safetensors", cwd=folder)
    return folder


# Compress and info


def test_compress_learns_unless_told_not_to(folder):
    yes, no, three = (unpack((folder / f"{name}.ardm").read_bytes()) for name in ("yes", "no", "three"))
    assert (yes.learning, yes.batch_ends) == (True, None)
    assert (no.learning, no.batch_ends) == (False, None)
    assert (three.learning, three.batch_ends) == (True, best_batches(ATOM, CURVE, 3).ends)
    with Image.open(folder / "img.png") as image:
        for name in ("yes", "no", "three"):
            file = run("decompress", f"{name}.ardm", "-c", cwd=folder).stdout
            assert Image.open(io.BytesIO(file)).tobytes() == image.tobytes()


def test_the_model_says_whether_it_learns(folder, tmp_path):
    """The models share their integers, so that the files are the same."""
    args = ("compress", folder / "img.png", "-m", "quick.safetensors", "-o")
    done = run(*args, tmp_path / "default.ardm", "-v", cwd=folder)
    assert (tmp_path / "default.ardm").read_bytes() == (folder / "no.ardm").read_bytes()
    assert "frozen head, " in done.stderr[1]  # without a remark that learning was of no use
    run(*args, tmp_path / "learned.ardm", "--learn", cwd=folder)
    assert (tmp_path / "learned.ardm").read_bytes() == (folder / "yes.ardm").read_bytes()
    run(*args, tmp_path / "planned.ardm", "--learn", "--batches", "3", cwd=folder)
    assert (tmp_path / "planned.ardm").read_bytes() == (folder / "three.ardm").read_bytes()
    done = run(*args, tmp_path / "none.ardm", "--batches", "3", cwd=folder, code=1)
    (line,) = done.stderr
    assert line.endswith("model quick learns only if told to: batches need --learn (learn=True)")
    assert not (tmp_path / "none.ardm").exists()


def test_info_tells_whether_the_head_learned(folder):
    names = ["yes.ardm", "no.ardm", "three.ardm"]
    reports = [*map(json.loads, run("info", "--json", *names, cwd=folder).stdout.splitlines())]
    assert [(r["learning"], r["batches"]) for r in reports] == [(True, None), (False, None), (True, 3)]
    for r in reports:
        assert r["bytes"] == r["header_bytes"] + r["side_info_bytes"] + r["stream_bytes"]
    text = run("info", *names, cwd=folder).stdout.decode()
    heads = [line.partition("phase 0 0, ")[2] for line in text.splitlines() if line.startswith("  coding ")]
    assert heads == ["learning head", "frozen head", "learning head, 3 planned batches"]


def test_json_says_whether_the_head_learned(folder, tmp_path):
    done = run("compress", folder / "img.png", "-o", tmp_path / "a.ardm", "-m", "photo", "--json", "-q", cwd=folder)
    assert json.loads(done.stdout)["learning"] is True
    assert done.stderr == []
    args = ("-m", "photo", "--json", "-v", "--no-learn")
    done = run("compress", folder / "img.png", "-o", tmp_path / "b.ardm", *args, cwd=folder)
    assert json.loads(done.stdout)["learning"] is False
    assert "frozen head" in done.stderr[1]
    assert "with measuring" not in done.stderr[1]
    assert len(done.stderr) == 3  # no gain where nothing was learned
    assert re.fullmatch(LEVELS, done.stderr[2]), done.stderr[2]
    done = run("test", folder / "no.ardm", "--json", "-v", cwd=folder)
    assert json.loads(done.stdout)["learning"] is False
    assert "frozen head" in done.stderr[1]


def test_verbose_tells_the_gain_of_every_level(folder, tmp_path):
    done = run("compress", folder / "img.png", "-o", tmp_path / "a.ardm", "-m", "photo", "--json", "-v", cwd=folder)
    assert json.loads(done.stdout)["learning"] is True
    assert "learning head" in done.stderr[1]
    assert "with measuring, verify" in done.stderr[1]
    change = r"(\d+\.\d\d) %( smaller| larger)?"
    # level 1 has 9 * 192 sub-pixels, level 2 too few to be named
    pattern = rf"  learning: {change} \(level 0: {change}, level 1: {change}, coarser: {change}\)"
    levels = re.fullmatch(LEVELS, done.stderr[2])
    assert levels, done.stderr[2]
    assert sum(float(levels[i]) for i in (1, 3, 5)) == pytest.approx(100, abs=0.2)
    # sub-pixels of the levels times their bits are the file but for its header
    level_0, level_1 = 9 * ATOM, 9 * ATOM // 4
    sizes = level_0, level_1, 3 * WIDTH * HEIGHT - level_0 - level_1
    bits = sum(size * float(levels[i]) for size, i in zip(sizes, (2, 4, 6), strict=True))
    assert bits == pytest.approx(8 * (folder / "yes.ardm").stat().st_size, rel=0.02)
    match = re.fullmatch(pattern, done.stderr[3])
    assert match, done.stderr[3]
    assert (tmp_path / "a.ardm").read_bytes() == (folder / "yes.ardm").read_bytes()
    sizes = [(folder / f"{name}.ardm").stat().st_size for name in ("yes", "no")]
    signed = float(match[1]) * (1 if match[2] == " larger" else -1)
    assert signed == pytest.approx(100 * (sizes[0] / sizes[1] - 1), abs=0.3)  # headers and rounding to words
    assert run("compress", folder / "img.png", "-o", tmp_path / "b.ardm", "-qv", cwd=folder).stderr == []


def test_gain_in_words():
    def line(*bits: tuple[float, float], pixels: int = 1000) -> str:
        (text,) = _learned([Gain(level, 0, pixels, *pair) for level, pair in enumerate(bits)])
        return text

    assert line((100, 98), (50, 49)) == "learning: 2.00 % smaller (level 0: 2.00 % smaller, level 1: 2.00 % smaller)"
    assert line((100, 103), (50, 49)) == "learning: 1.33 % larger (level 0: 3.00 % larger, level 1: 2.00 % smaller)"
    assert line((100, 103)) == "learning: 3.00 % larger"
    assert line((100, 99), (100, 100), pixels=999) == "learning: 0.50 % smaller"
    batches = [Gain(0, 0, 600, 100, 100), Gain(0, 600, 600, 100, 90), Gain(3, 0, 9, 1, 2), Gain(2, 0, 9, 3, 3)]
    assert _learned(batches) == ["learning: 4.41 % smaller (level 0: 5.00 % smaller, coarser: 25.00 % larger)"]
    assert _learned([]) == []


def test_learning_is_left_out_where_it_does_not_pay(tmp_path, photo):
    """With a model whose steps are far too large a small image is coded with the frozen head, and the file says so."""
    tensors = dict(photo.tensors)
    for name in tensors:
        if name.endswith(".rate"):
            tensors[name] = np.full_like(tensors[name], 2**31 - 1)
    args = tensors, photo.loss, photo.side_mean, photo.side_std, photo.card, photo.learning_gain
    model.save(tmp_path / "wild.safetensors", "wild", *args)
    Image.fromarray(np.random.default_rng(1).normal(90, 9, (48, 48, 3)).astype(np.uint8)).save(tmp_path / "img.png")
    for options in (["--no-learn", "-o", "plain.ardm"], ["-v"]):
        done = run("compress", "img.png", "-m", "wild.safetensors", *options, cwd=tmp_path)
    assert (tmp_path / "img.ardm").read_bytes() == (tmp_path / "plain.ardm").read_bytes()
    assert "frozen head" in "".join(done.stderr)
    assert "learning:" not in "".join(done.stderr)
    assert "bits by level: " in done.stderr[2]


def test_one_pixel_learns_nothing(tmp_path):
    Image.new("RGB", (1, 1)).save(tmp_path / "one.png")
    done = run("compress", "one.png", "-v", cwd=tmp_path)
    assert len(done.stderr) == 2
    assert run("compress", "one.png", "-qf", "--batches", "4", cwd=tmp_path).stderr == []


@pytest.mark.parametrize(
    ("name", "problem"), [("frozen", "batches are for a head that learns"), ("flat", "has no learning curve")]
)
def test_batches_of_a_model_that_cannot_plan_them(folder, tmp_path, name, problem):
    args = ("compress", folder / "img.png", "-o", tmp_path / "x.ardm", "-m", f"{name}.safetensors")
    done = run(*args, "--batches", "3", cwd=folder, code=1)
    assert len(done.stderr) == 1
    assert problem in done.stderr[0]
    assert not (tmp_path / "x.ardm").exists()
    run(*args, cwd=folder)
    assert unpack((tmp_path / "x.ardm").read_bytes()).learning == (name == "flat")


# Usage


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["compress", "img.png", "-o", "x.ardm", "--no-learn", "--batches", "3"], "--batches is for learning"),
        (["compress", "img.png", "-o", "x.ardm", "--batches", "0"], "--batches"),
        (["schedule", "--batches", "0"], "--batches"),
        (["compress", "img.png", "-o", "x.png"], "x.png: OUT should end in .ardm"),
        (["compress", "img.png", "-o", "x.JPG", "-f"], "x.JPG: OUT should end in .ardm"),
    ],
)
def test_wrong_usage_is_one_line(folder, args, expected):
    before = sorted(os.listdir(folder))
    done = run(*args, cwd=folder, code=2)
    (line,) = done.stderr
    assert expected in line
    assert done.stdout == b""
    assert sorted(os.listdir(folder)) == before


def test_outputs_that_are_no_image_names(folder, tmp_path):
    for name in ("plain", "x.ARDM", ".hidden"):
        run("compress", folder / "img.png", "-o", name, "-m", "photo", "--no-verify", cwd=tmp_path)
        assert (tmp_path / name).read_bytes() == (folder / "yes.ardm").read_bytes()
    (tmp_path / "out.png").mkdir()
    run("compress", folder / "img.png", "-o", "out.png", "--no-verify", cwd=tmp_path)
    assert os.listdir(tmp_path / "out.png") == ["img.ardm"]
    done = run("compress", "img.png", "-o", "-", "-m", "photo", "--no-verify", cwd=folder)
    assert done.stdout == (folder / "yes.ardm").read_bytes()


# Schedule


def test_schedule_shows_what_compress_does(folder):
    lines = schedule("-m", "curve.safetensors", cwd=folder)
    calls = unpack((folder / "yes.ardm").read_bytes()).network_calls
    assert lines["network calls"] == f"{calls}, one for every atom that has pixels: the default of compress"
    rule = len([*batches(0, ATOM)])
    assert lines["learning"] == f"{rule} batches for the {ATOM} pixels of a head at level 0"
    assert 0 < float(lines["expected gain"].split()[0]) < CURVE.max()
    assert schedule("--steps", "7", cwd=folder)["network calls"] == "7"


def test_schedule_with_a_budget_of_batches(folder):
    lines = schedule("-m", "curve.safetensors", "--batches", "3", cwd=folder)
    best = best_batches(ATOM, CURVE, 3)
    assert best.ends == unpack((folder / "three.ardm").read_bytes()).batch_ends
    assert lines["learning"] == f"3 batches for the {ATOM} pixels of a head at level 0"
    assert float(lines["expected gain"].split()[0]) == pytest.approx(best.gain, abs=1e-4)
    usual = schedule("-m", "curve.safetensors", cwd=folder)["expected gain"]
    rule = len([*batches(0, ATOM)])
    assert lines["by default"] == f"{usual} with {rule} batches"
    text = run("schedule", "-m", "curve.safetensors", "--batches", "3", "--image", "img.png", cwd=folder).stdout
    assert f" ending at {' '.join(map(str, best.ends))}\n" in text.decode()
    assert schedule("-m", "curve.safetensors", "--batches", "1", cwd=folder)["expected gain"].startswith("0.0000 bits")


def test_schedule_counts_batches_that_are_split(folder):
    pixels = 300 * 300
    lines = schedule("-m", "curve.safetensors", "--batches", "1", "--size", "600x600", "--gray", cwd=folder)
    ends = best_batches(pixels, CURVE, 1).ends
    coded = len([*batches(0, pixels, ends)])
    limit = f", {coded} in all, as none may exceed {LIMIT}" if coded > len(ends) else ""
    assert lines["learning"].endswith(f" for the {pixels} pixels of a head at level 0{limit}")
    assert lines["learning"].startswith(f"{len(ends)} batch")
    assert float(lines["expected gain"].split()[0]) > 0  # the second part of a split batch gains


@pytest.mark.parametrize("budget", [(), ("--batches", "3")])
def test_schedule_of_models_that_cannot_tell(folder, budget):
    lines = schedule("-m", "flat.safetensors", *budget, cwd=folder)
    assert lines["learning"].endswith(f" batches for the {ATOM} pixels of a head at level 0")
    assert lines["expected gain"].startswith("unknown: model flat has no measured learning curve")
    assert ("cannot be planned" in lines["expected gain"]) == bool(budget)
    lines = schedule("-m", "frozen.safetensors", *budget, cwd=folder)
    assert lines["learning"] == "none: model frozen does not tell how"
    assert "expected gain" not in lines
