"""--effort, and what info tells of changes, through the real executable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ardmzip
from ardmzip import changes, codec
from ardmzip.container import pack
from ardmzip.image import to_planes

ROOT = Path(ardmzip.__file__).parent.parent


def run(*args: str | Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "ardmzip", *map(str, args)]
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, done.stderr
    return done


def test_compress(tmp_path):
    """An image too small to gain anything: all efforts make the same file, and others are refused."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(80, 120, (24, 30, 3)).astype(np.uint8)).save(tmp_path / "a.png")
    files = []
    for effort in ("0", "9"):
        run("compress", "--effort", effort, "-m", "photo", "-q", "a.png", "-o", f"{effort}.ardm", cwd=tmp_path)
        files.append((tmp_path / f"{effort}.ardm").read_bytes())
    assert files[0] == files[1]
    done = run("compress", "--effort", "10", "a.png", cwd=tmp_path, code=2)
    assert "10 is not in the range 0<=x<=9" in done.stderr


@pytest.fixture(scope="module")
def changed(tmp_path_factory, photo, cpu) -> Path:
    """A folder with c.ardm, whose changes take 25 bytes and are said to save 1000."""
    folder = tmp_path_factory.mktemp("effort")
    samples = np.random.default_rng(1).integers(80, 120, (24, 30, 3)).astype(np.uint8)
    steps = {"4.1": np.resize(np.array([0, 0, 1, 0, 0, -2, 0, 0], np.int8), 256)}
    made = changes.Changes(steps, 32)
    coded = codec.encode(to_planes(samples), changes.apply(made, photo), cpu)
    data = changes.pack(made, photo)
    (folder / "c.ardm").write_bytes(pack(replace(coded, changes=data, saved=1000)))
    return folder


def test_info(changed):
    size = (changed / "c.ardm").stat().st_size
    report = json.loads(run("info", "--json", "c.ardm", cwd=changed).stdout)
    spent = report["changes_bytes"]
    assert 20 < spent < 100
    assert report["changes_save_bytes"] == 1000
    parts = ("header_bytes", "changes_bytes", "side_info_bytes", "stream_bytes")
    assert sum(report[part] for part in parts) == report["bytes"] == size
    lines = run("info", "c.ardm", cwd=changed).stdout.splitlines()
    assert f"  fitted     changes of the model take {spent} bytes and save 1000" in lines
    assert f", {spent} changes of the model" in lines[3]
    assert run("test", "c.ardm", cwd=changed).returncode == 0
