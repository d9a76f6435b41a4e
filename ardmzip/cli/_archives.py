"""What the commands on archives share."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from ardmzip.cli import _common as common
from ardmzip.errors import ArdmError, FormatError
from ardmzip.files import IMAGE_FORMATS

if TYPE_CHECKING:
    from ardmzip.archive.reader import Archive
    from ardmzip.formats import Picture

_NAMED = 8  # sizes, models and labels that info lists


def is_archive(path: Path | None) -> bool:
    """Whether a file begins as an archive; stdin and what is no file do not."""
    from ardmzip.archive.format import MAGIC

    if path is None or not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_all(archive: Archive, complain: Any, run: Callable[..., Iterable[Any]] = map) -> Iterator[tuple[int, Picture]]:
    """All images with their numbers; ``complain(name, error)`` is told of damaged ones.

    run: as map, which must not take many more items than it has given results.
    """
    begun: deque[list[int]] = deque()

    def parts() -> Iterator[list[int]]:
        for part in archive.batches(readable(archive, complain)):
            begun.append(part)
            yield part

    for pictures in run(archive.read, parts()):
        for index, found in zip(begun.popleft(), pictures, strict=True):
            if isinstance(found, ArdmError):
                complain(name_of(archive, index), found)
            else:
                yield index, found


def readable(archive: Archive, complain: Any) -> Iterator[int]:
    """The numbers of the images whose block has a directory; ``complain`` is told of blocks that have none."""
    damaged = archive.damaged_blocks()
    for number, block in enumerate(archive.blocks):
        if number in damaged:
            complain(f"{block.images} images, {block.first} to {block.last}", damaged[number])
        else:
            yield from archive.numbers(number)


def name_of(archive: Archive, index: int) -> str:
    """The name of an image, also of one whose record is not there."""
    try:
        return archive.entry(index).name
    except FormatError:
        return archive.name_at(index)


def output_name(name: str) -> str:
    """Where an image is unpacked to, below a folder: its own name, with .png added if it is not that of a lossless
    format. Raises ArdmError for a name that leads out of the folder.

    >>> output_name("cat/01.png"), output_name("b.gif")
    ('cat/01.png', 'b.gif.png')
    """
    parts = PurePosixPath(name).parts + PureWindowsPath(name).parts
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor or ".." in parts or "\0" in name:
        raise ArdmError("its name leads out of the folder: ardmzip extract -o FILE restores it")
    return name if PurePosixPath(name).suffix.lower() in IMAGE_FORMATS else f"{name}.png"


def describe_archive(label: str, path: Path) -> dict[str, Any]:
    """Everything ``info`` prints of an archive, by its JSON key."""
    from ardmzip import differences
    from ardmzip.archive import records
    from ardmzip.archive.reader import Archive

    with Archive(path) as archive:
        brought = {result: base for base, result in map(differences.ids, archive.differences)}
        settings = archive.settings()
        sizes: Counter[str] = Counter()
        identities: Counter[bytes] = Counter()
        labels: Counter[str] = Counter()
        copies = samples = subpixels = described = 0
        for entry in archive.entries():
            sizes[f"{entry.width}x{entry.height}"] += 1
            copies += entry.copy_of is not None
            subpixels += entry.width * entry.height * entry.channels
            samples += records.raw_bytes(entry.template)
            described += entry.metadata is not None
            if entry.label is not None:
                labels[str(entry.label)] += 1
            identity = records.model_id(entry.template)
            identities[identity] += 1
        models: Counter[str] = Counter()
        for identity, count in identities.items():  # one model may be named by two bytes and by four
            models[_model(identity, brought)] += count
        total = archive.total_bytes
        return {
            "input": label,
            "bytes": total,
            "images": len(archive),
            "copies": copies,
            "raw_bytes": samples,
            "bits_per_subpixel": round(8 * total / subpixels, 6) if subpixels else 0.0,
            "sizes": dict(sizes.most_common()),
            "models": dict(models.most_common()),
            "labels": dict(labels.most_common()),
            "with_metadata": described,
            "blocks": len(archive.blocks),
            "record_bytes": sum(block.records for block in archive.blocks),
            "directory_bytes": sum(block.directory for block in archive.blocks),
            "incomplete_bytes": total - archive.complete_bytes,
            "fit": settings.pop("fit", None),
            "fit_bytes": sum(map(len, archive.differences)),
            "settings": settings,
        }


def _model(identity: bytes, brought: dict[bytes, bytes]) -> str:
    """What codes images. identity: what their files tell of the model's id. brought: of the models that the archive
    brings with it, by their ids, those that they were made of."""
    base = next((base for result, base in brought.items() if result.startswith(identity)), None)
    return common.model_name(identity) or "general coders" if base is None else f"{common.model_name(base)}, fitted"


def fitted(fit: dict[str, Any]) -> str:
    """What came of fitting a model (archive.fitting.Fit.settings).

    >>> found = {"base": "thumb", "changes": 12345, "images": 900, "held_out": 90, "before": 1000, "after": 987}
    >>> fitted(found | {"saved": 0.011})
    'fit: thumb, 12,345 bytes of changes, held-out images 1.3 % smaller, archive 1.1 % smaller in all'
    >>> fitted(found | {"saved": 0.0})
    'fit: thumb stays as it is: 12,345 bytes of changes, held-out images 1.3 % smaller, which does not pay'
    >>> fitted({"base": "thumb", "changes": 0, "images": 4})
    'fit: thumb stays as it is: 4 images to look at have nothing to gain'
    """
    base = fit["base"]
    if not fit["changes"]:
        return f"fit: {base} stays as it is: {fit['images']} images to look at have nothing to gain"
    gain = 100 * (1 - fit["after"] / fit["before"])
    how = f"held-out images {abs(gain):.1f} % {'larger' if gain < 0 else 'smaller'}"
    if fit["saved"] > 0:
        changes = f"{base}, {fit['changes']:,} bytes of changes"
        return f"fit: {changes}, {how}, archive {100 * fit['saved']:.1f} % smaller in all"
    return f"fit: {base} stays as it is: {fit['changes']:,} bytes of changes, {how}, which does not pay"


def _described_fit(fit: Any) -> str:
    """``fitted``, of what a file says, which may be anything."""
    try:
        return fitted(fit)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return "unknown"


def lines(values: dict[str, Any]) -> list[str]:
    """What ``info`` prints of an archive."""

    def listed(counts: dict[str, int]) -> str:
        found = [f"{name} ({count})" for name, count in list(counts.items())[:_NAMED]]
        more = len(counts) - len(found)
        return ", ".join(found) + (f" and {more} more" if more else "") if found else "none"

    copies = f", {values['copies']} of them the same as others" if values["copies"] else ""
    rows = {
        "images": f"{values['images']}{copies}, {values['raw_bytes']} bytes raw",
        "file": f"{values['bytes']} bytes, {values['bits_per_subpixel']:.3f} bits per sub-pixel",
        "parts": f"{values['record_bytes']} bytes records, {values['directory_bytes']} directories in "
        f"{values['blocks']} blocks",
        "sizes": listed(values["sizes"]),
        "coded by": listed(values["models"]),
        "labels": listed(values["labels"]),
    }
    if values["fit"]:
        rows["fit"] = _described_fit(values["fit"]).removeprefix("fit: ")
    if values["with_metadata"]:
        rows["JSON"] = f"of {values['with_metadata']} images"
    if values["incomplete_bytes"]:
        rows["unfinished"] = (
            f"{values['incomplete_bytes']} bytes after the last index: ardmzip repair keeps what is good"
        )
    return [common.plain(values["input"]), *(f"  {name:<10} {common.plain(text)}" for name, text in rows.items())]
