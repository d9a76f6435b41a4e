"""Places: paths, and the URLs that fsspec knows (``s3://``, ``https://``, ``zip://a.npy::https://...``).

Paths need no fsspec. A place is kept as the user wrote it, so that messages show it like that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from ardmzip.errors import ImageError
from ardmzip.sources.item import named

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
#: More places than this in a range of numbers are taken for a slip of the finger.
_MOST = 1_000_000


def is_url(place: str) -> bool:
    return "://" in place or "::" in place


@contextmanager
def opened(place: str) -> Iterator[IO[bytes]]:
    """A file, for reading in binary. Whatever reading it raises, because it is damaged, is told of that file."""
    with named(place):
        if not is_url(place):
            with open(place, "rb") as file:
                yield file
            return
        system, path = _system(place)  # must live as long as the file does
        with system.open(path, "rb") as file:
            yield file


def read(place: str) -> bytes:
    with opened(place) as file:
        return file.read()


def size(place: str) -> int:
    """Bytes of a file."""
    with named(place):
        if not is_url(place):
            return os.path.getsize(place)
        system, path = _system(place)
        found = system.size(path)
    if found is None:
        raise ImageError(f"{place}: its size is not known")
    return int(found)


def is_folder(place: str) -> bool:
    """Whether it is a folder rather than a file; raises ImageError if there is neither."""
    with named(place):
        if not is_url(place):
            os.stat(place)
            return os.path.isdir(place)
        system, path = _system(place)
        return system.info(path)["type"] == "directory"


def exists(place: str) -> bool:
    with named(place):
        if not is_url(place):
            return os.path.lexists(place)
        system, path = _system(place)
        return bool(system.exists(path))


def below(folder: str) -> Iterator[str]:
    """The files below a folder, as relative paths with ``/``: those of a folder by name, then those of its folders.

    Links to folders are not followed; pipes and devices are left out. One folder's names at a time are in memory.
    """
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        with named(folder):
            files, folders = _entries(join(folder, prefix) if prefix else folder)
        yield from (prefix + name for name in sorted(files))
        waiting += (f"{prefix}{name}/" for name in sorted(folders, reverse=True))


def _entries(folder: str) -> tuple[list[str], list[str]]:
    """Names of the files and of the folders in a folder."""
    files, folders = [], []
    if not is_url(folder):
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                elif entry.is_file() or not os.path.exists(entry.path):  # a broken link is to be told of
                    files.append(entry.name)
        return files, folders
    system, path = _system(folder)
    for info in system.ls(path, detail=True):
        name = str(info["name"]).rstrip("/").rpartition("/")[2]
        if info["type"] == "directory":
            folders.append(name)
        elif str(info["name"]).rstrip("/") != path.rstrip("/"):  # some systems list the folder itself
            files.append(name)
    return files, folders


def join(folder: str, name: str) -> str:
    """A file of a folder.

    >>> join("s3://bucket/set/", "a.png"), join("zip://set::https://x/y.zip", "a.png")
    ('s3://bucket/set/a.png', 'zip://set/a.png::https://x/y.zip')
    """
    if not is_url(folder):
        return os.path.join(folder, name)
    inner, chained, outer = folder.partition("::")
    return f"{inner}{name if inner.endswith('/') else f'/{name}'}{chained}{outer}"


def sibling(place: str, name: str) -> str:
    """Another file of the folder that a file is in."""
    if not is_url(place):
        return os.path.join(os.path.dirname(place), name)
    inner, chained, outer = place.partition("::")
    return f"{inner.rpartition('/')[0]}/{name}{chained}{outer}"


def parts(place: str) -> list[str]:
    """The names that a place consists of, from the outermost folder to the file.

    >>> parts("s3://bucket/set/a.png"), parts("zip://set/a.png::https://x/y.zip")
    (['bucket', 'set', 'a.png'], ['set', 'a.png'])
    """
    inner = place.partition("::")[0].partition("://")[2] if is_url(place) else os.path.abspath(place)
    return [part for part in re.split(r"[/\\]" if os.name == "nt" else "/", inner) if part not in ("", ".", "..")]


def expand(place: str) -> list[str]:
    """The places that a pattern stands for, sorted: ``*`` is any text, ``{000..127}`` a range of numbers.

    >>> expand("s3://x/train-{08..11}.tar")[1:]
    ['s3://x/train-09.tar', 's3://x/train-10.tar', 's3://x/train-11.tar']
    """
    if not is_url(place) and os.path.lexists(place):
        return [place]
    match = _RANGE.search(place)
    if match is not None:
        first, last = map(int, match.groups())
        if not 0 <= last - first < _MOST:
            raise ImageError(f"{place}: {match[0]} is no range of numbers")
        digits = len(match[1]) if match[1].startswith("0") else 1
        texts = (f"{number:0{digits}}" for number in range(first, last + 1))
        return [found for text in texts for found in expand(place[: match.start()] + text + place[match.end() :])]
    if "*" not in place:
        return [place]
    with named(place):
        if is_url(place):
            system, path = _system(place)
            outer = place.partition("::")[1:]
            matches = [str(system.unstrip_protocol(name)) + "".join(outer) for name in system.glob(path)]
        else:
            from glob import glob

            matches = glob(place, recursive=True)
    if not matches:
        raise ImageError(f"{place}: no such file or folder")
    return sorted(matches)


def absolute(place: str) -> str:
    """The same place in the form that is always the same."""
    if not is_url(place):
        return os.path.abspath(place)
    if "::" in place:
        return place
    system, path = _system(place)
    return str(system.unstrip_protocol(path))


def _system(place: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it."""
    try:
        import fsspec
    except ModuleNotFoundError as error:
        raise ImageError(f"{place}: URLs need fsspec: pip install 'ardmzip[datasets]'") from error
    try:
        return fsspec.core.url_to_fs(place)
    except (OSError, ValueError, ImportError) as error:
        raise ImageError(f"{place}: {error}") from error
