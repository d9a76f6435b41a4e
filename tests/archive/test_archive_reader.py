"""Reading archives: little at a time, by several threads and processes, from anywhere."""

from __future__ import annotations

import io
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tiny_images import made

import ardmzip
from ardmzip import Archive
from ardmzip.archive import format as layout
from ardmzip.archive.reader import find_index
from ardmzip.errors import ArdmError, FormatError


class Counting(io.BytesIO):
    """A file that notes what is read of it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reads: list[tuple[int, int]] = []

    def read(self, size: int | None = -1) -> bytes:
        at = self.tell()
        data = super().read(size)
        self.reads.append((at, len(data)))
        return data


def test_it_is_a_sequence_and_a_mapping(archive_file):
    items = list(made(42))
    with Archive(archive_file) as archive:
        assert len(archive) == 42
        assert archive.names() == archive.keys() == [item.name for item in items]
        for i, item in enumerate(items):
            want = item.image().samples
            assert archive.index(item.name) == archive.index(i) == archive.index(i - 42) == i
            entry = archive.entry(item.name)
            assert (entry.label, entry.metadata, entry.width, entry.height) == (item.label, item.metadata, 3, 4)
            assert (archive.array(i) == want).all()
        assert [image.tobytes() for image in archive] == [item.image().samples.tobytes() for item in items]
        assert [name for name, _ in archive.items()] == archive.names()
        assert [image.size for image in archive[3:9:2]] == 3 * [(3, 4)]
        assert "a/000.png" in archive
        assert "c" not in archive
        assert 7 not in archive
        assert archive.get("c") is None
        assert archive.get(41).size == (3, 4)
        for key, error in (("c", KeyError), (42, IndexError), (-43, IndexError)):
            with pytest.raises(error):
                archive[key]


def test_files_of_images_are_those_that_compress_makes(archive_file):
    archive = Archive(archive_file)
    for i, item in enumerate(made(12)):
        assert archive.file(i) == ardmzip.compress(item.image().array())


def test_one_image_costs_the_index_its_directory_and_its_record(archive_file):
    file = Counting(archive_file.read_bytes())
    archive = Archive(file)
    index = archive.total_bytes - archive.blocks[-1].end
    assert sum(length for _, length in file.reads) == index
    assert all(at >= archive.blocks[-1].end for at, _ in file.reads)
    file.reads.clear()
    archive.array("b/026.png")
    entry, block = archive.entry("b/026.png"), archive.blocks[3]
    assert file.reads == [(block.offset, block.records_start - block.offset), (entry.offset, entry.length)]
    file.reads.clear()
    archive.array(27)
    assert len(file.reads) == 1  # its directory is known


def test_names_out_of_order_are_found(tmp_path):
    from ardmzip.archive.writer import Writer

    file = ardmzip.compress(np.zeros((2, 2), np.uint8))
    names = [f"{(37 * i) % 100}" for i in range(100)]
    with Writer.create(tmp_path / "x.ardmz") as writer:
        for name in names:
            writer.add(name, file)
    archive = Archive(tmp_path / "x.ardmz")
    assert [archive.index(name) for name in names] == list(range(100))


def test_it_can_be_pickled_and_used_by_threads(archive_file):
    archive = pickle.loads(pickle.dumps(Archive(archive_file)))
    wanted = [int(i) for i in np.random.default_rng(0).integers(0, 42, 200)]
    images = [item.image().array() for item in made(42)]
    with ThreadPoolExecutor(8) as pool:
        for i, found in zip(wanted, pool.map(archive.array, wanted), strict=True):
            assert (found == images[i]).all()


def test_threads_decode_with_the_model_at_the_same_time():
    archive = Archive(Path(__file__).parent.parent / "golden" / "archive.ardmz")
    want = [picture.samples.tobytes() for picture in archive.pictures(range(len(archive)))]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(2):
            found = pool.map(lambda i: archive.array(i).tobytes(), range(len(archive)))
            assert list(found) == want


def _checksums(archive: Archive, wanted: list[int], queue) -> None:
    queue.put([archive.array(i).tobytes() for i in wanted])


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_forked_processes_do_not_share_a_place_in_the_file(archive_file):
    archive = Archive(archive_file)
    want = [archive.array(i).tobytes() for i in range(42)]
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    processes = [context.Process(target=_checksums, args=(archive, list(range(42)), queue)) for _ in range(3)]
    for process in processes:
        process.start()
    assert [queue.get() for _ in processes] == 3 * [want]
    for process in processes:
        process.join()


def test_urls_are_read_by_ranges(archive_file, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    system.pipe("/folder/x.ardmz", archive_file.read_bytes())
    ranges: list[tuple[int, int]] = []
    own = type(system).cat_file

    def cat_file(self, path, start=None, end=None, **options):
        ranges.append((start, end))
        return own(self, path, start, end, **options)

    monkeypatch.setattr(type(system), "cat_file", cat_file)
    archive = Archive("memory://folder/x.ardmz")
    assert (archive.array("b/027.png") == Archive(archive_file).array("b/027.png")).all()
    assert len(ranges) == 4  # end, index, directory, record
    assert sum(end - start for start, end in ranges) < 700
    assert (pickle.loads(pickle.dumps(archive)).array(5) == archive.array(5)).all()
    with pytest.raises(ArdmError, match="nosuch"):
        Archive("nosuch://x.ardmz")
    with pytest.raises(FileNotFoundError):
        Archive("memory://folder/none.ardmz")

    def fail(self, path, start=None, end=None, **options):
        raise RuntimeError("no connection")

    monkeypatch.setattr(type(system), "cat_file", fail)
    with pytest.raises(ArdmError, match="no connection"):
        archive.array(40)


@pytest.mark.parametrize("data", [b"", b"\x89PNG", b"\x9aARD\x01", b"\x9aARZ", bytes(1000)])
def test_other_files_are_refused(data):
    with pytest.raises(FormatError):
        Archive(io.BytesIO(data))


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        Archive(tmp_path / "none.ardmz")


def test_every_cut_is_refused_or_gives_the_index_before_it(archive_file):
    data = archive_file.read_bytes()
    for cut in [*range(0, 100), *range(100, len(data), 61), *range(len(data) - 80, len(data))]:
        with pytest.raises(FormatError):
            Archive(io.BytesIO(data[:cut]))


def test_the_last_complete_index_counts(archive_file):
    data = archive_file.read_bytes()
    for rest in (b"\0", bytes(3000), layout.END_MAGIC, data[:500] + layout.END_MAGIC + bytes(9)):
        archive = Archive(io.BytesIO(data + rest))
        assert archive.names() == Archive(archive_file).names()
        assert archive.complete_bytes == len(data)
    blocks, critical, end = find_index(Archive(io.BytesIO(data + bytes(3 << 20)))._source)
    assert (len(blocks), critical, end) == (6, False, len(data))


def test_damage_is_of_one_image_or_of_one_block(archive_file):
    data = bytearray(archive_file.read_bytes())
    entry = Archive(io.BytesIO(data)).entry(13)
    data[entry.offset + 4] ^= 4
    found = Archive(io.BytesIO(data)).read(range(42))
    bad = [i for i, picture in enumerate(found) if isinstance(picture, ArdmError)]
    assert bad == [13]
    with pytest.raises(FormatError, match=r"a/013\.png"):
        Archive(io.BytesIO(data)).arrays([10, 13])
    block = Archive(io.BytesIO(data)).blocks[2]
    data[block.offset + layout.BLOCK_HEAD_BYTES + 3] ^= 1
    archive = Archive(io.BytesIO(data))
    assert list(archive.damaged_blocks()) == [2]
    found = archive.read(range(42))
    bad = [i for i, picture in enumerate(found) if isinstance(picture, ArdmError)]
    # those of the block, the copy of one of them in the next one, and the one from before
    assert bad == sorted({13, *range(16, 24), *(i for i in range(42) if i % 5 == 4 and i - 3 in range(16, 24))})


def test_every_damaged_byte_is_noticed_or_does_no_harm(archive_file):
    data = archive_file.read_bytes()
    want = [picture.samples.tobytes() for picture in Archive(archive_file).pictures(range(42))]
    rng = np.random.default_rng(3)
    noticed = 0
    for at in rng.permutation(len(data))[:150]:
        broken = bytearray(data)
        broken[at] ^= 1 << rng.integers(8)
        try:
            found = Archive(io.BytesIO(broken)).read(range(42))
        except FormatError:
            noticed += 1
            continue
        good = [isinstance(one, ArdmError) or one.samples.tobytes() == want[i] for i, one in enumerate(found)]
        assert all(good)
        noticed += any(isinstance(one, ArdmError) for one in found)
    assert noticed > 100


def test_a_limit_of_pixels(archive_file):
    with pytest.raises(FormatError, match="limit"):
        Archive(archive_file, max_pixels=11).array(0)


def test_importing_it_loads_nothing_heavy():
    import subprocess
    import sys

    code = "import sys, ardmzip.archive.reader; print([m for m in ('torch', 'numba', 'PIL') if m in sys.modules])"
    root = Path(ardmzip.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
