"""Archives (``.ardmz``), whose images have names, labels and JSON already."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from ardmzip.formats import Picture
from ardmzip.sources.item import Item, Options, Source, named

if TYPE_CHECKING:
    from ardmzip.archive.reader import Archive


class Packed(Source):
    """The images of an archive, in its order."""

    def __init__(self, place: str, options: Options) -> None:
        self._place, self._options = place, options

    def __iter__(self) -> Iterator[Item]:
        archive = self._opened()  # not closed here: items may outlive the iteration
        for index in range(len(archive)):
            with named(self._place):
                name, label, metadata = archive.described(index)
            yield Item(name, label, metadata, partial(_picture, archive, self._place, index))

    def length(self) -> int | None:
        with self._opened() as archive:
            return len(archive)

    def _opened(self) -> Archive:
        from ardmzip.archive.reader import Archive

        with named(self._place):
            return Archive(self._place, max_pixels=self._options.max_pixels)


def _picture(archive: Archive, place: str, index: int) -> Picture:
    with named(f"{place}: {archive.name_at(index)}"):
        return archive.pictures([index])[0]
