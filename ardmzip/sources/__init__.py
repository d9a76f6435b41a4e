"""Images to pack: items in a fixed order, read when it is their turn."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ardmzip.files import SOURCE_SUFFIXES

if TYPE_CHECKING:
    from ardmzip.formats import Picture


@dataclass(frozen=True)
class Item:
    """An image of a source: its relative path or key, what is known of it, and how to read it."""

    name: str
    label: str | int | None
    metadata: dict[str, Any] | None
    image: Callable[[], Picture]


def open_source(path: str) -> Iterator[Item]:
    """The images below a folder, by their relative paths in order; or a single image file.

    Links to folders are not followed. Raises OSError for what is not there.
    """
    folder = Path(path)
    if not folder.is_dir():
        folder.stat()
        yield Item(folder.name, None, None, lambda: _picture(folder))
        return

    def fail(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=fail):
        folders.sort()
        for file in sorted(files):
            found = Path(parent, file)
            if found.suffix.lower() in SOURCE_SUFFIXES and (found.is_file() or not found.exists()):
                yield Item(found.relative_to(folder).as_posix(), None, None, lambda found=found: _picture(found))  # type: ignore[misc]


def _picture(path: Path) -> Picture:
    from ardmzip import reading

    return reading.read(path.read_bytes())
