"""Image files <-> an exact, typed description of what they hold: samples, palette, transparency, metadata.

``read`` takes the bytes of a PNG, TIFF, WebP, BMP, PNM, GIF or TGA file apart, ``write`` makes such a file again. What
a ``Picture`` cannot hold exactly is refused with one clear line, never converted. PNG and PNM files are taken apart
here; Pillow's decoders do the rest, which for 16-bit colour are asked twice, for the first and for the second bytes.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import lzma
import math
import re
import struct
import sys
import threading
import warnings
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from ardmzip.errors import ArdmError, FormatError, ImageError

#: Channels of each kind of picture, and the depths (bits a sample) that it may have.
CHANNELS = {"gray": 1, "gray+alpha": 2, "rgb": 3, "rgb+alpha": 4, "palette": 1}
_DEPTHS = {
    "gray": (1, 2, 4, 8, 16),
    "gray+alpha": (8, 16),
    "rgb": (8, 16),
    "rgb+alpha": (8, 16),
    "palette": (1, 2, 4, 8),
}
#: More pixels than this are refused unless the caller says otherwise.
MAX_PIXELS = 2**30
#: More metadata than this, uncompressed bytes, is neither stored nor unpacked.
MAX_METADATA = 2**26


class JpegError(ImageError):
    """JPEG-compressed pixels, which take more room when coded without loss. ``read(data, jpeg=True)`` reads them."""


# Metadata


class Record(NamedTuple):
    """One piece of metadata: a chunk of a PNG file as it stands, or what another format calls by another name."""

    #: where a PNG chunk stands: 0 before the palette (without one: the pixels), 1 before the pixels, 2 after them
    place: int
    #: type of the PNG chunk, or one of the names below, which no PNG chunk can have
    type: bytes
    data: bytes


# Records of other formats than PNG, whose own begin with a small letter (but for PLTE, colours that RGB files suggest).
_ICC, _EXIF, _XMP, _DPI, _COMMENT = b"ICCP", b"EXIF", b"XMP ", b"DPI ", b"COMM"
_OTHERS = (_ICC, _EXIF, _XMP, _DPI, _COMMENT)
_XMP_KEYWORD = b"XML:com.adobe.xmp"
_EXIF_PREFIX = b"Exif\0\0"

_METADATA_VERSION = 1
_STORED, _ZLIB, _LZMA = 0, 1, 2
# raw LZMA2 with a dictionary of fixed size: a damaged file cannot ask for more memory
_LZMA_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 2**23}]


@dataclass(frozen=True)
class Metadata:
    """What a file says beside its pixels.

    ``records``: for PNG all ancillary chunks but the transparency, raw and in order, so that a PNG file gets the very
    same ones again; for other formats what Pillow gives of colour profile, EXIF, XMP, resolution and comment.
    """

    records: tuple[Record, ...] = ()

    @classmethod
    def of(
        cls,
        icc_profile: bytes | None = None,
        exif: bytes | None = None,
        xmp: bytes | None = None,
        dpi: tuple[float, float] | None = None,
        comment: bytes | None = None,
    ) -> Metadata:
        """Metadata of a file that is not PNG. ``dpi``: pixels per inch, horizontally and vertically."""
        if exif is not None:
            exif = exif.removeprefix(_EXIF_PREFIX)
        packed = struct.pack(">dd", *dpi) if dpi else None
        values = ((_ICC, icc_profile), (_EXIF, exif), (_XMP, xmp), (_DPI, packed), (_COMMENT, comment))
        return cls(tuple(Record(0, name, bytes(value)) for name, value in values if value))

    def _first(self, name: bytes) -> bytes | None:
        return next((record.data for record in self.records if record.type == name), None)

    @property
    def icc_profile(self) -> bytes | None:
        """The colour profile; None too if it is damaged."""
        if (data := self._first(_ICC)) is None and (chunk := self._first(b"iCCP")) is not None:
            data = _inflate(chunk.partition(b"\0")[2][1:])
        return data

    @property
    def exif(self) -> bytes | None:
        """EXIF as a small TIFF file, without the prefix that JPEG gives it."""
        if (data := self._first(_EXIF)) is None and (chunk := self._first(b"eXIf")) is not None:
            data = chunk.removeprefix(_EXIF_PREFIX)
        return data

    @property
    def xmp(self) -> bytes | None:
        """The XMP packet, UTF-8."""
        if (data := self._first(_XMP)) is not None:
            return data
        for record in self.records:
            keyword, _, rest = record.data.partition(b"\0")
            if record.type == b"iTXt" and keyword == _XMP_KEYWORD and len(rest) > 2:
                text = rest[2:].split(b"\0", 2)  # language, translated keyword, text
                if len(text) == 3:
                    return _inflate(text[2]) if rest[0] else text[2]
        return None

    @property
    def dpi(self) -> tuple[float, float] | None:
        """Pixels per inch, horizontally and vertically."""
        if (data := self._first(_DPI)) is not None and len(data) == 16:
            across, down = struct.unpack(">dd", data)
            return across, down
        chunk = self._first(b"pHYs")
        if chunk is not None and len(chunk) == 9 and chunk[8] == 1:  # per metre
            across, down = struct.unpack(">II", chunk[:8])
            return (across * 0.0254, down * 0.0254) if across and down else None
        return None

    @property
    def comment(self) -> bytes | None:
        """A GIF's or JPEG's comment, the image id of a TGA file."""
        return self._first(_COMMENT)

    def describe(self) -> list[str]:
        """What there is, in words, for messages."""
        words = {
            "colour profile": self.icc_profile is not None,
            "EXIF data": self.exif is not None,
            "XMP data": self.xmp is not None,
            "resolution": self.dpi is not None,
            "comment": self.comment is not None,
            "text": any(
                record.type in (b"tEXt", b"zTXt", b"iTXt") and not record.data.startswith(_XMP_KEYWORD + b"\0")
                for record in self.records
            ),
        }
        known = (*_OTHERS, b"iCCP", b"eXIf", b"pHYs", b"tEXt", b"zTXt", b"iTXt")
        names = {record.type.decode("latin-1"): None for record in self.records if record.type not in known}
        return [word for word, there in words.items() if there] + [f"{name} chunk" for name in names]

    def to_bytes(self) -> bytes:
        """A self-contained, compressed form; b"" if there is nothing. Raises ImageError beyond MAX_METADATA.

        Byte 0: version * 16 + codec (0 stored, 1 deflate, 2 raw LZMA2), bytes 1 to 4: CRC-32 of the unpacked records,
        big-endian as all numbers, the packed records: each one place (1 byte), type (4), length (4) and data.
        """
        if not self.records:
            return b""
        packed = b"".join(
            struct.pack(">B4sI", record.place, record.type, len(record.data)) + record.data for record in self.records
        )
        _check_metadata_size(len(packed))
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        candidates = [
            (_STORED, packed),
            (_ZLIB, deflate.compress(packed) + deflate.flush()),
            (_LZMA, lzma.compress(packed, lzma.FORMAT_RAW, filters=_LZMA_FILTERS)),
        ]
        codec, data = min(candidates, key=lambda candidate: len(candidate[1]))
        return struct.pack(">BI", _METADATA_VERSION << 4 | codec, zlib.crc32(packed)) + data

    @classmethod
    def from_bytes(cls, data: bytes) -> Metadata:
        """The inverse of ``to_bytes``. Raises FormatError for damaged bytes."""
        if not data:
            return cls()
        if len(data) < 5:
            raise FormatError("the metadata is truncated")
        head, checksum = struct.unpack_from(">BI", data)
        if head >> 4 != _METADATA_VERSION or head & 15 > _LZMA:
            raise FormatError(f"metadata of unknown version or codec {head}")
        packed = _unpack(head & 15, data[5:])
        if zlib.crc32(packed) != checksum:
            raise FormatError("the metadata is damaged (wrong checksum)")
        records = []
        position = 0
        while position < len(packed):
            if len(packed) - position < 9:
                raise FormatError("the metadata is damaged (a record is truncated)")
            place, name, length = struct.unpack_from(">B4sI", packed, position)
            position += 9
            if place > 2 or not (name in _OTHERS or name.isalpha()) or length > len(packed) - position:
                raise FormatError("the metadata is damaged (a record makes no sense)")
            records.append(Record(place, name, packed[position : position + length]))
            position += length
        return cls(tuple(records))


def _check_metadata_size(size: int) -> None:
    if size > MAX_METADATA:
        raise ImageError(f"too much metadata: {size} bytes, at most {MAX_METADATA} can be stored")


def _unpack(codec: int, data: bytes) -> bytes:
    """Unpacked metadata; never more than MAX_METADATA bytes, however many the packed ones promise."""
    if codec == _STORED:
        if len(data) > MAX_METADATA:
            raise FormatError("the metadata is damaged (too large)")
        return data
    inflate: Any
    if codec == _ZLIB:
        inflate = zlib.decompressobj(-15)
    else:
        inflate = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_LZMA_FILTERS)
    try:
        packed = inflate.decompress(data, MAX_METADATA)
    except (zlib.error, lzma.LZMAError, EOFError) as error:
        raise FormatError(f"the metadata is damaged ({error})") from error
    if not inflate.eof or inflate.unused_data:
        raise FormatError("the metadata is damaged (truncated, too large, or followed by other bytes)")
    return packed


def _inflate(data: bytes) -> bytes | None:
    """A zlib stream inside a PNG chunk; None if damaged or absurdly large."""
    inflate = zlib.decompressobj()
    try:
        text = inflate.decompress(data, MAX_METADATA)
    except zlib.error:
        return None
    return text if inflate.eof else None


# Pictures


@dataclass(frozen=True, eq=False)
class Picture:
    """An image as its file holds it. Making one checks that it is consistent, and raises ImageError otherwise."""

    #: uint8 (up to 8 bits) or uint16 (16 bits) [height, width, channels], never scaled: all are below 2 ** bits. With a
    #: palette they are indices, which in a sloppy file may be beyond its end
    samples: np.ndarray
    #: "gray", "gray+alpha", "rgb", "rgb+alpha" or "palette"; alpha is not premultiplied
    kind: str
    #: per sample: 1, 2, 4, 8 or 16; fewer than 8 for gray and palettes only
    bits: int
    #: R, G, B of each entry, as many and in the order as in the file: 3 to 3 * 2 ** bits bytes; None without palette
    palette: bytes | None = None
    #: as in PNG's tRNS: alphas of the first palette entries, or the one transparent gray (2 bytes) or RGB (6 bytes)
    transparency: bytes | None = None
    #: of the source: "PNG", "TIFF", "WEBP", "BMP", "PPM", "GIF", "TGA", "JPEG"; "" if made in memory
    format: str = ""
    #: Pillow's mode for the source, which for 16-bit colour is one of 8 bits
    mode: str = ""
    metadata: Metadata = field(default_factory=Metadata)

    def __post_init__(self) -> None:
        if self.kind not in CHANNELS or self.bits not in _DEPTHS[self.kind]:
            raise ImageError(f"{self.bits}-bit {self.kind} images are not supported")
        samples = self.samples
        if samples.dtype != (np.uint16 if self.bits == 16 else np.uint8):
            raise ImageError(f"samples of {self.bits} bits cannot be {samples.dtype}")
        if samples.ndim != 3 or samples.shape[2] != CHANNELS[self.kind]:
            raise ImageError(f"{self.kind} images cannot be an array of shape {samples.shape}")
        if 0 in samples.shape:
            raise ImageError("the image has no pixels")
        if self.bits < 8 and samples.max() >> self.bits:
            raise ImageError(f"samples beyond {self.bits} bits")
        if (self.palette is None) == (self.kind == "palette"):
            raise ImageError("palette images, and no others, need a palette")
        if self.palette is not None and (len(self.palette) % 3 or not 3 <= len(self.palette) <= 3 << self.bits):
            raise ImageError(f"a palette of {len(self.palette)} bytes does not suit {self.bits} bits")
        if self.transparency is not None:
            length = len(self.transparency)
            sizes = {"gray": length == 2, "rgb": length == 6, "palette": 1 <= length <= 256}
            if not sizes.get(self.kind, False):
                raise ImageError(f"a transparency of {length} bytes does not suit {self.kind} images")
        if not self.mode:
            object.__setattr__(self, "mode", _mode(self.kind, self.bits))

    @property
    def height(self) -> int:
        return self.samples.shape[0]

    @property
    def width(self) -> int:
        return self.samples.shape[1]

    def same_pixels(self, other: Picture) -> bool:
        """Whether the other one shows and stores the same: all but format, mode and metadata."""
        return (
            (self.kind, self.bits, self.palette, self.transparency)
            == (other.kind, other.bits, other.palette, other.transparency)
        ) and np.array_equal(self.samples, other.samples)


def _mode(kind: str, bits: int) -> str:
    """The mode that Pillow gives to a PNG file of such a picture."""
    if kind == "gray":
        return {1: "1", 16: "I;16"}.get(bits, "L")
    if kind == "gray+alpha":
        return "RGBA" if bits == 16 else "LA"
    return {"rgb": "RGB", "rgb+alpha": "RGBA", "palette": "P"}[kind]


def read(data: bytes, jpeg: bool = False, max_pixels: int = MAX_PIXELS) -> Picture:
    """The picture in an image file.

    ``jpeg``: take JPEG-compressed pixels as they are decoded, instead of raising JpegError. Raises ImageError for
    damaged files, for pictures that cannot be held exactly, and for more than ``max_pixels`` pixels, which is checked
    before any are decoded.
    """
    data = bytes(data)
    reader = _reader(data)
    if reader is None:
        raise ImageError("not an image, or of an unsupported format")
    if reader is _read_jpeg and not jpeg:
        raise JpegError("a JPEG file: its pixels, coded without loss, take more room")
    picture: Picture = _read_tiff(data, max_pixels, jpeg) if reader is _read_tiff else reader(data, max_pixels)
    _check_metadata_size(sum(9 + len(record.data) for record in picture.metadata.records))
    return picture


def _reader(data: bytes) -> Any:
    """The function that reads such a file, or None."""
    if data.startswith(_PNG):
        return _read_png
    if b"PNG" in data[:8].upper():
        raise ImageError("damaged PNG file: wrong signature, which copying it as text does, for instance")
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _read_tiff
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _read_webp
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return _read_gif
    if data[:3] == b"\xff\xd8\xff":
        return _read_jpeg
    if re.match(rb"P[1-6][\s#]", data):
        return _read_pnm
    if data[:2] == b"BM":
        return _read_bmp
    return _read_tga if _is_tga(data) else None  # has no signature, so it comes last


def write(picture: Picture, suffix: str) -> bytes:
    """An image file of .png, .tif, .tiff, .webp, .bmp, .ppm, .pgm, .pbm, .pnm or .tga.

    PNG holds every picture; ImageError says why another format cannot hold this one exactly. (WebP has no gray: 8-bit
    gray becomes RGB with three equal channels.) Metadata is written as far as the format can hold it; an EXIF
    orientation is not written to TIFF, where it would turn the pixels.
    """
    writers: dict[str, Any] = {
        ".png": _write_png,
        ".tif": _write_tiff,
        ".tiff": _write_tiff,
        ".webp": _write_webp,
        ".bmp": _write_bmp,
        ".ppm": _write_pnm,
        ".pgm": _write_pnm,
        ".pbm": _write_pnm,
        ".pnm": _write_pnm,
        ".tga": _write_tga,
    }
    suffix = suffix.lower()
    if suffix not in writers:
        raise ImageError(f"cannot be written as {suffix or 'a file without suffix'}: known are {', '.join(writers)}")
    writer = writers[suffix]
    if writer is _write_png:
        return _write_png(picture)
    try:
        file = _write_pnm(picture, suffix) if writer is _write_pnm else writer(picture)
        # these formats have corners where a picture comes back as something else: a gray palette as gray, for instance
        if not _same(read(file, max_pixels=picture.height * picture.width), picture, suffix):
            raise ImageError("it would not come back exactly the same")
    except ImageError as error:
        raise ImageError(f"cannot be written as {suffix}: {error}") from error
    return file


def _same(restored: Picture, picture: Picture, suffix: str) -> bool:
    if suffix == ".webp" and picture.kind == "gray":
        return restored.kind == "rgb" and bool((restored.samples == picture.samples).all())
    return restored.same_pixels(picture)


# Pillow, kept from deciding anything by itself

_SETTINGS = threading.RLock()


@contextlib.contextmanager
def _pillow(max_pixels: int = MAX_PIXELS) -> Iterator[None]:
    """Pillow within our limit instead of its own; whatever it raises for a damaged file becomes ImageError.

    Its limits are global variables, so only one thread reads at a time.
    """
    with _SETTINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, truncated = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        Image.MAX_IMAGE_PIXELS = max_pixels  # it warns beyond this, and raises beyond the double
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        try:
            yield
        except ArdmError:
            raise
        except UnidentifiedImageError as error:
            raise ImageError("not an image, or of an unsupported format, or damaged") from error
        except Image.DecompressionBombError as error:
            raise ImageError(f"too large: the limit is {max_pixels} pixels") from error
        except MemoryError as error:
            raise ImageError("too large: not enough memory to hold its pixels") from error
        except Exception as error:  # its plugins let anything through: struct.error, KeyError, OverflowError, ...
            raise ImageError(f"damaged image: {_line(error)}") from error
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = limit, truncated


def _line(error: Exception) -> str:
    """The text of an error in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageError("the image has no pixels")
    if width * height > max_pixels:
        raise ImageError(f"too large: {width}x{height} pixels, the limit is {max_pixels}")


def _open(data: bytes, format: str, max_pixels: int) -> Image.Image:
    """Pillow's image of a file with one frame, not decoded yet."""
    image = Image.open(io.BytesIO(data), formats=(format,))
    _check_size(image.width, image.height, max_pixels)
    if getattr(image, "n_frames", 1) > 1:
        raise ImageError("images with several frames or pages are not supported")
    return image


def _array(image: Image.Image) -> np.ndarray:
    """uint8 or uint16 [height, width, channels] of a Pillow image; 0 and 1 for mode 1."""
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[:, :, None]
    dtype = np.uint16 if array.dtype.itemsize == 2 else np.uint8
    return np.array(array, dtype, order="C")  # a copy, which is writable and survives the image


_KINDS = {"1": "gray", "L": "gray", "LA": "gray+alpha", "RGB": "rgb", "RGBA": "rgb+alpha", "P": "palette"}


def _kind(image: Image.Image) -> str:
    kind = "gray" if image.mode.startswith("I;16") else _KINDS.get(image.mode)
    if kind is None:
        raise ImageError(f"images of mode {image.mode} are not supported")
    return kind


def _palette(image: Image.Image) -> tuple[bytes, bytes | None]:
    """R, G, B of a palette's entries in the file's order, and their alphas if the palette has any.

    Of an image that is not decoded yet, since Pillow may fill the palette up later.
    """
    assert image.palette is not None
    rawmode, raw = image.palette.getdata()
    size = {"RGB": 3, "BGR": 3, "RGBX": 4, "BGRX": 4, "RGBA": 4, "BGRA": 4}.get(rawmode)
    if size is None:
        raise ImageError(f"palettes of form {rawmode} are not supported")
    if len(raw) % size:
        raise ImageError("damaged image: an incomplete palette")
    entries = np.frombuffer(bytes(raw), np.uint8).reshape(-1, size)
    colours = entries[:, :3] if rawmode.startswith("RGB") else entries[:, 2::-1]
    return colours.tobytes(), entries[:, 3].tobytes() if rawmode.endswith("A") else None


def _depth(entries: int) -> int:
    """Bits of an index into a palette."""
    return next((bits for bits in (1, 2, 4, 8) if entries <= 1 << bits), 8)


def _of_info(info: dict[str | tuple[int, int], Any], comment: str = "comment") -> Metadata:
    """The metadata that Pillow found in a file."""

    def data(*keys: str) -> bytes | None:
        value = next((info[key] for key in keys if info.get(key)), None)
        return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value

    return Metadata.of(
        data("icc_profile"), data("exif"), data("xmp", "XML:com.adobe.xmp"), _dpi(info.get("dpi")), data(comment)
    )


def _dpi(value: Any) -> tuple[float, float] | None:
    """A resolution that makes sense, or None."""
    try:
        across, down = (float(number) for number in value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return (across, down) if all(math.isfinite(number) and number > 0 for number in (across, down)) else None


def _two_bytes(first: np.ndarray, second: np.ndarray, order: str) -> np.ndarray:
    """uint16 samples of their first and second bytes in the file, the byte order being "<" or ">"."""
    high, low = (first, second) if order == ">" else (second, first)
    samples = high.astype(np.uint16)
    samples <<= 8
    samples |= low
    return samples


# PNG

_PNG = b"\x89PNG\r\n\x1a\n"
#: colour type in a PNG header -> kind
_PNG_KINDS = {0: "gray", 2: "rgb", 3: "palette", 4: "gray+alpha", 6: "rgb+alpha"}
#: the seven passes of an interlaced file: first column, first row, step across, step down
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and data of each chunk, checksums verified, up to and including IEND."""
    position = len(_PNG)
    while True:
        if len(data) - position < 12:
            raise ImageError("damaged PNG file: truncated")
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if not name.isalpha():
            raise ImageError("damaged PNG file: a chunk of an impossible type")
        if end > len(data):
            raise ImageError("damaged PNG file: truncated")
        text = name.decode("ascii")
        if zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise ImageError(f"damaged PNG file: wrong checksum of the {text} chunk")
        yield name, data[position + 8 : end - 4]
        position = end
        if name == b"IEND":
            return


def _read_png(data: bytes, max_pixels: int) -> Picture:
    palette: bytes | None = None
    transparency: bytes | None = None
    pixels: list[bytes] = []
    records: list[Record] = []
    header: tuple[int, ...] | None = None
    kind = ""
    ended = False  # whether the last chunk of pixels is behind us
    for name, chunk in _chunks(data):
        if header is None:
            if name != b"IHDR" or len(chunk) != 13:
                raise ImageError("damaged PNG file: it does not begin with its header")
            header = struct.unpack(">IIBBBBB", chunk)
            kind = _check_png_header(header, max_pixels)
            continue
        ended = ended or bool(pixels and name != b"IDAT")
        if name == b"IDAT":
            if ended:
                raise ImageError("damaged PNG file: its pixels are not in one piece")
            pixels.append(chunk)
        elif name == b"IEND":
            break
        elif name == b"PLTE" and kind == "palette":
            if palette is not None or pixels:
                raise ImageError("damaged PNG file: a palette at the wrong place")
            palette = chunk
        elif name == b"tRNS" and "alpha" not in kind:
            if transparency is not None or pixels or (kind == "palette" and palette is None):
                raise ImageError("damaged PNG file: a transparency at the wrong place")
            transparency = chunk
        elif name == b"acTL":
            raise ImageError("animated PNG files are not supported")
        elif name[:1].isupper() and name != b"PLTE":
            raise ImageError(f"PNG files with a {name.decode('ascii')} chunk are not supported")
        else:
            records.append(Record(2 if pixels else 1 if palette is not None else 0, name, chunk))
    if header is None or not pixels:
        raise ImageError("damaged PNG file: it has no pixels")
    if kind == "palette" and palette is None:
        raise ImageError("damaged PNG file: it has no palette")
    width, height, bits, _, _, _, interlaced = header
    stream = b"".join(pixels)
    _check_stream(stream, _png_bytes(width, height, bits * CHANNELS[kind], interlaced))
    with _pillow(max_pixels):
        samples = _png_samples(stream, width, height, kind, bits, interlaced)
    return Picture(samples, kind, bits, palette, transparency, "PNG", _mode(kind, bits), Metadata(tuple(records)))


def _check_png_header(header: tuple[int, ...], max_pixels: int) -> str:
    """The kind of picture in a PNG file."""
    width, height, bits, colour, compression, filtering, interlaced = header
    if not (0 < width < 2**31 and 0 < height < 2**31):
        raise ImageError(f"damaged PNG file: {width}x{height} pixels")
    kind = _PNG_KINDS.get(colour)
    if kind is None or bits not in _DEPTHS[kind]:
        raise ImageError(f"damaged PNG file: colour type {colour} with {bits} bits")
    if compression or filtering or interlaced > 1:
        raise ImageError("damaged PNG file: an unknown method of compression, filtering or interlacing")
    _check_size(width, height, max_pixels)
    return kind


def _png_bytes(width: int, height: int, pixel: int, interlaced: int) -> int:
    """Bytes of all rows with their filter bytes; ``pixel``: bits of a pixel."""
    total = 0
    for left, top, across, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * pixel + 7) // 8)
    return total


def _check_stream(stream: bytes, expected: int) -> None:
    """Raise ImageError unless the compressed pixels are complete and their checksum is right: the decoder does not."""
    inflate = zlib.decompressobj()
    size = 0
    try:
        while not inflate.eof and stream:
            size += len(inflate.decompress(stream, 2**20))
            stream = inflate.unconsumed_tail
            if size > expected:
                raise ImageError("damaged PNG file: more pixels than its header says")
        if not inflate.eof:  # what is left inside; without end, no checksum has been compared
            size += len(inflate.flush())
    except zlib.error as error:
        raise ImageError(f"damaged PNG file: {_line(error)}") from error
    if not inflate.eof or size != expected:
        raise ImageError("damaged PNG file: its pixels are incomplete")


def _png_samples(stream: bytes, width: int, height: int, kind: str, bits: int, interlaced: int) -> np.ndarray:
    """Samples of a zlib stream of filtered rows, unscaled.

    Pillow's decoder is told a mode in which it keeps the bits as they are: filters know bytes only, so two 16-bit
    samples pass as four bytes.
    """

    def decoded(mode: str, rawmode: str) -> np.ndarray:
        image = Image.frombytes(mode, (width, height), stream, "zip", rawmode, interlaced)
        return _array(image)

    if bits < 8:
        return decoded("P", f"P;{bits}")
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[CHANNELS[kind]]
    if bits == 8:
        return decoded(mode, mode)
    if CHANNELS[kind] > 2:
        return _two_bytes(decoded(mode, f"{mode};16B"), decoded(mode, f"{mode};16L"), ">")
    mode = {1: "LA", 2: "RGBA"}[CHANNELS[kind]]
    pairs = decoded(mode, mode)
    return _two_bytes(pairs[:, :, ::2], pairs[:, :, 1::2], ">")


def _write_png(picture: Picture, level: int = 6) -> bytes:
    """A PNG file; ``level`` is zlib's. Not interlaced."""
    colour = next(number for number, kind in _PNG_KINDS.items() if kind == picture.kind)
    records = [*picture.metadata.records, *_png_records(picture.metadata)]
    chunks: list[tuple[bytes, bytes]] = [
        (b"IHDR", struct.pack(">IIBBBBB", picture.width, picture.height, picture.bits, colour, 0, 0, 0))
    ]

    def place(number: int) -> None:
        chunks.extend((record.type, record.data) for record in records if record.place == number and _in_png(record))

    place(0)
    if picture.palette is not None:
        chunks.append((b"PLTE", picture.palette))
    if picture.transparency is not None:
        chunks.append((b"tRNS", picture.transparency))
    place(1)
    stream = _deflate(picture, level)
    chunks += [(b"IDAT", stream[start : start + 2**24]) for start in range(0, len(stream), 2**24)]
    place(2)
    chunks.append((b"IEND", b""))
    parts = [_PNG]
    for name, data in chunks:
        parts += [struct.pack(">I", len(data)), name, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))]
    return b"".join(parts)


def _in_png(record: Record) -> bool:
    return record.type not in _OTHERS


def _png_records(metadata: Metadata) -> list[Record]:
    """PNG chunks of the metadata of another format."""
    records = []
    there = {record.type for record in metadata.records}
    if metadata.icc_profile is not None and _ICC in there:
        records.append(Record(0, b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc_profile, 9)))
    if metadata.dpi is not None and _DPI in there:
        across, down = (round(number / 0.0254) for number in metadata.dpi)
        if 0 < across < 2**31 and 0 < down < 2**31:
            records.append(Record(0, b"pHYs", struct.pack(">IIB", across, down, 1)))
    if metadata.exif is not None and _EXIF in there:
        records.append(Record(0, b"eXIf", metadata.exif))
    if metadata.xmp is not None and _XMP in there:
        records.append(Record(0, b"iTXt", _XMP_KEYWORD + b"\0\0\0\0\0" + metadata.xmp))
    if metadata.comment is not None and b"\0" not in metadata.comment:
        records.append(Record(0, b"tEXt", b"Comment\0" + metadata.comment))
    return records


def _packed(picture: Picture, start: int, stop: int, order: str = ">") -> np.ndarray:
    """uint8 [rows, bytes]: some rows as files hold them, several samples in a byte or two bytes a sample."""
    rows = picture.samples[start:stop].reshape(stop - start, -1)
    if picture.bits == 16:
        return np.ascontiguousarray(rows, f"{order}u2").view(np.uint8)
    if picture.bits == 8:
        return np.ascontiguousarray(rows)
    share = 8 // picture.bits
    groups = np.pad(rows, ((0, 0), (0, -rows.shape[1] % share))).reshape(len(rows), -1, share)
    shifts = (8 - picture.bits * np.arange(1, share + 1)).astype(np.uint8)
    return np.bitwise_or.reduce(groups << shifts, axis=2, dtype=np.uint8)


#: how costly a filtered byte is taken to be: its distance from 0, as libpng does
_COST = np.minimum(np.arange(256), 256 - np.arange(256)).astype(np.uint8)


def _deflate(picture: Picture, level: int) -> bytes:
    """The zlib stream of a PNG file."""
    pixel = CHANNELS[picture.kind] * picture.bits // 8  # bytes; filters pay for neither palettes nor fewer than 8 bits
    plain = picture.kind == "palette" or picture.bits < 8 or level == 0
    deflate = zlib.compressobj(level, zlib.DEFLATED, 15, 9, zlib.Z_DEFAULT_STRATEGY if plain else zlib.Z_FILTERED)
    height, rows = picture.height, max(1, 2**20 // (picture.width * max(pixel, 1)))
    above: np.ndarray | None = None
    parts = []
    for start in range(0, height, rows):
        block = _packed(picture, start, min(start + rows, height))
        if plain:
            filtered = np.pad(block, ((0, 0), (1, 0)))  # filter 0: none
        else:
            first = np.zeros_like(block[:1]) if above is None else above
            filtered = _filtered(block, np.concatenate([first, block[:-1]]), pixel)
            above = block[-1:]
        parts.append(deflate.compress(filtered.tobytes()))
    parts.append(deflate.flush())
    return b"".join(parts)


def _filtered(rows: np.ndarray, above: np.ndarray, pixel: int) -> np.ndarray:
    """uint8 [rows, 1 + bytes]: each row with its cheapest filter. ``pixel``: bytes of a pixel."""
    left, corner = np.zeros_like(rows), np.zeros_like(rows)
    left[:, pixel:], corner[:, pixel:] = rows[:, :-pixel], above[:, :-pixel]
    a, b, c = left.astype(np.int16), above.astype(np.int16), corner.astype(np.int16)
    to_a, to_b, to_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    paeth = np.where((to_a <= to_b) & (to_a <= to_c), left, np.where(to_b <= to_c, above, corner))
    candidates = [np.zeros_like(rows), left, above, ((a + b) >> 1).astype(np.uint8), paeth]
    best = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
    lowest = np.full(len(rows), np.iinfo(np.int64).max)
    for number, prediction in enumerate(candidates):
        residual = rows - prediction
        cost = _COST[residual].sum(axis=1, dtype=np.int64)
        cheaper = cost < lowest
        lowest[cheaper] = cost[cheaper]
        best[cheaper, 0] = number
        best[cheaper, 1:] = residual[cheaper]
    return best


# TIFF

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _OFFSETS, _ORIENTATION = 256, 257, 258, 259, 262, 273, 274
_SAMPLES, _ROWS, _COUNTS, _XRES, _YRES, _PLANAR, _UNIT = 277, 278, 279, 282, 283, 284, 296
_PREDICTOR, _COLOURS, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _SUBFILES = 317, 320, 322, 323, 324, 330
_EXTRA, _FORMAT, _XMP_TAG, _PROFILE = 338, 339, 700, 34675
#: tags that tell about the picture, which go with the EXIF data: description, camera, software, date, author, ...
_DESCRIPTIVE = (269, 270, 271, 272, 285, 305, 306, 315, 316, 33432)
#: directories of their own: EXIF and GPS; in them, the offset of another one that is not kept
_DIRECTORIES, _INTEROPERABILITY = (34665, 34853), 40965
_COLOUR_SPACES = {4: "transparency mask", 5: "CMYK", 6: "YCbCr", 8: "LAB", 9: "LAB", 10: "LAB", 32844: "LogL"}


def _read_tiff(data: bytes, max_pixels: int, jpeg: bool) -> Picture:
    with _pillow(max_pixels):
        tags = _tags(data)
        if _WIDTH not in tags or _HEIGHT not in tags:
            raise ImageError("damaged image: a TIFF file that does not tell its size")
        width, height = _number(tags, _WIDTH), _number(tags, _HEIGHT)
        _check_size(width, height, max_pixels)
        kind, bits = _check_tags(tags, jpeg)
        separate = _number(tags, _PLANAR, 1) == 2
        _check_pieces(tags, width, height, CHANNELS[kind] if separate else 1)
        mode = _mode(kind, bits)
        if bits == 16 and (kind == "gray+alpha" or (separate and kind != "gray")):
            samples = _turned(_library_samples(data), _number(tags, _ORIENTATION, 1))
        elif bits == 16 and kind != "gray":
            first, second, order = _halves(data, max_pixels, mode)
            samples = _two_bytes(first, second, order)
        else:
            image = _open(data, "TIFF", max_pixels)
            mode = image.mode
            if _kind(image) != kind:
                raise ImageError(f"TIFF files like this one ({bits}-bit {kind}, mode {mode}) are not supported")
            samples = _array(image)
            if kind == "gray" and bits in (2, 4):
                samples //= 255 // ((1 << bits) - 1)
        palette = _tiff_palette(tags, bits) if kind == "palette" else None
        metadata = _tiff_metadata(data, tags)
    return Picture(samples, kind, bits, palette, None, "TIFF", mode, metadata)


def _tags(data: bytes) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The tags of the first page."""
    stream = io.BytesIO(data)
    directory = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if 43 in data[2:4] else 8])  # 43: BigTIFF
    stream.seek(directory.next)
    directory.load(stream)
    return directory


def _numbers(tags: Any, tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
    value = tags.get(tag, default)
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _number(tags: Any, tag: int, default: int = 0) -> int:
    value = _numbers(tags, tag, (default,))[0]
    if not isinstance(value, int):
        raise ImageError(f"damaged image: TIFF tag {tag} is no number")
    return value


def _check_tags(tags: TiffImagePlugin.ImageFileDirectory_v2, jpeg: bool) -> tuple[str, int]:
    """Kind and depth of a TIFF file; ImageError unless both can be kept."""
    if tags.next or _SUBFILES in tags:
        raise ImageError("images with several frames or pages are not supported")
    photometric = _number(tags, _PHOTOMETRIC, 0)
    is_jpeg = _number(tags, _COMPRESSION, 1) in (6, 7, 34892)
    if is_jpeg and not jpeg:
        raise JpegError("a TIFF file with JPEG-compressed pixels, which take more room when coded without loss")
    if photometric == 6 and is_jpeg:
        photometric = 2  # decoded to RGB, as JPEG files are
    if photometric not in (0, 1, 2, 3):
        raise ImageError(f"{_COLOUR_SPACES.get(photometric, 'unusual')} images are not supported")
    if set(_numbers(tags, _FORMAT, (1,))) != {1}:
        raise ImageError("images of float or signed samples are not supported")
    colours = 3 if photometric == 2 else 1
    depths = _numbers(tags, _BITS, (1,))
    count = _number(tags, _SAMPLES, colours if is_jpeg else len(depths))
    extra = _numbers(tags, _EXTRA, ())
    if len(set(depths)) != 1:
        raise ImageError("images with different depths of channels are not supported")
    bits = depths[0]
    if count == colours:
        kind = {2: "rgb", 3: "palette"}.get(photometric, "gray")
    elif count == colours + 1 and photometric != 3 and extra in ((2,), (999,), ()):  # 999: alpha of CorelDRAW
        kind = "rgb+alpha" if photometric == 2 else "gray+alpha"
    elif count == colours + 1 and extra == (1,):
        raise ImageError("images with premultiplied alpha are not supported")
    else:
        raise ImageError(f"images with {count} channels of {bits} bits are not supported")
    if bits not in _DEPTHS[kind]:
        raise ImageError(f"{bits}-bit {kind} images are not supported")
    if photometric == 0 and bits == 16:
        raise ImageError("16-bit images where 0 is white are not supported")  # Pillow shows their negative
    return kind, bits


def _check_pieces(tags: Any, width: int, height: int, planes: int) -> None:
    """Raise ImageError if strips or tiles are missing: Pillow would leave black what they cover."""
    if _OFFSETS in tags:
        across, offsets = 1, _numbers(tags, _OFFSETS, ())
        down = -(-height // min(_number(tags, _ROWS, height), height))
    else:
        across, down = -(-width // _number(tags, _TILE_WIDTH)), -(-height // _number(tags, _TILE_HEIGHT))
        offsets = _numbers(tags, _TILE_OFFSETS, ())
    if len(offsets) != across * down * planes:
        raise ImageError(f"damaged image: {len(offsets)} strips or tiles instead of {across * down * planes}")


def _halves(data: bytes, max_pixels: int, mode: str) -> tuple[np.ndarray, np.ndarray, str]:
    """First and second bytes of 16-bit colour samples, which Pillow drops one of, and their byte order.

    uint8 [height, width, channels] each, of two runs of the decoder, told that the other byte is the upper one.
    """
    halves = []
    order = "<" if data[:2] == b"II" else ">"
    for rawmode in (f"{mode};16B", f"{mode};16L"):
        image = _open(data, "TIFF", max_pixels)
        if image.mode != mode:
            raise ImageError(f"TIFF files like this one (16 bits, mode {image.mode}) are not supported")
        tiles = image.tile  # type: ignore[attr-defined]
        if any(tile[0] == "libtiff" for tile in tiles):
            order = "<" if sys.byteorder == "little" else ">"  # libtiff has turned them around
        changed = []
        for tile in tiles:
            if not str(tile[3][0]).startswith(f"{mode};16"):
                raise ImageError("16-bit TIFF files like this one are not supported")
            values = (*tile[:3], (rawmode, *tile[3][1:]))
            changed.append(type(tile)(*values) if hasattr(tile, "_fields") else values)
        image.tile = changed  # type: ignore[attr-defined]
        halves.append(_array(image))
    return halves[0], halves[1], order


def _library_samples(data: bytes) -> np.ndarray:
    """uint16 [height, width, channels] of the forms of 16-bit TIFF that Pillow does not know."""
    try:
        import imagecodecs
    except ImportError as error:
        raise ImageError("16-bit TIFF files of this form need imagecodecs: pip install imagecodecs") from error
    samples = imagecodecs.tiff_decode(data, index=0)
    if samples.ndim != 3:
        raise ImageError("16-bit TIFF files like this one are not supported")
    if _number(_tags(data), _PLANAR, 1) == 2 and len(samples) == _number(_tags(data), _SAMPLES, 1):
        samples = samples.transpose(1, 2, 0)
    return np.ascontiguousarray(samples)


def _turned(samples: np.ndarray, orientation: int) -> np.ndarray:
    """The upright picture, which is what Pillow gives for TIFF files, of stored rows."""
    if orientation in (5, 6, 7, 8):
        samples = samples.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return np.ascontiguousarray(samples)


def _tiff_palette(tags: Any, bits: int) -> bytes:
    values = np.array(_numbers(tags, _COLOURS, ()), np.int64)
    if len(values) != 3 << bits:
        raise ImageError("damaged image: a palette of the wrong size")
    if not ((values % 257 == 0).all() or (values % 256 == 0).all()) or values.max() > 65535:
        raise ImageError("palettes with 16 bits a colour are not supported")
    return (values >> 8).astype(np.uint8).reshape(3, -1).T.tobytes()


def _tiff_metadata(data: bytes, tags: Any) -> Metadata:
    """Metadata of a TIFF file, its descriptive tags among the EXIF data. Not the orientation, which is undone."""
    source, kept = Image.Exif(), Image.Exif()
    source.load_from_fp(io.BytesIO(data))
    for tag in _DESCRIPTIVE:
        if tag in source:
            kept[tag] = source[tag]
    for tag in _DIRECTORIES:
        if tag in source and (directory := dict(source.get_ifd(tag))):
            directory.pop(_INTEROPERABILITY, None)
            kept[tag] = directory
    dpi = None
    if tags.get(_UNIT, 2) in (2, 3) and _XRES in tags and _YRES in tags:
        dpi = _dpi((tags[_XRES], tags[_YRES]))
        if dpi and tags.get(_UNIT, 2) == 3:  # per centimetre
            dpi = dpi[0] * 2.54, dpi[1] * 2.54
    profile, xmp = (_bytes(tags.get(tag)) for tag in (_PROFILE, _XMP_TAG))
    return Metadata.of(profile, kept.tobytes() if len(kept) else None, xmp, dpi)


def _bytes(value: Any) -> bytes | None:
    """A tag that should be bytes, whatever type it was written as."""
    if isinstance(value, tuple):
        value = bytes(value) if len(value) != 1 or isinstance(value[0], int) else value[0]
    return value.encode() if isinstance(value, str) else value


def _write_tiff(picture: Picture) -> bytes:
    """A deflated TIFF file."""
    if picture.transparency is not None:
        raise ImageError("TIFF has no transparent colours")
    if picture.palette is not None and len(picture.palette) != 3 << picture.bits:
        raise ImageError(f"a {picture.bits}-bit TIFF palette has {1 << picture.bits} colours, neither more nor fewer")
    if picture.samples.nbytes > 2**32 - 2**26:
        raise ImageError("it would be larger than 4 GB")
    channels = CHANNELS[picture.kind]
    rows = max(1, 2**20 // (picture.width * channels * 2))
    strips = [
        zlib.compress(_predicted(picture, start, min(start + rows, picture.height)), 6)
        for start in range(0, picture.height, rows)
    ]
    sizes = [len(strip) for strip in strips]
    with _pillow():
        tags = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
        tags[_WIDTH], tags[_HEIGHT] = picture.width, picture.height
        tags[_BITS] = (picture.bits,) * channels
        tags[_COMPRESSION] = 8
        tags[_PHOTOMETRIC] = {"palette": 3, "rgb": 2, "rgb+alpha": 2}.get(picture.kind, 1)
        tags[_SAMPLES] = channels
        tags[_ROWS] = rows
        tags.tagtype[_COUNTS] = tags.tagtype[_OFFSETS] = 4  # longs
        tags[_COUNTS] = tuple(sizes)
        tags[_OFFSETS] = tuple(itertools.accumulate(sizes[:-1], initial=0))
        if _has_predictor(picture):
            tags[_PREDICTOR] = 2
        if "alpha" in picture.kind:
            tags[_EXTRA] = (2,)
        if picture.palette is not None:
            colours = np.frombuffer(picture.palette, np.uint8).reshape(-1, 3).T.ravel()
            tags[_COLOURS] = tuple(int(value) * 257 for value in colours)
        _add_metadata(tags, picture.metadata)
        file = io.BytesIO()
        tags.save(file)
    return b"".join([file.getvalue(), *strips])


def _has_predictor(picture: Picture) -> bool:
    return picture.bits >= 8 and picture.kind != "palette"


def _predicted(picture: Picture, start: int, stop: int) -> bytes:
    """Rows of a TIFF file: differences from the pixel on the left, if they pay."""
    if not _has_predictor(picture):
        return _packed(picture, start, stop).tobytes()
    rows = picture.samples[start:stop].copy()
    rows[:, 1:] -= picture.samples[start:stop, :-1]
    return rows.astype("<u2" if picture.bits == 16 else np.uint8).tobytes()


def _add_metadata(tags: TiffImagePlugin.ImageFileDirectory_v2, metadata: Metadata) -> None:
    if metadata.exif is not None:
        exif = Image.Exif()
        exif.load(metadata.exif)
        for tag in _DESCRIPTIVE:
            if tag in exif:
                tags[tag] = exif[tag]
        for tag in _DIRECTORIES:
            if tag in exif and (directory := dict(exif.get_ifd(tag))):
                directory.pop(_INTEROPERABILITY, None)
                tags[tag] = directory
    if metadata.icc_profile is not None:
        tags[_PROFILE] = metadata.icc_profile
    if metadata.xmp is not None:
        tags[_XMP_TAG] = metadata.xmp
    if metadata.dpi is not None and max(metadata.dpi) < 2**31:
        tags[_XRES], tags[_YRES] = metadata.dpi
        tags[_UNIT] = 2


# WebP and JPEG


def _read_webp(data: bytes, max_pixels: int) -> Picture:
    return _read_simple(data, "WEBP", max_pixels)


def _read_jpeg(data: bytes, max_pixels: int) -> Picture:
    return _read_simple(data, "JPEG", max_pixels)


def _read_simple(data: bytes, format: str, max_pixels: int) -> Picture:
    """The 8-bit gray, RGB or RGBA picture of a format without oddities."""
    with _pillow(max_pixels):
        image = _open(data, format, max_pixels)
        kind = _kind(image)
        return Picture(_array(image), kind, 8, None, None, format, image.mode, _of_info(image.info))


def _write_webp(picture: Picture) -> bytes:
    """A lossless WebP file, the colours of transparent pixels included."""
    if picture.kind not in ("gray", "rgb", "rgb+alpha") or picture.bits != 8 or picture.transparency is not None:
        raise ImageError(f"WebP holds 8-bit colour with or without alpha, not {_words(picture)}")
    if picture.kind == "rgb+alpha" and (picture.samples[:, :, 3] == 255).all():
        raise ImageError("WebP drops an alpha channel that is opaque everywhere")
    samples = np.repeat(picture.samples, 3, axis=2) if picture.kind == "gray" else picture.samples
    if max(samples.shape) > 16383:
        raise ImageError(f"WebP holds at most 16383x16383 pixels, not {picture.width}x{picture.height}")
    metadata = picture.metadata
    texts = {"icc_profile": metadata.icc_profile, "exif": metadata.exif, "xmp": metadata.xmp}
    file = io.BytesIO()
    with _pillow():
        Image.fromarray(np.ascontiguousarray(samples)).save(
            file, "WEBP", lossless=True, exact=True, **{name: text for name, text in texts.items() if text}
        )
    return file.getvalue()


def _words(picture: Picture) -> str:
    """What a picture is, for messages."""
    kind = (
        "a palette"
        if picture.kind == "palette"
        else picture.kind.replace("+alpha", " with alpha").replace("rgb", "RGB")
    )
    transparent = " and a transparent colour" if picture.transparency is not None else ""
    return f"{picture.bits}-bit {kind}{transparent}" if picture.palette is None else f"{kind} of {picture.bits} bits"


# BMP


def _read_bmp(data: bytes, max_pixels: int) -> Picture:
    with _pillow(max_pixels):
        image = _open(data, "BMP", max_pixels)
        core = int.from_bytes(data[14:18], "little") == 12  # the oldest header
        bits = int.from_bytes(data[24:26] if core else data[28:30], "little")
        if bits == 32 and image.mode == "RGB" and data[30:34] == bytes(4):
            _check_unused(data, image.width * image.height)
        if bits == 16:
            raise ImageError("16-bit BMP files (5 or 6 bits a colour) are not supported")
        kind = _kind(image)
        # a palette that is a gray scale makes Pillow read the indices as gray, in the wrong depth if there are few
        if (image.mode == "1" and bits != 1) or (image.mode == "L" and bits != 8):
            raise ImageError(f"{bits}-bit BMP files with a palette of so few grays are not supported")
        palette = _palette(image)[0] if kind == "palette" else None
        depth = bits if bits < 8 else 8
        return Picture(_array(image), kind, depth, palette, None, "BMP", image.mode, _of_info(image.info))


def _check_unused(data: bytes, pixels: int) -> None:
    """Raise ImageError if the fourth bytes of a BMP file without masks, which Pillow drops, may be an alpha channel."""
    unused = np.frombuffer(data, np.uint8, 4 * pixels, int.from_bytes(data[10:14], "little"))[3::4]
    if (unused != unused[0]).any():
        raise ImageError("32-bit BMP files with an alpha channel that their header does not tell of are not supported")


def _write_bmp(picture: Picture) -> bytes:
    """An uncompressed BMP file, rows from the bottom to the top."""
    depths = {"gray": (1, 8), "palette": (1, 4, 8), "rgb": (8,), "rgb+alpha": (8,)}.get(picture.kind, ())
    if picture.bits not in depths or picture.transparency is not None:
        raise ImageError(f"BMP cannot hold {_words(picture)}")
    if picture.samples.nbytes * 2 >= 2**32:
        raise ImageError("it would be larger than 4 GB")
    if picture.kind.startswith("rgb"):
        order = [2, 1, 0, 3][: CHANNELS[picture.kind]]
        rows = picture.samples[::-1, :, order].reshape(picture.height, -1)
        bits, colours = 8 * len(order), b""
    else:
        rows = _packed(picture, 0, picture.height)[::-1]
        bits, colours = (
            picture.bits,
            picture.palette
            or bytes(
                value for gray in range(1 << picture.bits) for value in [gray * (255 if picture.bits == 1 else 1)] * 3
            ),
        )
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
    entries = np.frombuffer(colours, np.uint8).reshape(-1, 3)[:, ::-1]
    table = np.pad(entries, ((0, 0), (0, 1))).tobytes()
    dpi = picture.metadata.dpi
    across, down = (min(round(number / 0.0254), 2**31 - 1) for number in dpi) if dpi else (0, 0)
    alpha = picture.kind == "rgb+alpha"
    header = struct.pack(
        "<IiiHHIIiiII",
        108 if alpha else 40,
        picture.width,
        picture.height,
        1,
        bits,
        3 if alpha else 0,  # whether masks say where the colours are
        rows.nbytes,
        across,
        down,
        len(entries),
        0,
    )
    if alpha:
        header += struct.pack("<IIII4s36x12x", 0xFF0000, 0xFF00, 0xFF, 0xFF000000, b"BGRs")
    offset = 14 + len(header) + len(table)
    return b"".join([struct.pack("<2sIII", b"BM", offset + rows.nbytes, 0, offset), header, table, rows.tobytes()])


# PNM

_PNM_TOKEN = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])*([0-9]{1,10})")


def _read_pnm(data: bytes, max_pixels: int) -> Picture:
    """PBM, PGM or PPM, binary or plain. Refuses anything but white space after the pixels: it may be more images."""
    form = data[1] - ord("0")
    values, position = [], 2
    for _ in range(2 if form in (1, 4) else 3):
        match = _PNM_TOKEN.match(data, position)
        if match is None:
            raise ImageError("damaged image: an incomplete PNM header")
        values.append(int(match.group(1)))
        position = match.end()
    width, height, maximum = (*values, 1)[:3]
    _check_size(width, height, max_pixels)
    channels = 3 if form in (3, 6) else 1
    bits = {1: 1, 3: 2, 15: 4, 255: 8, 65535: 16}.get(maximum)
    if bits is None or (channels == 3 and bits < 8):
        raise ImageError(f"PNM files with a maximum of {maximum} are not supported")
    if data[position : position + 1].strip() or position >= len(data):
        raise ImageError("damaged image: an incomplete PNM header")
    position += 1
    shape = (height, width, channels)
    samples, rest = (_plain if form < 4 else _raster)(data[position:], form, shape, bits)
    if rest.strip():
        raise ImageError("PNM files with several images, or anything else after the pixels, are not supported")
    if samples.max() > maximum:
        raise ImageError("damaged image: a sample above the maximum")
    kind = "rgb" if channels == 3 else "gray"
    mode = "1" if form in (1, 4) else {"rgb": "RGB", "gray": "I" if bits == 16 else "L"}[kind]
    return Picture(samples, kind, bits, None, None, "PPM", mode)


def _raster(data: bytes, form: int, shape: tuple[int, int, int], bits: int) -> tuple[np.ndarray, bytes]:
    """Samples of a binary PNM file, and what follows them."""
    height, width, channels = shape
    size = height * (-(-width // 8) if form == 4 else width * channels * (2 if bits == 16 else 1))
    if len(data) < size:
        raise ImageError("damaged image: truncated")
    raw = np.frombuffer(data, np.uint8, size)
    if form == 4:
        samples = np.unpackbits(raw.reshape(height, -1), axis=1, count=width) ^ 1  # 1 is black
    else:
        samples = raw.view(">u2").astype(np.uint16) if bits == 16 else raw.copy()
    return samples.reshape(shape), data[size:]


def _plain(data: bytes, form: int, shape: tuple[int, int, int], bits: int) -> tuple[np.ndarray, bytes]:
    """Samples of a PNM file in decimal digits."""
    count = math.prod(shape)
    text = re.sub(rb"#[^\r\n]*", b"", data)
    if len(text) < count:
        raise ImageError("damaged image: truncated")
    if form == 1:  # digits need no space between them
        digits = np.frombuffer(re.sub(rb"\s", b"", text), np.uint8)
        if digits.size > count or not np.isin(digits, np.frombuffer(b"01", np.uint8)).all():
            raise ImageError("damaged image: something else than 0 and 1, or too much of it")
        samples = np.uint8(ord("1")) - digits  # 1 is black
    else:
        tokens = text.split()
        if len(tokens) > count or not all(token.isdigit() and len(token) <= 5 for token in tokens):
            raise ImageError("damaged image: something else than samples, or too much of it")
        values = np.array(tokens, np.uint32)
        if values.max(initial=0) >= 1 << max(bits, 8):
            raise ImageError("damaged image: a sample above the maximum")
        samples = values.astype(np.uint16 if bits == 16 else np.uint8)
    if samples.size != count:
        raise ImageError("damaged image: truncated")
    return samples.reshape(shape), b""


def _write_pnm(picture: Picture, suffix: str) -> bytes:
    if picture.kind not in ("gray", "rgb") or picture.transparency is not None:
        raise ImageError(f"PNM holds gray and RGB only, not {_words(picture)}")
    if suffix in (".pgm", ".pbm") and picture.kind != "gray":
        raise ImageError(f"{suffix} holds gray only, not {_words(picture)}: use .ppm")
    if suffix == ".pbm" and picture.bits != 1:
        raise ImageError(f".pbm holds 1-bit gray only, not {_words(picture)}: use .pgm")
    size = f"{picture.width} {picture.height}\n"
    if picture.bits == 1 and suffix != ".pgm":
        return f"P4\n{size}".encode() + np.packbits(picture.samples[:, :, 0] ^ 1, axis=1).tobytes()
    samples = picture.samples.astype(">u2") if picture.bits == 16 else picture.samples
    head = f"P{6 if picture.kind == 'rgb' else 5}\n{size}{(1 << picture.bits) - 1}\n"
    return head.encode() + samples.tobytes()


# GIF


def _read_gif(data: bytes, max_pixels: int) -> Picture:
    """A still GIF. One whose frame does not fill its screen is refused: the border would have to be made up."""
    with _pillow(max_pixels):
        image = _open(data, "GIF", max_pixels)
        # counting the frames has moved on to the last, which is the first: Pillow is back there now
        tiles = image.tile  # type: ignore[attr-defined]
        screen = struct.unpack_from("<HH", data, 6)
        if len(tiles) != 1 or tuple(tiles[0][1]) != (0, 0, *image.size) or image.size != screen:
            raise ImageError("GIF files whose frame does not fill the screen are not supported")
        kind = _kind(image)
        if kind not in ("gray", "palette"):
            raise ImageError(f"GIF files of mode {image.mode} are not supported")
        palette = _palette(image)[0] if kind == "palette" else None
        transparency: bytes | None = None
        if (index := image.info.get("transparency")) is not None:
            transparency = struct.pack(">H", index) if palette is None else b"\xff" * index + b"\0"
        metadata = _of_info(image.info)
        samples = _array(image)
        bits = 8
        if palette is not None:
            bits = max(_depth(len(palette) // 3), _depth(int(samples.max()) + 1))
        return Picture(samples, kind, bits, palette, transparency, "GIF", image.mode, metadata)


# TGA


def _is_tga(data: bytes) -> bool:
    """Whether this looks like a TGA header."""
    if len(data) < 18:
        return False
    mapped, form, start, entries, entry, width, height, depth, flags = struct.unpack("<xBBHHB4xHHBB", data[:18])
    depths = {1: (8,), 2: (16, 24, 32), 3: (1, 8, 16)}.get(form & ~8, ())
    if mapped != (form & ~8 == 1) or depth not in depths or not width or not height or flags & 0xC0:
        return False
    return not mapped or (entry in (15, 16, 24, 32) and 0 < start + entries <= 256)


def _read_tga(data: bytes, max_pixels: int) -> Picture:
    identity, form, entries, entry, width, height, depth = struct.unpack("<BxB2xHB4xHHBx", data[:18])
    _check_size(width, height, max_pixels)
    if depth == 16 and form & ~8 == 2:
        raise ImageError("16-bit TGA files (5 bits a colour) are not supported")
    if form & ~8 == 1 and entry < 24:
        raise ImageError("TGA palettes of 5 bits a colour are not supported")
    raw = form & 8 == 0
    if raw:
        table = entries * (entry // 8) if form == 1 else 0
        if len(data) < 18 + identity + table + height * ((width * depth + 7) // 8):
            raise ImageError("damaged image: truncated")
        data += bytes(max(0, 26 - len(data)))  # Pillow looks for a footer even in files that are smaller
    with _pillow(max_pixels):
        image = _open(data, "TGA", max_pixels)
        kind = _kind(image)
        palette, transparency = _palette(image) if kind == "palette" else (None, None)
        metadata = _of_info(image.info, comment="id_section")
        samples = _array(image)
        bits = 1 if image.mode == "1" else 8
        return Picture(samples, kind, bits, palette, transparency, "TGA", image.mode, metadata)


def _write_tga(picture: Picture) -> bytes:
    """An uncompressed TGA file, rows from the top to the bottom."""
    if picture.bits != 8 or (picture.transparency is not None and picture.palette is None):
        raise ImageError(f"TGA holds 8 bits a channel and no transparent colour, not {_words(picture)}")
    if max(picture.width, picture.height) > 65535:
        raise ImageError(f"TGA holds at most 65535x65535 pixels, not {picture.width}x{picture.height}")
    table, entries, entry = b"", 0, 0
    if picture.palette is not None:
        colours = np.frombuffer(picture.palette, np.uint8).reshape(-1, 3)[:, ::-1]
        entries, entry = len(colours), 24
        if picture.transparency is not None:
            if len(picture.transparency) != entries:
                raise ImageError("TGA palettes have a transparency for every colour, or for none")
            alphas = np.frombuffer(picture.transparency, np.uint8)[:, None]
            colours, entry = np.concatenate([colours, alphas], axis=1), 32
        table = colours.tobytes()
    channels = CHANNELS[picture.kind]
    form = 1 if picture.palette is not None else 2 if channels > 2 else 3
    samples = picture.samples[:, :, [2, 1, 0, 3][:channels]] if form == 2 else picture.samples
    identity = (picture.metadata.comment or b"")[:255]
    flags = 0x20 | (8 if "alpha" in picture.kind else 0)
    header = struct.pack(
        "<BBBHHB4xHHBB",
        len(identity),
        form == 1,
        form,
        0,
        entries,
        entry,
        picture.width,
        picture.height,
        8 * channels,
        flags,
    )
    return b"".join([header, identity, table, samples.tobytes(), bytes(8), b"TRUEVISION-XFILE.\0"])


# Images and arrays in memory


def to_image(picture: Picture) -> Image.Image:
    """Pillow's image of a picture: mode, pixels, palette and info as Pillow gives them for the source file.

    Raises ImageError for 16-bit colour and gray with alpha, which Pillow has no modes for.
    """
    if picture.bits == 16 and picture.kind != "gray":
        raise ImageError(f"Pillow has no mode for {_words(picture)}")
    if picture.format == "PNG" and picture.mode == _mode(picture.kind, picture.bits):
        file = io.BytesIO(_write_png(picture, level=0))
        with _pillow(picture.height * picture.width), Image.open(file, formats=("PNG",)) as image:
            image.load()
            return image.copy()
    with _pillow():
        image = _plain_image(picture)
        _set_info(image, picture)
    return image


#: how Pillow stores 16-bit gray; "I" is its mode for PGM files
_STORED_16 = {"I;16": "<u2", "I;16B": ">u2", "I": "=i4"}


def _plain_image(picture: Picture) -> Image.Image:
    """Pixels and palette."""
    mode, samples = picture.mode, picture.samples
    if picture.kind == "gray":
        if picture.bits < 8 and mode == "L":
            samples = samples * np.uint8(255 // ((1 << picture.bits) - 1))
        if mode == "1":
            samples = np.packbits(samples[:, :, 0], axis=1)
        elif mode in _STORED_16:
            samples = samples.astype(_STORED_16[mode])
    image = Image.frombytes(mode, (picture.width, picture.height), samples.tobytes())
    if picture.palette is not None:
        if picture.format == "TGA" and picture.transparency is not None:
            colours = np.frombuffer(picture.palette, np.uint8).reshape(-1, 3)
            alphas = np.full((len(colours), 1), 255, np.uint8)
            alphas[: len(picture.transparency), 0] = np.frombuffer(picture.transparency, np.uint8)[: len(colours)]
            image.putpalette(np.concatenate([colours, alphas], axis=1).tobytes(), "RGBA")
        else:
            image.putpalette(picture.palette, "RGB")
    return image


def _set_info(image: Image.Image, picture: Picture) -> None:
    metadata = picture.metadata
    info: dict[str, Any] = {
        "icc_profile": metadata.icc_profile,
        "exif": _EXIF_PREFIX + metadata.exif if metadata.exif else None,
        "xmp": metadata.xmp,
        "dpi": metadata.dpi,
        "id_section" if picture.format == "TGA" else "comment": metadata.comment,
    }
    transparency = picture.transparency
    if transparency is not None and not (picture.format == "TGA" and picture.palette is not None):
        if picture.palette is not None:
            single = re.fullmatch(rb"\xff*\0\xff*", transparency) is not None
            info["transparency"] = transparency.index(b"\0") if single else transparency
        else:
            values = struct.unpack(f">{len(transparency) // 2}H", transparency)
            grays = values[0] if picture.mode != "1" else 255 * bool(values[0])
            info["transparency"] = values if len(values) == 3 else grays
    image.info.update({key: value for key, value in info.items() if value is not None})


#: formats that Pillow tells the depth of, "" being an image made in memory; others may hold more than it gives
_KNOWN = ("", "BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")


def from_image(image: Image.Image) -> Picture:
    """The picture of a Pillow image in memory, of mode 1, L, LA, P, RGB, RGBA or I;16, with what its info says.

    For files, ``read`` keeps more: depths of 2 and 4 bits, 16-bit colour, all metadata. Raises ImageError for other
    modes, and for an image that would lose bits when Pillow decodes it now.
    """
    with _pillow(max(1, image.width * image.height)):
        if getattr(image, "n_frames", 1) > 1:
            raise ImageError("images with several frames or pages are not supported")
        kind = _kind(image)
        _check_decoding(image)
        image.load()
        samples = _array(image)
        palette: bytes | None = None
        transparency: bytes | None = None
        bits = 1 if image.mode == "1" else 16 if samples.dtype == np.uint16 else 8
        if kind == "palette":
            palette, transparency = _loaded_palette(image)
            bits = max(_depth(len(palette) // 3), _depth(int(samples.max()) + 1))
        if "alpha" not in kind and (value := image.info.get("transparency")) is not None:
            transparency = _transparency(value, kind, image.mode)
        comment = "id_section" if image.format == "TGA" else "comment"
        metadata = _of_info(image.info, comment)
    return Picture(samples, kind, bits, palette, transparency, image.format or "", image.mode, metadata)


def _check_decoding(image: Image.Image) -> None:
    """Raise ImageError if Pillow is about to drop bits of a file that it has opened, but not decoded yet."""
    if (image.format or "") not in _KNOWN:
        raise ImageError(f"images in {image.format} format are not supported")
    if image.format == "BMP" or image.mode.startswith("I;16"):
        return
    for tile in getattr(image, "tile", []):
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        odd = image.format == "PPM" and isinstance(arguments[-1], int) and arguments[-1] not in (0, 1, 255)
        if odd or any(isinstance(argument, str) and "16" in argument for argument in arguments):
            raise ImageError("this image would be reduced to 8 bits: read it from its file's bytes")


def _loaded_palette(image: Image.Image) -> tuple[bytes, bytes | None]:
    """Colours, and alphas if it has any, of the palette of an image that is decoded."""
    assert image.palette is not None
    alpha = image.palette.mode == "RGBA"
    entries = np.array(image.getpalette("RGBA" if alpha else "RGB") or [], np.uint8).reshape(-1, 4 if alpha else 3)
    if not len(entries):
        raise ImageError("the image has an empty palette")
    return entries[:, :3].tobytes(), entries[:, 3].tobytes() if alpha else None


def _transparency(value: Any, kind: str, mode: str) -> bytes:
    """PNG's form of what Pillow calls transparency."""
    if isinstance(value, bytes):
        return value
    if kind == "palette":
        return b"\xff" * value + b"\0"
    if mode == "1":
        value = int(bool(value))
    values: Iterable[int] = value if kind == "rgb" else (value,)
    return b"".join(struct.pack(">H", number) for number in values)


def from_array(array: np.ndarray) -> Picture:
    """The picture of a uint8 or uint16 array [height, width] or [height, width, 1 to 4].

    One channel is gray, two are gray and alpha, three RGB, four RGB and alpha.
    """
    array = np.asarray(array)
    if array.dtype.kind != "u" or array.dtype.itemsize > 2:
        raise ImageError(f"only 8 and 16 bits are supported, not {array.dtype}")
    if array.ndim == 2:
        array = array[:, :, None]
    kinds = ("gray", "gray+alpha", "rgb", "rgb+alpha")
    if array.ndim != 3 or not 1 <= array.shape[2] <= 4:
        raise ImageError(f"an array of shape {array.shape} is no image")
    bits = 8 * array.dtype.itemsize
    samples = np.ascontiguousarray(array, np.uint16 if bits == 16 else np.uint8)
    return Picture(samples, kinds[array.shape[2] - 1], bits)
