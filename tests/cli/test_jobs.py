"""Which file goes where, what fails alone, and what becomes of the source (ardmzip/cli/_jobs.py); in this process."""

from __future__ import annotations

import json
import os
import stat
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ardmzip import tags
from ardmzip.cli import _jobs, main

FLAT = Image.new("RGB", (9, 7), (1, 2, 3))
NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)


@pytest.fixture
def call(tmp_path, monkeypatch, capsys) -> Callable:
    """Run a command in a folder of one's own: (exit code, stdout, lines of stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> tuple[int, str, list[str]]:
        with pytest.raises(SystemExit) as done:
            main([*args])
        out, err = capsys.readouterr()
        return done.value.code, out, err.splitlines()

    return run


def test_a_collision_fails_alone(call, tmp_path):
    for name in ("a.png", "a.tif", "b.png"):
        FLAT.save(tmp_path / name)
    code, out, err = call("compress", "-r", ".")
    assert (code, out, len(err)) == (2, "", 1)
    assert "a.png and a.tif would both be written to a.ardm" in err[0]
    code, _, err = call("compress", "-r", ".", "--continue-on-error")
    assert code == 1
    assert err[:2] == [
        "ardmzip: a.png: not written: a.ardm would be the output of a.tif, too; --keep-suffix tells them apart",
        "ardmzip: a.tif: not written: a.ardm would be the output of a.png, too; --keep-suffix tells them apart",
    ]
    assert err[2].startswith("b.png -> b.ardm")
    assert err[3].startswith("3 files: 1 done, 2 failed")
    assert sorted(os.listdir()) == ["a.png", "a.tif", "b.ardm", "b.png"]
    code, _, err = call("compress", "b.ardm", "-f", "--continue-on-error")
    assert (code, err) == (1, ["ardmzip: b.ardm: not written: b.ardm is an input"])


def test_kept_suffixes_tell_files_apart(call, tmp_path):
    (tmp_path / "in").mkdir()
    deep = Image.fromarray(np.arange(63, dtype=np.uint16).reshape(7, 9) * 1000)
    FLAT.save(tmp_path / "in" / "a.png")
    deep.save(tmp_path / "in" / "a.tif")
    FLAT.quantize(3).save(tmp_path / "in" / "a.gif")
    assert call("compress", "-r", "in", "-o", "out", "--keep-suffix", "--jobs", "1")[0] == 0
    assert sorted(os.listdir("out")) == ["a.gif.ardm", "a.png.ardm", "a.tif.ardm"]
    assert call("decompress", "-r", "out", "-o", "back")[0] == 0
    assert sorted(os.listdir("back")) == ["a.gif.png", "a.png", "a.tif"]
    with Image.open("back/a.tif") as image:
        assert (image.format, image.tobytes()) == ("TIFF", deep.tobytes())
    assert call("decompress", "out/a.tif.ardm", "--level", "1")[0] == 0
    assert (tmp_path / "out" / "a.tif.level1.png").exists()


def test_a_folder_that_cannot_be_read_fails_alone(call, tmp_path, monkeypatch):
    for name in ("shut", "open"):
        (tmp_path / "in" / name).mkdir(parents=True)
        FLAT.save(tmp_path / "in" / name / "a.png")
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    folder = os.path.join("in", "shut")
    code, _, err = call("compress", "-r", "in")
    assert (code, err) == (1, [f"ardmzip: Permission denied: {folder}"])
    code, _, err = call("compress", "-r", "in", "--continue-on-error")
    assert code == 1
    assert err[1] == f"ardmzip: {folder}: Permission denied"
    assert err[2].startswith("2 files: 1 done, 1 failed")
    assert (tmp_path / "in" / "open" / "a.ardm").exists()
    assert call("test", "-r", "in", "--continue-on-error")[0] == 1


def test_with_r_the_output_is_a_folder(call, tmp_path):
    FLAT.save(tmp_path / "a.png")
    assert call("compress", "-r", "a.png", "-o", "single")[0] == 0
    assert os.listdir("single") == ["a.ardm"]


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_permissions_and_times_are_those_of_the_source(call, tmp_path):
    source = tmp_path / "a.png"
    FLAT.save(source)
    (tmp_path / "b.png").write_bytes(source.read_bytes())
    os.chmod(source, 0o604)
    os.utime(source, ns=(10**18, 10**18 + 123))
    assert call("compress", "a.png")[0] == 0
    os.unlink(source)
    assert call("decompress", "a.ardm")[0] == 0
    assert call("decompress", "-f", "a.ardm", "-o", "b.png")[0] == 0
    for name in ("a.ardm", "a.png", "b.png"):
        found = os.stat(name)
        assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns) == (0o604, 10**18 + 123)


def test_rm_keeps_a_source_of_which_something_is_lost(call, tmp_path):
    FLAT.save(tmp_path / "plain.tif")
    whole = (tmp_path / "plain.tif").read_bytes()
    pointer = tags.Directory("<", {330: tags.Tag(4, 1, b"\x08\0\0\0")})
    (tmp_path / "a.tif").write_bytes(tags.added(whole, pointer))
    code, out, err = call("compress", "--rm", "--json", "a.tif")
    assert code == 1
    assert err == ["ardmzip: a.tif: a.ardm is written, but the source is not removed: not stored: TIFF tag 330"]
    assert json.loads(out) == {"input": "a.tif", "error": err[0].removeprefix("ardmzip: a.tif: ")}
    assert sorted(os.listdir()) == ["a.ardm", "a.tif", "plain.tif"]
    code, _, err = call("compress", "-f", "a.tif")
    assert (code, err[1:]) == (0, ["ardmzip: a.tif: note: not stored: TIFF tag 330"])
    assert call("compress", "-f", "--rm", "--strip", "a.tif")[0] == 0
    assert sorted(os.listdir()) == ["a.ardm", "plain.tif"]

    Image.new("1", (9, 7)).save("bits.png")
    assert call("compress", "--rm", "bits.png")[0] == 0
    code, _, err = call("decompress", "--rm", "bits.ardm", "-o", "bits.webp")
    told = "a .webp file does not hold: samples of 1 bit (they become 8)"
    assert (code, err) == (
        1, [f"ardmzip: bits.ardm: bits.webp is written, but the source is not removed: {told}"],
    )  # fmt: skip
    assert call("decompress", "--rm", "bits.ardm", "-o", "bits.pbm")[0] == 0
    assert not (tmp_path / "bits.ardm").exists()


@pytest.mark.parametrize("name", ["a.webp", "a.tif", "a.jpg"])
def test_sources_compressed_with_loss(call, tmp_path, name):
    options = {"compression": "jpeg"} if name == "a.tif" else {"quality": 20}
    Image.fromarray(NOISE).save(tmp_path / name, **options)
    code, _, err = call("compress", "--force-jpeg", "--rm", name)
    assert (code, len(err)) == (1, 1)
    assert "a.ardm is written, but the source is not removed: compressed with loss, it is smaller" in err[0]
    code, _, err = call("compress", "--force-jpeg", "-f", name)
    assert (code, len(err)) == (0, 2)
    assert "note: larger than the source, which is compressed with loss" in err[1]
    Image.fromarray(NOISE).save("b.webp", lossless=True)
    assert len(call("compress", "b.webp")[2]) == 1


def test_a_source_that_cannot_be_removed(call, tmp_path, monkeypatch):
    def refuse(path, **options):
        raise PermissionError(1, "Operation not permitted", str(path))

    job = _jobs.Job(tmp_path / "a.png", tmp_path / "a.ardm")
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(Exception, match=r"a\.ardm is written, but the source is not removed: Operation not permitted"):
        job.remove_source()


def test_json_of_failures(call, tmp_path):
    FLAT.save(tmp_path / "a.png")
    code, out, _ = call("compress", "--json", "--continue-on-error", "missing.png", "a.png")
    assert code == 1
    failed, good = map(json.loads, out.splitlines())
    assert failed == {"input": "missing.png", "error": "No such file or directory"}
    assert good["output"] == "a.ardm"
    assert json.loads(call("info", "--json", "a.png")[1])["error"].startswith("not an .ardm file")
    assert json.loads(call("test", "--json", "a.png")[1])["input"] == "a.png"


def test_a_model_that_is_not_there_is_a_wrong_call(call, tmp_path):
    FLAT.save(tmp_path / "a.png")
    (tmp_path / "bad.safetensors").write_bytes(b"no model")
    for command in ("compress", "decompress", "test"):
        for name in ("nonsense", "bad.safetensors"):
            code, out, err = call(command, "-m", name, "a.png")
            assert (code, out, len(err)) == (2, "", 1)
            assert "a.png" not in err[0]
            assert name in err[0]


def test_tiles_that_are_too_large(call, tmp_path):
    FLAT.save(tmp_path / "a.png")
    code, _, err = call("compress", "--tile", "99999999999", "a.png")
    assert code == 2
    assert "is too large" in err[0]
    assert "not a number" in call("compress", "--tile", "-5", "a.png")[2][0]


def test_names_of_stdin_and_checksums_of_short_files(call, tmp_path):
    y, x = np.mgrid[:32, :32]
    smooth = np.stack([100 + 3 * x + y, 90 + 2 * y + x, 200 - x - y], -1) + NOISE[:32, :32] % 4
    Image.fromarray(smooth.astype(np.uint8)).save(tmp_path / "a.png")
    FLAT.save(tmp_path / "flat.png")
    assert call("compress", "-m", "thumb", "a.png")[0] == 0
    assert call("compress", "flat.png")[0] == 0
    for name, short in (("a.ardm", True), ("flat.ardm", False)):
        found = json.loads(call("info", "--json", name)[1])
        assert (found["pixel_crc32"] is None, found["file_crc32"] is None) == (short, short)
        if not short:
            assert found["pixel_crc32"] == f"{zlib.crc32(FLAT.tobytes()):08x}"
            assert found["file_crc32"] == f"{zlib.crc32(Path(name).read_bytes()[:-4]):08x}"
        assert ("one for file and pixels, which ardmzip test compares" in call("info", name)[1]) == short
