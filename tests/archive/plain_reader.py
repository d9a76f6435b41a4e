"""A plain reader of archives, written from docs/FORMAT.md alone: no code of the package, no speed."""

from __future__ import annotations

import json
import lzma
import re
import struct
import zlib
from typing import Any


class Bytes:
    """Read from front to back."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        assert self.at + count <= len(self.data)
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def column(self, count: int) -> list[int]:
        width = self.take(1)[0]
        planes = [self.take(count) for _ in range(width)]
        return [sum(plane[i] << 8 * j for j, plane in enumerate(planes)) for i in range(count)]


def table(coded: bytes) -> Bytes:
    reader = Bytes(coded)
    coder, size = reader.take(1)[0], reader.varint()
    data = reader.data[reader.at :]
    if coder == 1:
        data = zlib.decompress(data, -15)
    elif coder == 2:
        exponent = next(k for k in range(12, 27) if 1 << k >= size or k == 26)
        data = lzma.decompress(data, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << exponent}])
    assert len(data) == size
    return Bytes(data)


def varint(value: int) -> bytes:
    out = b""
    while value >= 128:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def successor(name: bytes) -> bytes:
    found = re.fullmatch(rb"(.*?)([0-9]+)([^0-9]*)", name, re.DOTALL)
    if not found or len(found[2]) > 18:
        return name
    return found[1] + b"%0*d" % (len(found[2]), int(found[2]) + 1) + found[3]


def read_names(t: Bytes, count: int) -> list[bytes]:
    numbers = t.column(count)
    lengths = iter(t.column(sum(number > 0 for number in numbers)))
    rests = [t.take(length) for length in lengths]
    names, name = [], b""
    for number in numbers:
        name = name[: number - 1] + rests.pop(0) if number else successor(name)
        names.append(name)
    return names


def read(data: bytes) -> dict[str, tuple[bytes, Any, Any]]:
    """File, label and JSON of the images, by name, in order."""
    assert data[:5] == b"\x9aARZ\x01"
    length, crc, magic = struct.unpack("<II4s", data[-12:])
    coded = data[-12 - length : -12]
    assert magic == b"\x9aEND"
    assert zlib.crc32(coded + struct.pack("<I", length)) == crc
    index = table(coded)
    assert index.take(1) == b"\0"
    blocks = index.varint()
    gaps, directories, records, counts = (index.column(blocks) for _ in range(4))
    bounds = [[index.take(index.varint()) for _ in range(2)] for _ in range(blocks)]
    assert index.at == len(index.data)
    parts: dict[bytes, tuple[bytes, bytes, int]] = {}
    rows: list[tuple[bytes, bytes, Any, Any]] = []
    at = 0
    for gap, directory_bytes, record_bytes, count, (first, last) in zip(
        gaps, directories, records, counts, bounds, strict=True
    ):
        at += gap
        magic, *sizes, records_crc = struct.unpack("<4sIQI", data[at : at + 20])
        assert (magic, sizes) == (b"\x9aBLK", [directory_bytes, record_bytes])
        directory = Bytes(data[at + 20 : at + 20 + directory_bytes])
        at += 20 + directory_bytes
        assert zlib.crc32(data[at - 20 - directory_bytes : at]) == struct.unpack("<I", data[at : at + 4])[0]
        at += 4
        own = data[at : at + record_bytes]
        assert zlib.crc32(own) == records_crc
        at += record_bytes
        assert directory.varint() == count
        checksums = directory.take(3 * count)
        low = directory.take(count)
        t = table(directory.data[directory.at :])
        flags = t.take(1)[0]
        templates = [t.take(t.varint()) for _ in range(t.varint())]
        kinds = t.column(count)
        crcs = [
            int.from_bytes(checksums[3 * i : 3 * i + 3], "little") + (high << 24)
            for i, high in enumerate(t.column(count))
        ]
        lengths = [high * 256 + rest for high, rest in zip(t.column(count), low, strict=True)]
        names = read_names(t, count)
        assert (min(names), max(names)) == (first, last)
        labels: list[Any] = [None] * count
        if flags & 1:
            known = [None, *json.loads(t.take(t.varint()))]
            labels = [known[number] for number in t.column(count)]
        texts: list[Any] = [None] * count
        if flags & 2:
            texts = [json.loads(t.take(size)) if size else None for size in t.column(count)]
        copies = [t.take(size) for size in t.column(count)] if flags & 4 else [b""] * count
        assert t.at == len(t.data)
        for i, name in enumerate(names):
            record, own = own[: lengths[i]], own[lengths[i] :]
            if not copies[i]:
                parts[name] = templates[kinds[i]], record, crcs[i]
            rows.append((name, copies[i] or name, labels[i], texts[i]))
        assert own == b""
    return {name.decode(): (file(*parts[of]), label, text) for name, of, label, text in rows}


def file(template: bytes, record: bytes, crc: int) -> bytes:
    """The ``.ardm`` file of an image."""
    if template[0] == 2:
        whole = b"\x9as" + template[1:] + record
        return whole + struct.pack("<I", zlib.crc32(whole) ^ crc)[:3]
    if template[0] == 0:
        record += bytes(-len(record) % 4)
        record = b"\x83" + varint(len(record)) + record
    whole = b"\x9aARD" + template[1:] + record + b"\0" + struct.pack("<I", crc)
    return whole + struct.pack("<I", zlib.crc32(whole))
