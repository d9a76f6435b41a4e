"""The batches of CIFAR-10 and CIFAR-100, in their python and binary versions.

A python batch is a pickle, and a pickle can run anything when it is loaded. So no class that it names is made: a
reader of its own knows three plain containers, and refuses whatever else the file asks for.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import IO, Any

import numpy as np

from ardmzip import formats
from ardmzip.errors import ImageError
from ardmzip.formats import Picture
from ardmzip.sources import places
from ardmzip.sources.item import Item, Options, Source, named, numbered

_PIXELS = 32 * 32
_VALUES = 3 * _PIXELS
#: Bytes of labels before each image of a binary file, and the keys of python batches.
_CIFAR10, _CIFAR100 = ("labels",), ("coarse_labels", "fine_labels")
#: The names of classes: key in a file ``batches.meta`` or ``meta``, and file beside a binary batch.
_CLASSES = {
    "labels": ("label_names", "batches.meta.txt"),
    "fine_labels": ("fine_label_names", "fine_label_names.txt"),
    "coarse_labels": ("coarse_label_names", "coarse_label_names.txt"),
}
_BATCH = re.compile(r"data_batch_\d+|test_batch")
_BINARY = re.compile(r"(data_batch_\d+|test_batch|train|test)\.bin")


def batches(files: Sequence[str]) -> list[str]:
    """Those of the files in a folder that are batches, if the folder is one of CIFAR's.

    >>> batches(["batches.meta", "data_batch_1", "data_batch_2", "readme.html", "test_batch"])
    ['data_batch_1', 'data_batch_2', 'test_batch']
    >>> batches(["train", "test", "a.png"])
    []
    """
    found = [name for name in files if _BATCH.fullmatch(name) or _BINARY.fullmatch(name)]
    return found or [name for name in files if name in ("train", "test") and "meta" in files]


def is_batch(place: str) -> bool:
    """Whether a file without a known suffix looks like a python batch."""
    with places.opened(place) as file:
        return file.read(1) == b"\x80"


class _Stored:
    """Stands for an array, or the type of one, in a pickle; keeps what the pickle says of it."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Bytes(bytes):
    """Bytes that Python 3 has written in an old protocol: as text, one character each."""

    def __new__(cls, text: str = "", encoding: str = "latin1") -> _Bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError("not bytes")
        return super().__new__(cls, text.encode("latin1"))

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("bytes have no state")


_KNOWN = {
    (module, name): kind
    for kind, names in {
        _Stored: ("numpy.ndarray", "numpy.dtype", "numpy.core.multiarray._reconstruct",
                  "numpy._core.multiarray._reconstruct"),
        _Bytes: ("_codecs.encode", "builtins.bytes", "__builtin__.bytes"),
    }.items()
    for module, _, name in (full.rpartition(".") for full in names)
}  # fmt: skip


class _Unpickler(pickle._Unpickler):
    """The one in Python: the one in C takes memory for as many objects as a file claims to number."""

    def find_class(self, module: str, name: str) -> Any:
        found = _KNOWN.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which no batch does")
        return found


def _unpickled(file: IO[bytes]) -> dict[str, Any]:
    """The dictionary in a pickle, its keys as texts."""
    try:
        found = _Unpickler(file, encoding="bytes").load()
    except OSError:
        raise
    except Exception as error:  # damaged pickles raise nearly anything, and ask for any amount of memory
        raise ImageError(f"no batch of CIFAR: {' '.join(str(error).split()) or type(error).__name__}") from error
    if not isinstance(found, dict):
        raise ImageError("no batch of CIFAR: it holds no dictionary")
    return {_text(key): value for key, value in found.items() if isinstance(key, str | bytes)}


def _text(value: object) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _array(value: object) -> np.ndarray:
    """A list of numbers, or what stands for an array."""
    if isinstance(value, list) and all(isinstance(number, int) for number in value):
        return np.array(value, np.int64)
    state = value.state if isinstance(value, _Stored) else None
    if not isinstance(state, tuple) or len(state) != 5:
        raise ImageError("no batch of CIFAR: an array is missing")
    _, shape, kind, fortran, data = state
    name = _text(kind.arguments[0]) if isinstance(kind, _Stored) and kind.arguments else ""
    shaped = isinstance(shape, tuple) and all(isinstance(length, int) and length >= 0 for length in shape)
    if not re.fullmatch("[iu][1248]", name) or fortran or not isinstance(data, bytes) or not shaped:
        raise ImageError("no batch of CIFAR: an array is of another kind than whole numbers")
    return np.frombuffer(data, f"<{name}").reshape(shape)


def _texts(value: object) -> list[str]:
    """A list of names, empty where it is missing."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, str | bytes) for one in value):
        raise ImageError("no batch of CIFAR: names are not a list of texts")
    return [_text(one) for one in value]


def _picture(planes: np.ndarray) -> Picture:
    return formats.from_array(planes.reshape(3, 32, 32).transpose(1, 2, 0))


class PythonBatch(Source):
    """A pickled batch. Labels are names of classes where ``batches.meta`` or ``meta`` lies beside it, else numbers."""

    def __init__(self, place: str, options: Options) -> None:
        self._place = place

    def _read(self) -> tuple[np.ndarray, dict[str, list], list[str]]:
        """Pixels, labels by kind, file names."""
        with named(self._place):
            with places.opened(self._place) as file:
                batch = _unpickled(file)
            pixels = _array(batch.get("data"))
            if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != _VALUES:
                raise ImageError(f"no batch of CIFAR: its data is {pixels.dtype} of shape {pixels.shape}")
            labels = {
                kind: _labels(_array(batch[kind]), self._classes(kind), len(pixels))
                for kind in _CLASSES
                if kind in batch
            }
            names = _texts(batch.get("filenames"))
            if len(names) not in (0, len(pixels)):
                raise ImageError(f"{len(names)} file names for {len(pixels)} images")
        return pixels, labels, names

    def _classes(self, kind: str) -> list[str]:
        for name in ("batches.meta", "meta"):
            place = places.sibling(self._place, name)
            if places.exists(place):
                with places.opened(place) as file:
                    return _texts(_unpickled(file).get(_CLASSES[kind][0]))
        return []

    def __iter__(self) -> Iterator[Item]:
        pixels, labels, names = self._read()
        with named(self._place):
            for i, row in enumerate(pixels):
                described = {"filename": names[i]} if names else {}
                kinds = {kind: found[i] for kind, found in labels.items()}
                yield _item(i, len(pixels), kinds, described, row)

    def length(self) -> int:
        return len(self._read()[0])


def _labels(numbers: np.ndarray, classes: Sequence[str], count: int) -> list[str | int]:
    if numbers.shape != (count,):
        raise ImageError(f"labels of shape {numbers.shape} for {count} images")
    return [_label(int(number), classes) for number in numbers]


def _label(number: int, classes: Sequence[str]) -> str | int:
    if not classes:
        return number
    if not 0 <= number < len(classes):
        raise ImageError(f"a label is {number}, and there are {len(classes)} classes")
    return classes[number]


def _item(index: int, count: int, labels: dict[str, str | int], described: dict, pixels: np.ndarray) -> Item:
    """CIFAR-100's fine label is the label, and its coarse one metadata."""
    if "coarse_labels" in labels:
        described = {**described, "coarse_label": labels["coarse_labels"]}
    label = labels.get("fine_labels", labels.get("labels"))
    return Item(numbered(index, count), label, described or None, partial(_picture, pixels))


class BinaryBatch(Source):
    """A binary batch: each image is one byte of label, or two in CIFAR-100, and its three planes."""

    def __init__(self, place: str, options: Options) -> None:
        self._place = place

    def _kinds(self) -> tuple[tuple[str, ...], int]:
        """The labels before each image, and how many images there are."""
        size = places.size(self._place)
        for kinds in (_CIFAR10, _CIFAR100):
            count, rest = divmod(size, len(kinds) + _VALUES)
            if count and not rest:
                return kinds, count
        raise ImageError(
            f"{self._place}: no batch of CIFAR: {size} bytes are no whole number of records of {_VALUES + 1} or "
            f"{_VALUES + 2} bytes"
        )

    def _classes(self, kind: str) -> list[str]:
        place = places.sibling(self._place, _CLASSES[kind][1])
        if not places.exists(place):
            return []
        with named(place):
            return places.read(place).decode().split()

    def __iter__(self) -> Iterator[Item]:
        kinds, count = self._kinds()
        classes = {kind: self._classes(kind) for kind in kinds}
        with places.opened(self._place) as file:
            for i in range(count):
                record = file.read(len(kinds) + _VALUES)
                if len(record) < len(kinds) + _VALUES:
                    raise ImageError(f"the file ends within image {i}")
                labels = {kind: _label(record[j], classes[kind]) for j, kind in enumerate(kinds)}
                yield _item(i, count, labels, {}, np.frombuffer(record, np.uint8, offset=len(kinds)))

    def length(self) -> int:
        return self._kinds()[1]
