"""The bytes of a ``.ardmz`` archive, version 1: head, blocks of records with their directories, index (docs/FORMAT.md).

An archive is a head, then blocks, each a directory and the records that it lists, then the index, which says where the
blocks are. What is appended follows the index, with a new one at its end; the last index that is complete counts.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ardmzip import stored
from ardmzip.archive import records
from ardmzip.errors import FormatError
from ardmzip.files import ARCHIVE_SUFFIX
from ardmzip.varint import Reader, varint

MAGIC = b"\x9aARZ"
VERSION = 1
BLOCK_MAGIC, END_MAGIC = b"\x9aBLK", b"\x9aEND"
#: A block ends with the image with which it reaches one of these: images, bytes of records.
BLOCK_IMAGES, BLOCK_BYTES = 1024, 1 << 20
#: Most bytes of an uncompressed table: what a reader takes memory for.
MAX_TABLE = 1 << 28

_HEAD = struct.Struct("<4sBI")  # magic, version, bytes of chunks
_BLOCK = struct.Struct("<4sIQI")  # magic, bytes of the directory, bytes of the records, CRC-32 of the records
_END = struct.Struct("<II4s")  # bytes of the index, its CRC-32, magic
_CRC = struct.Struct("<I")
HEAD_BYTES, BLOCK_HEAD_BYTES, END_BYTES = _HEAD.size, _BLOCK.size, _END.size
CRC_BYTES = _CRC.size

_SETTINGS = 0x01
#: A difference between models (differences.py).
_DIFFERENCE = 0x90
_CRITICAL = 0x80
_FLAG_CRITICAL_HEAD = 1
_LABELS, _METADATA, _COPIES = 1, 2, 4

Label = str | int | None


# Head


@dataclass(frozen=True)
class Head:
    """What an archive begins with.

    settings: how its images were coded, for people and for a writer that goes on. differences: payloads of differences
    between models (differences.py), by whose models images may be coded.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    differences: tuple[bytes, ...] = ()


def pack_head(content: Head) -> bytes:
    """The beginning of an archive."""
    text = json.dumps(content.settings, sort_keys=True, separators=(",", ":")).encode()
    chunks = bytes([_SETTINGS]) + varint(len(text)) + text
    for payload in content.differences:
        chunks += bytes([_DIFFERENCE]) + varint(len(payload)) + payload
    head = _HEAD.pack(MAGIC, VERSION, len(chunks)) + chunks
    return head + _CRC.pack(zlib.crc32(head))


def head_length(prefix: bytes) -> int:
    """Bytes of the whole head, by its first HEAD_BYTES; raises FormatError for what is no archive."""
    if not MAGIC.startswith(prefix[:4]) or not prefix:
        raise FormatError(f"not an {ARCHIVE_SUFFIX} archive: {'wrong magic' if prefix else 'it is empty'}")
    if len(prefix) > len(MAGIC) and prefix[len(MAGIC)] != VERSION:
        raise FormatError(
            f"unknown {ARCHIVE_SUFFIX} version {prefix[len(MAGIC)]}: this ardmzip reads version {VERSION}"
        )
    if len(prefix) < HEAD_BYTES:
        raise FormatError("truncated: the archive ends within its head")
    return HEAD_BYTES + int(_HEAD.unpack(prefix)[2]) + CRC_BYTES


def unpack_head(head: bytes) -> Head:
    """What ``pack_head`` packed; raises FormatError for damage, and for critical chunks that are not known."""
    if len(head) < head_length(head[:HEAD_BYTES]) or zlib.crc32(head[:-CRC_BYTES]) != _CRC.unpack(head[-CRC_BYTES:])[0]:
        raise FormatError("damaged or truncated: the checksum of the archive's head does not match")
    settings: dict[str, Any] = {}
    differences: list[bytes] = []
    reader = Reader(memoryview(head)[HEAD_BYTES:-CRC_BYTES])
    while reader.left():
        kind, payload = reader.byte(), reader.take(reader.varint("chunk length"))
        if kind == _SETTINGS:
            settings = _json(bytes(payload), dict)
        elif kind == _DIFFERENCE:
            differences.append(bytes(payload))
        elif kind & _CRITICAL:
            raise FormatError(f"unknown critical chunk 0x{kind:02x}: the archive needs a newer ardmzip")
    return Head(settings, tuple(differences))


def has_critical_chunks(head: bytes) -> bool:
    """Whether images cannot be decoded without the head, which must be valid."""
    reader = Reader(memoryview(head)[HEAD_BYTES:-CRC_BYTES])
    critical = False
    while reader.left():
        critical = bool(reader.byte() & _CRITICAL) or critical
        reader.take(reader.varint("chunk length"))
    return critical


def _json(text: bytes, kind: type) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise FormatError("damaged: text that is not JSON") from error
    if not isinstance(value, kind):
        raise FormatError("damaged: JSON text of the wrong kind")
    return value


# Blocks


@dataclass
class Directory:
    """What a block holds: the images of its records, column by column."""

    names: list[str] = field(default_factory=list)
    templates: list[bytes] = field(default_factory=list)
    #: Number of the template of each image.
    kinds: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    crcs: list[int] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    metadata: list[dict[str, Any] | None] = field(default_factory=list)
    #: For an image that is stored already: the name of the one whose record it shares, else empty.
    copies: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    def add(self, name: str, record: records.Record, label: Label, metadata: dict[str, Any] | None) -> None:
        """List an image whose record is the next one."""
        if record.template not in self.templates:
            self.templates.append(record.template)
        self._add(name, self.templates.index(record.template), len(record.data), record.crc, label, metadata, "")

    def add_copy(self, name: str, of: str, label: Label, metadata: dict[str, Any] | None) -> None:
        """List an image that has the record of another one, and so its template and checksum."""
        self._add(name, 0, 0, 0, label, metadata, of)

    def _add(self, *row: Any) -> None:
        columns = self.names, self.kinds, self.lengths, self.crcs, self.labels, self.metadata, self.copies
        for column, value in zip(columns, row, strict=True):
            column.append(value)  # type: ignore[attr-defined]

    def head(self, count: int) -> Directory:
        """The first images of it."""
        return Directory(
            self.names[:count], self.templates, self.kinds[:count], self.lengths[:count], self.crcs[:count],
            self.labels[:count], self.metadata[:count], self.copies[:count],
        )  # fmt: skip

    def pack(self) -> bytes:
        """The directory as it stands in a block."""
        lengths, crcs = np.array(self.lengths, np.int64), np.array(self.crcs, np.int64)
        flags = (
            (_LABELS if any(label is not None for label in self.labels) else 0)
            | (_METADATA if any(found is not None for found in self.metadata) else 0)
            | (_COPIES if any(self.copies) else 0)
        )
        parts = [bytes([flags]), varint(len(self.templates))]
        parts += [varint(len(template)) + template for template in self.templates]
        parts += [_column(self.kinds), _column(crcs >> 24), _column(lengths >> 8), _pack_names(self.names)]
        if flags & _LABELS:
            known = list(dict.fromkeys((type(label), label) for label in self.labels if label is not None))
            numbers = {key: number for number, key in enumerate(known, 1)}
            parts += [_text([label for _, label in known])]
            parts += [_column([0 if label is None else numbers[type(label), label] for label in self.labels])]
        if flags & _METADATA:
            texts = [b"" if found is None else _compact(found) for found in self.metadata]
            parts += [_column([len(text) for text in texts]), *texts]
        if flags & _COPIES:
            texts = [_encoded(name) for name in self.copies]
            parts += [_column([len(text) for text in texts]), *texts]
        low = crcs.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3]
        plain = varint(len(self)) + low.tobytes() + (lengths & 255).astype(np.uint8).tobytes()
        return plain + _press(b"".join(parts))

    @staticmethod
    def unpack(data: bytes) -> Directory:
        """Raises FormatError for what ``pack`` does not make."""
        reader = Reader(memoryview(data))
        n = reader.size("images of a block")
        crcs = np.zeros((n, 4), np.uint8)
        crcs[:, :3] = np.frombuffer(reader.take(3 * n), np.uint8).reshape(n, 3)
        low = np.frombuffer(reader.take(n), np.uint8)
        table = Reader(memoryview(_unpress(reader.take(reader.left()))))
        flags = table.byte()
        if flags & ~(_LABELS | _METADATA | _COPIES):
            raise FormatError(f"unknown flags 0x{flags:02x} of a directory: the archive needs a newer ardmzip")
        templates = [bytes(table.take(table.size("template"))) for _ in range(table.varint("templates"))]
        kinds = _read_column(table, n)
        if int(kinds.max()) >= max(1, len(templates)):
            raise FormatError("damaged: an image of an unknown template")
        crcs[:, 3] = _bytes(_read_column(table, n))
        lengths = (_read_column(table, n) << 8) + low
        names, checksums = _read_names(table, n), crcs.view("<u4").ravel().tolist()
        known = np.array([records.crc_mask(template) for template in templates or [b"\0"]])
        if (np.array(checksums) & ~known[kinds]).any():
            raise FormatError("damaged: a checksum is longer than those of its kind")
        found = Directory(names, templates, kinds.tolist(), lengths.tolist(), checksums)
        found.labels = _read_labels(table, n) if flags & _LABELS else [None] * n
        found.metadata = [None] * n
        if flags & _METADATA:
            sizes = _read_column(table, n).tolist()
            found.metadata = [_json(bytes(table.take(size)), dict) if size else None for size in sizes]
        found.copies = [""] * n
        if flags & _COPIES:
            sizes = _read_column(table, n).tolist()
            found.copies = [_decoded(bytes(table.take(size))) for size in sizes]
        if not templates and not all(found.copies):
            raise FormatError("damaged: an image without a template")
        if table.left():
            raise FormatError(f"{table.left()} stray bytes in a directory")
        return found


def pack_block(directory: Directory, data: bytes) -> bytes:
    """A block: head, directory, records."""
    packed = directory.pack()
    head = _BLOCK.pack(BLOCK_MAGIC, len(packed), len(data), zlib.crc32(data)) + packed
    return head + _CRC.pack(zlib.crc32(head)) + data


@dataclass(frozen=True)
class BlockHead:
    """The first bytes of a block."""

    directory: int
    records: int
    crc: int

    @property
    def records_start(self) -> int:
        """Where the records begin, from the beginning of the block."""
        return BLOCK_HEAD_BYTES + self.directory + CRC_BYTES

    @property
    def size(self) -> int:
        return self.records_start + self.records


def block_head(data: bytes) -> BlockHead | None:
    """What BLOCK_HEAD_BYTES say, None if they do not begin a block."""
    if len(data) < BLOCK_HEAD_BYTES or data[:4] != BLOCK_MAGIC:
        return None
    _, directory, records_bytes, crc = _BLOCK.unpack(data[:BLOCK_HEAD_BYTES])
    return BlockHead(directory, records_bytes, crc)


def block_directory(data: bytes) -> Directory:
    """The directory of a block, by its bytes up to the records; raises FormatError."""
    head = block_head(data)
    if head is None or len(data) < head.records_start:
        raise FormatError("damaged: a block is not where the index says")
    end = head.records_start - CRC_BYTES
    if zlib.crc32(data[:end]) != _CRC.unpack(data[end : end + CRC_BYTES])[0]:
        raise FormatError("damaged: the checksum of a directory does not match")
    return Directory.unpack(bytes(data[BLOCK_HEAD_BYTES:end]))


# Index


@dataclass(frozen=True)
class Block:
    """Where a block is, and which images it holds. first, last: the smallest and the largest of their names."""

    offset: int
    directory: int
    records: int
    images: int
    first: str
    last: str

    @property
    def records_start(self) -> int:
        """Where its records begin in the archive."""
        return self.offset + BLOCK_HEAD_BYTES + self.directory + CRC_BYTES

    @property
    def end(self) -> int:
        return self.records_start + self.records


def block_of(offset: int, head: BlockHead, directory: Directory) -> Block:
    """The index's entry of a block."""
    names = directory.names
    return Block(offset, head.directory, head.records, len(directory), min(names), max(names))


def pack_index(blocks: Sequence[Block], critical: bool = False) -> bytes:
    """The index with its end. critical: whether the head has chunks without which images cannot be decoded."""
    gaps = [block.offset - end for block, end in zip(blocks, [0, *(block.end for block in blocks)], strict=False)]
    parts = [bytes([_FLAG_CRITICAL_HEAD if critical else 0]), varint(len(blocks)), _column(gaps)]
    parts += [_column([getattr(block, name) for block in blocks]) for name in ("directory", "records", "images")]
    for block in blocks:
        for name in map(_encoded, (block.first, block.last)):
            parts.append(varint(len(name)) + name)
    packed = _press(b"".join(parts))
    return packed + _END.pack(len(packed), _index_crc(packed), END_MAGIC)


def _index_crc(packed: bytes) -> int:
    return zlib.crc32(packed + len(packed).to_bytes(4, "little"))


def index_length(end: bytes) -> int | None:
    """How long the index is that END_BYTES end; None if they do not end one."""
    if len(end) != END_BYTES or end[-4:] != END_MAGIC:
        return None
    return int(_END.unpack(end)[0])


def unpack_index(data: bytes) -> tuple[list[Block], bool]:
    """The blocks, and whether the head is critical; ``data``: the index with its end. Raises FormatError."""
    packed, end = data[:-END_BYTES], data[-END_BYTES:]
    if index_length(end) != len(packed) or _END.unpack(end)[1] != _index_crc(packed):
        raise FormatError("damaged: the checksum of the index does not match")
    table = Reader(memoryview(_unpress(packed)))
    flags = table.byte()
    if flags & ~_FLAG_CRITICAL_HEAD:
        raise FormatError(f"unknown flags 0x{flags:02x} of an index: the archive needs a newer ardmzip")
    n = table.varint("blocks")
    columns = [_read_column(table, n).tolist() for _ in range(4)]
    blocks: list[Block] = []
    for gap, directory, records_bytes, images in zip(*columns, strict=True):
        first, last = (_decoded(bytes(table.take(table.varint("name")))) for _ in range(2))
        offset = (blocks[-1].end if blocks else 0) + gap
        blocks.append(Block(offset, directory, records_bytes, images, first, last))
    return blocks, bool(flags & _FLAG_CRITICAL_HEAD)


# Parts of directories and of the index


def _press(table: bytes) -> bytes:
    """A table by the general coder that makes it smallest."""
    coder, packed = min(
        ((coder, stored.press(coder, table)) for coder in (stored.RAW, stored.DEFLATE, stored.LZMA2)),
        key=lambda found: len(found[1]),
    )
    return bytes([coder]) + varint(len(table)) + packed


def _unpress(data: bytes | memoryview) -> bytes:
    reader = Reader(memoryview(data))
    coder, size = reader.byte(), reader.varint("table")
    if coder > stored.LZMA2 or size > MAX_TABLE:
        raise FormatError(f"damaged: a table of {size} bytes by coder {coder}")
    return stored.unpress(coder, bytes(reader.take(reader.left())), size)


def _column(numbers: Sequence[int] | np.ndarray) -> bytes:
    """Numbers in as few bytes each as the largest needs, the lowest bytes of all first.

    >>> _column([1, 2, 259])
    b'\\x02\\x01\\x02\\x03\\x00\\x00\\x01'
    """
    array = np.array(numbers, "<u8")
    width = (int(array.max(initial=0)).bit_length() + 7) // 8
    return bytes([width]) + array.view(np.uint8).reshape(-1, 8).T[:width].tobytes()


def _read_column(reader: Reader, n: int) -> np.ndarray:
    """int64 [n]; as they are sizes and numbers, they have 62 bits at most."""
    width = reader.byte()
    if width > 8:
        raise FormatError(f"damaged: numbers of {width} bytes")
    planes = np.zeros((8, n), np.uint8)
    planes[:width] = np.frombuffer(reader.take(width * n), np.uint8).reshape(width, n)
    found = np.ascontiguousarray(planes.T).view("<u8").ravel()
    if n and int(found.max()) >> 62:
        raise FormatError("damaged: a number is too large")
    return found.astype(np.int64)


def _bytes(numbers: np.ndarray) -> np.ndarray:
    if int(numbers.max(initial=0)) > 255:
        raise FormatError("damaged: a byte is too large")
    return numbers.astype(np.uint8)


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _text(value: Any) -> bytes:
    text = _compact(value)
    return varint(len(text)) + text


def _read_labels(reader: Reader, n: int) -> list[Label]:
    known = _json(bytes(reader.take(reader.varint("labels"))), list)
    numbers = _read_column(reader, n)
    if int(numbers.max()) > len(known) or any(type(label) not in (str, int) for label in known):
        raise FormatError("damaged: an unknown label")
    labels = [None, *known]
    return [labels[number] for number in numbers.tolist()]


# Names: each as the successor of the one before it, or as what follows the beginning that they share

_DIGITS = 18
_NUMBER = re.compile(rb"^(.*?)(\d+)(\D*)$", re.DOTALL)


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def successor(name: bytes) -> bytes:
    """The name with its last number one higher, and as many digits or more; the name itself if it has no number, or one
    of more than 18 digits.

    >>> successor(b"set/0009.png"), successor(b"a")
    (b'set/0010.png', b'a')
    """
    match = _NUMBER.match(name)
    if match is None or len(match[2]) > _DIGITS:
        return name
    before, digits, after = match.groups()
    return before + str(int(digits) + 1).zfill(len(digits)).encode() + after


def _pack_names(names: Sequence[str]) -> bytes:
    ways, rests = [], []
    before = b""
    for name in map(_encoded, names):
        if name == successor(before):
            ways.append(0)
        else:
            shared = next((i for i, (a, b) in enumerate(zip(before, name, strict=False)) if a != b),
                          min(len(before), len(name)))  # fmt: skip
            ways.append(1 + shared)
            rests.append(name[shared:])
        before = name
    return _column(ways) + _column([len(rest) for rest in rests]) + b"".join(rests)


def _read_names(reader: Reader, n: int) -> list[str]:
    ways = _read_column(reader, n)
    sizes = iter(_read_column(reader, int((ways > 0).sum())).tolist())
    names: list[str] = []
    before = b""
    for way in ways.tolist():
        if way > len(before) + 1:
            raise FormatError("damaged: a name shares more than there is")
        before = before[: way - 1] + bytes(reader.take(next(sizes))) if way else successor(before)
        names.append(_decoded(before))
    return names
