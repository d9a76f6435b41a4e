"""Archives that bring a fitted model with them: what is gained, and that all ways to read them find it."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ardmzip import Archive, differences, formats, model
from ardmzip.archive import fitting, packing, records
from ardmzip.archive import format as layout
from ardmzip.archive.dataset import ArchiveDataset
from ardmzip.archive.recovery import blocks
from ardmzip.archive.writer import Writer, interrupted, repair
from ardmzip.batches import Options
from ardmzip.errors import ArdmError, FormatError, ModelError
from ardmzip.sources import Item, Source

COUNT, SIDE = 60, 24
OPTIONS = Options(model="thumb", verify=False)


def picture(i: int) -> formats.Picture:
    """A gray image of few tones with coarse noise, unlike any photograph."""
    random = np.random.default_rng(i)
    tones = random.integers(0, 8, (SIDE // 4, SIDE // 4)).repeat(4, 0).repeat(4, 1) * 32
    return formats.from_array((tones + random.integers(0, 2, tones.shape) * 9).astype(np.uint8))


class Made(Source):
    """So many of them, from a number on."""

    def __init__(self, count: int = COUNT, first: int = 0, **changed: object) -> None:
        self.numbers, self.changed = range(first, first + count), changed

    def __iter__(self):
        for i in self.numbers:
            yield Item(f"{i:03}.png", i % 3, None, self.changed.get(f"_{i}", lambda i=i: picture(i)))

    def length(self) -> int:
        return len(self.numbers)


@pytest.fixture(scope="module")
def fitted() -> tuple[fitting.Fit, bytes]:
    found, payload = fitting.fit(Made(), OPTIONS, 0.05)
    assert payload is not None
    return found, payload


@pytest.fixture(scope="module")
def archive_path(tmp_path_factory, fitted) -> Path:
    path = tmp_path_factory.mktemp("fitted") / "x.ardmz"
    write(path, Made(), fitted)
    return path


def write(path: Path, source: Source, fitted: tuple[fitting.Fit, bytes]) -> None:
    found, payload = fitted
    with Writer.create(path, packing.settings(OPTIONS, found), differences=(payload,), resume=True) as writer:
        packing.pack(source, writer, OPTIONS, batch=7)


def all_there(archive: Archive, count: int = COUNT) -> bool:
    arrays = archive.arrays(range(len(archive)))
    return len(arrays) == count and all(np.array_equal(a, picture(i).array()) for i, a in enumerate(arrays))


def test_held_out_images_and_the_archive_become_smaller(fitted, archive_path, tmp_path):
    found, payload = fitted
    assert (found.base, found.images, found.held_out, found.changes) == ("thumb", COUNT, 6, len(payload))
    assert found.gain > 0.02
    plain = tmp_path / "plain.ardmz"
    with Writer.create(plain, packing.settings(OPTIONS)) as writer:
        packing.pack(Made(), writer, OPTIONS)
    saved = 1 - archive_path.stat().st_size / plain.stat().st_size
    assert saved > 0
    assert abs(saved - found.saved) < 0.03
    # images that nobody has looked at
    sizes = []
    for name, brought in (("a", ()), ("b", (payload,))):
        with Writer.create(tmp_path / f"{name}.ardmz", differences=brought) as writer:
            packing.pack(Made(20, 1000), writer, OPTIONS)
        sizes.append(sum(entry.length for entry in Archive(tmp_path / f"{name}.ardmz").entries()))
    assert sizes[1] < 0.98 * sizes[0]


def test_all_ways_to_read_it(archive_path, fitted):
    archive = Archive(archive_path)
    identity = differences.ids(fitted[1])[1]
    assert all(identity.startswith(records.model_id(entry.template)) for entry in archive.entries())
    assert archive.differences == (fitted[1],)
    assert all_there(archive)
    assert np.array_equal(archive.array("007.png"), picture(7).array())
    assert all_there(pickle.loads(pickle.dumps(archive)))
    with open(archive_path, "rb") as file:
        assert np.array_equal(Archive(file).array(3), picture(3).array())
    assert np.array_equal(Archive(archive_path, model="thumb").array(3), picture(3).array())
    with pytest.raises(ModelError, match="the archive needs model"):
        Archive(archive_path, model="photo").array(3)
    images = ArchiveDataset(archive_path)
    assert images[5][1] == 2
    assert np.array_equal(images[5][0].numpy()[0], picture(5).array())


def test_its_files_need_the_model_and_it_can_be_had(archive_path, tmp_path):
    from ardmzip import decompress_array

    archive = Archive(archive_path)
    file = archive.file(4)
    with pytest.raises(ModelError, match="not installed"):
        decompress_array(file)
    (own,) = archive.models()
    (tmp_path / "own.safetensors").write_bytes(model.to_bytes(own))
    assert np.array_equal(decompress_array(file, model=tmp_path / "own.safetensors"), picture(4).array())


def test_what_is_appended_is_coded_by_the_same_model(archive_path, tmp_path):
    path = tmp_path / "x.ardmz"
    path.write_bytes(archive_path.read_bytes())
    with Writer.append(path) as writer:
        packing.pack(Made(5, COUNT), writer, OPTIONS)
    archive = Archive(path)
    assert all_there(archive, COUNT + 5)
    assert len({records.model_id(entry.template) for entry in archive.entries()}) == 1


def test_a_repaired_archive_keeps_it(archive_path, tmp_path):
    path = tmp_path / "x.ardmz"
    path.write_bytes(archive_path.read_bytes()[:-3])
    assert repair(path, tmp_path / "y.ardmz").images == COUNT
    assert all_there(Archive(tmp_path / "y.ardmz"))


def test_going_on_after_an_interruption_takes_the_same_model(tmp_path, monkeypatch, fitted):
    path, whole = tmp_path / "x.ardmz", tmp_path / "whole.ardmz"
    write(whole, Made(), fitted)
    calls = []

    def fit(*args: object) -> tuple[fitting.Fit, bytes]:
        calls.append(args)
        return fitted

    def stop() -> formats.Picture:
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "fit", fit)
    for at in (0, 30):  # before there is a block, and after some
        writer, found = packing.begin(path, Made(), OPTIONS, minutes=0.05)
        assert found == fitted[0]
        with pytest.raises(KeyboardInterrupt), writer:
            packing.pack(Made(**{f"_{at}": stop}), writer, OPTIONS, batch=7)
        left = interrupted(path)
        assert left is not None
        assert left.differences == (fitted[1],)
    for other in (0.3, None):
        with pytest.raises(ArdmError, match="made with other options"):
            packing.begin(path, Made(), OPTIONS, minutes=other)
    with pytest.raises(ArdmError, match="made with other options"):
        packing.begin(path, Made(), replace(OPTIONS, steps=20), minutes=0.05)
    writer, found = packing.begin(path, Made(), OPTIONS, minutes=0.05)
    assert len(writer.resumed) >= 24
    with writer:
        packing.pack(Made(), writer, OPTIONS)
    assert len(calls) == 1
    assert path.read_bytes() == whole.read_bytes()
    # a head that was cut off is none
    (tmp_path / "y.ardmz.part").write_bytes(path.read_bytes()[:100])
    assert interrupted(tmp_path / "y.ardmz") is None


def test_damaged_differences_are_refused(archive_path, tmp_path, fitted):
    path, data = tmp_path / "x.ardmz", archive_path.read_bytes()
    _, payload = fitted
    whole = bytearray(data)
    whole[60] ^= 1
    path.write_bytes(whole)
    with pytest.raises(FormatError):
        Archive(path).array(0)
    random = np.random.default_rng(0)
    forged = [payload[:-1], payload[:-4], payload[:7], payload[:8] + b"\0\0\0\0", payload[4:8] + payload[4:]]
    for _ in range(6):
        broken = bytearray(payload)
        broken[random.integers(4, len(payload))] ^= 1 << random.integers(8)
        forged.append(bytes(broken))
    for wrong in forged:
        assert wrong != payload
        with Writer.create(path, differences=(wrong,), overwrite=True) as writer:
            writer.add("a", Archive(archive_path).file(0))
        with pytest.raises(ArdmError):
            Archive(path).array(0)


def test_nothing_is_written_where_it_does_not_pay(tmp_path):
    writer, found = packing.begin(tmp_path / "x.ardmz", Made(8), OPTIONS, minutes=0.01)
    with writer:
        packing.pack(Made(8), writer, OPTIONS)
    assert (found.changes, found.saved, found.images) == (0, 0.0, 8)
    archive = Archive(tmp_path / "x.ardmz")
    assert archive.differences == ()
    assert archive.settings()["fit"]["base"] == "thumb"
    assert not layout.has_critical_chunks(layout.pack_head(archive.head()))
    assert len([*blocks(archive._source, 0)]) == 1


@pytest.mark.parametrize("options", [Options(model="fast"), Options(model="fast", learn=True, tile=64)])
def test_all_kinds_of_images_are_coded_and_verified_by_it(tmp_path, options):
    base, random = model.load("fast"), np.random.default_rng(0)
    names = [name for name in differences.names(base) if name.endswith(".bias")]
    steps = {n: differences.Steps(4, random.integers(-2, 3, base.tensors[n].shape).astype(np.int8)) for n in names}
    payload = differences.pack(steps, base)
    shapes = [(20, 20), (20, 20), (9, 12, 3), (100, 100, 3), (20, 30, 4)]
    arrays = [(random.integers(0, 9, shape) + 99).astype(np.uint8) for shape in shapes]
    arrays.append((random.integers(0, 900, (20, 20)) + 9999).astype(np.uint16))
    items = [Item(f"{i}", None, None, lambda a=a: formats.from_array(a)) for i, a in enumerate(arrays)]
    path = tmp_path / "x.ardmz"
    with Writer.create(path, packing.settings(options), differences=(payload,)) as writer:
        packing.pack(items, writer, options)
    archive = Archive(path)
    identity = differences.ids(payload)[1]
    assert all(identity.startswith(records.model_id(entry.template)) for entry in archive.entries())
    assert all(map(np.array_equal, archive.arrays(range(len(arrays))), arrays))
    # the encoder may choose among models: what comes out stands for the one that it begins with
    assert differences.instead(base, [payload]).id == differences.ids(payload)[1]
    assert differences.instead(model.load("thumb"), [payload]).id == model.load("thumb").id


def test_a_model_that_codes_in_a_random_order_is_not_fitted():
    with pytest.raises(ArdmError, match="cannot be fitted"):
        fitting.fit(Made(2), Options(model="oa-small"), 0.01)
