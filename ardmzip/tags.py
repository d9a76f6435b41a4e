"""The tags of TIFF files, and EXIF blocks of them, byte for byte: libraries change types and texts on the way.

An EXIF block is a TIFF file without an image, so both have the same directories of tags.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ardmzip.errors import ImageError

ORIENTATION, XMP, EXIF, ICC, GPS, INTEROPERABILITY = 274, 700, 34665, 34675, 34853, 40965
RESOLUTION = (282, 283, 296)  # by column, by row, unit
#: How the pixels are stored: size, bits, compression, colours, strips, tiles, padding.
STRUCTURE = frozenset(
    {
        *range(254, 260), 262, 263, 264, 265, 266, 273, *range(277, 280), 284, *range(288, 290), 292, 293, 317, 320,
        *range(322, 329), 338, 339, 347, *range(512, 522), 529, 530, 531, 532, 559, *range(32995, 32999),
    }
)  # fmt: skip
#: Of each type: bytes of a value, and bytes of the numbers that it consists of.
_TYPES = {
    1: (1, 1), 2: (1, 1), 3: (2, 2), 4: (4, 4), 5: (8, 4), 6: (1, 1), 7: (1, 1), 8: (2, 2), 9: (4, 4), 10: (8, 4),
    11: (4, 4), 12: (8, 8), 13: (4, 4), 16: (8, 8), 17: (8, 8), 18: (8, 8),
}  # fmt: skip
_LONG, _RATIONAL, _DIRECTORY = 4, 5, 13
_INCH, _CENTIMETRE = 2, 3
_BELOW = (EXIF, GPS, INTEROPERABILITY)
#: They point to places in the file that are not taken along: other images, a table of tags.
POINTERS = (330, 400)
_CLASSIC, _BIG = 42, 43
_DEEPEST = 3


class Tag(NamedTuple):
    """A value as it is in the file."""

    type: int
    values: int
    data: bytes

    def reordered(self) -> Tag:
        """In the other byte order."""
        size = _TYPES[self.type][1]
        return self._replace(data=np.frombuffer(self.data, f"u{size}").byteswap().tobytes())


@dataclass(frozen=True)
class Directory:
    """Tags by number; a directory below is in place of the tag that points to it."""

    order: str  # < or >, as struct has it
    tags: dict[int, Tag | Directory]
    #: Tags of damaged or unknown kinds, and pointers.
    lost: tuple[int, ...] = ()
    #: Whether another directory follows.
    more: bool = False


def parse(file: bytes, left_out: Collection[int] = ()) -> Directory:
    """The first directory of a TIFF file or EXIF block without some tags; raises ImageError if there is none."""
    order = {b"II": "<", b"MM": ">"}.get(file[:2])
    if order is None:
        raise ImageError("damaged image: no TIFF header")
    try:
        (version,) = struct.unpack_from(order + "H", file, 2)
        if version not in (_CLASSIC, _BIG):
            raise ImageError("damaged image: no TIFF header")
        (at,) = (
            struct.unpack_from(order + "L", file, 4)
            if version == _CLASSIC
            else struct.unpack_from(order + "Q", file, 8)
        )
        return _directory(file, order, version == _BIG, at, left_out, _DEEPEST)
    except struct.error as error:
        raise ImageError("damaged image: the TIFF file is truncated") from error


def _directory(file: bytes, order: str, big: bool, at: int, left_out: Collection[int], depth: int) -> Directory:
    number, offset = (order + "Q", order + "Q") if big else (order + "H", order + "L")
    entry = order + ("HHQ" if big else "HHL")
    inline = struct.calcsize(offset)
    (count,) = struct.unpack_from(number, file, at)
    at += struct.calcsize(number)
    tags: dict[int, Tag | Directory] = {}
    lost: list[int] = []
    taken = 0
    for _ in range(count):
        tag, kind, values = struct.unpack_from(entry, file, at)
        place = at + struct.calcsize(entry)
        at = place + inline
        if tag in left_out:
            continue
        if tag in tags:
            lost.append(tag)
            continue
        size = _TYPES.get(kind, (0, 0))[0] * values
        if size > inline:
            (place,) = struct.unpack_from(offset, file, place)
        data = file[place : place + size]
        taken += size
        if kind not in _TYPES or len(data) < size or taken > len(file):
            lost.append(tag)
        elif tag in _BELOW and values == 1 and kind in (_LONG, _DIRECTORY, 16, 18):
            try:
                pointer = int.from_bytes(data, "little" if order == "<" else "big")
                if not depth:
                    raise struct.error
                below = _directory(file, order, big, pointer, (), depth - 1)
                tags[tag] = below
                lost += below.lost
            except struct.error:
                lost.append(tag)
        elif tag in POINTERS or kind >= _DIRECTORY:  # among them the types that EXIF blocks have not
            lost.append(tag)
        else:
            tags[tag] = Tag(kind, values, data)
    following = file[at : at + inline]
    return Directory(order, tags, tuple(lost), any(following))


def block(directory: Directory) -> bytes:
    """The EXIF block of a directory."""
    return _header(directory.order, 8) + _built(directory, 8)


def added(file: bytes, more: Directory) -> bytes:
    """A TIFF file with the tags of ``more``, in a directory at its end; of the tags that it has they take the place."""
    own = parse(file)
    if own.lost or file[2:4] not in (b"*\0", b"\0*"):
        raise ValueError("a TIFF file that cannot be added to")
    tags = own.tags | (more if more.order == own.order else reordered(more)).tags
    padded = file + bytes(len(file) % 2)
    header = _header(own.order, len(padded))
    return header + padded[len(header) :] + _built(Directory(own.order, tags), len(padded))


def reordered(directory: Directory) -> Directory:
    """The same in the other byte order."""
    tags = {
        number: reordered(tag) if isinstance(tag, Directory) else tag.reordered()
        for number, tag in directory.tags.items()
    }
    return Directory(">" if directory.order == "<" else "<", tags)


def dots_per_inch(directory: Directory) -> tuple[float, float] | None:
    """The resolution by column and by row; None if there is none in inches or centimetres."""
    found = [directory.tags.get(tag) for tag in RESOLUTION]
    if not all(isinstance(tag, Tag) for tag in found[:2]):
        return None
    unit = found[2].data[:2] if isinstance(found[2], Tag) else struct.pack(directory.order + "H", _INCH)
    inches = {_INCH: 1.0, _CENTIMETRE: 2.54}.get(*struct.unpack(directory.order + "H", unit.ljust(2, b"\0")))
    if inches is None:
        return None
    values = []
    for tag in found[:2]:
        assert isinstance(tag, Tag)
        if tag.type != _RATIONAL or tag.values != 1:
            return None
        numerator, denominator = struct.unpack(directory.order + "LL", tag.data)
        if not numerator or not denominator:
            return None
        values.append(inches * numerator / denominator)
    return values[0], values[1]


def _header(order: str, at: int) -> bytes:
    return (b"II" if order == "<" else b"MM") + struct.pack(order + "HL", _CLASSIC, at)


def _built(directory: Directory, at: int) -> bytes:
    """A directory for the place ``at`` of a file, with its values and the directories below behind it."""
    order = directory.order
    start = at + 2 + 12 * len(directory.tags) + 4
    entries, values = struct.pack(order + "H", len(directory.tags)), b""
    for number, tag in sorted(directory.tags.items()):
        place = start + len(values)
        if isinstance(tag, Directory):
            below = _built(tag, place)
            entries += struct.pack(order + "HHLL", number, _LONG, 1, place)
            values += below + bytes(len(below) % 2)
        elif len(tag.data) <= 4:
            entries += struct.pack(order + "HHL", number, tag.type, tag.values) + tag.data.ljust(4, b"\0")
        else:
            entries += struct.pack(order + "HHLL", number, tag.type, tag.values, place)
            values += tag.data + bytes(len(tag.data) % 2)
    return entries + bytes(4) + values
