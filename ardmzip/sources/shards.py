"""Tar shards as WebDataset makes them, read from front to back, so they may be of any size and anywhere.

Members that follow each other and agree up to the first dot of their base names belong together: ``0001.png``,
``0001.cls`` (label) and ``0001.json`` (metadata).
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby

from ardmzip.errors import ImageError
from ardmzip.files import SOURCE_SUFFIXES
from ardmzip.sources import places
from ardmzip.sources.item import Item, Options, Source, decoded, named, suffix_of

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
Member = tuple[str, Callable[[], bytes]]


class _Head(tarfile.TarInfo):
    """A member's header. tarfile takes a bad one, or none, for the end of the archive, and the rest would be lost."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Head:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError("it has no end mark: it was cut off") from error
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"damaged: {error}") from error


def members(place: str) -> Iterator[Member]:
    """Name and reader of every file in a tar archive; a reader works until the next member is asked for."""
    with places.opened(place) as file, tarfile.open(fileobj=file, mode="r|*", tarinfo=_Head) as shard:
        while (member := shard.next()) is not None:
            shard.members.clear()  # type: ignore[attr-defined]  # it would remember all of them
            if member.issparse():
                raise ImageError(f"{member.name}: sparse files are not supported")
            if (member.islnk() or member.issym()) and suffix_of(member.name) in SOURCE_SUFFIXES:
                raise ImageError(f"{member.name}: links are not supported")
            if member.isfile():
                yield member.name.removeprefix("./"), partial(_content, place, shard, member)


def _content(place: str, shard: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    with named(f"{place}: {member.name}"):
        file = shard.extractfile(member)
        assert file is not None  # it is a file
        return file.read()


def key(name: str) -> tuple[str, str]:
    """What the members of a sample have in common, and the rest of the name.

    >>> key("cats/a.v2/0001.left.png"), key("cats/.hidden")
    (('cats/a.v2/0001', 'left.png'), ('cats/', 'hidden'))
    """
    folder, slash, base = name.rpartition("/")
    common, _, extension = base.partition(".")
    return folder + slash + common, extension


class Shard(Source):
    """A tar archive; names are those of its members."""

    def __init__(self, place: str, options: Options) -> None:
        self._place, self._options = place, options

    def __iter__(self) -> Iterator[Item]:
        visible = (
            (name, read) for name, read in members(self._place) if not key(name)[0].endswith("/") and key(name)[0]
        )
        with named(self._place):
            for common, group in groupby(visible, lambda member: key(member[0])[0]):
                yield from self._sample(common, group)

    def _sample(self, common: str, group: Iterator[Member]) -> Iterator[Item]:
        images: dict[str, bytes] = {}
        label: str | int | None = None
        metadata: dict = {}
        texts: dict[str, str] = {}
        lost = []
        for name, read in group:
            extension = key(name)[1].lower()
            with named(f"{self._place}: {name}"):
                if suffix_of(name) in SOURCE_SUFFIXES:
                    if name in images:
                        raise ImageError("two members have this name")
                    images[name] = read()
                elif extension == "cls":
                    label = _label(read().decode())
                elif extension == "json":
                    found = json.loads(read())
                    metadata |= found if isinstance(found, dict) else {"json": found}
                elif extension == "txt":
                    texts["txt"] = read().decode()
                else:
                    lost.append(extension or "a member without suffix")
        for name, data in images.items():
            image = partial(decoded, data, f"{self._place}: {name}", self._options)
            yield Item(name, label, texts | metadata or None, image, tuple(lost))


def _label(text: str) -> str | int:
    """The label in a ``.cls`` member.

    >>> _label("7"), _label("cat\\n"), _label("007")
    (7, 'cat', '007')
    """
    text = text.strip()
    return int(text) if text.isdecimal() and text == str(int(text)) else text
