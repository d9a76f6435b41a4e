"""Training images from folders, sheets, shards and URLs."""

from __future__ import annotations

import io
import itertools
import tarfile
import zlib
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from ardmzip.errors import ImageError
from ardmzip.training import data, images


def picture(seed: int, height: int = 6, width: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def shard(names: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def held_out(name: str) -> bool:
    return zlib.crc32(name.encode()) % 25 == 0


def test_read_list_and_load(tmp_path):
    image = picture(1, 40, 50)
    (tmp_path / "a").mkdir()
    Image.fromarray(image).save(tmp_path / "a" / "rgb.png")
    Image.fromarray(image[:, :, 0]).save(tmp_path / "gray.PNG")
    (tmp_path / "notes.txt").write_text("no image")
    paths = images.list_images([tmp_path, tmp_path / "a"])
    assert [Path(path).name for path in paths] == ["rgb.png", "gray.PNG"]
    rgb, gray = images.load_images(paths)
    np.testing.assert_array_equal(rgb, image)
    np.testing.assert_array_equal(gray, np.repeat(image[:, :, :1], 3, 2))
    assert images.load_images([]) == []
    with pytest.raises(ImageError):
        images.list_images([tmp_path / "missing"])


def test_read_rejects_the_unusual(tmp_path):
    Image.fromarray(np.zeros((4, 4, 4), np.uint8)).save(tmp_path / "alpha.png")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    Image.new("P", (4, 4)).save(tmp_path / "palette.png")
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    (tmp_path / "damaged.jxl").write_bytes(b"\xff\x0arubbish")
    for path in [*images.list_images([tmp_path]), tmp_path / "missing.png", tmp_path / "missing.jxl"]:
        with pytest.raises(ImageError, match=Path(path).name):
            images.read_rgb(path)


def test_jxl(tmp_path):
    codecs = pytest.importorskip("imagecodecs")
    for image in (picture(1, 30, 20), picture(1, 30, 20)[:, :, 0]):
        (tmp_path / "x.jxl").write_bytes(codecs.jpegxl_encode(np.ascontiguousarray(image), lossless=True))
        expected = image if image.ndim == 3 else np.repeat(image[:, :, None], 3, 2)
        np.testing.assert_array_equal(images.read_rgb(tmp_path / "x.jxl"), expected)


def test_tiles():
    assert len(images.tiles(picture(1, 300, 140), 128)) == 2


@pytest.fixture
def folder(tmp_path):
    """Two images, one of them in a folder of its own, a shard of 100 and a text."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.png").write_bytes(png(picture(1)))
    (tmp_path / "sub" / "b.PNG").write_bytes(png(picture(2)))
    members = {f"{i:04}.png": png(picture(100 + i)) for i in range(100)} | {"0001.cls": b"3"}
    (tmp_path / "x-000.tar").write_bytes(shard(members))
    (tmp_path / "readme.txt").write_text("text")
    return tmp_path


def test_places(folder):
    everything = [str(folder / name) for name in ("a.png", "sub/b.PNG", "x-000.tar")]
    assert images.list_images([str(folder)]) == everything
    assert images.list_images([folder, folder / "a.png"]) == everything
    assert images.list_images([f"{folder}/*.tar"]) == everything[2:]
    for missing in (folder / "nothing", f"{folder}/*.jpg"):
        with pytest.raises(ImageError, match=r"(?i)no such file or"):
            images.list_images([missing])
    with pytest.raises(ImageError, match="nonesuch"):
        images.list_images(["nonesuch://x"])


def test_urls():
    """Any file system of fsspec's."""
    memory = fsspec.filesystem("memory")
    memory.pipe("/set/a.png", png(picture(3)))
    memory.pipe("/set/x.tar", shard({"b.png": png(picture(4))}))
    try:
        found = images.list_images(["memory://set"])
        assert found == ["memory:///set/a.png", "memory:///set/x.tar"]
        seen = list(images.stream_images(found, held_out("b.png")))
        np.testing.assert_array_equal(seen, [picture(3), picture(4)])
    finally:
        memory.rm("/set", recursive=True)


def test_shards_are_split_by_name(folder):
    path = str(folder / "x-000.tar")
    out = [i for i in range(100) if held_out(f"{i:04}.png")]
    assert 0 < len(out) < 20
    np.testing.assert_array_equal(list(images.stream_images([path], held_out=True)), [picture(100 + i) for i in out])
    assert len(list(images.stream_images([path], held_out=False))) == 100 - len(out)
    assert images.split([path]) == ([path], [path])


def test_split():
    names = [f"f/{i}.png" for i in range(200)]
    training, validation = images.split(names)
    assert sorted(training + validation) == sorted(names)
    assert validation == [name for name in names if held_out(name.split("/")[1])]
    assert images.split(["f/a.png"]) == (["f/a.png"], [])
    for two in itertools.combinations(names[:5], 2):
        assert [len(part) for part in images.split(list(two))] == [1, 1]


def test_sheets(tmp_path):
    """Sheets of crops, and files with an image in each row; one of 25 images is held out."""
    for folder, shape in (("div2k-crops", (256, 384, 3)), ("cifar10", (30, 32 * 32, 3))):
        (tmp_path / folder).mkdir()
        pixels = np.random.default_rng(5).integers(0, 256, shape, np.uint8)
        path = tmp_path / folder / "sheet.png"
        path.write_bytes(png(pixels))
        training, validation = (list(images.stream_images([str(path)], out)) for out in (False, True))
        if folder == "cifar10":
            whole = pixels.reshape(30, 32, 32, 3)
            np.testing.assert_array_equal(validation, whole[[0, 25]])
            np.testing.assert_array_equal(training, np.delete(whole, [0, 25], 0))
        else:
            assert (len(training), len(validation)) == (5, 1)
            np.testing.assert_array_equal(training[3], pixels[128:, 128:256])
        np.testing.assert_array_equal(images.load_images([str(path)]), training)
        assert images.split([str(path)]) == ([str(path)], [str(path)])


def test_rows_of_another_width(tmp_path):
    (tmp_path / "cifar10").mkdir()
    path = tmp_path / "cifar10" / "x.png"
    path.write_bytes(png(picture(1)))
    with pytest.raises(ImageError, match="rows of 5 pixels are not images of 32x32"):
        images.load_images([str(path)])


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_compressed_shards(tmp_path, kind):
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode=f"w:{kind}") as tar:
        member = tarfile.TarInfo("a.png")
        member.size = len(png(picture(1)))
        tar.addfile(member, io.BytesIO(png(picture(1))))
    path = tmp_path / "x.tar"
    path.write_bytes(whole.getvalue())
    np.testing.assert_array_equal(list(images.stream_images([str(path)], held_out("a.png"))), [picture(1)])
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    with pytest.raises(ImageError, match=r"x\.tar"):
        list(images.stream_images([str(path)], held_out("a.png")))


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.png", b"no image"), ("x.tar", b"no archive" * 100), ("y.tar", shard({"a.png": b"no image"})[:1000]),
     ("x.png", png(picture(1))[:60]), ("rgba.png", png(np.zeros((2, 2, 4), np.uint8)))],
)  # fmt: skip
def test_damaged_sources(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=name):
        list(images.stream_images([str(tmp_path / name)], held_out("a.png")))


def test_pool_of_all_images(folder):
    paths = [str(folder / "a.png"), str(folder / "sub/b.PNG")]
    pool = data.image_pool(paths, np.random.default_rng(0), data.CropConfig(memory=2))
    seen = {next(pool).tobytes() for _ in range(40)}
    assert seen == {picture(1).tobytes(), picture(2).tobytes()}


def test_pool_draws_images_of_sheets_more_or_less_often(tmp_path):
    (tmp_path / "cifar10").mkdir()
    sheet, image = tmp_path / "cifar10" / "a.png", tmp_path / "b.png"
    Image.fromarray(np.zeros((10, 1024, 3), np.uint8)).save(sheet)
    Image.fromarray(np.ones((40, 40, 3), np.uint8)).save(image)
    for weight, least, most in ((0.01, 0, 40), (1.0, 150, 200)):
        pool = data.image_pool([str(sheet), str(image)], np.random.default_rng(0), data.CropConfig(sheets=weight))
        assert least <= sum(next(pool).shape == (32, 32, 3) for _ in range(200)) <= most
    with pytest.raises(ImageError, match="nothing but sheets"):
        next(data.image_pool([str(sheet)], np.random.default_rng(0), data.CropConfig(sheets=0)))


def test_pool_that_images_pass_through(folder):
    """More images than memory: all come by, and few are held at a time."""
    config = data.CropConfig(memory=8, crops_per_image=2)
    pool = data.image_pool([str(folder / "x-000.tar")], np.random.default_rng(0), config)
    assert len({next(pool).tobytes() for _ in range(16)}) <= 16
    everything = {picture(100 + i).tobytes() for i in range(100) if not held_out(f"{i:04}.png")}
    seen = {next(pool).tobytes() for _ in range(1500)}
    assert seen <= everything
    assert len(seen) > 0.9 * len(everything)


def test_pool_without_images(tmp_path):
    (tmp_path / "x.tar").write_bytes(shard({"0001.cls": b"3"}))
    with pytest.raises(ImageError, match="no images for training"):
        next(data.image_pool([str(tmp_path / "x.tar")], np.random.default_rng(0), data.CropConfig()))


def test_thumbnails():
    rng = np.random.default_rng(0)
    image = picture(1, 300, 200)
    sides = [data.thumbnail(image, rng, (16, 128)).shape for _ in range(30)]
    assert all(16 <= w <= 128 and abs(h - 1.5 * w) <= 1 for h, w, _ in sides)
    assert len({w for _, w, _ in sides}) > 10
    assert data.thumbnail(picture(1, 20, 30), rng, (32, 128)).shape == (20, 30, 3)
    crops = data.Crops([], 0, data.CropConfig(48, thumbnails=1.0))
    crops.sources = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "image_pool", lambda *args: iter([image] * 20))
        shapes = [planes.shape for planes, _ in crops]
    assert all(channels == 3 and 32 <= h <= 48 and 32 <= w <= 48 for channels, h, w in shapes)
