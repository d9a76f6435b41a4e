"""Archives through the real executable: pack, list, unpack, extract, repair; test and info."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from test_cli import environment, listing, run

from ardmzip import Archive
from ardmzip.cli import main

COUNT = 2100
KILLS = max(1, int(os.environ.get("ARDMZIP_KILLS", "6")) // 2)


def call(*args: object) -> Result:
    """A command in this process, which is sooner: torch is loaded once."""
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A folder of tiny images, in two folders."""
    folder = tmp_path_factory.mktemp("images")
    for i in range(12):
        path = folder / "in" / ("cat" if i < 6 else "dog") / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.random.default_rng(i % 11).integers(0, 256, (4, 3, 3), dtype=np.uint8)
        Image.fromarray(array).save(path)
    Image.new("P", (5, 5)).save(folder / "in" / "dog" / "flat.gif")
    return folder


@pytest.fixture(scope="module")
def archive(images) -> Path:
    path = images / "x.ardmz"
    result = call("pack", images / "in", "-o", path)
    assert result.exit_code == 0, result.output
    assert "13 images, 1 of them the same as others" in result.output
    return path


def same(folder: Path, images: Path) -> bool:
    found = sorted(path for path in folder.rglob("*.png"))
    for path in found:
        source = images / "in" / path.relative_to(folder)
        source = source if source.exists() else source.with_suffix("")
        with Image.open(path) as one, Image.open(source) as other:
            if one.convert("RGB").tobytes() != other.convert("RGB").tobytes():
                return False
    return len(found) == 13


def test_pack_list_and_unpack(images, archive, tmp_path):
    names = [*(f"cat/{i:02}.png" for i in range(6)), *(f"dog/{i:02}.png" for i in range(6, 12)), "dog/flat.gif"]
    assert call("list", archive).output.splitlines() == names
    assert call("list", "-l", archive).output.splitlines()[3].split()[:2] == ["3", "3x4"]
    rows = [json.loads(line) for line in call("list", "--json", archive).output.splitlines()]
    assert [row["name"] for row in rows] == names
    assert rows[11]["copy_of"] == names[0]
    result = call("unpack", archive, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "all 13 images" in result.output
    assert same(tmp_path / "out", images)
    again = call("unpack", "-q", archive, "-o", tmp_path / "out")
    assert again.exit_code == 1
    assert "-f overwrites" in again.output
    assert call("unpack", "-q", "-f", archive, "-o", tmp_path / "out").exit_code == 0
    assert call("unpack", "-q", "--ardm", archive, "-o", tmp_path / "files").exit_code == 0
    assert len(list((tmp_path / "files").rglob("*.ardm"))) == 13


def test_extract(images, archive, tmp_path):
    assert call("extract", "-q", archive, "cat/03.png", "7", "-o", f"{tmp_path}/some/").exit_code == 0
    assert sorted(listing(tmp_path / "some")) == ["cat/03.png", "dog/07.png"]
    assert call("extract", archive, "dog/flat.gif", "-o", tmp_path / "a.bmp").exit_code == 0
    with Image.open(tmp_path / "a.bmp") as image:
        assert image.size == (5, 5)
    printed = call("extract", archive, 0, "-o", "-").stdout_bytes
    assert printed.startswith(b"\x89PNG")
    for wanted, message in (("nosuch", "it has no image nosuch"), ("13", "it has no image 13, only 13")):
        result = call("extract", archive, wanted, "-o", tmp_path)
        assert result.exit_code == 1
        assert message in result.output
    assert call("extract", archive, "0", "1", "-o", tmp_path / "b.png").exit_code == 2
    assert call("extract", archive, "0", "-o", tmp_path / "b.xyz").exit_code == 2


def test_info_and_test(archive):
    values = json.loads(call("info", "--json", archive).output)
    assert (values["images"], values["copies"], values["blocks"], values["incomplete_bytes"]) == (13, 1, 1, 0)
    assert values["sizes"] == {"3x4": 12, "5x5": 1}
    assert values["raw_bytes"] == 12 * 36 + 25
    assert values["settings"]["model"] == "auto"
    assert "13, 1 of them the same as others" in call("info", archive).output
    assert "ok  13 images" in call("test", archive).output


def test_a_damaged_record_is_named_and_all_others_come_back(images, archive, tmp_path):
    data = bytearray(archive.read_bytes())
    entry = Archive(archive).entry("cat/05.png")
    data[entry.offset + 3] ^= 8
    broken = tmp_path / "broken.ardmz"
    broken.write_bytes(data)
    result = call("test", broken)
    assert result.exit_code == 1
    assert [line for line in result.output.splitlines() if "cat/05.png" in line]
    assert "damaged: 1 of 13 images" in result.output
    assert sum(".png: " in line or ".gif: " in line for line in result.output.splitlines()) == 1
    result = call("unpack", broken, "-o", tmp_path / "out")
    assert result.exit_code == 1
    found = [path.name for path in (tmp_path / "out").rglob("*.png")]
    assert len(found) == 12
    assert "05.png" not in found
    assert call("extract", broken, "cat/05.png", "cat/04.png", "-o", f"{tmp_path}/e/").exit_code == 1
    assert [path.name for path in (tmp_path / "e").rglob("*.png")] == ["04.png"]


def test_labels_and_json_are_unpacked_too(archive, tmp_path):
    from ardmzip.archive.writer import Writer

    file = Archive(archive).file(0)
    with Writer.create(tmp_path / "x.ardmz") as writer:
        writer.add("a.png", file, "cat", {"id": 3})
        writer.add("../b.png", file)
    result = call("unpack", tmp_path / "x.ardmz", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "leads out of the folder" in result.output
    assert sorted(listing(tmp_path / "out")) == ["a.png", "metadata.jsonl"]
    row = json.loads((tmp_path / "out" / "metadata.jsonl").read_text())
    assert row == {"file_name": "a.png", "label": "cat", "metadata": {"id": 3}}


def test_append_and_repair(images, archive, tmp_path):
    path = tmp_path / "x.ardmz"
    path.write_bytes(archive.read_bytes())
    with Image.open(images / "in" / "cat" / "00.png") as image:
        image.rotate(180).save(tmp_path / "new.png")
    assert call("pack", "-q", "--append", tmp_path / "new.png", "-o", path).exit_code == 0
    assert call("list", path).output.splitlines()[13:] == ["new.png"]
    again = call("pack", "--append", tmp_path / "new.png", "-o", path)
    assert again.exit_code == 1
    assert "name already" in again.output
    assert call("test", "-q", path).exit_code == 0
    assert "nothing to repair" in call("repair", path).output
    path.write_bytes(path.read_bytes()[:-3])
    assert call("list", path).output.splitlines()[12:] == ["dog/flat.gif"]
    assert "unfinished" in call("info", path).output
    assert call("repair", path).exit_code == 0
    assert call("list", path).output.splitlines()[13:] == ["new.png"]
    path.write_bytes(archive.read_bytes()[:-3])
    assert "ardmzip repair" in call("list", path).output


def test_wrong_calls(images, archive, tmp_path):
    source = images / "in"
    assert call("pack", source, "-o", tmp_path / "x.zip").exit_code == 2
    assert call("pack", source, "-o", archive, "--append", "-f").exit_code == 2
    assert "exists already" in call("pack", source, "-o", archive).output
    assert call("pack", source, "-o", archive).exit_code == 1
    assert call("pack", tmp_path / "none", "-o", tmp_path / "x.ardmz").exit_code == 1
    (tmp_path / "empty").mkdir()
    empty = call("pack", tmp_path / "empty", "-o", tmp_path / "x.ardmz")
    assert empty.exit_code == 1
    assert "no images" in empty.output
    assert call("list", source / "cat" / "00.png").exit_code == 1
    assert call("info", "--heatmap", tmp_path / "m.png", archive).exit_code == 1
    assert not list(tmp_path.glob("x.ardmz*"))


def test_several_sources_and_failures(images, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    sources = [images / "in" / "cat", tmp_path / "bad.png", images / "in" / "dog"]
    result = call("pack", *sources, "-o", tmp_path / "x.ardmz")
    assert result.exit_code == 1
    assert "bad.png" in result.output
    assert not (tmp_path / "x.ardmz").exists()
    result = call("pack", "--continue-on-error", *sources, "-o", tmp_path / "x.ardmz")
    assert result.exit_code == 1
    assert len(Archive(tmp_path / "x.ardmz")) == 13
    assert "cat/00.png" in Archive(tmp_path / "x.ardmz")
    assert Archive(tmp_path / "x.ardmz").names()[6] == "dog/06.png"


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> tuple[Path, bytes]:
    """A folder of very many images, and their archive."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "in").mkdir()
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        head = b"P6 4 3 255\n"
        (folder / "in" / f"{i:05}.ppm").write_bytes(head + rng.integers(0, 256, 36, dtype=np.uint8).tobytes())
    done = run("pack", "-q", "in", "-o", "x.ardmz", "--no-verify", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, (folder / "x.ardmz").read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_kills_and_going_on_make_the_same_archive(many, tmp_path):
    folder, whole = many
    rng = random.Random(5)
    part, path = tmp_path / "x.ardmz.part", tmp_path / "x.ardmz"
    stopped = 0
    for kill in range(KILLS):
        number = signal.SIGKILL if kill else signal.SIGTERM
        command = [sys.executable, "-m", "ardmzip", "pack", "--no-verify", str(folder / "in"), "-o", str(path)]
        process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE)
        until = time.monotonic() + 120
        size = rng.choice([200, 20_000, 50_000]) + (part.stat().st_size if part.exists() else 0)
        while process.poll() is None and (not part.exists() or part.stat().st_size < size):
            assert time.monotonic() < until
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.2))
        process.send_signal(number)
        lines = process.communicate()[1].decode().splitlines()
        if process.returncode == 0:
            break
        stopped += 1
        assert process.returncode in (-number, 128 + number)
        assert not path.exists()
        if number == signal.SIGTERM and part.exists():
            assert any("the same command goes on from there" in line for line in lines)
    assert stopped
    if not path.exists():
        last = "pack", "-q", "--no-verify", folder / "in", "-o", path, "--batch", "100", "--jobs", "2"
        assert run(*last, cwd=folder).returncode == 0
    assert path.read_bytes() == whole
    assert not part.exists()
