"""Numbers of varying length (docs/FORMAT.md), and reading bytes from front to back."""

from __future__ import annotations

import zlib

from ardmzip.errors import CutOffError, FormatError
from ardmzip.filebytes import Buffer, Source

_BYTES = 5
LIMIT = 2**31


def varint(value: int) -> bytes:
    """LEB128.

    >>> varint(5), varint(300)
    (b'\\x05', b'\\xac\\x02')
    """
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Reader:
    """Reads bytes from front to back and never past their end: a buffer, or a source, of which nothing is read but what
    is taken.

    end: where a source's bytes end; None: they may go on, and it is found out by reading that they do not.
    """

    def __init__(self, data: memoryview | Source, at: int = 0, end: int | None = None) -> None:
        if isinstance(data, memoryview):
            end = len(data) if end is None else end
        self._source: Source = Buffer(data) if isinstance(data, memoryview) else data
        self._end = end
        #: The place of the next byte.
        self.at = at
        #: CRC-32 of what has been taken.
        self.crc = 0

    def left(self) -> int:
        """Bytes up to the end, which must be known."""
        assert self._end is not None, "the end is not known"
        return self._end - self.at

    def take(self, count: int) -> memoryview:
        """The next bytes."""
        self.require(count)
        data = memoryview(self._source.read(self.at, count))
        if len(data) < count:
            ends, least = self.at + len(data), self.at + count
            raise CutOffError(f"cut off: the file ends after {ends} bytes, and {least} or more are needed")
        self.at += count
        self.crc = zlib.crc32(data, self.crc)
        return data

    def within(self, count: int) -> Reader:
        """Reads the next bytes alone; this reader stays where it is."""
        self.require(count)
        return Reader(self._source, self.at, self.at + count)

    def require(self, count: int) -> None:
        """Raise FormatError if the end is known and fewer bytes are left."""
        if self._end is not None and count > self.left():
            raise FormatError(f"the file ends too early: {count} bytes expected, {self.left()} left")

    def finish(self, what: str) -> None:
        """Raise FormatError if the end is known and something is left, behind ``what``."""
        if self._end is not None and self.left():
            raise FormatError(f"{self.left()} stray bytes after {what}")

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self, what: str) -> int:
        value = 0
        for position in range(_BYTES):
            byte = self.byte()
            value |= (byte & 0x7F) << (7 * position)
            if byte < 0x80:
                if byte == 0 and position > 0:
                    raise FormatError(f"{what}: the number is not in its shortest form")
                if value >= LIMIT:
                    break
                return value
        raise FormatError(f"{what}: the number is too large")

    def size(self, what: str) -> int:
        value = self.varint(what)
        if value == 0:
            raise FormatError(f"{what}: must not be 0")
        return value
