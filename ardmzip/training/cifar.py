"""CIFAR-10 as it comes: the Python batches that torchvision unpacks, the binary ones, Hugging Face's Parquet files."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ardmzip.errors import ImageError
from ardmzip.training.images import decode_rgb

_PIXELS = 3 * 32 * 32
#: All that a pickled array needs; nothing else is run from such a file.
_ALLOWED = {
    ("numpy", "ndarray"), ("numpy", "dtype"), ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"), ("_codecs", "encode"),
}  # fmt: skip


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of a CIFAR-10 batch")
        return super().find_class(module, name)


def batches(place: str | Path) -> list[Path]:
    """The training batches in a folder, or below it, sorted; none if it is no such folder, nor such a file."""
    place = Path(place)
    if place.is_file():
        return [place] if place.suffix in (".parquet", ".bin") else []
    found = [*place.rglob("data_batch_*"), *place.rglob("train-*.parquet")] if place.is_dir() else []
    return sorted(path for path in found if path.suffix in ("", ".bin", ".parquet"))


def images(path: Path) -> Iterator[np.ndarray]:
    """The images of a batch, uint8 [32, 32, 3]; raises ImageError."""
    if path.suffix == ".parquet":
        yield from _parquet(path)
        return
    try:
        data = path.read_bytes()
        if path.suffix == ".bin":
            rows = np.frombuffer(data, np.uint8).reshape(-1, 1 + _PIXELS)[:, 1:]
        else:
            rows = np.asarray(_Unpickler(io.BytesIO(data), encoding="bytes").load()[b"data"])
        if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != _PIXELS:
            raise ImageError(f"{path}: not a batch of CIFAR-10 images")
    except (OSError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise ImageError(f"{path}: not a batch of CIFAR-10 images: {error}") from error
    yield from np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _parquet(path: Path) -> Iterator[np.ndarray]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImageError(f"{path}: reading Parquet files needs pyarrow (pip install pyarrow)") from error
    try:
        table = pyarrow.parquet.read_table(path)
        column = table.column("img" if "img" in table.column_names else "image")
        files = [row["bytes"] for row in column.to_pylist()]
    except (OSError, KeyError, TypeError, pyarrow.ArrowException) as error:
        raise ImageError(f"{path}: no images: {error}") from error
    for number, data in enumerate(files):
        yield decode_rgb(data, f"{path}: image {number}")
