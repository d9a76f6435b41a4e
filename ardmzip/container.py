"""The bytes of a ``.ardm`` file, version 1. docs/FORMAT.md is the specification; this module follows it.

Nothing here knows of networks: a :class:`Container` carries what the header says and the words of the rANS streams.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ardmzip.errors import FormatError
from ardmzip.order import LatticeOrder

MAGIC = b"\x9aARD"
VERSION = 1
MAX_PIXELS = 2**30
#: Bytes of a model's SHA-256 that name it.
MODEL_ID_BYTES = 4
MAX_SIDE_INFO = 255
#: Batches of learning heads that a file may list.
MAX_BATCHES = 1 << 16

_FLAG_GRAY, _FLAG_PHASE_Y, _FLAG_PHASE_X, _FLAG_LEARNING = 1, 2, 4, 8
_KNOWN_FLAGS = _FLAG_GRAY | _FLAG_PHASE_Y | _FLAG_PHASE_X | _FLAG_LEARNING
_CRITICAL = 0x80
_END, _SIDE_INFO, _SCHEDULE, _STREAM, _BATCHES = 0x00, 0x81, 0x82, 0x83, 0x87
#: In the order in which they stand in a file.
_CHUNK_NAMES = {_SIDE_INFO: "side information", _SCHEDULE: "schedule", _BATCHES: "batches", _STREAM: "stream"}
_CHUNK_PLACES = {kind: place for place, kind in enumerate(_CHUNK_NAMES)}
_VARINT_BYTES = 5
_VARINT_LIMIT = 2**31
_CRC_BYTES = 4


@dataclass(frozen=True, eq=False)  # arrays have no single truth value, so a generated == could not work
class Container:
    """What a ``.ardm`` file says.

    ``calls`` holds the indices of the atoms (docs/FORMAT.md, "Order") at which network calls begin, the first being 0;
    None means that every atom is a call of its own. ``segments`` are the rANS streams, ``uint32`` words each.
    """

    width: int
    height: int
    channels: int
    phase: tuple[int, int]
    model_id: bytes
    side_info: bytes
    calls: tuple[int, ...] | None
    segments: tuple[np.ndarray, ...]
    pixel_crc: int
    #: Whether the heads learn while coding.
    learning: bool = False
    #: For learning heads: pixels seen at the ends of their batches, rising; None means the rule of learning.batches.
    batch_ends: tuple[int, ...] | None = None

    @property
    def order(self) -> LatticeOrder:
        """The order in which the pixels are coded."""
        return LatticeOrder(self.height, self.width, self.channels, self.phase)

    @property
    def call_starts(self) -> tuple[int, ...]:
        """``calls``, written out where it is None."""
        return tuple(range(len(self.order.atoms))) if self.calls is None else self.calls

    @property
    def network_calls(self) -> int:
        """How often the network is called: the calls that code at least one sub-pixel."""
        starts, sizes = self.call_starts, self.order.sizes()
        return sum(bool(sizes[start:end].any()) for start, end in pairwise((*starts, len(sizes))))


def is_ardm(prefix: bytes | memoryview) -> bool:
    """Whether data that begins with ``prefix`` (4 bytes or more) is meant to be a ``.ardm`` file.

    >>> is_ardm(b"\\x9aARD\\x01")
    True
    >>> is_ardm(b"\\x89PNG")
    False
    """
    return bytes(prefix[: len(MAGIC)]) == MAGIC


def pack(c: Container) -> bytes:
    """The file of a container. A schedule that makes every atom its own call is left out, as the format allows.

    >>> words = np.arange(40, dtype=np.uint32)
    >>> file = pack(Container(32, 32, 3, (0, 0), b"\\1\\2\\3\\4", b"", None, (words,), pixel_crc=0))
    >>> len(file) - words.nbytes
    24
    >>> unpack(file).segments[0].tolist() == words.tolist()
    True
    """
    atoms = _check_content(c)
    flags = (
        (_FLAG_GRAY if c.channels == 1 else 0)
        | (_FLAG_PHASE_Y if c.phase[0] else 0)
        | (_FLAG_PHASE_X if c.phase[1] else 0)
        | (_FLAG_LEARNING if c.learning else 0)
    )
    parts = [MAGIC, bytes([VERSION, flags]), _varint(c.width), _varint(c.height), c.model_id]
    if c.side_info:
        parts += _chunk(_SIDE_INFO, c.side_info)
    if c.calls is not None and len(c.calls) < atoms:
        parts += _chunk(_SCHEDULE, _bitmask(c.calls, atoms))
    if c.batch_ends is not None:
        parts += _chunk(_BATCHES, b"".join(map(_varint, np.diff(c.batch_ends, prepend=0).tolist())))
    for words in c.segments:
        parts += _chunk(_STREAM, words.astype("<u4").tobytes())
    parts += [bytes([_END]), c.pixel_crc.to_bytes(_CRC_BYTES, "little")]
    body = b"".join(parts)
    return body + zlib.crc32(body).to_bytes(_CRC_BYTES, "little")


def unpack(data: bytes | memoryview, max_pixels: int = MAX_PIXELS) -> Container:
    """The container of a file, or FormatError with one line that says what is wrong.

    Magic and version come first, so that other files and newer versions are named as such; then the checksum of the
    file, so that damage anywhere is called damage; what is refused after that was written wrongly, or by a newer
    writer.
    """
    view = memoryview(data).cast("B")
    _check_envelope(view)
    reader = _Reader(view[len(MAGIC) + 1 : -_CRC_BYTES])
    flags = reader.byte()
    if flags & ~_KNOWN_FLAGS:
        raise FormatError(f"reserved flag bits are set (flags 0x{flags:02x}): the file needs a newer ardmzip")
    width, height = reader.size("width"), reader.size("height")
    if width * height > max_pixels:
        limit = f"the limit of {max_pixels} pixels (--max-pixels)"
        raise FormatError(f"an image of {width} x {height} pixels is over {limit}")
    channels = 1 if flags & _FLAG_GRAY else 3
    phase = (int(bool(flags & _FLAG_PHASE_Y)), int(bool(flags & _FLAG_PHASE_X)))
    try:
        atoms = len(LatticeOrder(height, width, channels, phase).atoms)
    except ValueError as error:
        raise FormatError(f"invalid header: {error}") from error
    model_id = bytes(reader.take(MODEL_ID_BYTES))
    chunks = _read_chunks(reader)
    pixel_crc = int.from_bytes(reader.take(_CRC_BYTES), "little")
    if reader.left():
        raise FormatError(f"{reader.left()} stray bytes after the end marker")

    side_info, calls, batch_ends, segments = b"", None, None, []
    learning = bool(flags & _FLAG_LEARNING)
    for kind, payload in chunks:
        if kind == _SIDE_INFO:
            if not 1 <= len(payload) <= MAX_SIDE_INFO:
                raise FormatError(f"side information of {len(payload)} bytes, not 1 to {MAX_SIDE_INFO}")
            side_info = bytes(payload)
        elif kind == _SCHEDULE:
            calls = _calls(payload, atoms)
        elif kind == _BATCHES:
            if not learning:
                raise FormatError("batches of a learning head in a file without one")
            batch_ends = _batch_ends(_Reader(payload))
        else:
            if len(payload) % 4:
                raise FormatError(f"a stream of {len(payload)} bytes is not made of 32-bit words")
            segments.append(np.frombuffer(payload, dtype="<u4").astype(np.uint32))  # aligned, unlike the payload
    if not segments:
        raise FormatError("the file holds no stream")
    return Container(
        width, height, channels, phase, model_id, side_info, calls, tuple(segments), pixel_crc, learning, batch_ends
    )  # fmt: skip


def _check_envelope(view: memoryview) -> None:
    start = bytes(view[: len(MAGIC)])
    if start != MAGIC:
        if start and MAGIC.startswith(start):
            raise FormatError(f"truncated: the file ends after {len(start)} bytes")
        raise FormatError("not an .ardm file: wrong magic" if start else "not an .ardm file: it is empty")
    if len(view) == len(MAGIC):
        raise FormatError(f"truncated: the file ends after {len(start)} bytes")
    version = view[len(MAGIC)]
    if version != VERSION:
        raise FormatError(f"unknown .ardm version {version}: this ardmzip reads version {VERSION}")
    body, stored = view[:-_CRC_BYTES], view[-_CRC_BYTES:]
    if len(body) <= len(MAGIC) or zlib.crc32(body) != int.from_bytes(stored, "little"):
        raise FormatError("damaged or truncated: file checksum does not match")


def _read_chunks(reader: _Reader) -> list[tuple[int, memoryview]]:
    """The known chunks up to the end marker; their order is checked here, their contents are not."""
    chunks: list[tuple[int, memoryview]] = []
    last = 0
    while (kind := reader.byte()) != _END:
        payload = reader.take(reader.varint("chunk length"))
        if kind not in _CHUNK_NAMES:
            if kind & _CRITICAL:
                raise FormatError(f"unknown critical chunk 0x{kind:02x}: the file needs a newer ardmzip")
            continue
        if chunks and (_CHUNK_PLACES[kind] < _CHUNK_PLACES[last] or (kind == last and kind != _STREAM)):
            problem = "repeated" if kind == last else f"after the {_CHUNK_NAMES[last]} chunk"
            raise FormatError(f"misplaced {_CHUNK_NAMES[kind]} chunk: {problem}")
        last = kind
        chunks.append((kind, payload))
    return chunks


class _Reader:
    """Reads a buffer from front to back and never past its end."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def left(self) -> int:
        return len(self._view) - self._at

    def take(self, count: int) -> memoryview:
        if count > self.left():
            raise FormatError(f"the file ends too early: {count} bytes expected, {self.left()} left")
        self._at += count
        return self._view[self._at - count : self._at]

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self, what: str) -> int:
        value = 0
        for position in range(_VARINT_BYTES):
            byte = self.byte()
            value |= (byte & 0x7F) << (7 * position)
            if byte < 0x80:
                if byte == 0 and position > 0:
                    raise FormatError(f"{what}: the number is not in its shortest form")
                if value >= _VARINT_LIMIT:
                    break
                return value
        raise FormatError(f"{what}: the number is too large")

    def size(self, what: str) -> int:
        value = self.varint(what)
        if value == 0:
            raise FormatError(f"{what}: must not be 0")
        return value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _chunk(kind: int, payload: bytes) -> list[bytes]:
    if len(payload) >= _VARINT_LIMIT:
        raise ValueError(f"a {_CHUNK_NAMES[kind]} chunk of {len(payload)} bytes is too long")
    return [bytes([kind]), _varint(len(payload)), payload]


def _bitmask(calls: tuple[int, ...], atoms: int) -> bytes:
    bits = np.zeros(atoms, dtype=np.uint8)
    bits[list(calls)] = 1
    return np.packbits(bits, bitorder="little").tobytes()


def _calls(mask: memoryview, atoms: int) -> tuple[int, ...]:
    if atoms == 0 or len(mask) != (atoms + 7) // 8:
        raise FormatError(f"a schedule of {len(mask)} bytes does not fit an image of {atoms} atoms")
    bits = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), bitorder="little")
    if not bits[0]:
        raise FormatError("the schedule does not begin at the first atom")
    if bits[atoms:].any():
        raise FormatError("the schedule has unused bits that are not zero")
    return tuple(np.flatnonzero(bits).tolist())


def _batch_ends(reader: _Reader) -> tuple[int, ...]:
    ends: list[int] = []
    while reader.left():
        if len(ends) == MAX_BATCHES:
            raise FormatError(f"more than {MAX_BATCHES} batches")
        ends.append(reader.size("batch") + (ends[-1] if ends else 0))
    if not ends:
        raise FormatError("an empty list of batches")
    return tuple(ends)


def _check_content(c: Container) -> int:
    """Refuse with ValueError what the format cannot hold; else the number of atoms."""
    if max(c.width, c.height) >= _VARINT_LIMIT:
        raise ValueError(f"an image of {c.width} x {c.height} pixels is too large")
    atoms = len(c.order.atoms)  # also checks sizes, channels and phase
    if len(c.model_id) != MODEL_ID_BYTES:
        raise ValueError(f"a model id has {MODEL_ID_BYTES} bytes, not {len(c.model_id)}")
    if len(c.side_info) > MAX_SIDE_INFO:
        raise ValueError(f"side information has at most {MAX_SIDE_INFO} bytes, not {len(c.side_info)}")
    if c.calls is not None and (list(c.calls) != sorted(set(c.calls)) or c.calls[:1] != (0,)[:atoms]):
        raise ValueError("calls must begin with atom 0 and rise")
    if c.calls and c.calls[-1] >= atoms:
        raise ValueError(f"a call begins at atom {c.calls[-1]}, but there are {atoms}")
    if c.batch_ends is not None:
        sizes = np.diff(c.batch_ends, prepend=0)
        if (
            not c.learning
            or not 1 <= len(sizes) <= MAX_BATCHES
            or not (1 <= sizes.min() <= sizes.max() < _VARINT_LIMIT)
        ):
            raise ValueError("batches need a learning head, and their ends must rise, by less than 2**31 each")
    if not c.segments:
        raise ValueError("a file needs at least one stream")
    if any(words.dtype != np.uint32 or words.ndim != 1 for words in c.segments):
        raise ValueError("a stream is a one-dimensional array of uint32 words")
    if not 0 <= c.pixel_crc < 2**32:
        raise ValueError("the pixel checksum is an unsigned 32-bit number")
    return atoms
