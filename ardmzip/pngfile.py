"""PNG files as lists of chunks: what Pillow does not tell (depth, exact palette) or cannot write."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ardmzip.errors import ImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Names of the colour types.
COLOUR_TYPES = {0: "gray", 2: "RGB", 3: "palette", 4: "gray+alpha", 6: "RGB+alpha"}
_TYPE_NUMBERS = {name: number for number, name in COLOUR_TYPES.items()}
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
#: Chunks that must come before the palette; all others may follow it.
_FIRST = (b"cHRM", b"cICP", b"gAMA", b"iCCP", b"mDCV", b"cLLI", b"sBIT", b"sRGB")


class Chunk(NamedTuple):
    """A chunk without its length and checksum."""

    kind: bytes
    data: bytes

    @property
    def is_ancillary(self) -> bool:
        return bool(self.kind[0] & 0x20)

    @property
    def is_safe_to_copy(self) -> bool:
        return bool(self.kind[3] & 0x20)


@dataclass(frozen=True)
class Header:
    """What IHDR says."""

    width: int
    height: int
    depth: int
    layout: str
    interlaced: bool = False

    def chunk(self) -> Chunk:
        numbers = self.width, self.height, self.depth, _TYPE_NUMBERS[self.layout], 0, 0, int(self.interlaced)
        return Chunk(b"IHDR", struct.pack(">IIBBBBB", *numbers))


def chunks(file: bytes) -> list[Chunk]:
    """The chunks of a file up to IEND, their checksums compared; raises ImageError."""
    found: list[Chunk] = []
    at = len(SIGNATURE)
    while not found or found[-1].kind != b"IEND":
        if len(file) < at + 12:
            raise ImageError("damaged image: the PNG file is truncated")
        (length,) = struct.unpack_from(">I", file, at)
        kind, data = file[at + 4 : at + 8], file[at + 8 : at + 8 + length]
        if not kind.isalpha() or not kind.isascii():
            raise ImageError("damaged image: a PNG chunk without a name")
        checksum = file[at + 8 + length : at + 12 + length]
        if len(checksum) < 4:
            raise ImageError("damaged image: the PNG file is truncated")
        if zlib.crc32(kind + data) != int.from_bytes(checksum, "big"):
            raise ImageError(f"damaged image: wrong checksum of the PNG chunk {kind.decode()}")
        found.append(Chunk(kind, data))
        if not found[-1].is_ancillary and kind not in _CRITICAL:
            raise ImageError(f"damaged image: unknown critical PNG chunk {kind.decode()}")
        at += 12 + length
    return found


def header(found: Sequence[Chunk]) -> Header:
    """What the first chunk says; raises ImageError."""
    if found[0].kind != b"IHDR" or len(found[0].data) != 13:
        raise ImageError("damaged image: the PNG file has no header")
    width, height, depth, colour_type, *rest = struct.unpack(">IIBBBBB", found[0].data)
    allowed = {0: (1, 2, 4, 8, 16), 3: (1, 2, 4, 8)}.get(colour_type, (8, 16))
    valid = width and height and colour_type in COLOUR_TYPES and depth in allowed
    if not valid or rest[:2] != [0, 0] or rest[2] > 1:
        raise ImageError("damaged image: the PNG header is invalid")
    return Header(width, height, depth, COLOUR_TYPES[colour_type], bool(rest[2]))


def build(found: Iterable[Chunk]) -> bytes:
    """The file of some chunks."""
    parts = [SIGNATURE]
    for kind, data in found:
        parts += [struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(kind + data))]
    return b"".join(parts)


def with_ancillary(main: Sequence[Chunk], palette: Iterable[Chunk], others: Sequence[Chunk]) -> bytes:
    """A file of ``main`` (header, data, end) with palette and transparency, and with other chunks in a lawful order."""
    first = [chunk for chunk in others if chunk.kind in _FIRST]
    rest = [chunk for chunk in others if chunk.kind not in _FIRST and chunk.kind != b"PLTE"]
    suggested = [chunk for chunk in others if chunk.kind == b"PLTE"]
    return build([main[0], *first, *suggested, *palette, *rest, *main[1:]])


def encode(samples: np.ndarray, depth: int, layout: str) -> list[Chunk]:
    """Header, data and end of samples uint8 or uint16 [height, width, channels]."""
    height, width = samples.shape[:2]
    head = Header(width, height, depth, layout).chunk()
    if depth == 16:
        import imagecodecs

        file = bytes(imagecodecs.png_encode(samples if samples.shape[2] > 1 else samples[:, :, 0], level=6))
    elif depth == 8 and layout != "palette":
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(samples if samples.shape[2] > 1 else samples[:, :, 0]).save(buffer, "PNG")
        file = buffer.getvalue()
    else:  # what PNG advises for palettes and few bits: no filter
        bits = np.unpackbits(samples, axis=2)[:, :, 8 - depth :].reshape(height, -1)
        rows = np.packbits(bits, axis=1)
        data = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes(), 9)
        return [head, Chunk(b"IDAT", data), Chunk(b"IEND", b"")]
    return [head, *(chunk for chunk in chunks(file) if chunk.kind in (b"IDAT", b"IEND"))]
