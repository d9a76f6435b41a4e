"""Writing archives: block by block, so that whatever ends the writing, what is complete is kept."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from ardmzip.archive import format as layout
from ardmzip.archive import records
from ardmzip.archive.bytesource import open_source
from ardmzip.archive.format import Block, Directory, Head, Label
from ardmzip.archive.reader import Archive, find_index, read_directory, read_head
from ardmzip.archive.recovery import FoundBlock, blocks, following
from ardmzip.errors import ArdmError, FormatError
from ardmzip.files import atomic_file, check_target, publish

#: Of the file that an archive is written to until it is complete.
PARTIAL = ".part"


class Writer:
    """Writes an archive; a context, at whose end the archive is complete.

    A new one is written to NAME.ardmz.part, and gets its name when it is complete. After an error or an interruption
    that file stays, and ``create`` with ``resume`` goes on with its complete blocks: the result is the same, byte for
    byte. Blocks end by rule, not by time.
    """

    def __init__(self, file: BinaryIO, path: Path, overwrite: bool, blocks: list[Block], directories: list[Directory],
                 head: bytes, indexed: int) -> None:  # fmt: skip
        """See ``create`` and ``append``. indexed: blocks that are in an index; an interruption left the others."""
        self._file, self._path, self._overwrite = file, path, overwrite
        self._critical = layout.has_critical_chunks(head)
        #: Differences of models that the archive brings with it.
        self.differences = layout.unpack_head(head).differences
        self._blocks, self._indexed = blocks, indexed
        self._directory, self._data = Directory(), bytearray()
        self._count = sum(map(len, directories))
        #: Names and their numbers.
        self.numbers = {name: i for i, name in enumerate(name for d in directories for name in d.names)}
        #: Of images that share a record, whose it is.
        self._copies = {name: of for d in directories for name, of in zip(d.names, d.copies, strict=True) if of}
        #: Images of an interrupted writer that are kept: the last ones, in order.
        self.resumed = [name for d in directories[indexed:] for name in d.names]
        if len(self.numbers) != self._count:
            raise FormatError("damaged: two images of the archive have the same name")

    @staticmethod
    def create(
        path: str | os.PathLike[str], settings: dict[str, Any] | None = None, *, differences: tuple[bytes, ...] = (),
        overwrite: bool = False, resume: bool = False,
    ) -> Writer:  # fmt: skip
        """A writer of a new archive.

        settings: how the images are coded, and differences: of models, by which they may be coded, for its head.
        resume: go on with what an interrupted writer has left; raises ArdmError if that was made with another head.
        """
        path = Path(path)
        check_target(path, overwrite)
        partial, head = _partial(path), layout.pack_head(Head(settings or {}, differences))
        file = _locked(partial, "r+b" if partial.exists() else "w+b")
        try:
            found: list[FoundBlock] = []
            if resume and partial.stat().st_size >= len(head):
                source = open_source(partial)
                if source.read(0, len(head)) != head:
                    raise made_otherwise(path)
                found = list(following(source, len(head)))
                source.close()
            return Writer._go_on(file, path, overwrite, [], [], head, found, len(head), new=True)
        except BaseException:
            file.close()
            raise

    @staticmethod
    def append(path: str | os.PathLike[str]) -> Writer:
        """A writer that adds to an archive. Until it is done, readers see the archive as it was.

        It goes on with what an interrupted one has left.
        """
        path = Path(path)
        file = _locked(path, "r+b")
        try:
            source = open_source(path)
            known, _, end = find_index(source)
            head = read_head(source)
            directories = [read_directory(source, block) for block in known]
            found = list(following(source, end))
            source.close()
            return Writer._go_on(file, path, True, known, directories, head, found, end)
        except BaseException:
            file.close()
            raise

    @staticmethod
    def _go_on(
        file: BinaryIO, path: Path, overwrite: bool, known: list[Block], directories: list[Directory],
        head: bytes, found: list[FoundBlock], end: int, new: bool = False,
    ) -> Writer:  # fmt: skip
        """A writer behind what is there, up to ``end`` and the blocks that were found. new: the head may be missing."""
        indexed = len(known)
        known = [*known, *(layout.block_of(block.offset, block.head, block.directory) for block in found)]
        directories = [*directories, *(block.directory for block in found)]
        if found:
            end = known[-1].end
        elif new:
            file.seek(0)
            file.write(head)
            file.flush()
            os.fsync(file.fileno())
        file.truncate(end)
        file.seek(end)
        return Writer(file, path, overwrite, known, directories, head, indexed)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.close()

    def __len__(self) -> int:
        return self._count

    @property
    def kept(self) -> int:
        """Images in complete blocks that are not in an index yet: what an interruption leaves."""
        return sum(block.images for block in self._blocks[self._indexed :])

    @property
    def unfinished(self) -> Path:
        """The file that is written to."""
        return Path(self._file.name)

    def written(self) -> Archive:
        """The images of the blocks that are written, for looking at them meanwhile."""
        return Archive.of_blocks(self.unfinished, self._blocks, self.differences)

    def add(self, name: str, file: bytes, label: Label = None, metadata: dict[str, Any] | None = None) -> int:
        """Add the ``.ardm`` file of an image; returns the image's number."""
        self._check(name)
        record = records.split(file)
        self._directory.add(name, record, label, metadata)
        self._data += record.data
        return self._added(name)

    def add_copy(self, name: str, of: str, label: Label = None, metadata: dict[str, Any] | None = None) -> int:
        """Add an image that is the same as one of the archive, whose record it shares."""
        self._check(name)
        if of not in self.numbers:
            raise ArdmError(f"{name}: the archive has no image {of}")
        of = self._copies.get(of, of)
        self._directory.add_copy(name, of, label, metadata)
        self._copies[name] = of
        return self._added(name)

    def _check(self, name: str) -> None:
        if name in self.numbers:
            raise ArdmError(f"{name}: the archive has an image of that name already")
        if not name:
            raise ArdmError("an image needs a name")

    def _added(self, name: str) -> int:
        number = self.numbers[name] = self._count
        self._count += 1
        if len(self._directory) >= layout.BLOCK_IMAGES or len(self._data) >= layout.BLOCK_BYTES:
            self._end_block()
        return number

    def _end_block(self) -> None:
        block = layout.pack_block(self._directory, bytes(self._data))
        head = layout.block_head(block)
        assert head is not None
        self._blocks.append(layout.block_of(self._file.tell(), head, self._directory))
        self._file.write(block)
        self._sync()
        self._directory, self._data = Directory(), bytearray()

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self) -> None:
        """Write the index; from here on the archive is complete, and has its name."""
        if len(self._directory):
            self._end_block()
        self._file.write(layout.pack_index(self._blocks, self._critical))
        self._sync()
        self._file.close()
        if self.unfinished != self._path:
            publish(self.unfinished, self._path, self._overwrite)

    def close(self) -> None:
        """Stop without an index. What is complete stays for a writer that goes on, and so do models that the archive
        brings with it; nothing stays if that is nothing."""
        kept = bool(self._blocks or self.differences)
        self._file.close()
        if not kept and self.unfinished != self._path:
            self.unfinished.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(path.name + PARTIAL)


def interrupted(path: str | os.PathLike[str]) -> Head | None:
    """The head of what an interrupted writer of a new archive has left; None if there is nothing of use. Raises
    FormatError for a file of that name that is something else."""
    partial = _partial(Path(path))
    if not partial.exists():
        return None
    source = open_source(partial)
    try:
        size = source.size()
        if size < layout.HEAD_BYTES or layout.head_length(source.read(0, layout.HEAD_BYTES)) > size:
            return None
        return layout.unpack_head(read_head(source))
    finally:
        source.close()


def made_otherwise(path: str | os.PathLike[str]) -> ArdmError:
    """What is left of an interrupted writer does not belong to the archive that is to be made."""
    return ArdmError(f"{_partial(Path(path))} was made with other options: use the same ones, or delete it")


def _locked(path: Path, mode: str) -> BinaryIO:
    """An open file that no other writer has."""
    file: BinaryIO = open(path, mode)  # type: ignore[assignment]  # noqa: SIM115
    with contextlib.suppress(ImportError):  # a system without such locks
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise ArdmError(f"{path}: another process is writing it") from error
    return file


# Repair


@dataclass(frozen=True)
class Repaired:
    """What was found: images, bytes that were written, and what to know of some blocks."""

    images: int
    written: int
    notes: tuple[str, ...]


def repair(path: Path, target: Path, overwrite: bool = False) -> Repaired:
    """Write an archive of what is found in another, which may have lost its index.

    Intact blocks stay as they are. Of a block that was cut off, the images that are there are kept. Raises FormatError
    if the head of the archive is damaged.
    """
    source = open_source(path)
    head = read_head(source)
    layout.unpack_head(head)
    kept: list[Block] = []
    names: set[str] = set()
    notes: list[str] = []
    with atomic_file(target, overwrite) as file:
        file.write(head)
        for found in blocks(source, len(head)):
            directory = found.directory
            if not len(directory) or not names.isdisjoint(directory.names):
                continue  # nothing of it is there, or it is there twice
            data = found.records(source)
            if found.complete:
                block = source.read(found.offset, found.head.records_start) + data
                if not found.is_intact(source):
                    first, last = directory.names[0], directory.names[-1]
                    notes.append(f"damaged records among {first} to {last}: ardmzip test tells which")
            else:
                block = layout.pack_block(directory, data)
                notes.append(f"a block is cut off after {directory.names[-1]}")
            begin = layout.block_head(block)
            assert begin is not None
            kept.append(layout.block_of(file.tell(), begin, directory))
            file.write(block)
            names.update(directory.names)
        file.write(layout.pack_index(kept, layout.has_critical_chunks(head)))
        written = file.tell()
    source.close()
    return Repaired(len(names), written, tuple(notes))
