"""Image files, and folders of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from ardmzip.errors import ImageError
from ardmzip.files import SOURCE_SUFFIXES
from ardmzip.formats import Picture
from ardmzip.sources import places
from ardmzip.sources.item import Item, Options, Source, decoded, suffix_of

#: Names of the folders that a dataset is split into, above those of its classes.
SPLITS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"})


def loaded(place: str, options: Options) -> Picture:
    """The picture of an image file."""
    return decoded(places.read(place), place, options)


class ImageFile(Source):
    """A single image file."""

    def __init__(self, place: str, options: Options) -> None:
        self._place, self._options = place, options

    def __iter__(self) -> Iterator[Item]:
        yield Item(places.parts(self._place)[-1], None, None, partial(loaded, self._place, self._options))

    def length(self) -> int:
        return 1


@dataclass(frozen=True)
class Layout:
    """How many images a folder holds, and which part of their paths is the label, if any."""

    count: int
    label: int | None


def layout(folder: str) -> Layout:
    """Looks at the names below a folder.

    Labels are the folders of an ImageFolder: each image is in CLASS/, or each in train/CLASS/ and the like. Any other
    depth, or images in the folder itself, are a plain tree without labels.
    """
    count, depths, splits = 0, set(), True
    for name in _images(folder):
        count += 1
        depths.add(name.count("/"))
        splits = splits and name.partition("/")[0].lower() in SPLITS
    label = 0 if depths == {1} and not splits else 1 if depths == {2} and splits else None
    return Layout(count, label)


def _images(folder: str) -> Iterator[str]:
    return (name for name in places.below(folder) if suffix_of(name) in SOURCE_SUFFIXES)


class Folder(Source):
    """The images below a folder, with their relative paths as names, in the order of ``places.below``."""

    def __init__(self, folder: str, found: Layout, options: Options) -> None:
        self._folder, self._layout, self._options = folder, found, options

    def __iter__(self) -> Iterator[Item]:
        position = self._layout.label
        for name in _images(self._folder):
            folders = name.split("/")[:-1]
            if position is not None and position >= len(folders):
                raise ImageError(f"{places.join(self._folder, name)}: came after the folder had been looked at")
            label = None if position is None else folders[position]
            yield Item(name, label, None, partial(loaded, places.join(self._folder, name), self._options))

    def length(self) -> int:
        return self._layout.count
