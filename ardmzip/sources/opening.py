"""Which source reads a place."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ardmzip.container import MAX_PIXELS
from ardmzip.errors import ImageError
from ardmzip.files import ARCHIVE_SUFFIX, SOURCE_SUFFIXES
from ardmzip.sources import archives, arrays, cifar, places, shards, tables
from ardmzip.sources.folders import Folder, ImageFile, layout
from ardmzip.sources.item import Chain, Options, Source, suffix_of

#: Readers of files that hold many images, by suffix; the longest suffix that fits is taken. A new kind of dataset file
#: needs a line here and nothing else.
READERS: dict[str, Callable[[str, Options], Source]] = {
    ARCHIVE_SUFFIX: archives.Packed,
    ".npy": arrays.Array,
    ".npz": arrays.Archive,
    ".bin": cifar.BinaryBatch,
    ".parquet": tables.Table,
    **dict.fromkeys(shards.SUFFIXES, shards.Shard),
}


def open_source(path: str, *, force_jpeg: bool = False, max_pixels: int = MAX_PIXELS) -> Source:
    """The items of a path or URL, in a fixed order.

    path: an image file; a folder of images, or of files that hold many; such a file (see READERS); a batch of CIFAR or
    a folder of them; or a pattern (``train-*.tar``, ``train-{000..127}.tar``). force_jpeg, max_pixels: as for
    ``reading.read``.

    Raises ImageError if there is nothing of that kind; damage is found when items are read.
    """
    return open_sources([path], force_jpeg=force_jpeg, max_pixels=max_pixels)


def open_sources(paths: Sequence[str], *, force_jpeg: bool = False, max_pixels: int = MAX_PIXELS) -> Source:
    """The items of several paths, as ``open_source`` takes them, one after the other in the order of their names.

    Of several paths, an image is named by its file's name, and the items of others are below a folder that is named
    after the path. Where two of these names are the same, all are the paths below the folder that they have in common.
    """
    options = Options(force_jpeg, max_pixels)
    found = sorted({place for path in paths for place in places.expand(path)})
    if not found:
        raise ImageError("there are no images: no paths are given")
    return _named_after([(place, name) for place, name in zip(found, _short_names(found), strict=True)], options)


def _named_after(pairs: list[tuple[str, str]], options: Options) -> Source:
    """Sources of places; the names of their items begin with the names beside them if there are several."""
    if len(pairs) == 1:
        return _open(pairs[0][0], options)
    bare = [_without_suffix(name) for _, name in pairs]
    taken = [name for name, (_, whole) in zip(bare, pairs, strict=True) for name in {name, whole}]
    parts = []
    for (place, name), short in zip(pairs, bare, strict=True):
        source = _open(place, options)
        if isinstance(source, ImageFile):
            prefix = name.rpartition("/")[0]
        else:
            prefix = short if taken.count(short) == 1 else name
        parts.append((prefix, source))
    return Chain(parts)


def _open(place: str, options: Options) -> Source:
    if places.is_folder(place):
        return _open_folder(place, options)
    suffix = reader_suffix(place)
    if suffix is not None:
        return READERS[suffix](place, options)
    if suffix_of(place) not in SOURCE_SUFFIXES and cifar.is_batch(place):
        return cifar.PythonBatch(place, options)
    return ImageFile(place, options)


def _open_folder(folder: str, options: Options) -> Source:
    """Images, or else the batches of CIFAR, or else the files that hold many."""
    found = layout(folder)
    if found.count:
        return Folder(folder, found, options)
    names = list(places.below(folder))
    chosen = cifar.batches(names)
    if chosen:
        readers = {name: cifar.BinaryBatch if name.endswith(".bin") else cifar.PythonBatch for name in chosen}
        return Chain([(_without_suffix(name), reader(places.join(folder, name), options)) for name, reader in readers.items()])  # fmt: skip  # noqa: E501
    chosen = [name for name in names if reader_suffix(name) is not None]
    if not chosen:
        raise ImageError(f"{folder}: there are no images in it, and no files of a dataset")
    return _named_after([(places.join(folder, name), name) for name in chosen], options)


def reader_suffix(place: str) -> str | None:
    """The key of READERS that a name ends in.

    >>> reader_suffix("s3://x/train-00.tar.gz"), reader_suffix("a.png")
    ('.tar.gz', None)
    """
    name = place.partition("::")[0].lower()
    return max((suffix for suffix in READERS if name.endswith(suffix)), key=len, default=None)


def _without_suffix(name: str) -> str:
    return name[: len(name) - len(reader_suffix(name) or "")]


def _short_names(found: Sequence[str]) -> list[str]:
    """The last parts of places if they differ; else what is below the folder that all have in common."""
    split = [places.parts(place) for place in found]
    last = [parts[-1] for parts in split if parts]
    if len(set(last)) == len(found):
        return last
    common = 0
    while all(len(parts) > common + 1 and parts[common] == split[0][common] for parts in split):
        common += 1
    return ["/".join(parts[common:]) for parts in split]
