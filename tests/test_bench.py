"""The comparison's own parts: codec adapters, image sets, the CIFAR cutter, summaries and tables."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from ardmzip import model
from ardmzip.benchmark import codecs
from ardmzip.benchmark.measure import Measurement, Summary, summarise
from ardmzip.benchmark.tables import machine
from bench import bench, cifar, effort, images, measure, memory, report


def picture(height: int = 23, width: int = 37, gray: bool = False) -> np.ndarray:
    """A gradient with noise."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(1).integers(0, 9, (height, width, 3))
    rgb = np.stack([3 * x, 5 * y, 2 * (x + y)], axis=-1) + noise
    return (rgb[:, :, 0] if gray else rgb).astype(np.uint8)


def adapter(name: str) -> codecs.Codec:
    try:
        return codecs.make(name, threads=2)
    except codecs.MissingCodec as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("gray", [False, True], ids=["rgb", "gray"])
@pytest.mark.parametrize("name", codecs.LABELS | codecs.EFFORTS)
def test_every_codec_gives_the_pixels_back(name, gray):
    codec, pixels = adapter(name), picture(gray=gray)
    data = codec.encode(pixels)
    assert isinstance(data, bytes)
    assert codecs.same_pixels(codec.decode(data), pixels)
    if name != "webp":  # has no gray mode
        assert codec.decode(data).shape == pixels.shape


@pytest.mark.parametrize("name", ["jxl-e7", "jxl-e9"])
def test_jpeg_xl_keeps_its_bytes_on_any_number_of_threads(name):
    pixels = picture(300, 300)
    adapter(name)
    assert codecs.make(name, threads=1).encode(pixels) == codecs.make(name, threads=2).encode(pixels)


def test_ardmzip_with_a_model_file(tmp_path, photo):
    """A model that is not installed serves both ways."""
    tensors = {**photo.tensors, "expert.0.0.bias": photo.tensors["expert.0.0.bias"] + 1}
    path = tmp_path / "other.safetensors"
    model.save(path, "other", tensors, photo.loss, photo.side_mean, photo.side_std, {})
    codec, pixels = codecs.make("ardmzip", model=str(path)), picture()
    assert codecs.same_pixels(codec.decode(codec.encode(pixels)), pixels)
    assert codecs.network_calls(codec.encode(np.ascontiguousarray(pixels[:, :1]))) < 54


def test_jpeg_xl_efforts_differ():
    pixels = picture(100, 100)
    assert adapter("jxl-e7").encode(pixels) != adapter("jxl-e9").encode(pixels)


def test_an_unknown_codec_is_refused():
    pytest.importorskip("imagecodecs", reason="the name is looked up after importing imagecodecs")
    with pytest.raises(ValueError, match="no codec is called 'gif'"):
        codecs.make("gif")


def test_same_pixels():
    rgb, gray = picture(), picture(gray=True)
    other = rgb.copy()
    other[3, 4, 2] ^= 1
    assert codecs.same_pixels(rgb, rgb.copy())
    assert not codecs.same_pixels(rgb, other)
    assert not codecs.same_pixels(rgb, rgb[:-1])
    assert not codecs.same_pixels(rgb, rgb.astype(np.int16))
    assert codecs.same_pixels(gray, np.stack([gray] * 3, axis=-1))
    assert not codecs.same_pixels(gray, rgb)


RAW = codecs.Codec("raw", "Raw", "0", np.ndarray.tobytes, lambda data: np.frombuffer(data, np.uint8).reshape(23, 37, 3))
FLIPPED = codecs.Codec("flipped", "Flipped", "0", RAW.encode, lambda data: RAW.decode(data)[::-1])
REFUSING = codecs.Codec("refusing", "Refusing", "0", lambda pixels: 1 // 0, RAW.decode)


def test_a_set_is_measured_and_summed_up():
    def load(i):
        if i == 1:
            raise images.UnsupportedImage("transparency")
        return picture()

    some = images.ImageSet("some", ("a.png", "b.png", "c.png"), load)
    result = measure.run_set(some, [RAW, FLIPPED, REFUSING])
    assert result.skipped == ["b.png: transparency"]
    raw, flipped, refusing = (summarise(c, result.of(c.name), 0.5) for c in (RAW, FLIPPED, REFUSING))
    assert (raw.images, raw.bytes, raw.bits_per_subpixel, raw.failures) == (2, 2 * 23 * 37 * 3, 8.0, ())
    assert raw.startup_s == 0.5
    assert raw.encode_s_per_mp >= 0
    assert (flipped.images, flipped.failures[0]) == (0, "a.png: the decoded pixels differ")
    assert refusing.failures[0].startswith("a.png: ZeroDivisionError")


def test_bits_are_summed_before_they_are_divided():
    small = Measurement("raw", "small", 10, 10, 1, bytes=100)
    large = Measurement("raw", "large", 30, 10, 1, bytes=75)
    s = summarise(RAW, [small, large])
    assert s.bits_per_subpixel == pytest.approx(8 * 175 / 400)
    assert s.mean_bits_per_subpixel == pytest.approx((8 + 2) / 2)


def fake(codec: str, size: int, **more) -> Summary:
    label = codecs.LABELS[codec]
    fields = {
        "version": "1", "images": 2, "bytes": size, "bits_per_subpixel": size / 100, "mean_bits_per_subpixel": 1.0,
        "encode_s_per_mp": 1.5, "decode_s_per_mp": 0.25, "encode_cpu_s_per_mp": 1.0, "decode_cpu_s_per_mp": 1.0,
        "startup_s": 2.0,
    }  # fmt: skip
    return Summary(codec, label, **(fields | more))


def test_the_table():
    assert report.table([fake("ardmzip", 270), fake("jxl-e9", 300)]).splitlines() == [
        "| codec | bits per sub-pixel | size against JPEG XL e9 | encode, s/MP | decode, s/MP | start-up, s |",
        "|---|---:|---:|---:|---:|---:|",
        "| ardmzip | 2.700 | -10.0 % | 1.50 | 0.25 | 2.00 |",
        "| JPEG XL e9 | 3.000 | 0 | 1.50 | 0.25 | 2.00 |",
    ]


def test_a_codec_that_failed_is_not_compared():
    nan = float("nan")
    lines = report.table([fake("webp", 0, failures=("a",), bits_per_subpixel=nan), fake("jxl-e9", 300)]).splitlines()
    assert lines[2] == "| WebP lossless | n/a | n/a | 1.50 | 0.25 | 2.00 |"


def test_pages_and_json(tmp_path):
    result = measure.SetResult("some", [Measurement("jxl-e9", "a.png", 10, 10, 3, bytes=99)], ["b.png: alpha"])
    failing = fake("jxl-e9", 99, failures=("c.png: broken",), decode_s_per_mp=float("nan"))
    about = machine(threads=1)
    page = report.set_page(result, [failing], about, ["a note"])
    for text in ("# some", "1 image(s)", "on 1 thread(s)", "FAILURES", "c.png: broken", "b.png: alpha", "a note"):
        assert text in page
    report.write_json(tmp_path / "some.json", report.set_json(result, [failing], about, []))
    content = json.loads((tmp_path / "some.json").read_text())
    assert content["codecs"]["jxl-e9"]["decode_s_per_mp"] is None
    assert content["images"][0]["bytes"] == 99


def test_the_steps_table_and_plot(tmp_path):
    points = [
        {"budget": budget, "network_calls": calls, "bits_per_subpixel": bits, "encode_s_per_mp": 1.0,
         "decode_s_per_mp": 2.0, "failures": []}
        for budget, calls, bits in [("5", 5.0, 3.5), ("best", 61.5, 2.8)]
    ]  # fmt: skip
    assert "| best | 61.5 | 2.800 | 1.00 | 2.00 |" in report.steps_page({"some": points}, machine(1))
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install 'ardmzip[bench]')")
    report.steps_plot({"some": points}, {"some": {"JPEG XL e9": 2.9}}, tmp_path / "steps.png")
    assert (tmp_path / "steps.png").read_bytes().startswith(b"\x89PNG")


def test_the_cifar_cutter(tmp_path):
    singles = np.random.default_rng(2).integers(0, 256, (7, 32, 32, 3), np.uint8)
    sheet = tmp_path / "test_0-6.png"
    Image.fromarray(singles.reshape(7, 1024, 3)).save(sheet)
    assert np.array_equal(cifar.cut(np.asarray(Image.open(sheet))), singles)

    some = cifar.sheet_set([sheet, sheet]).first(9)
    assert len(some.files) == 9
    assert all(np.array_equal(some.load(i), singles[i % 7]) for i in range(9))

    assert cifar.main([str(sheet), str(tmp_path / "out"), "--limit", "3"]) == 0
    written = sorted((tmp_path / "out").iterdir())
    assert [p.name for p in written] == ["0000.png", "0001.png", "0002.png"]
    assert np.array_equal(np.asarray(Image.open(written[2])), singles[2])


def test_a_sheet_of_another_width_is_refused():
    with pytest.raises(ValueError, match="1024 pixels wide"):
        cifar.cut(np.zeros((4, 1000, 3), np.uint8))


def test_folders(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        Image.fromarray(picture()).save(tmp_path / folder / "a.png")
    assert [s.name for s in images.folder_sets([tmp_path])] == ["one", "two"]
    twice = images.folder_sets([tmp_path / "one", tmp_path / "one"])
    assert [s.name for s in twice] == ["one", "one-2"]
    assert np.array_equal(twice[0].load(0), picture())
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no images"):
        images.folder_sets([tmp_path / "empty"])


def test_images_that_are_not_rgb_or_gray(tmp_path):
    rgba = Image.fromarray(picture()).convert("RGBA")
    rgba.save(tmp_path / "opaque.png")
    assert np.array_equal(images.read(tmp_path / "opaque.png"), picture())
    rgba.putpixel((0, 0), (1, 2, 3, 4))
    rgba.save(tmp_path / "clear.png")
    with pytest.raises(images.UnsupportedImage, match="transparency"):
        images.read(tmp_path / "clear.png")
    Image.fromarray(np.zeros((3, 3), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(images.UnsupportedImage, match="8 bits"):
        images.read(tmp_path / "deep.png")
    palette = Image.fromarray(picture()).quantize(16)
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(images.read(tmp_path / "palette.png"), np.asarray(palette.convert("RGB")))


def test_the_whole_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "limit_threads", lambda threads: None)  # would bind this process
    (tmp_path / "some").mkdir()
    Image.fromarray(picture()).save(tmp_path / "some" / "a.png")
    Image.fromarray(picture(gray=True)).save(tmp_path / "some" / "b.png")
    arguments = [str(tmp_path / "some"), "--codecs", "png", "webp", "--threads", "1", "--out", str(tmp_path / "out")]
    assert bench.main(arguments) == 0
    assert "| PNG, optimised |" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "some.json").read_text())
    assert [(m["image"], m["codec"], m["error"]) for m in content["images"]] == [
        ("a.png", "png", ""), ("a.png", "webp", ""), ("b.png", "png", ""), ("b.png", "webp", ""),
    ]  # fmt: skip
    assert bench.main([str(tmp_path / "missing")]) == 2


def test_small_images_are_measured_at_an_effort_too(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "limit_threads", lambda threads: None)
    monkeypatch.setattr(bench.codecs, "LABELS", {"png": "PNG, optimised"})
    Image.fromarray(picture(1, 1024)).save(tmp_path / "sheet_0.png")
    assert bench.main(["--cifar", str(tmp_path / "sheet_0.png"), "--out", str(tmp_path)]) == 0
    assert list(json.loads((tmp_path / "cifar10.json").read_text())["codecs"]) == ["png", "ardmzip-e4"]


def test_the_mosaic_of_the_memory_test():
    a, b = picture(5, 4), picture(3, 9)
    mosaic = memory.mirrored_mosaic([a, b], 20, 13)
    assert mosaic.shape == (20, 13, 3)
    assert np.array_equal(mosaic[:5, :4], a)
    assert np.array_equal(mosaic[:5, 4:8], a[:, ::-1])
    assert np.array_equal(mosaic[5:8, :9], b)


def test_images_a_second_by_batch(monkeypatch, capsys):
    from bench import batches

    monkeypatch.setattr(batches, "IMAGES", 4)
    monkeypatch.setattr(batches, "ALONE", 1)
    assert batches.main(["--sizes", "1", "3"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows[1:]] == ["| 1", "| 3"]


def test_the_bench_of_efforts(tmp_path, monkeypatch):
    monkeypatch.setattr(effort, "limit_threads", lambda threads: None)  # of this process
    folder = tmp_path / "few"
    folder.mkdir()
    Image.fromarray(picture()).save(folder / "a.png")
    arguments = [str(folder), "--out", str(tmp_path), "--codecs", "ardmzip-e0", "ardmzip-e9"]
    assert effort.main(arguments) == 0
    results = json.loads((tmp_path / "effort-few.json").read_text())["codecs"]
    assert results["ardmzip-e9"]["bytes"] <= results["ardmzip-e0"]["bytes"]
    assert "| ardmzip --effort 9 |" in (tmp_path / "effort-few.md").read_text()
    assert effort.main([str(tmp_path / "missing")]) == 2
