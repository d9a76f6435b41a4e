"""Tiles, previews and regions, through the real executable."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from test_cli import listing, refused, run, start

from ardmzip.container import Container, outline, unpack

#: Height, width and channels, and options of compress.
MODEL = ("-m", "photo", "--no-learn")
FILES = {
    "tiles": ((100, 100, 3), ("--tile", "64", *MODEL)),
    "levels": ((220, 260, 3), MODEL),
    "both": ((220, 512, 1), ("--tile", "256", *MODEL)),
    "wide": ((20, 1100, 1), ()),
}


def array(height: int, width: int, channels: int) -> np.ndarray:
    """A smooth picture with some noise, or one of four grays if it is wide."""
    y, x = np.mgrid[:height, :width]
    if width > 1000:
        return ((x // 9 + y) % 4 * 60).astype(np.uint8)
    planes = np.stack([100 + 60 * np.sin(y / 17 + c) + 50 * np.cos(x / 23) for c in range(channels)], -1)
    planes += np.random.default_rng(width).normal(0, 3, planes.shape)
    return planes.clip(0, 255).astype(np.uint8).squeeze()


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    """A folder with FILES, as .png and .ardm files. Not to be changed."""
    folder = tmp_path_factory.mktemp("parts")
    for name, (shape, options) in FILES.items():
        Image.fromarray(array(*shape)).save(folder / f"{name}.png")
        assert run("compress", f"{name}.png", *options, cwd=folder).returncode == 0
    return folder


def pixels(source: Path | io.BytesIO) -> np.ndarray:
    with Image.open(source) as image:
        return np.asarray(image)


def container(path: Path) -> Container:
    return unpack(path.read_bytes())


def level(path: Path, n: int) -> np.ndarray:
    """What a level of a file must be, by its source."""
    py, px = container(path).phase
    return pixels(path.with_suffix(".png"))[py :: 1 << n, px :: 1 << n]


# Tiles


def test_tiles(packed):
    done = run("info", "--json", *(f"{name}.ardm" for name in FILES), cwd=packed)
    found = {report["input"].split(".")[0]: report for report in map(json.loads, done.stdout.splitlines())}
    assert {name: (found[name]["tile"], found[name]["tiles"], found[name]["preview_levels"]) for name in FILES} == {
        "tiles": ([64, 64], 4, []), "levels": (None, 0, [1]), "both": ([256, 256], 2, [1]), "wide": (None, 0, []),
    }  # fmt: skip
    for name in FILES:
        report = found[name]
        parts = ("header_bytes", "side_info_bytes", "changes_bytes", "stream_bytes", "stored_bytes")
        assert sum(report[part] for part in parts) == report["bytes"] == (packed / f"{name}.ardm").stat().st_size
    assert found["tiles"]["levels"] == 6  # of a tile, not of the image
    text = run("info", "tiles.ardm", cwd=packed).stdout.decode()
    assert "  tiles      4 of 64 x 64 pixels or less\n" in text
    assert "  previews   need the whole file\n" in text
    text = run("info", "levels.ardm", cwd=packed).stdout.decode()
    assert "  tiles " not in text
    assert "  previews   from level 1 on, of a part of the file\n" in text


def test_files_of_tiles_are_restored(packed, tmp_path):
    for jobs in ("1", "2"):
        args = ("decompress", "tiles.ardm", "both.ardm", "-o", tmp_path, "-f", "-q", "--jobs", jobs)
        assert run(*args, cwd=packed).returncode == 0
        for name in ("tiles", "both"):
            np.testing.assert_array_equal(pixels(tmp_path / f"{name}.png"), pixels(packed / f"{name}.png"))


def test_coders_of_tiles(tmp_path):
    image = np.full((128, 192, 3), 7, np.uint8)
    image[:, 64:] = array(128, 128, 3)
    Image.fromarray(image).save(tmp_path / "img.png")
    done = run("compress", "img.png", "--tile", "64", "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert report["coding"].endswith("(2 tiles); model (4 tiles)")
    assert report["model"] == "photo"
    assert run("test", "img.ardm", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("tile", ["none", "auto", "100"])
def test_one_piece(packed, tmp_path, tile):
    assert run("compress", "tiles.png", *MODEL, "--tile", tile, "-o", tmp_path / "x.ardm", cwd=packed).returncode == 0
    c = container(tmp_path / "x.ardm")
    assert (c.tile, c.tiles) == (None, ())


# Parts


@pytest.mark.parametrize("name", ["tiles", "levels", "both"])
@pytest.mark.parametrize("n", [1, 2, 5, 31])
def test_levels(packed, tmp_path, name, n):
    done = run("decompress", f"{name}.ardm", "--level", str(n), "-o", f"{tmp_path}/", "--json", cwd=packed)
    assert done.returncode == 0, done.stderr
    expected = level(packed / f"{name}.ardm", n)
    np.testing.assert_array_equal(pixels(tmp_path / f"{name}.level{n}.png"), expected)
    report = json.loads(done.stdout)
    assert (report["part_height"], report["part_width"]) == expected.shape[:2]
    assert (report["level"], report["region"], report["height"]) == (n, None, FILES[name][0][0])


def test_previews(packed, tmp_path):
    assert run("decompress", "--preview", "wide.ardm", "tiles.ardm", "-o", tmp_path, cwd=packed).returncode == 0
    assert pixels(tmp_path / "wide.preview.png").shape == (5, 275)
    np.testing.assert_array_equal(pixels(tmp_path / "wide.preview.png"), level(packed / "wide.ardm", 2))
    np.testing.assert_array_equal(pixels(tmp_path / "tiles.preview.png"), pixels(packed / "tiles.png"))  # it is small


@pytest.mark.parametrize("name", ["tiles", "levels", "both"])
@pytest.mark.parametrize("region", [(0, 0, 1, 1), (50, 60, 40, 40), (63, 10, 2, 80), (0, 64, 90, 1)])
def test_regions(packed, tmp_path, name, region):
    x, y, width, height = region
    args = ("decompress", f"{name}.ardm", "--region", ",".join(map(str, region)), "-o", tmp_path, "--json")
    done = run(*args, cwd=packed)
    assert done.returncode == 0, done.stderr
    expected = pixels(packed / f"{name}.png")[y : y + height, x : x + width]
    np.testing.assert_array_equal(pixels(tmp_path / f"{name}.region.png"), expected)
    report = json.loads(done.stdout)
    assert (report["region"], report["level"]) == (list(region), 0)
    assert done.stderr[0].startswith(f"{name}.ardm -> {tmp_path}/{name}.region.png  ")
    assert f"  {width} x {height} of " in done.stderr[0]


def test_parts_of_other_pixel_formats(tmp_path):
    y, x = np.mgrid[:100, :100]
    deep = np.stack([300 * x + y, 256 * y, 50 * x], -1).astype(np.uint16)
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(deep))
    palette = Image.fromarray((x // 9 % 4).astype(np.uint8)).convert("P")
    palette.putpalette([9, 8, 7, 1, 2, 3, 200, 100, 0, 4, 4, 4])
    palette.save(tmp_path / "palette.png", dpi=(300, 300))
    done = run("compress", "deep.png", "palette.png", "--tile", "64", cwd=tmp_path)
    assert done.returncode == 0
    done = run("decompress", "deep.ardm", "palette.ardm", "--region", "60,30,9,50", cwd=tmp_path)
    assert done.returncode == 0
    restored = imagecodecs.png_decode((tmp_path / "deep.region.png").read_bytes())
    np.testing.assert_array_equal(restored, deep[30:80, 60:69])
    with Image.open(tmp_path / "palette.region.png") as restored:
        np.testing.assert_array_equal(np.asarray(restored), np.asarray(palette)[30:80, 60:69])
        assert restored.getpalette()[:12] == palette.getpalette()[:12]
        assert restored.info["dpi"] == pytest.approx((300, 300), abs=0.01)
    assert run("decompress", "deep.ardm", "--level", "1", "-o", "x.tif", cwd=tmp_path).returncode == 0
    py, px = container(tmp_path / "deep.ardm").phase
    np.testing.assert_array_equal(imagecodecs.imread(tmp_path / "x.tif"), deep[py::2, px::2])


def test_parts_from_stdin_to_stdout_and_of_folders(packed, tmp_path):
    data = (packed / "tiles.ardm").read_bytes()
    done = run("decompress", "--region", "1,2,3,4", "-", cwd=tmp_path, stdin=data)
    np.testing.assert_array_equal(pixels(io.BytesIO(done.stdout)), pixels(packed / "tiles.png")[2:6, 1:4])
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "a.ardm").write_bytes(data)
    (tmp_path / "in" / "b.ardm").write_bytes(data)
    assert run("decompress", "-r", "in", "-o", "out", "--level", "3", "--jobs", "2", cwd=tmp_path).returncode == 0
    assert sorted(listing(tmp_path / "out")) == ["b.level3.png", "sub/a.level3.png"]
    np.testing.assert_array_equal(pixels(tmp_path / "out" / "sub" / "a.level3.png"), level(packed / "tiles.ardm", 3))


# What is not read


def junk(data: bytes, *useless: np.ndarray | memoryview | bytes) -> bytes:
    """A file with other bytes in place of parts of it, given as views, and of its last checksums."""
    out = np.frombuffer(data, np.uint8).copy()
    start = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    for view in useless:
        part = np.frombuffer(view, np.uint8)
        at = part.__array_interface__["data"][0] - start
        assert 0 < at < at + part.size < len(data) - 8
        out[at : at + part.size] = np.random.default_rng(at).integers(0, 256, part.size, np.uint8)
    out[-8:] ^= 0xFF  # of the pixels and of the file
    return out.tobytes()


@pytest.mark.parametrize("n", ["1", "3"])
def test_finer_levels_are_not_read(packed, tmp_path, n):
    data = (packed / "levels.ardm").read_bytes()
    coarse, fine = unpack(data).segments
    assert fine.nbytes > 2 * coarse.nbytes
    (tmp_path / "x.ardm").write_bytes(junk(data, fine))
    assert run("decompress", "x.ardm", "--level", n, cwd=tmp_path).returncode == 0
    np.testing.assert_array_equal(pixels(tmp_path / f"x.level{n}.png"), level(packed / "levels.ardm", int(n)))
    assert "file checksum" in refused(run("decompress", "x.ardm", cwd=tmp_path), 1)
    (tmp_path / "x.ardm").write_bytes(junk(data, coarse))
    before = listing(tmp_path)
    refused(run("decompress", "x.ardm", "-f", "--level", n, cwd=tmp_path), 1)
    assert listing(tmp_path) == before


def test_finer_levels_of_tiles_are_not_read(packed, tmp_path):
    data = (packed / "both.ardm").read_bytes()
    (tmp_path / "x.ardm").write_bytes(junk(data, *(tile.segments[-1] for tile in unpack(data).tiles)))
    assert run("decompress", "x.ardm", "--level", "1", cwd=tmp_path).returncode == 0
    np.testing.assert_array_equal(pixels(tmp_path / "x.level1.png"), level(packed / "both.ardm", 1))


def test_other_tiles_are_not_read(packed, tmp_path):
    data = (packed / "tiles.ardm").read_bytes()
    streams = [tile.segments for tile in unpack(data).tiles]
    assert all(streams)
    (tmp_path / "x.ardm").write_bytes(junk(data, *(words for i in (0, 1, 3) for words in streams[i])))
    assert run("decompress", "x.ardm", "--region", "5,64,59,36", cwd=tmp_path).returncode == 0
    np.testing.assert_array_equal(pixels(tmp_path / "x.region.png"), pixels(packed / "tiles.png")[64:100, 5:64])
    before = listing(tmp_path)
    for region in ("5,63,59,36", "5,64,60,36"):  # a row or a column of a neighbour
        refused(run("decompress", "x.ardm", "-f", "--region", region, cwd=tmp_path), 1)
    assert listing(tmp_path) == before


def test_what_is_read_as_a_whole_is_checked_as_a_whole(packed, tmp_path):
    """Files without tiles and checksums of levels, and regions of files without tiles."""
    (tmp_path / "wide.ardm").write_bytes(junk((packed / "wide.ardm").read_bytes()))
    (tmp_path / "levels.ardm").write_bytes(junk((packed / "levels.ardm").read_bytes()))
    assert "file checksum" in refused(run("decompress", "wide.ardm", "--level", "1", cwd=tmp_path), 1)
    # its head is sound, so that the damage is found when it is decoded
    assert "pixels do not match" in refused(run("decompress", "levels.ardm", "--region", "0,0,5,5", cwd=tmp_path), 1)
    assert sorted(listing(tmp_path)) == ["levels.ardm", "wide.ardm"]


def test_damaged_files_in_part(packed, tmp_path):
    data = (packed / "tiles.ardm").read_bytes()
    files = {"cut": data[: len(data) // 2], "empty": b"", "text": b"no such file", "magic": data[:4]}
    for name, file in files.items():
        (tmp_path / f"{name}.ardm").write_bytes(file)
    before = listing(tmp_path)
    names = [f"{name}.ardm" for name in files]
    done = run("decompress", "--preview", "-q", "--continue-on-error", *names, "nowhere.ardm", cwd=tmp_path)
    assert done.returncode == 1
    assert [line.split(": ")[1] for line in done.stderr] == [*names, "nowhere.ardm"]
    assert listing(tmp_path) == before


# What is not there


def test_files_that_are_cut_off(packed, tmp_path):
    """At every chunk, and a byte before and after: the right pixels, or one line."""
    data = (packed / "levels.ardm").read_bytes()
    first, chunks = outline(data)
    coarse = next(end for kind, end in chunks if kind == 0x83)
    ends = [5, first, *(end for _, end in chunks), len(data) - 8, len(data) - 4, len(data)]
    lengths = sorted({end + step for end in ends for step in (-1, 0, 1) if end + step <= len(data)})
    for length in lengths:
        (tmp_path / f"{length:06}.ardm").write_bytes(data[:length])
    done = run(
        "decompress", "-r", ".", "-o", "out", "--level", "1", "--continue-on-error", "-q", "--json", cwd=tmp_path
    )
    assert done.returncode == 1
    wanted = level(packed / "levels.ardm", 1)
    good = [length for length in lengths if length >= coarse]
    assert len(good) > 8
    assert sorted(listing(tmp_path / "out")) == [f"{length:06}.level1.png" for length in good]
    for length in good:
        np.testing.assert_array_equal(pixels(tmp_path / "out" / f"{length:06}.level1.png"), wanted)
    bad = [length for length in lengths if length < coarse]
    line = "ardmzip: {0:06}.ardm: cut off: the file ends after {0} bytes"
    assert all(text.startswith(line.format(n)) for n, text in zip(bad, done.stderr, strict=True)), done.stderr
    reports = {report["input"]: report for report in map(json.loads, done.stdout.splitlines())}
    assert "cut off" in reports[f"{bad[-1]:06}.ardm"]["error"]
    assert reports[f"{coarse:06}.ardm"]["input_bytes"] == coarse


def test_regions_of_files_that_are_cut_off(packed, tmp_path):
    data = (packed / "tiles.ardm").read_bytes()
    end = outline(data)[1][-3][1]  # of the second of four tiles
    for length in (end, end - 1):
        (tmp_path / "x.ardm").write_bytes(data[:length])
        done = run("decompress", "x.ardm", "--region", "60,5,40,59", "-f", cwd=tmp_path)
        if length == end:
            np.testing.assert_array_equal(pixels(tmp_path / "x.region.png"), pixels(packed / "tiles.png")[5:64, 60:100])
        else:
            assert "cut off: the file ends after" in refused(done, 1)


def test_a_preview_does_not_wait_for_the_rest(packed, tmp_path):
    """Of a pipe that stays open no more is read than is needed."""
    data = (packed / "levels.ardm").read_bytes()
    enough = next(end for kind, end in outline(data)[1] if kind == 0x83)
    with start("decompress", "--level", "1", "-", "-o", "x.png", cwd=tmp_path, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(data[:enough])
        process.stdin.flush()
        assert process.wait(120) == 0
    np.testing.assert_array_equal(pixels(tmp_path / "x.png"), level(packed / "levels.ardm", 1))


# Wrong usage


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["compress", "tiles.png", "--tile", "0"], "'0' is not a number of pixels, none or auto"),
        (["compress", "tiles.png", "--tile", "x"], "'x' is not a number of pixels, none or auto"),
        (["compress", "tiles.png", "--tile", "64x64"], "is not a number of pixels"),
        (["decompress", "tiles.ardm", "--level", "0"], "--level"),
        (["decompress", "tiles.ardm", "--level", "32"], "--level"),
        (["decompress", "tiles.ardm", "--region", "1,2,3"], "'1,2,3' is not a region such as 0,0,640,480"),
        (["decompress", "tiles.ardm", "--region", "1,2,3,0"], "is not a region"),
        (["decompress", "tiles.ardm", "--region=-1,2,3,4"], "is not a region"),
        (["decompress", "tiles.ardm", "--level", "1", "--preview"], "choose one"),
        (["decompress", "tiles.ardm", "--level", "1", "--region", "0,0,1,1"], "choose one"),
        (["decompress", "tiles.ardm", "--preview", "--region", "0,0,1,1"], "choose one"),
        (["decompress", "tiles.ardm", "--preview", "--rm"], "--rm removes"),
        (["decompress", "tiles.ardm", "--level", "1", "--rm"], "--rm removes"),
        (["decompress", "tiles.ardm", "--region", "0,0,1,1", "--rm"], "--rm removes"),
    ],
)
def test_wrong_usage_of_parts(packed, args, expected):
    before = listing(packed)
    assert expected in refused(run(*args, cwd=packed))
    assert listing(packed) == before


@pytest.mark.parametrize("region", ["100,0,1,1", "0,100,1,1", "0,0,101,1", "99,99,1,2", "0,0,4294967296,1"])
def test_regions_outside_the_image(packed, region):
    before = listing(packed)
    line = refused(run("decompress", "tiles.ardm", "--region", region, cwd=packed), 1)
    assert "is not within 100 x 100" in line
    assert listing(packed) == before
