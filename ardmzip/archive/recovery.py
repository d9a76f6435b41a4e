"""Finding the blocks of an archive without its index: to go on after an interruption, and to repair."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from ardmzip.archive import format as layout
from ardmzip.archive.bytesource import ByteSource
from ardmzip.archive.format import BlockHead, Directory
from ardmzip.errors import FormatError

_PIECE = 1 << 20


@dataclass(frozen=True)
class FoundBlock:
    """A block that is there."""

    offset: int
    head: BlockHead
    #: Of the images whose records are there: those of a block that was cut off may be missing.
    directory: Directory
    #: Whether it is there as a whole.
    complete: bool

    def records(self, source: ByteSource) -> bytes:
        """The records of the directory's images."""
        return source.read(self.offset + self.head.records_start, sum(self.directory.lengths))

    def is_intact(self, source: ByteSource) -> bool:
        """Whether it is complete, and the checksum of its records is right."""
        return self.complete and zlib.crc32(self.records(source)) == self.head.crc


def block_at(source: ByteSource, offset: int) -> FoundBlock | None:
    """The block that begins at a place, or the part of it that is there; None if there is none."""
    left = source.size() - offset
    if left < layout.BLOCK_HEAD_BYTES:
        return None
    head = layout.block_head(source.read(offset, layout.BLOCK_HEAD_BYTES))
    if head is None or left < head.records_start:
        return None
    try:
        directory = layout.block_directory(source.read(offset, head.records_start))
    except FormatError:
        return None
    if sum(directory.lengths) != head.records:
        return None
    complete = left >= head.size
    if not complete:
        there, count = left - head.records_start, 0
        for length in directory.lengths:
            there -= length
            if there < 0:
                break
            count += 1
        directory = directory.head(count)
    return FoundBlock(offset, head, directory, complete)


def following(source: ByteSource, offset: int) -> Iterator[FoundBlock]:
    """The intact blocks that follow each other from a place on."""
    while (found := block_at(source, offset)) is not None and found.is_intact(source):
        yield found
        offset += found.head.size


def blocks(source: ByteSource, offset: int) -> Iterator[FoundBlock]:
    """All blocks from a place on that have a directory; what lies between them is passed over."""
    size = source.size()
    while offset < size:
        found = block_at(source, offset)
        if found is None:
            offset = _next_magic(source, offset + 1)
            continue
        yield found
        offset += found.head.size if found.complete else found.head.records_start


def _next_magic(source: ByteSource, offset: int) -> int:
    """Where the next block may begin; the end of the file if nowhere."""
    size = source.size()
    while offset < size:
        piece = source.read(offset, min(_PIECE, size - offset))
        at = piece.find(layout.BLOCK_MAGIC)
        if at >= 0:
            return offset + at
        if len(piece) < len(layout.BLOCK_MAGIC):
            break
        offset += len(piece) - len(layout.BLOCK_MAGIC) + 1
    return size
