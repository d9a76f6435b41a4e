"""The bytes of archives: directories, index, head."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ardmzip.archive import format as layout
from ardmzip.archive import records
from ardmzip.archive.format import Directory
from ardmzip.errors import FormatError

names = st.lists(
    st.one_of(st.text(min_size=1, max_size=12), st.from_regex(r"[ab]/\d{1,4}\.png", fullmatch=True)),
    min_size=1, max_size=20, unique=True,
)  # fmt: skip
json_values = st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=5), max_size=3)


def directory(names: list[str], data) -> Directory:
    made = Directory()
    templates = [bytes([records.WORDS, 1, 0, 32, 32, 1, 2, 3, 4]), bytes([records.CHUNKS, 1, 1, 8, 8, 0, 0, 0, 0])]
    for name in names:
        label = data.draw(st.none() | st.integers(-5, 2**40) | st.text(max_size=5))
        metadata = data.draw(st.none() | json_values)
        if made.names and data.draw(st.booleans()) and data.draw(st.booleans()):
            made.add_copy(name, made.names[0], label, metadata)
        else:
            record = records.Record(
                data.draw(st.sampled_from(templates)), bytes(data.draw(st.integers(0, 3000))),
                data.draw(st.integers(0, 2**32 - 1)),
            )  # fmt: skip
            made.add(name, record, label, metadata)
    return made


@settings(max_examples=40)
@given(names, st.data())
def test_directories_come_back(names, data):
    made = directory(names, data)
    block = layout.pack_block(made, b"records")
    head = layout.block_head(block)
    assert head is not None
    assert head.size == len(block)
    assert layout.block_directory(block) == made
    assert layout.block_directory(block[: head.records_start]) == made


@settings(max_examples=30)
@given(names, st.data())
def test_a_damaged_directory_is_refused(names, data):
    block = bytearray(layout.pack_block(directory(names, data), b""))
    at = data.draw(st.integers(0, len(block) - 1))
    block[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(FormatError):
        layout.block_directory(bytes(block))


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_forged_directories_and_indices_give_format_errors(data):
    """What has the right checksum, but is not what a writer makes."""
    for read in (Directory.unpack, lambda d: layout.unpack_index(d + layout._END.pack(len(d), layout._index_crc(d),
                                                                                    layout.END_MAGIC))):  # fmt: skip
        try:
            read(data)
        except FormatError:
            continue


def test_an_index_comes_back_and_takes_a_few_bytes():
    blocks = []
    for i in range(1000):
        offset = 50 if not blocks else blocks[-1].end + (70 if i == 500 else 0)
        blocks.append(
            layout.Block(offset, 5000 + i % 7, 1_000_000 + i, 1000, f"{i * 1000}.png", f"{i * 1000 + 999}.png")
        )
    data = layout.pack_index(blocks)
    assert layout.unpack_index(data) == (blocks, False)
    assert layout.unpack_index(layout.pack_index(blocks, critical=True)) == (blocks, True)
    assert len(data) < 15 * len(blocks)
    for at in range(0, len(data), 97):
        with pytest.raises(FormatError):
            layout.unpack_index(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_the_head_keeps_settings_and_refuses_what_it_does_not_know():
    content = layout.Head({"model": "thumb", "learn": None}, (b"one", b""))
    head = layout.pack_head(content)
    assert layout.head_length(head[: layout.HEAD_BYTES]) == len(head)
    assert layout.unpack_head(head) == content
    assert layout.has_critical_chunks(head)
    assert not layout.has_critical_chunks(layout.pack_head(layout.Head({"model": "thumb"})))
    for cut in range(len(head)):
        with pytest.raises(FormatError):
            layout.unpack_head(head[:cut])
    other = bytearray(head)
    other[4] = 2
    with pytest.raises(FormatError, match="version 2"):
        layout.head_length(bytes(other[: layout.HEAD_BYTES]))
    for kind, refused in ((0x91, True), (0x7F, False)):
        chunks = bytes([kind, 2, 0, 0])
        body = layout._HEAD.pack(layout.MAGIC, layout.VERSION, len(chunks)) + chunks
        made = body + layout._CRC.pack(layout.zlib.crc32(body))
        assert layout.has_critical_chunks(made) == refused
        if refused:
            with pytest.raises(FormatError, match="newer ardmzip"):
                layout.unpack_head(made)
        else:
            assert layout.unpack_head(made) == layout.Head()


def test_names_that_count_up_take_no_room():
    made = Directory()
    for i in range(1000):
        made.add(f"test/{i:05}.png", records.Record(b"\0" * 9, b"", 0), None, None)
    assert len(made.pack()) < 5 * 1000 + 120  # checksums, the lowest bytes of the lengths, and next to nothing


@given(st.binary(max_size=30))
def test_successors(name):
    following = layout.successor(name)
    assert following == name or np.char.isdigit(np.array([chr(c) for c in name] or [""])).any()
