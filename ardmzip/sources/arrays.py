"""NumPy files: ``.npy``, and ``.npz`` with labels beside the images. They are read row by row.

An array [n, height, width] holds gray images, [n, height, width, 1 to 4] colour ones. [height, width], and [height,
width, 1 to 4], is a single image.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import IO

import numpy as np

from ardmzip import formats
from ardmzip.errors import ImageError
from ardmzip.formats import Picture
from ardmzip.sources import places
from ardmzip.sources.item import Chain, Item, Options, Source, named, numbered

#: Names of arrays of images, and of the arrays of their labels.
_PAIRS = (
    (r"images?|imgs?|data|inputs?|features?|x", ("labels", "label", "targets", "target", "y", "classes")),
    (r"arr_0", ("arr_1",)),
)


@dataclass(frozen=True)
class Header:
    """What the head of a ``.npy`` file says."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def is_image(self) -> bool:
        return self.dtype.kind == "u" and self.dtype.itemsize <= 2 and len(self.shape) in (3, 4)

    @property
    def is_labels(self) -> bool:
        """Whether it is a row of numbers or texts, one an image."""
        flat = len(self.shape) == 1 or (len(self.shape) == 2 and self.shape[1] == 1)
        return flat and self.dtype.kind in "iubUS"

    def images(self) -> Header:
        """The same as [n, height, width] or [n, height, width, channels]; raises ImageError unless it holds images."""
        if self.dtype.kind != "u" or self.dtype.itemsize > 2:
            raise ImageError(f"arrays of type {self.dtype} are not supported, only uint8 and uint16")
        shape = self.shape
        if len(shape) == 2 or (len(shape) == 3 and 1 <= shape[2] <= 4):
            shape = (1, *shape)
        if len(shape) not in (3, 4) or (len(shape) == 4 and not 1 <= shape[3] <= 4):
            raise ImageError(
                f"an array of shape {self.shape} holds no images: [n, height, width] or [n, height, width, 1 to 4]"
            )
        if 0 in shape[1:]:
            raise ImageError(f"the images of an array of shape {self.shape} have no pixels")
        return Header(shape, self.fortran, self.dtype)


def read_header(file: IO[bytes]) -> Header:
    """The head of a ``.npy`` file; after that, ``file`` is where the data begins."""
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"version {version[0]}.{version[1]} is not supported")
    except (MemoryError, OSError):
        raise
    except Exception as error:  # numpy reads the head as Python, which fails in many ways
        raise ImageError(f"no good .npy file: {error}") from error
    if dtype.hasobject:
        raise ImageError("arrays of Python objects are not supported")
    if any(length < 0 for length in shape):
        raise ImageError(f"an array cannot have the shape {shape}")
    return Header(shape, fortran, dtype)


def rows(file: IO[bytes], header: Header) -> Iterator[np.ndarray]:
    """The rows of an array, one at a time; those in Fortran order come after all has been read."""
    if header.fortran and len(header.shape) > 1:
        flat = np.frombuffer(_exactly(file, header.shape[0] * header.row_bytes, "all of it"), header.dtype)
        yield from flat.reshape(header.shape[::-1]).T
        return
    for i in range(header.shape[0]):
        data = _exactly(file, header.row_bytes, f"row {i}")
        yield np.frombuffer(data, header.dtype).reshape(header.shape[1:])


def _exactly(file: IO[bytes], count: int, what: str) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise ImageError(f"the file ends before {what} does")
    return data


def _picture(row: np.ndarray) -> Picture:
    return formats.from_array(row)


class Array(Source):
    """A ``.npy`` file; images are named by their numbers."""

    def __init__(self, place: str, options: Options) -> None:
        self._place, self._options = place, options

    def __iter__(self) -> Iterator[Item]:
        with places.opened(self._place) as file:
            header = read_header(file).images()
            yield from _items(file, header, repeat(None), self._options, ())

    def length(self) -> int:
        with places.opened(self._place) as file:
            return read_header(file).images().shape[0]


def _items(
    file: IO[bytes], header: Header, labels: Iterator[str | int | None], options: Options, lost: tuple[str, ...]
) -> Iterator[Item]:
    count, height, width = header.shape[:3]
    if height * width > options.max_pixels:
        raise ImageError(f"images of {width} x {height} pixels are over the limit of {options.max_pixels} pixels")
    for i, (row, label) in enumerate(zip(rows(file, header), labels, strict=False)):
        yield Item(numbered(i, count), label, None, partial(_picture, row), lost)


class Archive(Source):
    """A ``.npz`` file. The names of arrays are folders unless there is only one of images."""

    def __init__(self, place: str, options: Options) -> None:
        self._place, self._options = place, options

    def _headers(self, archive: zipfile.ZipFile) -> dict[str, Header]:
        """By name without suffix, sorted."""
        found = {}
        for name in sorted(archive.namelist()):
            if name.endswith(".npy"):
                with named(name), archive.open(name) as member:
                    found[name.removesuffix(".npy")] = read_header(member)
        return found

    def __iter__(self) -> Iterator[Item]:
        with places.opened(self._place) as file, zipfile.ZipFile(file) as archive:
            headers = self._headers(archive)
            pairs = self._pairs(headers)
            for name, beside in pairs.items():
                others = headers.keys() - pairs.keys() - {label for label in pairs.values() if label}
                lost = tuple(f"array {other}" for other in sorted(others))
                source = _Member(archive, name, headers, beside, self._options, lost)
                yield from Chain([(name if len(pairs) > 1 else "", source)])

    def length(self) -> int:
        with places.opened(self._place) as file, zipfile.ZipFile(file) as archive:
            headers = self._headers(archive)
            return sum(headers[name].images().shape[0] for name in self._pairs(headers))

    def _pairs(self, headers: dict[str, Header]) -> dict[str, str | None]:
        """Arrays of images, and of their labels."""
        images = [name for name, header in headers.items() if header.is_image]
        if not images:
            raise ImageError(f"none of the arrays ({', '.join(headers) or 'there are none'}) holds images")
        return {name: _labels_of(name, headers, len(images) == 1) for name in images}


def _labels_of(name: str, headers: dict[str, Header], alone: bool) -> str | None:
    """The array of labels of an array of images: by its name, or the only one there is."""
    count = headers[name].images().shape[0]
    fitting = [other for other, header in headers.items() if header.is_labels and header.shape[0] == count]
    for pattern, replacements in _PAIRS:
        for text in replacements:
            wanted = re.sub(rf"(?<![a-z])({pattern})(?![a-z])", text, name.lower())
            for other in fitting:
                if wanted != name.lower() and other.lower() == wanted:
                    return other
    return fitting[0] if alone and len(fitting) == 1 else None


class _Member(Source):
    """One array of a ``.npz`` file that is open."""

    def __init__(
        self, archive: zipfile.ZipFile, name: str, headers: dict[str, Header], beside: str | None, options: Options,
        lost: tuple[str, ...],
    ) -> None:  # fmt: skip
        self._archive, self._name, self._header = archive, name, headers[name].images()
        self._beside, self._options, self._lost = beside, options, lost

    def __iter__(self) -> Iterator[Item]:
        with named(self._name), self._archive.open(f"{self._name}.npy") as member:
            read_header(member)
            yield from _items(member, self._header, self._labels(), self._options, self._lost)

    def _labels(self) -> Iterator[str | int | None]:
        if self._beside is None:
            yield from repeat(None)
            return
        with named(self._beside), self._archive.open(f"{self._beside}.npy") as member:
            for row in rows(member, read_header(member)):
                value = row.reshape(-1)[0].item()
                yield value.decode() if isinstance(value, bytes) else value if isinstance(value, str) else int(value)
