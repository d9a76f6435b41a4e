"""The bytes of a file, read where they are needed: a buffer, a file that can seek, or a stream such as a pipe."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import BinaryIO

#: Bytes that a stream is asked for at a time: a length that a damaged file claims takes no memory.
_PIECE = 1 << 20
#: Of a file on the disk, so many bytes are read at once where fewer are wanted, as of the heads of chunks.
AHEAD = 512


class Source(ABC):
    """Bytes that can be read from any place on."""

    @abstractmethod
    def read(self, start: int, count: int) -> bytes | memoryview:
        """So many bytes from a place on; fewer if they end before."""

    @abstractmethod
    def everything(self) -> bytes | memoryview:
        """All of them."""

    @abstractmethod
    def size(self) -> int:
        """How many there are; of a stream, how many were read."""


class Buffer(Source):
    """Bytes in memory, which are not copied."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._view = memoryview(data).cast("B")

    def read(self, start: int, count: int) -> memoryview:
        return self._view[start : start + count]

    def everything(self) -> memoryview:
        return self._view

    def size(self) -> int:
        return len(self._view)


class Seekable(Source):
    """A file, from the place on where it stands; only what is asked for is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._start = file, file.tell()
        self._size = max(0, file.seek(0, os.SEEK_END) - self._start)
        file.seek(self._start)

    def read(self, start: int, count: int) -> bytes:
        left = min(count, self._size - start)
        if left <= 0:
            return b""
        self._file.seek(self._start + start)
        parts = []
        while left > 0 and (part := self._file.read(left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def everything(self) -> bytes:
        self._file.seek(self._start)
        return self._file.read()

    def size(self) -> int:
        return self._size


class Stream(Source):
    """A file that cannot seek: what was read is kept, and it is read no further than is asked for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._data = file, bytearray()

    def read(self, start: int, count: int) -> bytes:
        self._fill(start + count)
        return bytes(self._data[start : start + count])

    def everything(self) -> bytes:
        while self._fill(len(self._data) + _PIECE):
            pass
        return bytes(self._data)

    def size(self) -> int:
        return len(self._data)

    def _fill(self, size: int) -> bool:
        """Read on until there are so many bytes; whether there are."""
        while len(self._data) < size:
            part = self._file.read(min(size - len(self._data), _PIECE))
            if not part:
                return False
            self._data += part
        return True


def source_of(file: BinaryIO) -> Seekable | Stream:
    """The bytes of an open file, from where it stands."""
    if file.seekable():
        seekable = Seekable(file)
        if seekable.size():  # some files of the system do not tell
            return seekable
    return Stream(file)
