"""Numbers of varying length (docs/FORMAT.md), and reading a buffer from front to back."""

from __future__ import annotations

from ardmzip.errors import FormatError

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
    """Reads a buffer from front to back and never past its end."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def left(self) -> int:
        return len(self._view) - self._at

    def before(self) -> memoryview:
        """What has been read."""
        return self._view[: self._at]

    def take(self, count: int) -> memoryview:
        if count > self.left():
            raise FormatError(f"the file ends too early: {count} bytes expected, {self.left()} left")
        self._at += count
        return self._view[self._at - count : self._at]

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
