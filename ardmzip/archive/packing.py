"""Filling archives: reading images, finding those that are there already, coding batches, and going on after an
interruption."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ardmzip import api, batches, model, raster
from ardmzip.archive import records
from ardmzip.archive.reader import Archive
from ardmzip.archive.writer import Writer, interrupted, made_otherwise
from ardmzip.batches import Options
from ardmzip.container import SHORT_CRC
from ardmzip.errors import ArdmError
from ardmzip.files import check_target
from ardmzip.formats import Picture
from ardmzip.sources import Item, Source

if TYPE_CHECKING:
    from ardmzip.archive.fitting import Fit

#: Images that are coded together, at most.
BATCH = 256
#: Pixels of the pictures that wait to be coded together: bounds the memory.
WAITING_PIXELS = 1 << 21

#: Codes batches of pictures, in their order: a map that may do several at a time, but must not read too far ahead.
Coder = Callable[[Iterable[list[Picture]]], Iterable["list[bytes | ArdmError]"]]
#: Told of every image: its name, and what is wrong with it if it could not be packed.
Report = Callable[[str, "ArdmError | OSError | None"], None]


def settings(options: Options, fit: Fit | None = None) -> dict[str, Any]:
    """What of the options determines an archive, and what came of fitting a model, for its head.

    Raises ModelError for a model that is not there.
    """
    loaded = None if options.model == api.AUTO else model.load(options.model)
    name = api.AUTO if loaded is None else f"{loaded.name} {loaded.id.hex()}"
    found = {
        "model": name, "steps": options.steps, "learn": options.learn, "batches": options.batches,
        "tile": options.tile, "strip": options.strip,
    }  # fmt: skip
    return found if fit is None else found | {"fit": fit.settings()}


def begin(
    path: str | os.PathLike[str], source: Source, options: Options, *, minutes: float | None = None,
    overwrite: bool = False, progress: Callable[[float], None] | None = None,
) -> tuple[Writer, Fit | None]:  # fmt: skip
    """A writer of an archive of a source's images, which goes on with what an interruption has left; and what came of
    fitting.

    minutes: fit a model to the images first, for about so long; what an interrupted writer has fitted is kept. None: do
    not.
    """
    if minutes is None:
        return Writer.create(path, settings(options), overwrite=overwrite, resume=True), None
    from ardmzip.archive import fitting

    check_target(Path(path), overwrite)
    left = interrupted(path)
    if left is not None:
        fit = fitting.read(left.settings)
        if fit is None or fit.minutes != minutes or left.settings != settings(options, fit):
            raise made_otherwise(path)
        brought = left.differences
    else:
        fit, payload = fitting.fit(source, options, minutes, progress)
        brought = () if payload is None else (payload,)
    found = settings(options, fit)
    return Writer.create(path, found, differences=brought, overwrite=overwrite, resume=True), fit


def coding(options: Options, writer: Writer) -> Options:
    """The options by which images of an archive are coded: with the models that it brings."""
    return replace(options, brought=writer.differences)


def code(pictures: list[Picture], options: Options) -> list[bytes | ArdmError]:
    """The files of pictures, or why one cannot be coded, which does not touch the others."""
    try:
        return [*batches.compress(pictures, options)]
    except ArdmError as error:
        if len(pictures) == 1:
            return [error]
    return [found for picture in pictures for found in code([picture], options)]


@dataclass
class _Known:
    """Which pictures the archive has already."""

    #: With those that another process has packed.
    archive: Archive
    #: Names of those that were seen by this process, by a digest of all that makes a picture.
    by_digest: dict[bytes, str] = field(default_factory=dict)
    #: Names of others, by what their entries tell: the checksum as far as all have it, and the size.
    by_entry: defaultdict[tuple[int, int, int], list[str]] = field(default_factory=lambda: defaultdict(list))

    def find(self, digest: bytes, picture: Picture) -> str | None:
        """The name of the image that is the same."""
        found = self.by_digest.get(digest)
        if found is not None:
            return found
        key = (raster.checksum(picture.samples) & SHORT_CRC, picture.height, picture.width)
        for name in self.by_entry.get(key, ()):
            (other,) = self.archive.read([name])
            if not isinstance(other, ArdmError) and _digest(other) == digest:
                self.by_digest[digest] = name
                return name
        return None


def _digest(picture: Picture) -> bytes:
    """Of the samples, what they mean, and the metadata."""
    found = hashlib.blake2b(np.ascontiguousarray(picture.samples).data, digest_size=16)
    found.update(repr((picture.samples.shape, picture.format, picture.metadata)).encode())
    return found.digest()


@dataclass
class _Batch:
    """Images that are coded together, in their order: a picture that is new, or the name of one that is the same."""

    items: list[Item] = field(default_factory=list)
    #: For each item, what to take: the number of a new picture, or the name of an image with the same one.
    sources: list[int | str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    pixels: int = 0


def pack(
    items: Iterable[Item], writer: Writer, options: Options, *, batch: int = BATCH, report: Report | None = None,
    go_on: bool = False, coder: Coder | None = None,
) -> None:  # fmt: skip
    """Add images to an archive; those that the writer has from before an interruption are passed over.

    report: told of each image. go_on: leave out images that cannot be read or coded, of which ``report`` is told; by
    default the first ends the work. coder: codes batches elsewhere, in place of ``code``, and must do so by the options
    that ``coding`` gives. The archive does not depend on ``batch`` and ``coder``.
    """
    options = coding(options, writer)
    tell = report or (lambda _name, _error: None)

    def fail(name: str, error: ArdmError | OSError) -> None:
        if not go_on:
            raise ArdmError(f"{name}: {getattr(error, 'strerror', None) or error}") from error
        tell(name, error)

    known = _known(writer)
    waiting: deque[_Batch] = deque()

    def begun() -> Iterator[list[Picture]]:
        left = _left(items, writer, known.archive, tell, fail if go_on else None)
        for work in _batches(left, known, options, batch, fail):
            waiting.append(work)
            yield work.pictures

    run = coder or (lambda works: (code(pictures, options) for pictures in works))
    for files in run(begun()):
        work = waiting.popleft()
        for item, source in zip(work.items, work.sources, strict=True):
            try:
                _add(item, files[source] if isinstance(source, int) else source, writer)
            except ArdmError as error:
                fail(item.name, error)
            else:
                tell(item.name, None)


def _add(item: Item, source: bytes | ArdmError | str, writer: Writer) -> None:
    """source: the image's file, or why there is none, or the name of the image that is the same."""
    if isinstance(source, ArdmError):
        raise source
    if isinstance(source, bytes):
        writer.add(item.name, source, item.label, item.metadata)
    elif source in writer.numbers:
        writer.add_copy(item.name, source, item.label, item.metadata)
    else:
        raise ArdmError(f"it is the same as {source}, which could not be packed")


def _known(writer: Writer) -> _Known:
    archive = writer.written()
    known = _Known(archive=archive)
    for entry in archive.entries():
        if entry.copy_of is None:
            known.by_entry[entry.crc & SHORT_CRC, entry.height, entry.width].append(entry.name)
    return known


def _left(
    items: Iterable[Item], writer: Writer, archive: Archive, tell: Report,
    fail: Callable[[str, ArdmError], None] | None,
) -> Iterator[Item]:  # fmt: skip
    """The items behind those that the writer has from before an interruption, which must be the first ones, and the
    same. They are read again for that, which takes little time beside coding.

    archive: the images that the writer has. fail: told of those that are missing among them, as they could not be
    packed; None if there cannot be any.
    """
    done = deque(writer.resumed)
    names = set(writer.numbers)
    for item in items:
        if done and item.name == done[0]:
            if not _is_packed(item, archive):
                raise ArdmError(f"{writer.unfinished}: {item.name} has changed since it was packed there")
            tell(done.popleft(), None)
        elif done and fail is None:
            raise ArdmError(f"{writer.unfinished} was made of other images: {done[0]} is next, not {item.name}")
        elif done and fail is not None:
            fail(item.name, ArdmError("it failed before the interruption"))
        elif item.name in names:
            error = ArdmError("the archive has an image of that name already")
            if fail is None:
                raise ArdmError(f"{item.name}: {error}")
            fail(item.name, error)
        else:
            names.add(item.name)
            yield item
    if done:
        raise ArdmError(f"{writer.unfinished} was made of other images: {done[0]} is not among these")


def _is_packed(item: Item, archive: Archive) -> bool:
    """Whether an item is the image of its name in an archive, by the checksum of the pixels."""
    picture, entry = item.image(), archive.entry(item.name)
    same_size = (picture.height, picture.width) == (entry.height, entry.width)
    return same_size and raster.checksum(picture.samples) & records.crc_mask(entry.template) == entry.crc


def _batches(
    items: Iterable[Item], known: _Known, options: Options, batch: int, fail: Callable[[str, ArdmError | OSError], None]
) -> Iterator[_Batch]:  # fmt: skip
    work = _Batch()
    for item in items:
        try:
            picture = item.image()
        except (ArdmError, OSError) as error:
            fail(item.name, error)
            continue
        if options.strip:
            picture = replace(picture, metadata=())
        digest = _digest(picture)
        same = known.find(digest, picture)
        work.items.append(item)
        if same is None:
            known.by_digest[digest] = item.name
            work.sources.append(len(work.pictures))
            work.pictures.append(picture)
            work.pixels += picture.height * picture.width
        else:
            work.sources.append(same)
        if len(work.items) >= batch or work.pixels >= WAITING_PIXELS:
            yield work
            work = _Batch()
    if work.items:
        yield work
