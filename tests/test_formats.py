"""PIL images and arrays, to .ardm files and back, also as Pillow's plugin."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

import ardmzip
from ardmzip.container import unpack
from ardmzip.errors import FormatError, ImageError
from ardmzip.files import SUFFIX

RNG = np.random.default_rng(0)
MODES = ["1", "L", "LA", "RGB", "RGBA", "RGBX", "P", "I;16"]


def image(mode: str, width: int = 7, height: int = 5) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(RNG.integers(0, 65536, (height, width), np.uint16))
    channels = len(Image.new(mode, (1, 1)).getbands())
    if mode == "1":
        return Image.fromarray(RNG.integers(0, 2, (height, width), np.uint8).astype(bool))
    array = RNG.integers(0, 9 if mode == "P" else 256, (height, width, channels), np.uint8)
    found = Image.frombytes(mode, (width, height), array.tobytes())
    if mode == "P":
        found.putpalette(RNG.bytes(27))
    return found


def check_same(one: Image.Image, two: Image.Image) -> None:
    assert (one.mode, one.size) == (two.mode, two.size)
    assert one.tobytes() == two.tobytes()
    if one.mode == "P":
        assert one.im.getpalette("RGB", "RGB") == two.im.getpalette("RGB", "RGB")
    assert one.info.get("transparency") == two.info.get("transparency")


@pytest.mark.parametrize("mode", MODES)
def test_every_mode(mode):
    for size in ((7, 5), (1, 1), (30, 40)):
        original = image(mode, *size)
        check_same(ardmzip.decompress(ardmzip.compress(original)), original)


@pytest.mark.parametrize(
    ("mode", "transparency"),
    [("L", 7), ("1", 255), ("I;16", 40000), ("RGB", (1, 2, 3)), ("P", 3), ("P", b"\x07\xff\x00"), ("P", 0)],
)
def test_transparent_colours(mode, transparency):
    original = image(mode)
    original.info["transparency"] = transparency
    check_same(ardmzip.decompress(ardmzip.compress(original)), original)


@pytest.mark.parametrize("colour", [0, 1])
def test_transparent_colour_of_one_bit(colour, tmp_path):
    """Pillow writes it as 0 or 1 and reads it as 0 or 255."""
    image("1").save(tmp_path / "t.png", transparency=colour)
    with Image.open(tmp_path / "t.png") as opened:
        assert opened.info["transparency"] == 255 * colour
        shown = opened.convert("RGBA").tobytes()
        data = ardmzip.compress(opened)
        opened.save(tmp_path / "again.png")  # as 255, of which the lowest bit counts
    assert unpack(data).pixel_format.transparency == (colour,)
    for source in (data, ardmzip.compress(tmp_path / "t.png"), ardmzip.compress(tmp_path / "again.png")):
        restored = ardmzip.decompress(source)
        assert restored.convert("RGBA").tobytes() == shown
    original = image("1")
    original.info["transparency"] = 1
    assert ardmzip.decompress(ardmzip.compress(original)).info["transparency"] == 255


def test_palette_with_alpha():
    original = image("P")
    original.putpalette(bytes(range(36)), "RGBA")
    data = ardmzip.compress(original)
    assert unpack(data).format.transparency == tuple(range(3, 36, 4))
    assert ardmzip.decompress(data).convert("RGBA").tobytes() == original.convert("RGBA").tobytes()


@pytest.mark.parametrize("mode", ["PA", "La", "RGBa", "CMYK", "YCbCr", "LAB", "HSV", "I", "F"])
def test_refused_modes(mode):
    with pytest.raises(ImageError, match=f"images of mode {mode} are not supported"):
        ardmzip.compress(Image.new(mode, (3, 2)))


def test_bad_transparency():
    for mode, transparency in (("L", 256), ("RGB", b"abc"), ("RGB", (1, 2)), ("P", bytes(10))):
        original = image(mode)
        original.info["transparency"] = transparency
        with pytest.raises(ImageError):
            ardmzip.compress(original)


@settings(max_examples=40)
@given(
    st.sampled_from([np.uint8, np.uint16]).flatmap(
        lambda kind: arrays.arrays(
            kind,
            st.tuples(st.integers(1, 9), st.integers(1, 9))
            | st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4)),
        )
    )
)
def test_arrays(array):
    restored = ardmzip.decompress_array(ardmzip.compress(array))
    assert restored.dtype == array.dtype
    np.testing.assert_array_equal(restored, array[:, :, 0] if array.shape[2:] == (1,) else array)


def test_views_and_byte_orders():
    array = RNG.integers(0, 65536, (6, 8, 3), np.uint16)
    for view in (array[::-1, ::2], array.astype(">u2"), np.asfortranarray(array)):
        np.testing.assert_array_equal(ardmzip.decompress_array(ardmzip.compress(view)), view)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2), float), "float64"),
        (np.zeros((2, 2), bool), "bool"),
        (np.zeros((2, 2), np.int16), "int16"),
        (np.zeros((2, 2, 5), np.uint8), "is no image"),
        (np.zeros((1, 2, 2, 3), np.uint8), "is no image"),
        (np.zeros(3, np.uint8), "is no image"),
        (np.zeros((0, 3), np.uint8), "no pixels"),
        (np.zeros((3, 0, 3), np.uint16), "no pixels"),
    ],
)
def test_refused_arrays(array, message):
    with pytest.raises(ImageError, match=message) as caught:
        ardmzip.compress(array)
    assert "\n" not in str(caught.value)


def test_16_bits_without_a_mode():
    array = RNG.integers(0, 65536, (6, 8, 3), np.uint16)
    data = ardmzip.compress(array)
    with pytest.raises(ImageError, match=r"16-bit RGB images: use ardmzip\.decompress_array"):
        ardmzip.decompress(data)
    np.testing.assert_array_equal(ardmzip.decompress_array(data), array)


def test_pillow_may_not_drop_bits(tmp_path):
    import imagecodecs

    array = RNG.integers(0, 65536, (6, 8, 3), np.uint16)
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(array))
    with (
        Image.open(tmp_path / "deep.png") as opened,
        pytest.raises(ImageError, match="give the name of its file"),
    ):
        ardmzip.compress(opened)
    np.testing.assert_array_equal(ardmzip.decompress_array(ardmzip.compress(tmp_path / "deep.png")), array)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_truncated_image_that_is_not_loaded(kind):
    buffer = io.BytesIO()
    image("RGB").save(buffer, kind)
    with Image.open(io.BytesIO(buffer.getvalue()[:-40])) as opened, pytest.raises(ImageError):
        ardmzip.compress(opened)


# Pillow's plugin


@pytest.fixture
def plugin():
    """Pillow's registries are put back afterwards, so that the other tests do without."""
    Image.init()
    before = [(registry, registry.copy()) for registry in (Image.OPEN, Image.SAVE, Image.EXTENSION, Image.MIME)]
    names = Image.ID.copy()
    ardmzip.register_pillow_opener()
    yield
    for registry, content in before:
        registry.clear()
        registry.update(content)
    Image.ID[:] = names


@pytest.mark.parametrize("mode", MODES)
def test_open_and_save(plugin, tmp_path, mode):
    original = image(mode)
    if mode in ("P", "L", "1"):
        original.info["transparency"] = 3 if mode != "1" else 255
    original.save(tmp_path / f"x{SUFFIX}")
    with Image.open(tmp_path / f"x{SUFFIX}") as opened:
        assert opened.format == "ARDM"
        check_same(opened, original)
        assert opened.copy().convert("RGBA").tobytes() == original.convert("RGBA").tobytes()
        again = io.BytesIO()
        opened.save(again, "ARDM")
    check_same(ardmzip.decompress(again.getvalue()), original)


def test_file_is_closed_after_loading(plugin, tmp_path):
    original = image("RGB")
    original.save(tmp_path / f"x{SUFFIX}")
    opened = Image.open(tmp_path / f"x{SUFFIX}")
    file = opened.fp
    opened.load()
    assert file.closed
    opened.load()
    check_same(opened, original)


def test_lazy_with_metadata_and_options(plugin, tmp_path, monkeypatch):
    original = image("RGB", 40, 30)
    original.info = {"dpi": (300.0, 300.0), "Title": "text", "gamma": 0.5}
    original.save(tmp_path / "x.ardm", model="photo", learn=False)
    original.save(tmp_path / "y.ardm", strip=True)
    assert not unpack((tmp_path / "x.ardm").read_bytes()).learning

    calls = []
    whole = ardmzip.api.decompress
    monkeypatch.setattr(ardmzip.api, "decompress", lambda *args, **options: calls.append(1) or whole(*args, **options))
    with Image.open(tmp_path / "x.ardm") as opened:
        assert (opened.mode, opened.size) == ("RGB", (40, 30))
        assert opened.info["Title"] == "text"
        assert opened.info["gamma"] == 0.5
        assert opened.info["dpi"] == pytest.approx((300, 300), abs=0.01)
        assert calls == []
        opened.load()
        assert opened.getpixel((3, 4)) == original.getpixel((3, 4))
        assert calls == [1]
    with Image.open(tmp_path / "y.ardm") as opened:
        assert opened.info == {}
    with pytest.raises(ardmzip.ModelError):
        original.save(tmp_path / "z.ardm", model="nonesuch")
    assert not (tmp_path / "z.ardm").exists()


def test_what_the_plugin_cannot_open(plugin):
    with pytest.raises(ImageError, match="decompress_array"):
        Image.open(io.BytesIO(ardmzip.compress(np.zeros((2, 2, 3), np.uint16))))
    good = ardmzip.compress(image("RGB"))
    for bad in (good[:-1], good[:10], good + b"x"):
        with pytest.raises(FormatError):
            Image.open(io.BytesIO(bad))
    wrong = io.BytesIO()
    with pytest.raises(ImageError):
        Image.new("CMYK", (2, 2)).save(wrong, "ARDM")
    assert wrong.getvalue() == b""
