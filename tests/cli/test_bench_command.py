"""``ardmzip bench``, through the real executable."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from test_cli import refused, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three smooth pictures."""
    path = tmp_path_factory.mktemp("set")
    y, x = np.mgrid[:40, :56]
    for i in range(3):
        smooth = np.stack([90 + 60 * np.sin(x / 9 + i + channel) + 50 * np.cos(y / 13) for channel in range(3)], -1)
        noisy = smooth + np.random.default_rng(i).normal(0, 3, smooth.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path / f"{i}.png")
    return path


def test_a_report(folder, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install 'ardmzip[bench]')")
    done = run("bench", str(folder), "--limit", "2", "--out", "r.md", "-m", "photo", "--no-learn", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, [])
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "2 images, 0.00 megapixels, 0.01 MB raw"
    assert {line.split("  ")[0] for line in lines[3:]} == {
        "ardmzip", "PNG, optimised", "WebP lossless", "JPEG XL e9", "zstd -19, solid", "xz -9, solid",
    }  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r-calls.svg", "r-gains.svg", "r-times.svg", "r.md"]
    assert "model photo, learn False" in (tmp_path / "r.md").read_text()
    again = run("bench", str(folder), "--out", "r.md", cwd=tmp_path)
    assert again.returncode == 1
    assert again.stderr == [f"ardmzip: {folder}: r.md exists already (-f overwrites it)"]


def test_json_and_problems(folder, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "0.png").write_bytes((folder / "0.png").read_bytes())
    (tmp_path / "set" / "1.png").write_bytes(b"no image")
    options = ("--against", "jxl-e7", "--steps", "5", "--no-learn", "--jobs", "2")
    done = run("bench", "set", "--json", *options, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == ["ardmzip: set/1.png: not an image, or of an unknown format"]
    found = json.loads(done.stdout)
    assert (found["images"], found["problems"], list(found["codecs"])) == (1, 1, ["ardmzip", "jxl-e7"])
    assert found["codecs"]["ardmzip"]["relative"] > 0


def test_mistakes(tmp_path):
    for arguments, text in (
        (("nothing",), "nothing: No such file or directory"),
        ((".",), ".: there are no images in it, and no files of a dataset"),
    ):
        done = run("bench", *arguments, cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr == [f"ardmzip: {text}"]
    for options in (("--out", "report.pdf"), ("--no-learn", "--batches", "3"), ("--limit", "0"), ("--against", "gif")):
        refused(run("bench", "x", *options, cwd=tmp_path))
