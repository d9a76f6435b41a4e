"""Parquet files with image bytes, as Hugging Face datasets are stored.

A column of images is a struct of ``bytes`` and ``path``, or bytes. Which columns those are, and what the numbers of
labels mean, is in the schema's metadata where the library ``datasets`` has written it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from ardmzip.errors import ImageError
from ardmzip.files import SOURCE_SUFFIXES
from ardmzip.sources import places
from ardmzip.sources.item import Item, Options, Source, decoded, named, numbered, suffix_of

_ROWS = 16  # at a time
_BUFFER = 1 << 20  # bytes of a column that are read at a time, whatever the size of the row groups
_LABELS = ("label", "labels", "fine_label", "class", "target")
#: How image files begin, for names where there is no path.
_SIGNATURES = {
    b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp", b"GIF8": ".gif", b"BM": ".bmp", b"II*\0": ".tif",
    b"MM\0*": ".tif",
}  # fmt: skip


class Table(Source):
    """A parquet file; images are named by the numbers of their rows, paths in it are metadata."""

    def __init__(self, place: str, options: Options) -> None:
        self._place, self._options = place, options

    def __iter__(self) -> Iterator[Item]:
        with _parquet(self._place) as file:
            count, schema = file.metadata.num_rows, file.schema_arrow
            features = _features(schema.metadata)
            images = _image_columns(schema, features)
            label = _label_column(schema, features, images)
            index = 0
            for batch in file.iter_batches(_ROWS, use_threads=False):
                for row in batch.to_pylist():
                    yield from self._items(index, count, row, images, label, features)
                    index += 1

    def length(self) -> int:
        with _parquet(self._place) as file:
            return file.metadata.num_rows * len(
                _image_columns(file.schema_arrow, _features(file.schema_arrow.metadata))
            )

    def _items(
        self, index: int, count: int, row: dict[str, Any], images: list[str], label: str | None, features: dict
    ) -> Iterator[Item]:
        metadata, lost = {}, []
        for column, value in row.items():
            if column in images or column == label or value is None:
                continue
            value = _class_name(value, features.get(column))
            if _is_json(value):
                metadata[column] = value
            else:
                lost.append(f"column {column}")
        value = None if label is None else _class_name(row[label], features.get(label))
        for column in images:
            title = f"row {index}" if len(images) == 1 else f"row {index}, {column}"
            with named(title):
                data, path = _content(row[column])
            suffix = _suffix(data, path)
            name = numbered(index, count, suffix if len(images) == 1 else f".{column}{suffix}")
            found = metadata if path is None else {**metadata, "path": path}
            image = partial(decoded, data, f"{self._place}: {title}", self._options)
            yield Item(name, value, found or None, image, tuple(lost))


@contextmanager
def _parquet(place: str) -> Iterator[Any]:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError as error:
        raise ImageError(f"{place}: parquet files need pyarrow: pip install 'ardmzip[datasets]'") from error
    try:
        with places.opened(place) as source, ParquetFile(source, buffer_size=_BUFFER) as file:
            yield file
    except pyarrow.ArrowException as error:
        raise ImageError(f"{place}: {' '.join(str(error).split())}") from error


def _features(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """What ``datasets`` says of the columns; nothing where another library has written the file."""
    try:
        found = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return {name: kind for name, kind in found.items() if isinstance(kind, dict)} if isinstance(found, dict) else {}


def _image_columns(schema: Any, features: dict[str, Any]) -> list[str]:
    from pyarrow import types

    told = [name for name in schema.names if features.get(name, {}).get("_type") == "Image"]
    if told:
        return told
    structs = [
        field.name
        for field in schema
        if types.is_struct(field.type) and any(part.name == "bytes" and _is_binary(part.type) for part in field.type)
    ]
    plain = [field.name for field in schema if _is_binary(field.type)]
    if not structs and len(plain) != 1:
        raise ImageError(f"none of the columns ({', '.join(schema.names)}) holds the bytes of images")
    return structs or plain


def _is_binary(kind: Any) -> bool:
    from pyarrow import types

    return types.is_binary(kind) or types.is_large_binary(kind)


def _label_column(schema: Any, features: dict[str, Any], images: list[str]) -> str | None:
    """The first column of classes; else one with a usual name that holds numbers or texts."""
    from pyarrow import types

    classes = [name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"]
    usual = [
        field.name
        for field in schema
        if field.name in _LABELS and (types.is_integer(field.type) or types.is_string(field.type))
    ]
    preferred = [name for name in _LABELS if name in classes] + classes + usual
    return next((name for name in preferred if name not in images), None)


def _class_name(value: Any, feature: Any) -> Any:
    """The name of a class, where there are names; -1 is no label."""
    names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
    if not isinstance(names, list) or not isinstance(value, int):
        return value
    if value == -1:
        return None
    if not 0 <= value < len(names):
        raise ImageError(f"a label is {value}, and there are {len(names)} classes")
    return names[value]


def _content(value: Any) -> tuple[bytes, str | None]:
    """Bytes and path of an image."""
    data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    if not isinstance(data, bytes):
        where = "is in another file, " + str(path) if path else "is missing"
        raise ImageError(f"the image {where}")
    return data, path


def _suffix(data: bytes, path: str | None) -> str:
    suffix = suffix_of(path or "")
    if suffix in SOURCE_SUFFIXES:
        return suffix
    return next((found for start, found in _SIGNATURES.items() if data.startswith(start)), "")


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
