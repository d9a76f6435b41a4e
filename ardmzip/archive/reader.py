"""Reading archives: an image costs its block's directory and its record, not more."""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, overload

import numpy as np

from ardmzip.archive import format as layout
from ardmzip.archive import records
from ardmzip.archive.bytesource import ByteSource, open_source
from ardmzip.archive.format import Block, Directory, Head, Label
from ardmzip.container import MAX_PIXELS
from ardmzip.errors import ArdmError, FormatError

if TYPE_CHECKING:
    from PIL import Image

    from ardmzip.formats import Picture
    from ardmzip.model import Model

#: Images that are decoded together where many are wanted, and their pixels.
BATCH, BATCH_PIXELS = 256, 1 << 20
#: The last index is looked for in pieces of so many bytes, from the end on.
_SEARCHED = 1 << 20

Key = int | str


@dataclass(frozen=True)
class Entry:
    """What an archive says of an image without decoding it."""

    index: int
    name: str
    label: Label
    metadata: dict[str, Any] | None
    width: int
    height: int
    #: Samples of a pixel.
    channels: int
    #: CRC-32 of the pixels.
    crc: int
    #: Where its record is, which it may share with images before it.
    offset: int
    length: int
    template: bytes
    #: The name of the image whose record it shares; None if it has its own.
    copy_of: str | None


def find_index(source: ByteSource) -> tuple[list[Block], bool, int]:
    """The blocks of the last complete index, whether the head is critical, and where that index ends.

    Bytes after it are left of a write that was cut off. Raises FormatError if there is none.
    """
    size = source.size()
    if size >= layout.HEAD_BYTES + layout.CRC_BYTES + layout.END_BYTES:
        end = source.read(size - layout.END_BYTES, layout.END_BYTES)
        if (found := _index_at(source, size, end)) is not None:
            return *found, size
    layout.head_length(source.read(0, min(size, layout.HEAD_BYTES)))  # what is no archive is named so
    above = b""
    start = size
    while start > 0:
        start, stop = max(0, start - _SEARCHED), start
        piece = source.read(start, stop - start) + above
        at = len(piece)
        while (at := piece.rfind(layout.END_MAGIC, 0, at)) >= 0:
            stop = start + at + len(layout.END_MAGIC)
            if stop >= layout.END_BYTES:
                end = source.read(stop - layout.END_BYTES, layout.END_BYTES)
                if (found := _index_at(source, stop, end)) is not None:
                    return *found, stop
        above = piece[: len(layout.END_MAGIC) - 1]
    raise FormatError("truncated: the archive has no complete index (ardmzip repair makes one of what is there)")


def _index_at(source: ByteSource, stop: int, end: bytes) -> tuple[list[Block], bool] | None:
    """The index that ends at a place, None if none does."""
    length = layout.index_length(end)
    if length is None or length > stop - layout.END_BYTES:
        return None
    start = stop - layout.END_BYTES - length
    try:
        blocks, critical = layout.unpack_index(source.read(start, length) + end)
    except FormatError:
        return None
    return None if blocks and blocks[-1].end > start else (blocks, critical)  # gaps are not negative, so all are within


def read_head(source: ByteSource) -> bytes:
    """The head of an archive; raises FormatError if it is not all there."""
    size = source.size()
    length = layout.head_length(source.read(0, min(size, layout.HEAD_BYTES)))
    if length > size:
        raise FormatError("truncated: the archive ends within its head")
    return source.read(0, length)


def read_directory(source: ByteSource, block: Block) -> Directory:
    """The directory of a block; raises FormatError."""
    directory = layout.block_directory(source.read(block.offset, block.records_start - block.offset))
    if len(directory) != block.images:
        raise FormatError("damaged: a directory lists other images than the index")
    return directory


@dataclass
class _Loaded:
    """A directory, and where its records are, from the beginning of the block's records on."""

    directory: Directory
    places: list[int]
    numbers: dict[str, int]


class Archive:
    """The images of a ``.ardmz`` file, by number or by name, decoded when they are asked for.

    A sequence of images (``archive[3]``, ``archive[-1]``, ``archive[10:20]``, ``for image in archive``) and a mapping
    from names (``archive["cat/01.png"]``, ``"cat/01.png" in archive``, ``keys``, ``values``, ``items``). Images come as
    ``decompress`` gives them; ``array`` and ``arrays`` give their samples. It may be used by several threads, and be
    pickled, as for worker processes: the name of the file travels, with the models that the archive brings with it, and
    each process opens it for itself.

    >>> import ardmzip, numpy, tempfile, os
    >>> from ardmzip.archive.writer import Writer
    >>> path = os.path.join(tempfile.mkdtemp(), "two.ardmz")
    >>> with Writer.create(path) as writer:
    ...     for value in (5, 7):
    ...         image = numpy.full((4, 4, 3), value, numpy.uint8)
    ...         _ = writer.add(f"{value}.png", ardmzip.compress(image), label="odd")
    >>> archive = ardmzip.Archive(path)
    >>> len(archive), archive.names(), archive.entry("7.png").label, "6.png" in archive
    (2, ['5.png', '7.png'], 'odd', False)
    >>> archive["7.png"].getpixel((0, 0)), [image.getpixel((0, 0)) for image in archive]
    ((7, 7, 7), [(5, 5, 5), (7, 7, 7)])
    """

    def __init__(
        self, source: str | os.PathLike[str] | BinaryIO, *, model: str | Path | None = None, device: str = "auto",
        backend: str = "auto", max_pixels: int = MAX_PIXELS,
    ) -> None:  # fmt: skip
        """Open an archive: a path, a URL (with fsspec), or a seekable binary file; reads its index only.

        model, device, backend, max_pixels: as for ``ardmzip.decompress``; of a model that the archive brings with it,
        ``model`` is the one that it was made of.

        Raises FormatError for what is no archive, or has no complete index.
        """
        self._source = open_source(source)
        self._options = {"device": device, "backend": backend, "max_pixels": max_pixels}
        self._model = model
        self.blocks, critical, end = find_index(self._source)
        #: Bytes of the index and all before it; more than that are left of a write that was cut off.
        self.complete_bytes = end
        #: Differences of models, by which images may be coded (differences.py).
        self.differences: tuple[bytes, ...] = ()
        self._prepare()
        if critical:
            self.differences = self.head().differences  # which refuses what it does not know

    @classmethod
    def of_blocks(
        cls, source: str | os.PathLike[str], blocks: Sequence[Block], differences: tuple[bytes, ...] = ()
    ) -> Archive:
        """The images of some blocks of a file that has no index yet, and the differences of models in its head."""
        archive = cls.__new__(cls)
        archive._source, archive._model, archive.blocks = open_source(source), None, list(blocks)
        archive._options = {"device": "auto", "backend": "auto", "max_pixels": MAX_PIXELS}
        archive.complete_bytes = blocks[-1].end if blocks else 0
        archive.differences = differences
        archive._prepare()
        return archive

    def _prepare(self) -> None:
        self._starts = [0, *accumulate(block.images for block in self.blocks)]
        self._lock = threading.Lock()
        self._loaded: dict[int, _Loaded] = {}

    def __getstate__(self) -> dict[str, Any]:
        lazy = ("_lock", "_loaded", "_starts")
        return {name: value for name, value in self.__dict__.items() if name not in lazy}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, which the next read opens again."""
        self._source.close()

    @property
    def name(self) -> str:
        """Of the file."""
        return self._source.name

    @property
    def total_bytes(self) -> int:
        """Of the file."""
        return self._source.size()

    def settings(self) -> dict[str, Any]:
        """How the images were coded, as the writer says."""
        return self.head().settings

    def head(self) -> Head:
        """What it begins with; raises FormatError for what is not known."""
        return layout.unpack_head(read_head(self._source))

    def models(self) -> list[Model]:
        """The models that it brings with it (docs/FORMAT.md, "Differences"). Raises ArdmError."""
        from ardmzip import differences

        found = [differences.find([one], differences.ids(one)[1], self._model) for one in self.differences]
        return [model for model in found if model is not None]

    # What is in it

    def __len__(self) -> int:
        return self._starts[-1]

    def entry(self, key: Key) -> Entry:
        """What the archive says of an image; raises IndexError or KeyError for one that it has not."""
        return self._entry(self.index(key))

    def _entry(self, index: int) -> Entry:
        number, place = self._place(index)
        loaded, block = self._directory(number), self.blocks[number]
        d = loaded.directory
        own: dict[str, Any] = {
            "index": index,
            "name": d.names[place],
            "label": d.labels[place],
            "metadata": d.metadata[place],
        }
        if d.copies[place]:
            original = self._original(d.copies[place])
            return replace(original, **own, copy_of=original.name)
        offset, length = block.records_start + loaded.places[place], d.lengths[place]
        if offset + length > block.end:
            raise FormatError("damaged: its record is not in its block")
        template = d.templates[d.kinds[place]]
        height, width, channels = records.shape(template)
        return Entry(
            **own, width=width, height=height, channels=channels, crc=d.crcs[place], offset=offset, length=length,
            template=template, copy_of=None,
        )  # fmt: skip

    def _original(self, name: str) -> Entry:
        """The image that another one is a copy of."""
        try:
            number, place = self._place(self.index(name))
        except KeyError:
            raise FormatError(f"damaged: it is a copy of {name}, which is not there") from None
        if self._directory(number).directory.copies[place]:
            raise FormatError("damaged: it is a copy of a copy")
        return self._entry(self._starts[number] + place)

    def entries(self) -> Iterator[Entry]:
        """All of them, in order."""
        return map(self._entry, range(len(self)))

    def names(self) -> list[str]:
        """The names of all images, in order."""
        return [name for number in range(len(self.blocks)) for name in self._directory(number).directory.names]

    keys = names

    def name_at(self, index: int) -> str:
        """The name of an image by its number."""
        number, place = self._place(index)
        return self._directory(number).directory.names[place]

    def described(self, index: int) -> tuple[str, Label, dict[str, Any] | None]:
        """Name, label and JSON of an image by its number."""
        number, place = self._place(index)
        d = self._directory(number).directory
        return d.names[place], d.labels[place], d.metadata[place]

    def index(self, key: Key) -> int:
        """The number of an image, by its name or by a number that may count from the end."""
        if isinstance(key, str):
            for number, block in enumerate(self.blocks):
                if block.first <= key <= block.last and key in (numbers := self._directory(number).numbers):
                    return self._starts[number] + numbers[key]
            raise KeyError(key)
        index = key + len(self) if key < 0 else key
        if not 0 <= index < len(self):
            raise IndexError(f"image {key} of an archive of {len(self)}")
        return index

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        try:
            self.index(name)
        except KeyError:
            return False
        return True

    def _place(self, index: int) -> tuple[int, int]:
        """(block, number within it) of an image."""
        number = bisect_right(self._starts, index) - 1
        return number, index - self._starts[number]

    def _directory(self, number: int) -> _Loaded:
        with self._lock:
            found = self._loaded.get(number)
        if found is None:
            directory = read_directory(self._source, self.blocks[number])
            places = [0, *accumulate(directory.lengths)]
            found = _Loaded(directory, places, {name: place for place, name in enumerate(directory.names)})
            with self._lock:
                self._loaded[number] = found
        return found

    def damaged_blocks(self) -> dict[int, FormatError]:
        """What is wrong with the directories that cannot be read, by the numbers of their blocks."""
        found = {}
        for number in range(len(self.blocks)):
            try:
                self._directory(number)
            except FormatError as error:
                found[number] = error
        return found

    def numbers(self, block: int) -> range:
        """The images of a block."""
        return range(self._starts[block], self._starts[block + 1])

    # Images

    def file(self, key: Key) -> bytes:
        """The ``.ardm`` file of an image, as ``ardmzip compress`` would have made it; but one that is coded by a model
        which the archive brings with it needs that model (``models``) to be decoded."""
        return self._file(self.entry(key))

    def _file(self, entry: Entry) -> bytes:
        data = self._source.read(entry.offset, entry.length)
        return records.join(records.Record(entry.template, data, entry.crc))

    def read(self, keys: Sequence[Key]) -> list[Picture | ArdmError]:
        """Several pictures, decoded together where they can be; or what is wrong with one of them."""
        found: dict[int, Picture | ArdmError] = {}
        files: dict[int, bytes] = {}
        for place, key in enumerate(keys):
            index = self.index(key)
            try:
                files[place] = self._file(self._entry(index))
            except FormatError as error:
                found[place] = error
        from ardmzip import batches

        pictures = batches.restore(
            [*files.values()], model_name=self._model, brought=self.differences, **self._options,  # type: ignore[arg-type]
        )  # fmt: skip
        found.update(zip(files, pictures, strict=True))
        return [found[place] for place in range(len(keys))]

    def pictures(self, keys: Sequence[Key]) -> list[Picture]:
        """Several pictures; raises what is wrong with the first that cannot be decoded, with its name."""
        found: list[Picture] = []
        for key, picture in zip(keys, self.read(keys), strict=True):
            if isinstance(picture, ArdmError):
                name = key if isinstance(key, str) else self.entry(key).name
                raise type(picture)(f"{name}: {picture}") from picture
            found.append(picture)
        return found

    def array(self, key: Key) -> np.ndarray:
        """The samples of an image, as ``ardmzip.decompress_array`` gives them."""
        return self.pictures([key])[0].array()

    def arrays(self, keys: Sequence[Key]) -> list[np.ndarray]:
        """The samples of several images, which are decoded together."""
        return [picture.array() for picture in self.pictures(keys)]

    @overload
    def __getitem__(self, key: Key) -> Image.Image: ...
    @overload
    def __getitem__(self, key: slice) -> list[Image.Image]: ...

    def __getitem__(self, key: Key | slice) -> Image.Image | list[Image.Image]:
        from ardmzip import formats

        if isinstance(key, slice):
            return [formats.to_image(picture) for picture in self.pictures(range(*key.indices(len(self))))]
        return formats.to_image(self.pictures([key])[0])

    def get(self, key: Key, default: Any = None) -> Any:
        """The image, or ``default`` if there is none of that name or number."""
        try:
            self.index(key)
        except LookupError:
            return default
        return self[key]

    def __iter__(self) -> Iterator[Image.Image]:
        from ardmzip import formats

        for part in self.batches(range(len(self))):
            for picture in self.pictures(part):
                yield formats.to_image(picture)

    def batches(self, indices: Iterable[int], most: int = BATCH) -> Iterator[list[int]]:
        """Images to be decoded together: up to ``most`` small ones, or few large ones, as they take more memory."""
        part: list[int] = []
        pixels = 0
        for index in indices:
            try:
                entry = self._entry(index)
                pixels += entry.width * entry.height
            except FormatError:  # which reading it tells
                pass
            part.append(index)
            if len(part) >= most or pixels >= BATCH_PIXELS:
                yield part
                part, pixels = [], 0
        if part:
            yield part

    values = __iter__

    def items(self) -> Iterator[tuple[str, Image.Image]]:
        """(name, image) of all of them."""
        return zip(self.names(), self, strict=True)
