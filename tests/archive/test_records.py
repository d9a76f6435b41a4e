"""Files cut into templates and records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ardmzip.archive import records
from ardmzip.container import Container, pack, unpack
from ardmzip.errors import FormatError
from ardmzip.pixelformat import PixelFormat

FILES = [*Path(__file__).parent.parent.glob("golden/*.ardm"), *Path(__file__).parent.parent.glob("odd/*.ardm")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_come_back_byte_for_byte(path):
    file = path.read_bytes()
    record = records.split(file)
    assert records.join(record) == file
    c = unpack(file)
    assert records.shape(record.template)[:2] == (c.height, c.width)
    if not c.pixel_format.palette:
        assert records.shape(record.template)[2] == c.pixel_format.channels
    assert records.model_id(record.template) == c.model_id
    assert record.crc == c.pixel_crc


def container(*words: int) -> Container:
    stream = np.array(words, np.uint32)
    return Container(32, 32, 3, (0, 0), b"\1\2\3\4", b"", None, (stream,), pixel_crc=5)


@pytest.mark.parametrize("words", [(), (1,), (7, 1 << 8), (7, 1 << 16), (7, 1 << 24), (0, 0x1234)])
def test_a_plain_record_is_its_words_without_zeros_at_the_end(words):
    file = pack(container(*words))
    record = records.split(file)
    assert record.template[0] == records.SHORT
    assert (record.crc, records.crc_mask(record.template)) == (5, 0xFFFFFF)
    assert record.data == np.array(words, "<u4").tobytes().rstrip(b"\0")
    assert records.join(record) == file


def test_schedules_are_shared_and_side_information_is_not():
    plain = container(1, 2)
    cut = records.split(pack(replace(plain, calls=(0, 9))))
    assert cut.template[0] == records.WORDS
    assert len(cut.template) > len(records.split(pack(plain)).template)
    told = records.split(pack(replace(plain, side_info=bytes(22), calls=(0, 9))))
    assert told.template[0] == records.CHUNKS
    assert told.template[2:] == bytes([0, 32, 32]) + plain.model_id
    described = replace(plain, format=PixelFormat("palette", 8, bytes(range(30))), channels=1)
    assert records.split(pack(described)).template[0] == records.CHUNKS


def test_unknown_kinds_are_refused():
    with pytest.raises(FormatError, match="newer"):
        records.join(records.Record(bytes([7]) + bytes(20), b"", 0))
