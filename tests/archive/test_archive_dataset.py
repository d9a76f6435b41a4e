"""Archives as datasets of torch."""

from __future__ import annotations

import pickle

import pytest
from tiny_images import made

torch = pytest.importorskip("torch")
from torch.utils.data import DataLoader  # noqa: E402

from ardmzip.archive.dataset import ArchiveDataset, IterableArchiveDataset  # noqa: E402


def wanted() -> list[tuple[bytes, object]]:
    return [(item.image().samples.transpose(2, 0, 1).tobytes(), item.label) for item in made(42)]


def seen(samples) -> list[tuple[bytes, object]]:
    return [(image.numpy().tobytes(), label) for image, label in samples]


def together(samples):
    return samples


def test_by_number(archive_file):
    dataset = ArchiveDataset(archive_file)
    assert len(dataset) == 42
    assert seen([dataset[i] for i in range(42)]) == wanted()
    assert seen(dataset.__getitems__([5, 40, -1])) == [wanted()[i] for i in (5, 40, 41)]
    with pytest.raises(IndexError):
        dataset[42]
    changed = ArchiveDataset(archive_file, transform=lambda picture: picture.width, target=str)
    assert changed[0] == (3, "None")
    assert seen([pickle.loads(pickle.dumps(dataset))[7]]) == [wanted()[7]]


@pytest.mark.parametrize("workers", [0, 2])
def test_through_loaders(archive_file, workers):
    loader = DataLoader(ArchiveDataset(archive_file), batch_size=5, num_workers=workers, collate_fn=together)
    assert seen(sample for batch in loader for sample in batch) == wanted()
    dataset = IterableArchiveDataset(archive_file, batch=4)
    loader = DataLoader(dataset, batch_size=5, num_workers=workers, collate_fn=together)
    found = seen(sample for batch in loader for sample in batch)
    assert sorted(map(repr, found)) == sorted(map(repr, wanted()))
    if workers == 0:
        assert found == wanted()


def test_random_orders(archive_file):
    dataset = IterableArchiveDataset(archive_file, batch=4, seed=1, window=3)
    first, again = seen(dataset), seen(dataset)
    dataset.set_epoch(1)
    later = seen(dataset)
    assert first == again != wanted()
    assert later != first
    assert sorted(map(repr, first)) == sorted(map(repr, later)) == sorted(map(repr, wanted()))
