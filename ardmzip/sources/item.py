"""What a source gives: items, each with an image that is read when it is asked for."""

from __future__ import annotations

import errno
import lzma
import os
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from tarfile import TarError

from ardmzip.container import MAX_PIXELS
from ardmzip.errors import ArdmError, ImageError
from ardmzip.formats import Picture

#: What the readers of archives, texts and files raise for damaged data, and for files that cannot be reached.
_ERRORS = (
    OSError, EOFError, ValueError, LookupError, OverflowError, RecursionError, NotImplementedError, TarError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """How images are read: see ``reading.read``."""

    force_jpeg: bool = False
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True, eq=False)
class Item:
    """An image of a source and what belongs to it.

    name: unique within the source, and a relative path with ``/`` that stays below its folder. metadata: a JSON object.
    image: reads the picture; raises ImageError, with a text that names the item, for one that cannot be stored. Items
    can be pickled.
    """

    name: str
    label: str | int | None
    metadata: dict | None
    image: Callable[[], Picture]
    #: What the source has for this image, and the item has not, for people.
    lost: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not is_relative(self.name):
            raise ImageError(f"{self.name!r} is no name for an image: it must be a relative path")


def is_relative(name: str) -> bool:
    r"""Whether a name is a relative path that stays below its folder, on any system.

    >>> [is_relative(name) for name in ("cats/0517.png", "../x", "/x", "a//b", "C:/x", "a\\b", "")]
    [True, False, False, False, False, False, False]
    """
    try:
        name.encode()
    except UnicodeError:  # a file name in another encoding
        return False
    parts = name.split("/")
    drive = len(parts[0]) > 1 and parts[0][1] == ":"
    return not drive and all(part not in ("", ".", "..") and not set(part) & {"\0", "\\"} for part in parts)


class Source(ABC):
    """Items in a fixed order. Nothing is read before the first item is asked for; every iteration reads anew."""

    @abstractmethod
    def __iter__(self) -> Iterator[Item]: ...

    def length(self) -> int | None:
        """How many items there are, None where finding out would mean to read them all."""
        return None


class Chain(Source):
    """Sources one after the other, each below a folder of its own in the names unless that is empty."""

    def __init__(self, parts: list[tuple[str, Source]]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[Item]:
        for prefix, source in self._parts:
            for item in source:
                name = f"{prefix}/{item.name}" if prefix else item.name
                yield Item(name, item.label, item.metadata, item.image, item.lost)

    def length(self) -> int | None:
        total = 0
        for _, source in self._parts:
            found = source.length()
            if found is None:
                return None
            total += found
        return total


@contextmanager
def named(label: str) -> Iterator[None]:
    """What reading ``label`` raises, because the data is damaged or out of reach, becomes one line that names it."""
    try:
        yield
    except ArdmError as error:
        text = str(error)
        raise ImageError(text if text.startswith(f"{label}: ") else f"{label}: {text}") from error
    except _ERRORS as error:
        missing = os.strerror(errno.ENOENT) if isinstance(error, FileNotFoundError) else None
        text = getattr(error, "strerror", None) or missing or " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{label}: {text}") from error


def decoded(data: bytes, label: str, options: Options) -> Picture:
    """The picture of an image file that is in memory."""
    from ardmzip import reading

    with named(label):
        return reading.read(data, options.force_jpeg, options.max_pixels)


def numbered(index: int, count: int, suffix: str = ".png") -> str:
    """The name of an image that has none, by its number in the order of the source.

    >>> numbered(517, 10000), numbered(0, 1)
    ('0517.png', '0.png')
    """
    return f"{index:0{len(str(max(count - 1, 0)))}}{suffix}"


def suffix_of(name: str) -> str:
    """The suffix of a name, in small letters."""
    return PurePosixPath(name).suffix.lower()
