"""Where an archive's bytes come from: a file, an open file object, or a URL; read piece by piece."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from ardmzip.errors import ArdmError, FormatError

#: How a URL begins, as in s3://bucket/key.
_SCHEME = "://"


class ByteSource(Protocol):
    """Bytes that are read in pieces; safe for threads."""

    name: str

    def size(self) -> int:
        """How many there are."""
        ...

    def read(self, start: int, length: int) -> bytes:
        """Exactly so many from a place on; raises FormatError if there are fewer."""
        ...

    def close(self) -> None:
        """Give back what is open; later reads open it again where they can."""
        ...


def open_source(source: str | os.PathLike[str] | BinaryIO) -> ByteSource:
    """A path, a URL (which needs fsspec), or a seekable binary file."""
    if isinstance(source, str) and _SCHEME in source:
        return _Remote(source)
    if isinstance(source, str | os.PathLike):
        return _Local(Path(source))
    return _Object(source)


def _complete(data: bytes, length: int) -> bytes:
    if len(data) != length:
        raise FormatError(f"truncated: {length} bytes expected, {len(data)} left")
    return data


class _Local:
    """A file of this machine. Every process opens it for itself: one that was forked must not share its place."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path.absolute(), str(path)
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._process = -1
        self.size()  # a file that is missing is found at once

    def size(self) -> int:
        return self.path.stat().st_size

    def read(self, start: int, length: int) -> bytes:
        with self._lock:
            if self._file is None or self._process != os.getpid():
                self._file, self._process = open(self.path, "rb", buffering=0), os.getpid()  # noqa: SIM115
            self._file.seek(start)
            parts = []
            while length > 0 and (part := self._file.read(length)):
                parts.append(part)
                length -= len(part)
        data = b"".join(parts)
        return _complete(data, len(data) + length)

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "name": self.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _file=None, _process=-1)


class _Object:
    """A file object, which stays open; it can be pickled if the object can."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.name = file, str(getattr(file, "name", "archive"))
        self._lock = threading.Lock()

    def size(self) -> int:
        with self._lock:
            return self.file.seek(0, os.SEEK_END)

    def read(self, start: int, length: int) -> bytes:
        with self._lock:
            self.file.seek(start)
            return _complete(self.file.read(length), length)

    def close(self) -> None:
        """It belongs to the caller."""

    def __getstate__(self) -> dict[str, Any]:
        return {"file": self.file, "name": self.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


@contextlib.contextmanager
def _remote_errors(name: str) -> Iterator[None]:
    """Each of fsspec's file systems has errors of its own."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise ArdmError(f"{name}: {type(error).__name__}: {error}") from error


class _Remote:
    """A file that fsspec reaches: every piece is a range request of its own."""

    def __init__(self, url: str) -> None:
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise ArdmError(f"{url}: URLs need fsspec (pip install fsspec)") from error
        self.name = url
        try:
            self._system, self._path = url_to_fs(url)
        except (ValueError, ImportError) as error:  # an unknown protocol, or one that needs another package
            raise ArdmError(f"{url}: {error}") from error

    def size(self) -> int:
        with _remote_errors(self.name):
            found = self._system.size(self._path)
        if found is None:
            raise ArdmError(f"{self.name}: its server does not tell its size")
        return int(found)

    def read(self, start: int, length: int) -> bytes:
        with _remote_errors(self.name):
            data = self._system.cat_file(self._path, start, start + length) if length else b""
        return _complete(data, length)

    def close(self) -> None:
        """Connections are fsspec's."""
