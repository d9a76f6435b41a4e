"""Archives as datasets of torch: for training on images that stay compressed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from ardmzip.archive.reader import BATCH, Archive
from ardmzip.formats import Picture

#: What a sample is made of: the image and its label.
Sample = tuple[Any, Any]


def to_tensor(picture: Picture) -> Tensor:
    """uint8 or uint16 [channels, height, width]; palettes give the numbers of the colours."""
    return torch.from_numpy(np.ascontiguousarray(picture.samples.transpose(2, 0, 1)))


class _Samples:
    """Pictures to samples."""

    def __init__(
        self, archive: Archive | str | os.PathLike[str], transform: Callable[[Picture], Any],
        target: Callable[[Any], Any] | None,
    ) -> None:  # fmt: skip
        self.archive = archive if isinstance(archive, Archive) else Archive(archive)
        self.transform, self.target = transform, target

    def of(self, indices: Sequence[int]) -> list[Sample]:
        labels = [self.archive.described(index)[1] for index in indices]
        pictures = self.archive.pictures(indices)
        return [
            (self.transform(picture), label if self.target is None else self.target(label))
            for picture, label in zip(pictures, labels, strict=True)
        ]


class ArchiveDataset(Dataset[Sample]):
    """The images of an archive by number: (image, label) each.

    A DataLoader decodes the images of a batch together, in one process or in several.

    archive: an open one, or its path or URL. transform: what is made of a picture (formats.Picture); by default a
    tensor uint8 [channels, height, width]. target: what is made of its label, which is a text, a number or None.

    >>> import ardmzip, numpy, tempfile, os
    >>> from torch.utils.data import DataLoader
    >>> from ardmzip.archive.writer import Writer
    >>> path = os.path.join(tempfile.mkdtemp(), "two.ardmz")
    >>> with Writer.create(path) as writer:
    ...     for value in (5, 7):
    ...         image = numpy.full((4, 4, 3), value, numpy.uint8)
    ...         _ = writer.add(f"{value}.png", ardmzip.compress(image), label=value)
    >>> images, labels = next(iter(DataLoader(ArchiveDataset(path), batch_size=2)))
    >>> images.shape, images[:, 0, 0, 0].tolist(), labels.tolist()
    (torch.Size([2, 3, 4, 4]), [5, 7], [5, 7])
    """

    def __init__(
        self, archive: Archive | str | os.PathLike[str], transform: Callable[[Picture], Any] = to_tensor,
        target: Callable[[Any], Any] | None = None,
    ) -> None:  # fmt: skip
        self._samples = _Samples(archive, transform, target)

    def __len__(self) -> int:
        return len(self._samples.archive)

    def __getitem__(self, index: int) -> Sample:
        return self._samples.of([self._samples.archive.index(index)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Several at once: what a DataLoader asks for."""
        return self._samples.of([self._samples.archive.index(index) for index in indices])


class IterableArchiveDataset(IterableDataset[Sample]):
    """The images of an archive one after the other, decoded in batches: (image, label) each.

    Of several worker processes each takes its share of the batches. With ``seed`` the batches come in a random order,
    and so do the images within ``window`` batches; the same seed gives the same order. Call ``set_epoch`` for another
    order in every epoch.

    >>> import ardmzip, numpy, tempfile, os
    >>> from ardmzip.archive.writer import Writer
    >>> path = os.path.join(tempfile.mkdtemp(), "two.ardmz")
    >>> with Writer.create(path) as writer:
    ...     for value in (5, 7):
    ...         image = numpy.full((4, 4, 3), value, numpy.uint8)
    ...         _ = writer.add(f"{value}.png", ardmzip.compress(image), label=value)
    >>> [(int(image.max()), label) for image, label in IterableArchiveDataset(path)]
    [(5, 5), (7, 7)]
    """

    def __init__(
        self, archive: Archive | str | os.PathLike[str], transform: Callable[[Picture], Any] = to_tensor,
        target: Callable[[Any], Any] | None = None, *, batch: int = BATCH, seed: int | None = None, window: int = 4,
    ) -> None:  # fmt: skip
        self._samples = _Samples(archive, transform, target)
        self._batch, self._seed, self._window = batch, seed, window
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order, if it is random."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._samples.archive)

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        starts = np.arange(0, len(self), self._batch)
        if self._seed is None:
            for start in starts[number::workers].tolist():
                yield from self._decoded(range(start, min(start + self._batch, len(self))))
            return
        random = np.random.default_rng([self._seed, self._epoch])
        own = random.permutation(starts)[number::workers]
        random = np.random.default_rng([self._seed, self._epoch, number])
        for first in range(0, len(own), self._window):
            parts = [
                np.arange(start, min(start + self._batch, len(self))) for start in own[first : first + self._window]
            ]
            indices = random.permutation(np.concatenate(parts)).tolist()
            yield from self._decoded(indices)

    def _decoded(self, indices: Sequence[int]) -> Iterator[Sample]:
        for part in self._samples.archive.batches(indices, self._batch):
            yield from self._samples.of(part)
