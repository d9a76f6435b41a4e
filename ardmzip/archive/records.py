"""``.ardm`` files cut into what images share, the *template*, and what each has for itself, the *record*.

Together with the checksum of the pixels they give the file again, byte for byte.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache

from ardmzip.container import (
    BATCHES,
    FORMAT,
    GRAY,
    MAGIC,
    MODEL_ID_BYTES,
    SCHEDULE,
    SHORT_CRC,
    SHORT_CRC_BYTES,
    SHORT_ID_BYTES,
    SHORT_MAGIC,
    STREAM,
    is_short,
    outline,
    short_checksum,
    take_sides,
)  # fmt: skip
from ardmzip.errors import FormatError
from ardmzip.pixelformat import PixelFormat
from ardmzip.varint import Reader, varint

#: What a record holds: the words of a single stream, or chunks; or the stream of a file in the short form.
WORDS, CHUNKS, SHORT = 0, 1, 2
_WORD = 4
#: A format of more bytes, as palettes are, is left to the records.
_FORMAT_BYTES = 24


@dataclass(frozen=True)
class Record:
    """template: what is shared; data: the image's own bytes; crc: checksum of its pixels, as far as the file tells."""

    template: bytes
    data: bytes
    crc: int


def split(file: bytes) -> Record:
    """The parts of a valid ``.ardm`` file."""
    first, chunks = outline(file)
    if is_short(file):
        end = len(file) - SHORT_CRC_BYTES
        crc = int.from_bytes(file[end:], "little") ^ zlib.crc32(file[:end]) & SHORT_CRC
        return Record(bytes([SHORT]) + file[len(SHORT_MAGIC) : first], file[first:end], crc)
    shared, at = first, first
    for kind, end in chunks:
        if kind not in (FORMAT, SCHEDULE, BATCHES) or (kind == FORMAT and end - at > _FORMAT_BYTES):
            break
        shared, at = end, end
    crc = int.from_bytes(file[-8:-4], "little")
    if len(chunks) > 0 and chunks[-1][0] == STREAM and _one_left(chunks, shared, first):
        reader = Reader(memoryview(file)[shared + 1 :])
        words = bytes(reader.take(reader.varint("chunk length")))
        return Record(bytes([WORDS]) + file[len(MAGIC) : shared], words.rstrip(b"\0"), crc)
    # the schedule stays with what it belongs to
    shared = next((end for kind, end in chunks[:1] if kind == FORMAT and end <= shared), first)
    return Record(bytes([CHUNKS]) + file[len(MAGIC) : shared], file[shared:-9], crc)


def _one_left(chunks: list[tuple[int, int]], shared: int, first: int) -> bool:
    """Whether a single chunk lies behind ``shared``, where one of the others ends or the first begins."""
    ends = [first, *(end for _, end in chunks)]
    return ends.index(shared) == len(chunks) - 1


def join(record: Record) -> bytes:
    """The ``.ardm`` file; raises FormatError for an unknown kind of record."""
    kind, shared = record.template[0], record.template[1:]
    if kind == SHORT:
        body = SHORT_MAGIC + shared + record.data
        return body + short_checksum(body, record.crc)
    if kind == WORDS:
        padded = record.data + bytes(-len(record.data) % _WORD)
        chunks = bytes([STREAM]) + varint(len(padded)) + padded
    elif kind == CHUNKS:
        chunks = record.data
    else:
        raise FormatError(f"unknown kind {kind} of a record: the archive needs a newer ardmzip")
    body = MAGIC + shared + chunks + b"\0" + record.crc.to_bytes(4, "little")
    return body + zlib.crc32(body).to_bytes(4, "little")


def shape(template: bytes) -> tuple[int, int, int]:
    """Height and width of the images of a template, and the samples of a pixel.

    >>> shape(bytes([SHORT, 0, 32, 16, 0, 0]))
    (16, 32, 3)
    >>> shape(bytes([SHORT, 16, 32, 0, 0]))
    (32, 32, 3)
    """
    height, width, _, described = _parsed(template)
    return height, width, described.channels


def crc_mask(template: bytes) -> int:
    """The bits of the checksum of pixels that the images of a template have.

    >>> hex(crc_mask(bytes([SHORT, 0, 32, 16, 0, 0])))
    '0xffffff'
    """
    return SHORT_CRC if template[0] == SHORT else 2**32 - 1


def raw_bytes(template: bytes) -> int:
    """Bytes of the samples of an image of a template, packed without gaps."""
    height, width, _, described = _parsed(template)
    return described.raw_bytes(width, height)


def model_id(template: bytes) -> bytes:
    """The model of the images of a template, as far as it tells; NO_MODEL for none."""
    return _parsed(template)[2]


@lru_cache(maxsize=1 << 12)
def _parsed(template: bytes) -> tuple[int, int, bytes, PixelFormat]:
    """Height, width, model, and format: palettes, whose format need not be here, count as 8-bit gray."""
    short = template[0] == SHORT
    reader = Reader(memoryview(template)[1 if short else 2 :])
    flags = reader.byte()
    width, height = take_sides(reader, flags, short)
    identity = bytes(reader.take(SHORT_ID_BYTES if short else MODEL_ID_BYTES))
    described = PixelFormat("gray" if flags & GRAY else "RGB")
    if reader.left() and reader.byte() == FORMAT:
        described = PixelFormat.from_bytes(reader.take(reader.varint("chunk length")))
    return height, width, identity, described
