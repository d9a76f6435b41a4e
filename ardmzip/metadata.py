"""What an image carries beside its pixels, as chunks of a PNG file (docs/FORMAT.md, "Metadata").

Whatever the source, metadata is kept in the form that PNG has for it: EXIF data, ICC profile, XMP, texts, gamma,
chromaticities, resolution. So a PNG file gets back exactly what it had.
"""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ardmzip import pngfile, stored, tags
from ardmzip.errors import FormatError, ImageError
from ardmzip.pngfile import Chunk
from ardmzip.varint import Reader, varint

if TYPE_CHECKING:
    from PIL import Image

#: Most bytes of metadata.
LIMIT = 1 << 28
#: Names for people.
_TITLES = {
    "eXIf": "EXIF data", "iCCP": "colour profile", "cHRM": "chromaticities", "gAMA": "gamma", "sRGB": "sRGB intent",
    "cICP": "video colour space", "pHYs": "resolution", "tEXt": "text", "zTXt": "text", "iTXt": "text",
    "tIME": "time of change", "bKGD": "background colour", "sBIT": "significant bits", "hIST": "histogram",
    "sPLT": "suggested palette", "PLTE": "suggested palette", "mDCV": "mastering display", "cLLI": "light levels",
}  # fmt: skip
#: Standard chunks that may be kept only because everything that they refer to is kept.
_STANDARD = {name.encode() for name in _TITLES} - {b"PLTE"}
#: What belongs to the pixels, to the frames of an animation or to places in the file.
_STRUCTURE = (b"tRNS", b"acTL", b"fcTL", b"fdAT", b"iDOT")
_XMP = b"XML:com.adobe.xmp\0"
#: Most bytes of all tags of a TIFF file that are kept.
_MOST_OF_TAGS = 1 << 27


def titles(found: Iterable[Chunk]) -> list[str]:
    """What is there, for people, each once.

    >>> titles([Chunk(b"tEXt", b"a"), Chunk(b"zTXt", b"b"), Chunk(b"iTXt", _XMP), Chunk(b"abCd", b"")])
    ['text', 'XMP data', 'chunk abCd']
    """
    names = (
        "XMP data" if is_xmp(chunk) else _TITLES.get(chunk.kind.decode(), f"chunk {chunk.kind.decode()}")
        for chunk in found
    )
    return list(dict.fromkeys(names))


def is_xmp(chunk: Chunk) -> bool:
    return chunk.kind == b"iTXt" and chunk.data.startswith(_XMP)


def of_png(found: Sequence[Chunk], layout: str) -> tuple[list[Chunk], list[Chunk]]:
    """(metadata, chunks that are lost) of a PNG file."""
    kept: list[Chunk] = []
    lost: list[Chunk] = []
    for chunk in found:
        if chunk.kind == b"PLTE" and layout.startswith("RGB"):
            kept.append(chunk)
        elif chunk.is_ancillary and chunk.kind not in _STRUCTURE:
            (kept if chunk.kind in _STANDARD or chunk.is_safe_to_copy else lost).append(chunk)
    return kept, lost


def of_tiff(file: bytes) -> tuple[list[Chunk], list[str]]:
    """(metadata, what is lost) of a TIFF file: all its tags that do not tell how its pixels are stored."""
    from PIL import Image

    found = tags.parse(file, tags.STRUCTURE)
    lost = list(found.lost)
    kept: dict[int, tags.Tag | tags.Directory] = {}
    blank = Image.new("L", (1, 1))
    blank.info["dpi"] = tags.dots_per_inch(found)
    size = 0
    for number, tag in found.tags.items():
        if isinstance(tag, tags.Tag) and size + len(tag.data) > _MOST_OF_TAGS:
            lost.append(number)
            continue
        size += len(tag.data) if isinstance(tag, tags.Tag) else 0
        if isinstance(tag, tags.Tag) and number == tags.ICC:
            blank.info["icc_profile"] = tag.data
        elif isinstance(tag, tags.Tag) and number == tags.XMP and _is_text(tag.data):
            blank.info["xmp"] = tag.data
        else:
            kept[number] = tag
    chunks = of_image(blank)
    if kept:
        chunks.append(Chunk(b"eXIf", tags.block(replace(found, tags=kept))))
    return chunks, [f"TIFF tag {number}" for number in dict.fromkeys(lost)]


def _is_text(data: bytes) -> bool:
    try:
        return bool(data.decode())
    except UnicodeDecodeError:
        return False


def of_image(image: Image.Image) -> list[Chunk]:
    """The metadata that Pillow tells of an image, in the form that Pillow writes into PNG files."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo, iTXt

    info, texts = image.info, PngInfo()
    if image.format in (None, "PNG", "ARDM"):
        for key, value in info.items():
            if not isinstance(key, str) or not isinstance(value, str) or not 1 <= len(key) <= 79:
                continue
            if isinstance(value, iTXt):
                texts.add_itxt(key, value, value.lang or "", value.tkey or "")
            elif key.encode("latin-1", "replace").decode("latin-1") == key:
                texts.add_text(key, value)
    comment = info.get("comment")
    if isinstance(comment, bytes) and comment and image.format in ("GIF", "JPEG", "MPO"):
        texts.add_text("Comment", comment.decode("latin-1"))
    xmp = info.get("xmp")
    if xmp and "XML:com.adobe.xmp" not in info:
        texts.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace") if isinstance(xmp, bytes) else xmp)
    buffer = io.BytesIO()
    try:
        options = {"icc_profile": info.get("icc_profile"), "exif": _exif(image), "dpi": _dpi(info)}
        colour_space = _colour_space(info)
        Image.new("L", (1, 1)).save(
            buffer, "PNG", pnginfo=texts, **{key: value for key, value in options.items() if value}
        )
    except (ValueError, TypeError, OSError, struct.error, OverflowError) as error:
        raise ImageError(f"metadata that cannot be kept: {error}") from error
    found = [chunk for chunk in pngfile.chunks(buffer.getvalue()) if chunk.is_ancillary]
    return [*colour_space, *found]


def _exif(image: Image.Image) -> bytes | None:
    """An EXIF block: of a TIFF file made from its tags, else as it is."""
    if image.format != "TIFF":
        block = image.info.get("exif")
        return block if isinstance(block, bytes) else None
    from PIL import Image

    found, kept = image.getexif(), Image.Exif()
    for tag in sorted({*found} - tags.STRUCTURE - {tags.XMP, tags.ICC, *tags.POINTERS}):
        alone = Image.Exif()
        value = found.get_ifd(tag) if tag in (tags.EXIF, tags.GPS) else found[tag]
        with contextlib.suppress(ValueError, TypeError, AttributeError, struct.error, OverflowError):
            alone[tag] = value
            alone.tobytes()  # Pillow cannot write all that it reads
            kept[tag] = value
    return kept.tobytes() if len(kept) else None


def _dpi(info: dict[Any, Any]) -> tuple[float, float] | None:
    dpi = info.get("dpi")
    if isinstance(dpi, tuple) and len(dpi) == 2 and all(0 < value < 10**7 for value in dpi):
        return float(dpi[0]), float(dpi[1])
    return None


def _colour_space(info: dict[Any, Any]) -> list[Chunk]:
    """What Pillow reads of a PNG file, but does not write."""
    found = []
    gamma, chromaticity, intent = info.get("gamma"), info.get("chromaticity"), info.get("srgb")
    if isinstance(chromaticity, tuple) and len(chromaticity) == 8:
        found.append(Chunk(b"cHRM", struct.pack(">8I", *(round(100000 * value) for value in chromaticity))))
    if isinstance(gamma, float):
        found.append(Chunk(b"gAMA", struct.pack(">I", round(100000 * gamma))))
    if isinstance(intent, int) and 0 <= intent < 256:
        found.append(Chunk(b"sRGB", bytes([intent])))
    return found


def to_info(found: Sequence[Chunk]) -> dict[Any, Any]:
    """``Image.info`` of these chunks, as Pillow tells it of a PNG file. What Pillow refuses is not in it."""
    info = _pillow_info(found)
    if info is None:
        info = {}
        for chunk in found:
            info |= _pillow_info([chunk]) or {}
    return info


def _pillow_info(found: Sequence[Chunk]) -> dict[Any, Any] | None:
    import numpy as np
    from PIL import Image

    pixel = pngfile.encode(np.zeros((1, 1, 3), np.uint8), 8, "RGB")
    try:
        with Image.open(io.BytesIO(pngfile.with_ancillary(pixel, [], found))) as image:
            image.load()
            return dict(image.info)
    except (OSError, ValueError, SyntaxError, struct.error, IndexError, TypeError):
        return None


def pack(found: Sequence[Chunk]) -> bytes:
    """The payload of a metadata chunk."""
    data = b"".join(kind + varint(len(data)) + data for kind, data in found)
    if len(data) > LIMIT:
        raise ImageError(f"{len(data)} bytes of metadata are over the limit of {LIMIT} bytes")
    coded = [(coder, stored.press(coder, data)) for coder in (stored.RAW, stored.DEFLATE, stored.LZMA2)]
    coder, payload = min(coded, key=lambda item: len(item[1]))
    return bytes([coder]) + varint(len(data)) + payload


def unpack(payload: bytes | memoryview) -> list[Chunk]:
    """The chunks of a payload; raises FormatError."""
    reader = Reader(memoryview(payload))
    coder, size = reader.byte(), reader.size("metadata")
    if coder not in (stored.RAW, stored.DEFLATE, stored.LZMA2):
        raise FormatError(f"unknown coder {coder} of metadata: the file needs a newer ardmzip")
    if size > LIMIT:
        raise FormatError(f"{size} bytes of metadata are over the limit of {LIMIT} bytes")
    reader = Reader(memoryview(stored.unpress(coder, bytes(reader.take(reader.left())), size)))
    found = []
    while reader.left():
        kind = bytes(reader.take(4))
        if not kind.isalpha() or not kind.isascii():
            raise FormatError("a piece of metadata has no name")
        found.append(Chunk(kind, bytes(reader.take(reader.varint("length of metadata")))))
        if kind in _STRUCTURE or not (found[-1].is_ancillary or kind == b"PLTE"):
            raise FormatError(f"{kind.decode()} is no metadata")
    return found
