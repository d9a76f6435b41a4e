"""The bytes of a ``.ardm`` file, version 1. docs/FORMAT.md is the specification; this module follows it.

Nothing here knows of networks: a :class:`Container` carries what the header says and the words of the rANS streams. A
file is a header and a *body*, the coded samples of a rectangle of pixels; ``pack_body`` and ``unpack_body`` turn a body
alone to bytes and back.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, pairwise

import numpy as np

from ardmzip import codes, streams, tiling
from ardmzip.ardm.order import RandomOrder
from ardmzip.errors import CutOffError, FormatError, OptionError
from ardmzip.filebytes import Buffer, Source
from ardmzip.order import LatticeOrder
from ardmzip.pixelformat import PixelFormat
from ardmzip.tiling import Rectangle
from ardmzip.varint import LIMIT, Reader, varint

MAGIC = b"\x9aARD"
VERSION = 1
#: Of the short form, in which a header and a stream are all: it stands for magic and version.
SHORT_MAGIC = b"\x9as"
MAX_PIXELS = 2**30
#: Bytes of a model's SHA-256 that name it; in the short form.
MODEL_ID_BYTES, SHORT_ID_BYTES = 4, 2
#: In place of a model's id, where nothing is coded by a model.
NO_MODEL = bytes(MODEL_ID_BYTES)
MAX_SIDE_INFO = 255
#: Batches of learning heads that a file may list.
MAX_BATCHES = 1 << 16

#: Of the short form: most pixels, as they are decoded before damage shows; and lowest bytes of a CRC-32.
MAX_SHORT_PIXELS, SHORT_CRC_BYTES = 1 << 14, 3
SHORT_CRC = (1 << 8 * SHORT_CRC_BYTES) - 1

GRAY, _FLAG_PHASE_Y, _FLAG_PHASE_X, _FLAG_LEARNING, _FLAG_SQUARE, _FLAG_CODE, _FLAG_TURNED = 1, 2, 4, 8, 16, 32, 64
_BODY_FLAGS = GRAY | _FLAG_PHASE_Y | _FLAG_PHASE_X | _FLAG_LEARNING | _FLAG_CODE | _FLAG_TURNED
_CRITICAL = 0x80
_END, FORMAT, _METADATA, _SIDE_INFO, SCHEDULE, BATCHES, STREAM = 0x00, 0x88, 0x05, 0x81, 0x82, 0x87, 0x83
_STORED, _LOW_BITS, _ALPHA = 0x89, 0x8A, 0x86
_LEVELS, _TILING, _HEAD, _TILE, _RANDOM = 0x0B, 0x8B, 0x0D, 0x8C, 0x8E
_CHANGES = 0x84
#: In the order in which they stand in a body.
_BODY_NAMES = {
    _RANDOM: "random order", _SIDE_INFO: "side information", SCHEDULE: "schedule", BATCHES: "batches",
    STREAM: "stream",
    _STORED: "stored samples", _LOW_BITS: "low bits", _ALPHA: "alpha",
}  # fmt: skip
#: The same of a tile, and of a file.
_TILE_NAMES = {_LEVELS: "level checksums"} | _BODY_NAMES
_FILE_NAMES = {
    FORMAT: "format", _METADATA: "metadata", _TILING: "tiling", _CHANGES: "changes", _HEAD: "head checksum",
    _TILE: "tile", **_TILE_NAMES,
}  # fmt: skip
_REPEATED = (STREAM, _TILE)
#: What stands before the coded samples of a file.
_HEAD_KINDS = (FORMAT, _METADATA, _TILING, _CHANGES, _HEAD)
_CRC_BYTES = 4
_RELATIVE = 0x80  # flag of low bits


@dataclass(frozen=True)
class Part:
    """What is wanted of an image: every 2**level-th row and column, counted from the lattice phase, or the pixels of a
    region; or, without either, all of it."""

    level: int = 0
    #: In place of a level: the finest one that has at most so many pixels a side.
    side: int | None = None
    region: Rectangle | None = None

    def of(self, order: LatticeOrder) -> Part:
        """The same without ``side``, of an image of this order; raises OptionError for a region outside the image."""
        if self.side is not None:
            levels = range(order.levels)
            return Part(next((n for n in levels if max(order.level_shape(n)) <= self.side), order.levels))
        if self.region is not None and self.region.overlap(Rectangle(0, 0, order.height, order.width)) != self.region:
            top, left, height, width = self.region
            where = f"{width} x {height} pixels at {left},{top}"
            raise OptionError(f"a region of {where} is not within {order.width} x {order.height}")
        return self


WHOLE = Part()


@dataclass(frozen=True, eq=False)
class LowBits:
    """How 16-bit samples are made of the *high* ones, which the body codes, and others.

    sample = (high << count | low) << shift, where the low ones have ``count`` bits and are coded in ``body``; None if
    ``count`` is 0. With ``relative``, which needs 8 bits, that is low - high modulo 256.
    """

    count: int
    shift: int
    relative: bool
    body: Container | None


@dataclass(frozen=True, eq=False)  # arrays have no single truth value, so a generated == could not work
class Container:
    """What a ``.ardm`` file says, or a tile of it, which has neither format nor metadata, or a body within one of them,
    which has no checksums either.

    The pixels of a file are cut into ``tiles`` of the size ``tile``, or they are one body.
    The samples of the colours, 1 or 3 channels, are either coded by the model or stored. In a model's picture ``calls``
    holds the indices of the atoms (docs/FORMAT.md, "Order") at which network calls begin, the first being 0; None means
    that every atom is a call of its own. ``segments`` are the rANS streams, ``uint32`` words each.
    """

    width: int
    height: int
    channels: int
    phase: tuple[int, int]
    model_id: bytes
    side_info: bytes
    calls: tuple[int, ...] | None
    segments: tuple[np.ndarray, ...]
    pixel_crc: int | None
    #: Whether the heads learn while coding.
    learning: bool = False
    #: Whether the stream begins with the number of a code (codes.py).
    code: bool = False
    #: Whether it then tells how the picture is laid out (image.turned).
    turned: bool = False
    #: For learning heads: pixels seen at the ends of their batches, rising; None means the rule of streams.batches.
    batch_ends: tuple[int, ...] | None = None
    #: Payload of a general coder (stored.py) in place of a model's picture: of the alpha and the low bits too, where
    #: these have no body of their own.
    stored: bytes | memoryview | None = None
    #: Of samples of 16 bits, unless they are stored as a whole.
    low: LowBits | None = None
    #: The body of the alpha or padding samples, unless they are stored with the colours.
    alpha: Container | None = None
    #: Whether it has the short form, and so only the bits SHORT_CRC of ``pixel_crc``, and two bytes of ``model_id``.
    short: bool = False
    #: None means plain 8-bit gray or RGB.
    format: PixelFormat | None = None
    #: Payload of the metadata chunk (metadata.py), None without one.
    metadata: bytes | None = None
    #: CRC-32 of the samples known before each level of LatticeOrder.cuts; () if they were not written.
    level_crcs: tuple[int, ...] = ()
    #: Height and width of tiles; None: the file has one body.
    tile: tuple[int, int] | None = None
    #: As tiling.grid lists them.
    tiles: tuple[Container, ...] = ()
    #: Changes of the model (changes.py), None without them.
    changes: bytes | None = None
    #: Bytes by which they make the rest of the file smaller.
    saved: int = 0
    #: The random order, if the model codes in one (ardm); None: the lattice order.
    random: RandomOrder | None = None
    #: What of the file was read: there may be no streams of finer levels and no pixel checksum, nor other tiles than
    #: those of a region.
    part: Part = WHOLE

    def agrees(self, crc: int) -> bool:
        """Whether pixels of this CRC-32 are those of the file, as far as it tells: it may have no checksum, and the
        short form has the lowest bits alone."""
        return self.pixel_crc is None or (crc ^ self.pixel_crc) & (SHORT_CRC if self.short else 2**32 - 1) == 0

    @property
    def pixel_format(self) -> PixelFormat:
        """``format``, written out where it is None."""
        return self.format or PixelFormat("gray" if self.channels == 1 else "RGB")

    @property
    def parts(self) -> Iterator[Container]:
        """This body and those within it, or those of its tiles."""
        if self.tile is not None:
            for tile in self.tiles:
                yield from tile.parts
            return
        yield self
        if self.low is not None and self.low.body is not None:
            yield from self.low.body.parts
        if self.alpha is not None:
            yield from self.alpha.parts

    @property
    def places(self) -> list[Rectangle]:
        """Where the tiles lie."""
        return [] if self.tile is None else tiling.grid(self.height, self.width, self.tile, self.part.region)

    @property
    def uses_model(self) -> bool:
        """Whether anything in it is coded by a model."""
        return any(part.stored is None for part in self.parts)

    @property
    def order(self) -> LatticeOrder:
        """The order in which the pixels are coded."""
        return LatticeOrder(self.height, self.width, self.channels, self.phase)

    @property
    def call_starts(self) -> tuple[int, ...]:
        """``calls``, written out where it is None."""
        return tuple(range(self.order.atom_count)) if self.calls is None else self.calls

    @property
    def network_calls(self) -> int:
        """How often the network is called: the calls that code at least one sub-pixel."""
        count = 0
        for part in self.parts:
            if part.random is not None:
                count += part.random.calls
            elif part.stored is None:
                starts, sizes = part.call_starts, part.order.sizes()
                count += sum(bool(sizes[start:end].any()) for start, end in pairwise((*starts, len(sizes))))
        return count


def is_ardm(prefix: bytes | memoryview) -> bool:
    """Whether data that begins with ``prefix`` (4 bytes or more) is meant to be a ``.ardm`` file, in either form.

    >>> is_ardm(b"\\x9aARD\\x01")
    True
    >>> is_ardm(b"\\x89PNG")
    False
    """
    return bytes(prefix[: len(MAGIC)]) == MAGIC or is_short(prefix)


def is_short(data: bytes | memoryview) -> bool:
    """Whether a file has the short form, whose only checksum is that of the pixels too."""
    return bytes(data[: len(SHORT_MAGIC)]) == SHORT_MAGIC


def pack(c: Container) -> bytes:
    """The file of a container, in the short form if that can hold it. A schedule that makes every atom its own call is
    left out, as the format allows.

    >>> words = np.full(40, 2**31, dtype=np.uint32)
    >>> file = pack(Container(32, 32, 3, (0, 0), b"\\1\\2\\3\\4", b"", None, (words,), pixel_crc=0))
    >>> len(file) - words.nbytes
    9
    >>> unpack(file).segments[0].tolist() == words.tolist()
    True
    """
    _check_file(c)
    if _fits_short(c):
        assert c.pixel_crc is not None
        square = c.width == c.height
        size = varint(c.width) if square else varint(c.width) + varint(c.height)
        stream = c.segments[0].astype("<u4").tobytes().rstrip(b"\0")
        flags = bytes([_flags(c) | (_FLAG_SQUARE if square else 0)])
        body = b"".join([SHORT_MAGIC, flags, size, c.model_id[:SHORT_ID_BYTES], stream])
        return body + short_checksum(body, c.pixel_crc)
    if c.short:
        raise ValueError("what the short form has of model id and checksum is not enough for the other one")
    parts = [MAGIC, bytes([VERSION]), bytes([_flags(c)]), varint(c.width), varint(c.height), c.model_id]
    if c.format is not None:
        parts += _chunk(FORMAT, c.format.to_bytes())
    if c.metadata is not None:
        parts += _chunk(_METADATA, c.metadata)
    if c.tile is not None:
        parts += _chunk(_TILING, varint(c.tile[0]) + varint(c.tile[1]))
    if c.changes is not None:
        parts += _chunk(_CHANGES, varint(c.saved) + c.changes)
    if c.tile is not None or c.level_crcs:  # parts of it can be read alone
        parts.append(bytes([_HEAD, _CRC_BYTES]))
        parts.append(_u32(zlib.crc32(b"".join(parts))))
    for tile in c.tiles:
        parts += _chunk(_TILE, b"".join([bytes([_flags(tile)]), *_sealed_chunks(tile)]))
    parts += _sealed_chunks(c)
    body = b"".join(parts)
    return body + _u32(zlib.crc32(body))


def short_checksum(body: bytes | memoryview, pixel_crc: int) -> bytes:
    """What ends a file in the short form, by the bytes before it and the CRC-32 of the pixels."""
    return (zlib.crc32(body) & SHORT_CRC ^ pixel_crc & SHORT_CRC).to_bytes(SHORT_CRC_BYTES, "little")


def _fits_short(c: Container) -> bool:
    """Whether the short form holds it: few pixels, and a stream is all that there is beside the header."""
    beside = c.tile, c.format, c.metadata, c.changes
    if c.width * c.height > MAX_SHORT_PIXELS or c.level_crcs or any(part is not None for part in beside):
        return False
    kind, *rest = _body_chunks(c)
    # the zeros that a stream ends with would be lost
    return kind == bytes([STREAM]) and len(rest) == 2 and bool(c.segments[0][-1:].all())


def _sealed_chunks(c: Container) -> list[bytes]:
    """The chunks of the body of a file or a tile, the end marker and the pixel checksum."""
    levels = _chunk(_LEVELS, b"".join(map(_u32, c.level_crcs))) if c.level_crcs else []
    assert c.pixel_crc is not None
    return [*levels, *_body_chunks(c), bytes([_END]), _u32(c.pixel_crc)]


def outline(file: bytes | memoryview | Source) -> tuple[int, list[tuple[int, int]]]:
    """Where the chunks of a file begin, and the type and the end of each; only the places are looked at.

    Behind the last one there are the end marker and two checksums. The short form has no chunks: its stream begins
    there.
    """
    reader = Reader(file if isinstance(file, Source) else memoryview(file).cast("B"))
    short = _take_magic(reader)
    take_sides(reader, reader.byte(), short)
    reader.take(SHORT_ID_BYTES if short else MODEL_ID_BYTES)
    first = reader.at
    chunks: list[tuple[int, int]] = []
    while not short and (kind := reader.byte()) != _END:
        reader.take(reader.varint("chunk length"))
        chunks.append((kind, reader.at))
    return first, chunks


def _u32(number: int) -> bytes:
    return number.to_bytes(_CRC_BYTES, "little")


def pack_body(c: Container) -> bytes:
    """The body alone: flags, chunks and end marker."""
    _check_body(c)
    return b"".join([bytes([_flags(c)]), *_body_chunks(c), bytes([_END])])


def _flags(c: Container) -> int:
    return (
        (GRAY if c.channels == 1 else 0)
        | (_FLAG_PHASE_Y if c.phase[0] else 0)
        | (_FLAG_PHASE_X if c.phase[1] else 0)
        | (_FLAG_LEARNING if c.learning else 0)
        | (_FLAG_CODE if c.code else 0)
        | (_FLAG_TURNED if c.turned else 0)
    )


def _body_chunks(c: Container) -> list[bytes]:
    parts: list[bytes] = []
    if c.tile is not None:
        return parts
    if c.stored is not None:
        parts += _chunk(_STORED, c.stored)
    else:
        atoms = c.order.atom_count
        if c.random is not None:
            parts += _chunk(_RANDOM, b"".join(map(varint, (c.random.kind, c.random.seed, c.random.calls))))
        if c.side_info:
            parts += _chunk(_SIDE_INFO, c.side_info)
        if c.calls is not None and len(c.calls) < atoms:
            parts += _chunk(SCHEDULE, _bitmask(c.calls, atoms))
        if c.batch_ends is not None:
            parts += _chunk(BATCHES, b"".join(map(varint, np.diff(c.batch_ends, prepend=0).tolist())))
        for words in c.segments:
            parts += _chunk(STREAM, words.astype("<u4").tobytes())
    if c.low is not None:
        head = bytes([c.low.count | (_RELATIVE if c.low.relative else 0), c.low.shift])
        parts += _chunk(_LOW_BITS, head if c.low.body is None else head + pack_body(c.low.body))
    if c.alpha is not None:
        parts += _chunk(_ALPHA, pack_body(c.alpha))
    return parts


def unpack(data: bytes | memoryview | Source, max_pixels: int = MAX_PIXELS, part: Part = WHOLE) -> Container:
    """The container of a file, or FormatError with one line that says what is wrong.

    part: what of the image is wanted. If the file has a checksum of its head, only what this needs is read, and what
    stands behind may be cut off; CutOffError tells that something is missing that is needed. Else the checksum of the
    file is compared; in the short form it is one with that of the pixels, so nothing is compared yet.

    Magic and version come first, so that other files and newer versions are named as such; then the checksum of the
    file, so that damage anywhere is called damage; what is refused after that was written wrongly, or by a newer
    writer.
    """
    source = data if isinstance(data, Source) else Buffer(data)
    _check_version(source.read(0, len(MAGIC) + 1 + _CRC_BYTES))
    wanted = part
    if part != WHOLE:
        reader = Reader(source)
        header = _read_header(reader, max_pixels)
        wanted = part.of(header.order)
        if wanted != WHOLE and not header.short:
            head = _read_head(reader, header)
            if _HEAD in head.found:
                return _contents(reader, head, wanted)
    view = memoryview(source.everything()).cast("B")
    short = is_short(view)
    if not short and zlib.crc32(view[:-_CRC_BYTES]) != _file_crc(view):
        if part != WHOLE:
            _check_complete(view)
        raise FormatError("damaged or truncated: file checksum does not match")
    reader = Reader(view[: -SHORT_CRC_BYTES if short else -_CRC_BYTES])
    header = _read_header(reader, max_pixels)
    if short:
        return replace(_short(reader, view, header), part=wanted)
    return _contents(reader, _read_head(reader, header), wanted)


@dataclass(frozen=True)
class _Header:
    """What every file begins with."""

    short: bool
    flags: int
    width: int
    height: int
    model_id: bytes

    @property
    def channels(self) -> int:
        return 1 if self.flags & GRAY else 3

    @property
    def order(self) -> LatticeOrder:
        return LatticeOrder(self.height, self.width, self.channels, _phase(self.flags))


def _take_magic(reader: Reader) -> bool:
    """Go behind magic and version, which are known to be right; whether they are those of the short form."""
    short = is_short(reader.take(len(SHORT_MAGIC)))
    if not short:
        reader.take(len(MAGIC) + 1 - len(SHORT_MAGIC))
    return short


def take_sides(reader: Reader, flags: int, short: bool) -> tuple[int, int]:
    """Width and height of a header with these flags."""
    width = reader.size("width")
    if short and flags & _FLAG_SQUARE:
        return width, width
    height = reader.size("height")
    if short and width == height:
        raise FormatError("damaged: a square image with a height")
    return width, height


def _read_header(reader: Reader, max_pixels: int) -> _Header:
    short = _take_magic(reader)
    flags = _read_flags(reader, _BODY_FLAGS | (_FLAG_SQUARE if short else 0))
    width, height = take_sides(reader, flags, short)
    flags &= _BODY_FLAGS
    if width * height > max_pixels:
        limit = f"the limit of {max_pixels} pixels (--max-pixels)"
        raise FormatError(f"an image of {width} x {height} pixels is over {limit}")
    _check_phase(flags, width, height)
    return _Header(short, flags, width, height, bytes(reader.take(SHORT_ID_BYTES if short else MODEL_ID_BYTES)))


@dataclass(frozen=True)
class _Head:
    """A header, the payloads of the chunks that stand before the coded samples, and the chunks to come."""

    header: _Header
    found: Mapping[int, memoryview]
    chunks: Iterator[tuple[int, int]]


def _read_head(reader: Reader, header: _Header) -> _Head:
    found: dict[int, memoryview] = {}
    chunks = _read_chunks(reader, _FILE_NAMES)
    for kind, length in chunks:
        if kind not in _HEAD_KINDS:
            return _Head(header, found, chain([(kind, length)], chunks))
        crc = reader.crc
        found[kind] = reader.take(length)
        if kind == _HEAD:
            _check_head_crc(crc, found[kind])
    return _Head(header, found, iter(()))


def _contents(reader: Reader, head: _Head, part: Part) -> Container:
    """The container of a file that is read up to the coded samples."""
    header, found = head.header, head.found
    described = PixelFormat.from_bytes(found[FORMAT]) if FORMAT in found else None
    if described is not None and described.colours != header.channels:
        raise FormatError(f"{described.title} samples in a file of {header.channels} channels")
    extra, depth = (described.extra, described.depth) if described is not None else (False, 8)
    frame = _Frame(header.flags, header.width, header.height, extra, depth, header.model_id)
    if _TILING in found:
        body = _tiles(reader, head, frame, part)
    else:
        body = _body(reader, head.chunks, frame, part.level, sealed=True)
    if not body.uses_model and header.model_id != NO_MODEL and part.region is None:
        raise FormatError("the file names a model, but uses none")
    metadata = bytes(found[_METADATA]) if _METADATA in found else None
    changes, saved = None, 0
    if _CHANGES in found:
        if not body.uses_model and part.region is None:
            raise FormatError("changes of a model in a file that uses none")
        within = Reader(found[_CHANGES])
        saved = within.varint("bytes saved by changes")
        changes = bytes(within.take(within.left()))
    return replace(body, format=described, metadata=metadata, changes=changes, saved=saved, part=part)


def _short(reader: Reader, view: memoryview, header: _Header) -> Container:
    """The container of a file in the short form, read up to its stream."""
    if header.width * header.height > MAX_SHORT_PIXELS:
        raise FormatError(f"damaged: {header.width} x {header.height} pixels in the short form")
    stream = bytes(reader.take(reader.left()))
    if stream.endswith(b"\0"):
        raise FormatError("damaged or truncated: the stream ends with 0")
    code, turned = _code_flags(header.flags, header.height, header.width)
    words = np.frombuffer(stream + bytes(-len(stream) % 4), "<u4")
    checksum = int.from_bytes(view[-SHORT_CRC_BYTES:], "little")
    pixel_crc = checksum ^ zlib.crc32(view[:-SHORT_CRC_BYTES]) & SHORT_CRC
    return Container(
        header.width, header.height, header.channels, _phase(header.flags), header.model_id, b"", None, (words,),
        pixel_crc, bool(header.flags & _FLAG_LEARNING), code, turned, short=True,
    )  # fmt: skip


@dataclass(frozen=True)
class _Frame:
    """What is known of a body before it is read. extra: whether alpha or padding is among its samples, which have
    ``depth`` bits."""

    flags: int
    width: int
    height: int
    extra: bool
    depth: int
    model_id: bytes

    @property
    def channels(self) -> int:
        return 1 if self.flags & GRAY else 3


def _tiles(reader: Reader, head: _Head, frame: _Frame, part: Part) -> Container:
    """The container of a file of tiles, with those that are wanted."""
    within = Reader(head.found[_TILING])
    tile = within.size("tile height"), within.size("tile width")
    if within.left() or tile[0] % tiling.UNIT or tile[1] % tiling.UNIT:
        raise FormatError(f"tiles of {tile[1]} x {tile[0]} pixels: sides must be multiples of {tiling.UNIT}")
    if frame.flags & (_FLAG_LEARNING | _FLAG_CODE | _FLAG_TURNED):
        raise FormatError("learning, codes and turns are a matter of each tile")
    top, left, rows, columns = part.region or Rectangle(0, 0, frame.height, frame.width)
    count = tiling.number(top + rows - 1, left + columns - 1, frame.width, tile) + 1
    found: list[Reader] = []
    pixel_crc = None
    for kind, length in head.chunks:
        if kind != _TILE:
            raise FormatError(f"a {_FILE_NAMES[kind]} chunk beside tiles")
        found.append(reader.within(length))
        if part != WHOLE and len(found) == count:
            break  # the rest is not needed
    else:
        pixel_crc = _pixel_crc(reader)
    if len(found) != count:
        what = f"{frame.width} x {frame.height} pixels"
        raise FormatError(f"{len(found)} tiles of {tile[1]} x {tile[0]} do not make {what}")
    tiles = []
    for top, left, rows, columns in tiling.grid(frame.height, frame.width, tile, part.region):
        own = found[tiling.number(top, left, frame.width, tile)]
        flags = _read_inner_flags(own, frame.channels, _phase(frame.flags))
        _check_phase(flags, columns, rows)
        place = replace(frame, flags=flags, width=columns, height=rows)
        tiles.append(_body(own, _read_chunks(own, _TILE_NAMES), place, min(part.level, tiling.LEVELS), sealed=True))
    return Container(
        frame.width, frame.height, frame.channels, _phase(frame.flags), frame.model_id, b"", None, (), pixel_crc,
        tile=tile, tiles=tuple(tiles), part=part,
    )  # fmt: skip


def _pixel_crc(reader: Reader) -> int:
    """The checksum behind an end marker, which is the last that there is."""
    crc = int.from_bytes(reader.take(_CRC_BYTES), "little")
    reader.finish("a pixel checksum")
    return crc


def unpack_body(
    data: bytes | memoryview, width: int, height: int, colours: int, extra: bool, depth: int, model_id: bytes,
    phase: tuple[int, int],
) -> Container:  # fmt: skip
    """The container of a body; raises FormatError.

    colours: 1 or 3 channels. extra: whether alpha or padding follows them. depth: bits of a sample. phase: of the file.
    """
    flags = (GRAY if colours == 1 else 0) | (_FLAG_PHASE_Y if phase[0] else 0) | (_FLAG_PHASE_X if phase[1] else 0)
    outer = _Frame(flags, width, height, extra, depth, model_id)
    return _inner_body(Reader(memoryview(data).cast("B")), outer, 0)


def _inner_body(reader: Reader, frame: _Frame, level: int) -> Container:
    """The container of a body within another one, with other flags."""
    flags = _read_inner_flags(reader, frame.channels, _phase(frame.flags))
    return _body(reader, _read_chunks(reader, _BODY_NAMES), replace(frame, flags=flags), level, sealed=False)


def _read_flags(reader: Reader, known: int) -> int:
    flags = reader.byte()
    if flags & ~known:
        raise FormatError(f"reserved flag bits are set (flags 0x{flags:02x}): the file needs a newer ardmzip")
    return flags


def _read_inner_flags(reader: Reader, colours: int, phase: tuple[int, int]) -> int:
    """The flags of a body within a file."""
    flags = _read_flags(reader, _BODY_FLAGS)
    if bool(flags & GRAY) != (colours == 1):
        raise FormatError(f"a body of the wrong number of channels (flags 0x{flags:02x})")
    if _phase(flags) != phase:
        raise FormatError(f"a body of another phase than the file (flags 0x{flags:02x})")
    return flags


def _phase(flags: int) -> tuple[int, int]:
    return int(bool(flags & _FLAG_PHASE_Y)), int(bool(flags & _FLAG_PHASE_X))


def _check_phase(flags: int, width: int, height: int) -> None:
    try:
        LatticeOrder(height, width, 1, _phase(flags))
    except ValueError as error:
        raise FormatError(f"invalid header: {error}") from error


def _code_flags(flags: int, height: int, width: int) -> tuple[bool, bool]:
    """Whether a body of a size names a code, and whether it is turned."""
    code, turned = bool(flags & _FLAG_CODE), bool(flags & _FLAG_TURNED)
    if code and not codes.suits(height, width):
        raise FormatError(f"damaged: a code for {width} x {height} pixels")
    if turned and not code:
        raise FormatError("a picture that is turned, but names no code")
    return code, turned


def _body(reader: Reader, chunks: Iterator[tuple[int, int]], frame: _Frame, level: int, sealed: bool) -> Container:
    """The container of a body.

    sealed: it is that of a file or a tile, and has checksums. level: the one that is wanted; of a body within another
    one, the one to which that is decoded. Nothing is read behind what it needs.
    """
    width, height, channels, depth = frame.width, frame.height, frame.channels, frame.depth
    order = LatticeOrder(height, width, channels, _phase(frame.flags))
    segments: list[np.ndarray] = []
    side_info, calls, batch_ends, level_crcs, pixel_crc = b"", None, None, (), None
    stored, low, alpha, random = None, None, None, None
    learning = bool(frame.flags & _FLAG_LEARNING)
    code, turned = _code_flags(frame.flags, height, width)
    decoded = 0 if sealed else level
    needed = None
    kinds = set()
    for kind, length in chunks:
        kinds.add(kind)
        if kind == STREAM:
            if length % 4:
                raise FormatError(f"a stream of {length} bytes is not made of 32-bit words")
            if decoded and needed is None:
                needed = streams.count(order, learning, batch_ends, decoded)
            if needed is None or len(segments) < needed:
                segments.append(np.frombuffer(reader.take(length), dtype="<u4"))
        elif kind == _LOW_BITS:
            if depth != 16:
                raise FormatError(f"low bits of {depth}-bit samples")
            low = _low_bits(reader.within(length), frame, decoded)
        elif kind == _ALPHA:
            if not frame.extra:
                raise FormatError("alpha in an image without it")
            inner = replace(frame, flags=frame.flags | GRAY, extra=False)
            alpha = _inner_body(reader.within(length), inner, decoded)
        elif kind != _TILE:
            payload = reader.take(length)
            if kind == _LEVELS:
                if length != _CRC_BYTES * len(order.cuts):
                    raise FormatError(f"{length} bytes of level checksums, not {_CRC_BYTES * len(order.cuts)}")
                level_crcs = tuple(np.frombuffer(payload, "<u4").tolist())
                decoded = order.checked_level(min(level, order.levels))
            elif kind == _RANDOM:
                random = _random_order(Reader(payload))
            elif kind == _SIDE_INFO:
                if not 1 <= length <= MAX_SIDE_INFO:
                    raise FormatError(f"side information of {length} bytes, not 1 to {MAX_SIDE_INFO}")
                side_info = bytes(payload)
            elif kind == SCHEDULE:
                calls = _calls(payload, order.atom_count)
            elif kind == BATCHES:
                batch_ends = _batch_ends(Reader(payload)) if learning else None
            elif kind == _STORED:
                stored = payload
        coded = stored is not None or len(segments) == needed
        if decoded and coded and (low is not None or depth != 16) and (alpha is not None or not frame.extra):
            break  # all that can be wanted is there
    else:
        if sealed:
            pixel_crc = _pixel_crc(reader)
        else:
            reader.finish("the end of a body")
    if _TILE in kinds:
        raise FormatError("tiles without a tiling chunk")
    if BATCHES in kinds and not learning:
        raise FormatError("batches of a learning head in a file without one")
    if code and kinds & {_RANDOM, _SIDE_INFO, _STORED}:
        raise FormatError("a code is for a picture of the lattice without side information")
    if random is not None and (channels == 1 or learning or kinds & {_LEVELS, _SIDE_INFO, SCHEDULE, BATCHES}):
        raise FormatError("a random order is for RGB, with nothing that belongs to the lattice order")
    if stored is not None:
        if segments or learning or kinds & {_RANDOM, _SIDE_INFO, SCHEDULE, BATCHES}:
            raise FormatError("stored samples together with a stream or what belongs to one")
    elif not segments:
        raise FormatError("the file holds no stream")
    elif frame.extra and alpha is None:
        raise FormatError("the alpha chunk is missing")
    elif depth == 16 and low is None:
        raise FormatError("the low bits are missing")
    if low is not None and frame.extra and alpha is None:
        raise FormatError("the alpha chunk is missing beside low bits")
    return Container(
        width, height, channels, _phase(frame.flags), frame.model_id, side_info, calls, tuple(segments), pixel_crc,
        learning, code, turned, batch_ends, stored, low, alpha, level_crcs=level_crcs, random=random,
    )  # fmt: skip


def _random_order(reader: Reader) -> RandomOrder:
    kind, seed, calls = reader.varint("kind"), reader.varint("seed"), reader.varint("number of calls")
    if reader.left():
        raise FormatError(f"{reader.left()} stray bytes after a random order")
    return RandomOrder(seed, calls, kind)


def _low_bits(reader: Reader, frame: _Frame, level: int) -> LowBits:
    """frame: of the body that they belong to."""
    count, shift = reader.byte(), reader.byte()
    relative, count = bool(count & _RELATIVE), count & ~_RELATIVE
    if 8 + count + shift > 16 or (relative and count != 8):
        raise FormatError(f"invalid low bits: {count} of them, shifted by {shift}")
    body = None
    if count:
        body = _inner_body(reader, replace(frame, extra=False, depth=count), level)
    else:
        reader.finish("the low bits")
    return LowBits(count, shift, relative, body)


def _check_version(view: bytes | memoryview) -> None:
    """Refuse what is no file of this version. view: the beginning of the file."""
    start = bytes(view[: len(MAGIC)])
    if is_short(start):
        if len(view) <= len(SHORT_MAGIC) + SHORT_CRC_BYTES:
            raise CutOffError(f"cut off: the file ends after {len(view)} bytes")
        return
    if start != MAGIC:
        if start and (MAGIC.startswith(start) or SHORT_MAGIC.startswith(start)):
            raise CutOffError(f"cut off: the file ends after {len(start)} bytes")
        raise FormatError("not an .ardm file: wrong magic" if start else "not an .ardm file: it is empty")
    if len(view) == len(MAGIC):
        raise CutOffError(f"cut off: the file ends after {len(start)} bytes")
    version = view[len(MAGIC)]
    if version != VERSION:
        raise FormatError(f"unknown .ardm version {version}: this ardmzip reads version {VERSION}")
    if len(view) <= len(MAGIC) + _CRC_BYTES:
        raise CutOffError(f"cut off: the file ends after {len(view)} bytes")


def _check_complete(view: memoryview) -> None:
    """Raise CutOffError if a file ends before its last checksum does."""
    source = Buffer(view)
    try:
        first, chunks = outline(source)
        Reader(source, chunks[-1][1] if chunks else first).take(1 + 2 * _CRC_BYTES)
    except CutOffError:
        raise
    except FormatError:
        return  # damage


def _file_crc(view: memoryview) -> int:
    return int.from_bytes(view[-_CRC_BYTES:], "little")


def _check_head_crc(crc: int, payload: memoryview) -> None:
    """crc: of all that stands before it."""
    if len(payload) != _CRC_BYTES:
        raise FormatError(f"a head checksum of {len(payload)} bytes")
    if crc != int.from_bytes(payload, "little"):
        raise FormatError("damaged: head checksum does not match")


def _read_chunks(reader: Reader, names: Mapping[int, str]) -> Iterator[tuple[int, int]]:
    """Kind and length of the chunks called ``names`` up to the end marker: ``reader`` stands at the payload, of which
    the caller takes what it needs. Their order is checked here, their contents are not."""
    places = {kind: place for place, kind in enumerate(names)}
    last = _END
    while (kind := reader.byte()) != _END:
        length = reader.varint("chunk length")
        reader.require(length)
        end = reader.at + length
        if kind not in names:
            if kind & _CRITICAL:
                raise FormatError(f"unknown critical chunk 0x{kind:02x}: the file needs a newer ardmzip")
            reader.take(length)  # the checksum of the head is that of all before it
            continue
        if last != _END and (places[kind] < places[last] or (kind == last and kind not in _REPEATED)):
            problem = "repeated" if kind == last else f"after the {names[last]} chunk"
            raise FormatError(f"misplaced {names[kind]} chunk: {problem}")
        last = kind
        yield kind, length
        reader.at = end


def _chunk(kind: int, payload: bytes | memoryview) -> list[bytes]:
    if len(payload) >= LIMIT:
        raise ValueError(f"a {_FILE_NAMES[kind]} chunk of {len(payload)} bytes is too long")
    return [bytes([kind]), varint(len(payload)), bytes(payload)]


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


def _batch_ends(reader: Reader) -> tuple[int, ...]:
    ends: list[int] = []
    while reader.left():
        if len(ends) == MAX_BATCHES:
            raise FormatError(f"more than {MAX_BATCHES} batches")
        ends.append(reader.size("batch") + (ends[-1] if ends else 0))
    if not ends:
        raise FormatError("an empty list of batches")
    return tuple(ends)


def _check_file(c: Container) -> None:
    """Refuse with ValueError what the format cannot hold."""
    if c.part != WHOLE:
        raise ValueError("a part of a file is no file")
    if max(c.width, c.height) >= LIMIT:
        raise ValueError(f"an image of {c.width} x {c.height} pixels is too large")
    id_bytes = SHORT_ID_BYTES if c.short else MODEL_ID_BYTES
    if len(c.model_id) != id_bytes:
        raise ValueError(f"a model id has {id_bytes} bytes, not {len(c.model_id)}")
    if not c.uses_model and c.model_id != NO_MODEL:
        raise ValueError("a file that uses no model names none")
    if c.changes is not None and not c.uses_model:
        raise ValueError("a file that uses no model changes none")
    if c.format is not None and (c.format.is_plain or c.format.colours != c.channels):
        raise ValueError(f"a format of {c.format.title} samples does not fit {c.channels} channels")
    _check_checksums(c)
    if any(part.stored is None and part.model_id != c.model_id for part in c.parts):
        raise ValueError("all parts of a file have one model")
    if c.tile is None:
        if c.tiles:
            raise ValueError("tiles without a size")
        _check_samples(c, c.pixel_format)
        _check_body(c)
        return
    fits = all(side > 0 and side % tiling.UNIT == 0 for side in c.tile)
    rectangles = tiling.grid(c.height, c.width, c.tile) if fits else []
    if len(rectangles) != len(c.tiles) or not fits:
        raise ValueError(f"{len(c.tiles)} tiles of {c.tile[1]} x {c.tile[0]} do not make {c.width} x {c.height} pixels")
    own = (c.learning, c.code, c.turned, c.side_info, c.segments, c.level_crcs)
    if any(own) or any(part is not None for part in (c.calls, c.batch_ends, c.stored, c.low, c.alpha)):
        raise ValueError("a file of tiles codes nothing itself")
    for (_, _, height, width), tile in zip(rectangles, c.tiles, strict=True):
        if (tile.height, tile.width, tile.channels, tile.phase) != (height, width, c.channels, c.phase):
            raise ValueError("a tile that does not fit its place")
        if tile.format is not None or tile.metadata is not None or tile.tile is not None:
            raise ValueError("a tile has no tiles, format or metadata of its own")
        _check_checksums(tile)
        _check_samples(tile, c.pixel_format)
        _check_body(tile)


def _check_checksums(c: Container) -> None:
    if c.pixel_crc is None or not all(0 <= crc < 2**32 for crc in (c.pixel_crc, *c.level_crcs)):
        raise ValueError("a checksum is an unsigned 32-bit number")
    if len(c.level_crcs) not in (0, len(c.order.cuts)):
        raise ValueError(f"{len(c.level_crcs)} level checksums, not {len(c.order.cuts)}")


def _check_samples(c: Container, described: PixelFormat) -> None:
    """Whether alpha and low bits are there if the format has them, and only then."""
    if (c.alpha is not None) if not described.extra else (c.alpha is None and (c.stored is None or c.low)):
        raise ValueError(f"alpha does not fit {described.title} samples")
    if (c.low is not None) if described.depth != 16 else (c.low is None and c.stored is None):
        raise ValueError(f"low bits do not fit {described.title} samples")


def _check_body(c: Container) -> None:
    atoms = c.order.atom_count  # also checks sizes, channels and phase
    inner = (c.alpha, None if c.low is None else c.low.body)
    if any(body.phase != c.phase for body in inner if body is not None):
        raise ValueError("all bodies of a file have one phase")
    if c.alpha is not None and (c.alpha.channels != 1 or c.alpha.alpha is not None):
        raise ValueError("alpha has one channel")
    low = c.low
    if low is not None and (
        not 0 <= low.count <= 8 - low.shift <= 8
        or (low.relative and low.count != 8)
        or (low.body is None) != (low.count == 0)
        or (low.body is not None and (low.body.channels != c.channels or low.body.low or low.body.alpha))
    ):
        raise ValueError("low bits that cannot be")
    if c.code and (c.side_info or c.stored is not None or c.random is not None or not codes.suits(c.height, c.width)):
        raise ValueError("a code is for a small picture of the lattice without side information")
    if c.turned and not c.code:
        raise ValueError("a picture that is turned names a code")
    lattice = c.side_info or c.calls is not None or c.learning or c.level_crcs
    if c.random is not None and (lattice or c.channels == 1 or c.stored is not None):
        raise ValueError("a random order is for RGB, with nothing that belongs to the lattice order")
    if c.stored is not None:
        if c.segments or c.side_info or c.calls is not None or c.learning:
            raise ValueError("stored samples have neither a stream nor what belongs to one")
        return
    if len(c.side_info) > MAX_SIDE_INFO:
        raise ValueError(f"side information has at most {MAX_SIDE_INFO} bytes, not {len(c.side_info)}")
    if c.calls is not None and (list(c.calls) != sorted(set(c.calls)) or c.calls[:1] != (0,)[:atoms]):
        raise ValueError("calls must begin with atom 0 and rise")
    if c.calls and c.calls[-1] >= atoms:
        raise ValueError(f"a call begins at atom {c.calls[-1]}, but there are {atoms}")
    if c.batch_ends is not None:
        sizes = np.diff(c.batch_ends, prepend=0)
        if not c.learning or not 1 <= len(sizes) <= MAX_BATCHES or not (1 <= sizes.min() <= sizes.max() < LIMIT):
            raise ValueError("batches need a learning head, and their ends must rise, by less than 2**31 each")
    if not c.segments:
        raise ValueError("a file needs at least one stream")
    if any(words.dtype.kind != "u" or words.itemsize != 4 or words.ndim != 1 for words in c.segments):
        raise ValueError("a stream is a one-dimensional array of uint32 words")
