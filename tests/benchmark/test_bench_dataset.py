"""Measuring codecs on the images of a source."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from ardmzip import formats
from ardmzip.benchmark import codecs, dataset, solid
from ardmzip.benchmark.dataset import Bench, pixels_of
from ardmzip.errors import ImageError
from ardmzip.formats import Picture
from ardmzip.pixelformat import PixelFormat
from ardmzip.sources import Item


def picture(seed: int, side: int = 8, dtype: type = np.uint8) -> Picture:
    return formats.from_array(np.random.default_rng(seed).integers(0, 200, (side, side, 3), dtype))


def items(*pictures: Picture) -> list[Item]:
    return [Item(f"{i}.png", None, None, lambda one=one: one) for i, one in enumerate(pictures)]


def codec(name: str, size: float = 1.0, flip: bool = False) -> codecs.Codec:
    """Files of ``size`` times the raw bytes that come back as they were, or upside down."""
    kept: dict[bytes, np.ndarray] = {}

    def encode(pixels: np.ndarray) -> bytes:
        data = len(kept).to_bytes(4, "big").ljust(round(size * pixels.nbytes), b"\0")
        kept[data] = pixels
        return data

    def decode(data: bytes) -> np.ndarray:
        return kept[data][::-1] if flip else kept[data]

    return codecs.Codec(name, codecs.LABELS[name], "1", encode, decode)


@pytest.fixture(autouse=True)
def no_calls(monkeypatch):
    """The files of these codecs are not ardmzip's."""
    monkeypatch.setattr("ardmzip.benchmark.measure.network_calls", lambda data: len(data))


def test_rows_and_gains():
    told: list[str] = []
    bench = Bench(
        [codec("ardmzip", 0.4), codec("png", 1.0), codec("jxl-e9", 0.5)], dataset.make_solids(["xz"]), told.append
    )
    done: list[int] = []
    bench.run(items(picture(1), picture(2), picture(3, 16)), 3, done.append)
    result = bench.result()
    rows = {row.name: row for row in result.rows}
    assert (result.images, result.pixels, result.raw_bytes) == (3, 384, 1152)
    assert {name: round(row.bits_per_subpixel, 2) for name, row in rows.items() if name != "xz"} == {
        "ardmzip": 3.2, "png": 8.0, "jxl-e9": 4.0,
    }  # fmt: skip
    assert rows["ardmzip"].relative == pytest.approx(0.8, abs=0.01)
    assert rows["xz"].relative == pytest.approx(rows["xz"].bytes / rows["jxl-e9"].bytes)
    assert list(result.gains) == pytest.approx([20, 20, 20], abs=1)
    assert result.reference == "JPEG XL e9"
    assert rows["png"].encode_images_per_s > 0
    assert done == [1, 2, 3]
    assert not told


def test_measuring_elsewhere():
    """In another process, say: only names and pixels go there, and measurements come back."""
    seen = []
    codecs_here = [codec("ardmzip", 0.5), codec("png")]

    def elsewhere(images):
        for image in images:
            seen.append(image[0])
            yield dataset.measure_image(image, codecs_here)

    bench = Bench(codecs_here, [], print)
    bench.run(items(picture(1), picture(2)), measure=elsewhere)
    assert seen == ["0.png", "1.png"]
    assert [row.images for row in bench.result().rows] == [2, 2]


def test_a_contest_can_be_sent_to_another_process():
    contest = dataset.Contest(("png", "webp"), (("model", "thumb"), ("learn", False)), 1)
    again = pickle.loads(pickle.dumps(contest.measure))
    assert [m.codec for m in again(("a", picture(1).samples))] == ["ardmzip", "png", "webp"]
    assert [codec.name for codec in contest.codecs()] == ["ardmzip", "png", "webp"]
    assert contest.codecs() is contest.codecs()


def test_the_limit_is_kept():
    bench = Bench([codec("png")], [], print)
    bench.run(items(picture(1), picture(2), picture(3)), 2)
    assert bench.result().images == 2


def test_problems_are_told_and_left_out():
    def broken() -> Picture:
        raise ImageError("x/1.png: damaged image")

    told: list[str] = []
    bench = Bench([codec("ardmzip", 0.5, flip=True), codec("jxl-e9")], [], told.append)
    bench.run([*items(picture(1)), Item("1.png", None, None, broken), *items(picture(2))])
    result = bench.result()
    assert result.images == 2
    assert told == ["0.png: ardmzip: the decoded pixels differ", "x/1.png: damaged image",
                    "0.png: ardmzip: the decoded pixels differ"]  # fmt: skip
    assert result.problems.count == 3
    assert result.rows[0].images == 0
    assert not result.gains


def test_what_a_codec_cannot_hold():
    webp = replace(codec("webp"), holds=lambda pixels: pixels.itemsize == 1)
    bench = Bench([codec("ardmzip", 0.5), webp, codec("jxl-e7")], [], print)
    bench.run(items(picture(1), picture(2, dtype=np.uint16)))
    result = bench.result()
    assert [row.images for row in result.rows] == [2, 1, 2]
    assert result.rows[1].relative == pytest.approx(1.0)
    assert result.notes == ["WebP lossless cannot hold 1 of the images"]
    assert result.raw_bytes == 192 + 384


def test_the_sample():
    bench = Bench([codec("ardmzip", 0.5), codec("jxl-e9")], [], print)
    bench.run(items(*(picture(i, 600 if i == 0 else 8) for i in range(12))))
    result = bench.result()
    bench.measure_sample(result, lambda budget: codec("ardmzip", 0.5 if budget is None else 0.5 + 1 / budget))
    assert result.sample == dataset.SAMPLE_IMAGES
    assert [point.budget for point in result.curve] == [5, 10, 20, 40, None]
    assert [round(point.bits_per_subpixel, 1) for point in result.curve] == [5.6, 4.8, 4.4, 4.2, 4.0]
    assert result.sample_references == {"JPEG XL e9": pytest.approx(8)}
    assert set(result.split) == {"encode", "decode"}
    assert sum(result.split["encode"].values()) > 0


@pytest.mark.parametrize(
    ("described", "samples", "expected"),
    [
        (PixelFormat("palette", 2, bytes(range(9))), [0, 2], [[0, 1, 2], [6, 7, 8]]),
        (PixelFormat("palette", 8, bytes(range(9)), (7,)), [0, 2], [[0, 1, 2, 7], [6, 7, 8, 255]]),
        (PixelFormat("gray", 2), [1, 3], [85, 255]),
        (PixelFormat("gray", 1), [0, 1], [0, 255]),
    ],
)
def test_pixels_as_all_codecs_take_them(described, samples, expected):
    found = pixels_of(Picture(np.array(samples, np.uint8).reshape(1, 2, 1), described))
    assert found.dtype == np.uint8
    assert found.tolist() == [expected]


@pytest.mark.parametrize("name", solid.LABELS)
def test_solid_compressors(name, monkeypatch):
    monkeypatch.setattr(solid, "BLOCK", 500)
    (compressor,) = dataset.make_solids([name])
    raw = bytearray()
    seen = compressor.encode

    def encode(data: bytes) -> bytes:
        raw.extend(data)
        return seen(data)

    compressor.encode = encode
    images = [np.arange(600, dtype=np.uint8).reshape(10, 20, 3), np.arange(50, dtype=">u2").reshape(5, 10)]
    for image in images:
        compressor.add(image)
    compressor.finish()
    assert bytes(raw) == images[0].tobytes() + images[1].astype("<u2").tobytes()
    assert (compressor.images, compressor.raw_bytes, compressor.subpixels) == (2, 700, 650)
    assert 0 < compressor.bytes < 700
    assert not compressor.failures
    compressor.decode = lambda coded: b""
    compressor.add(images[0])
    compressor.finish()
    assert compressor.failures


def test_stages_are_unwrapped():
    from ardmzip import rans
    from ardmzip.benchmark.stages import codec_stages

    before = rans.Encoder.push

    def fail() -> None:
        with codec_stages():
            assert rans.Encoder.push is not before
            _ = 1 // 0

    with pytest.raises(ZeroDivisionError):
        fail()
    assert rans.Encoder.push is before
