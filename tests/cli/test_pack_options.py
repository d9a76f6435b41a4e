"""``ardmzip pack``: --fit, and the options that it shares with ``compress``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_archives import call
from test_cli import environment

from ardmzip import Archive
from ardmzip.archive.writer import interrupted
from ardmzip.container import unpack

COUNT, SIDE = 40, 24


@pytest.fixture(scope="module")
def tones(tmp_path_factory) -> Path:
    """A folder of gray images of few tones with coarse noise, unlike any photograph."""
    folder = tmp_path_factory.mktemp("tones")
    for i in range(COUNT):
        random = np.random.default_rng(i)
        array = random.integers(0, 8, (SIDE // 4, SIDE // 4)).repeat(4, 0).repeat(4, 1) * 32
        Image.fromarray((array + random.integers(0, 2, array.shape) * 9).astype(np.uint8)).save(folder / f"{i:02}.png")
    return folder


def equal(folder: Path, tones: Path) -> bool:
    names = sorted(path.name for path in folder.glob("*.png"))
    return len(names) == COUNT and all(
        np.array_equal(np.asarray(Image.open(folder / name)), np.asarray(Image.open(tones / name))) for name in names
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_fit_through_the_executable(tones, tmp_path):
    path, part = tmp_path / "x.ardmz", tmp_path / "x.ardmz.part"
    arguments = ["pack", str(tones), "-m", "thumb", "--fit", "0.05", "-o", str(path)]
    process = subprocess.Popen([sys.executable, "-m", "ardmzip", *arguments], env=environment(), stderr=subprocess.PIPE)
    until = time.monotonic() + 200
    while process.poll() is None and (not part.exists() or interrupted(path) is None):
        assert time.monotonic() < until
        time.sleep(0.002)
    process.kill()
    assert process.communicate()[1] is not None
    assert process.returncode == -signal.SIGKILL
    left = interrupted(path)
    assert left is not None
    assert len(left.differences) == 1

    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    assert "fit: thumb, " in result.output
    assert "% smaller in all" in result.output
    assert Archive(path).differences == left.differences  # which was not fitted anew
    values = json.loads(call("info", "--json", path).output)
    assert values["models"] == {"thumb, fitted": COUNT}
    assert values["fit_bytes"] == len(left.differences[0]) == values["fit"]["changes"]
    assert "bytes of changes, held-out images" in call("info", path).output
    assert "ok  40 images" in call("test", path).output
    assert call("unpack", path, "-o", tmp_path / "out", "--jobs", "2").exit_code == 0
    assert equal(tmp_path / "out", tones)

    result = call("unpack", "--ardm", path, "-o", tmp_path / "files")
    assert result.exit_code == 0
    (own,) = (tmp_path / "files").glob("*.safetensors")
    assert f"need -m {own}" in result.output
    assert call("decompress", tmp_path / "files" / "07.ardm", "-o", tmp_path / "07.png").exit_code == 1
    assert call("decompress", "-m", own, tmp_path / "files" / "07.ardm", "-o", tmp_path / "07.png").exit_code == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "07.png")), np.asarray(Image.open(tones / "07.png")))

    again = call("pack", "--append", "--fit", "1", tones, "-o", path)
    assert again.exit_code == 2
    assert "--fit is for a new archive" in again.output
    assert call("pack", tones, "--fit", "0", "-o", tmp_path / "y.ardmz").exit_code == 2


def test_a_fit_that_does_not_pay_says_so(tones, tmp_path):
    few = [tones / f"{i:02}.png" for i in range(3)]
    result = call("pack", *few, "--fit", "0.01", "-o", tmp_path / "x.ardmz")
    assert result.exit_code == 0, result.output
    assert "stays as it is: 3 images" in result.output
    assert Archive(tmp_path / "x.ardmz").differences == ()


def test_steps_batches_and_tiles(tmp_path):
    y, x = np.mgrid[:80, :200]
    Image.fromarray(np.stack([x + y // 2, 255 - x, y * 2 + x // 3], -1).astype(np.uint8)).save(tmp_path / "a.png")
    path = tmp_path / "x.ardmz"

    def packed(*options: object):
        assert call("pack", tmp_path / "a.png", "-m", "thumb", "-q", "-f", "-o", path, *options).exit_code == 0
        return unpack(Archive(path).file(0))

    assert packed("--steps", 5).network_calls == 5
    assert packed("--tile", 64).tile is not None
    assert packed("--tile", "none").tile is None
    assert packed("--learn", "--batches", 3).pixel_crc == packed().pixel_crc
    result = call("pack", tmp_path / "a.png", "--no-learn", "--batches", 3, "-f", "-o", path)
    assert result.exit_code == 2
    assert "leave out --no-learn" in result.output
