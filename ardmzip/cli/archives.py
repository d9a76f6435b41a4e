"""``ardmzip list``, ``unpack``, ``extract`` and ``repair``."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ardmzip.cli import _common as common
from ardmzip.cli._archives import name_of, output_name, read_all, readable
from ardmzip.cli._progress import Counter
from ardmzip.errors import ArdmError
from ardmzip.files import ARCHIVE_SUFFIX, IMAGE_FORMATS, write_atomic

if TYPE_CHECKING:
    from ardmzip.archive.reader import Archive
    from ardmzip.formats import Picture

_LINES = 1000  # printed at a time
#: Labels and JSON, as the ImageFolder of Hugging Face datasets reads them.
_TABLE = "metadata.jsonl"

archive_argument = click.argument("file", metavar="X.ardmz", type=common.path_type)


@click.command(
    "list",
    epilog="""\b
Examples:
  ardmzip list photos.ardmz
  ardmzip list -l photos.ardmz                   with number, size, bytes and label
  ardmzip list --json s3://bucket/photos.ardmz   a URL, if fsspec and its package for it are installed""",
)
@archive_argument
@click.option("-l", "--long", "detailed", is_flag=True, help="Also number, width x height, bytes and label.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each image.")
def list_command(file: str, detailed: bool, as_json: bool) -> int:
    """List the images of an archive, without decoding them.

    X.ardmz is a file, or the URL of one.
    """

    def work() -> None:
        from ardmzip.archive.reader import Archive

        problems: list[str] = []

        def complain(name: str, error: ArdmError) -> None:
            problems.append(name)
            common.complain(f"{file}: {name}", str(error))

        with Archive(file) as archive:
            waiting: list[str] = []
            for index in readable(archive, complain):
                waiting.append(_line(archive, index, detailed, as_json))
                if len(waiting) == _LINES:
                    common.print_out("\n".join(waiting))
                    waiting = []
            if waiting:
                common.print_out("\n".join(waiting))
        if problems:
            raise ArdmError("damaged: not all of it can be listed")

    return common.exit_code(file, work)


def _line(archive: Archive, index: int, detailed: bool, as_json: bool) -> str:
    if not detailed and not as_json:
        return common.plain(archive.name_at(index))
    from ardmzip.archive import records
    from ardmzip.container import SHORT_CRC

    entry = archive.entry(index)
    whole = records.crc_mask(entry.template) != SHORT_CRC
    if as_json:
        return json.dumps({
            "index": index, "name": entry.name, "width": entry.width, "height": entry.height,
            "channels": entry.channels, "bytes": entry.length, "label": entry.label, "metadata": entry.metadata,
            "copy_of": entry.copy_of, "pixel_crc32": f"{entry.crc:08x}" if whole else None,
        })  # fmt: skip
    size, label = f"{entry.width}x{entry.height}", "" if entry.label is None else f"  {entry.label}"
    return common.plain(f"{index:8} {size:>11} {entry.length:9}  {entry.name}{label}")


decoding_options = common.options(common.decoding_model_option, common.device_options, common.max_pixels_option)


@click.command(
    epilog="""\b
Examples:
  ardmzip unpack photos.ardmz                    writes the folder photos
  ardmzip unpack photos.ardmz -o restored
  ardmzip unpack --ardm photos.ardmz             as .ardm files, which needs no decoding"""
)
@archive_argument
@click.option("-o", "--output", "out", metavar="FOLDER", type=common.path_type,
              help="Where to write; made if need be.  [default: X]")  # fmt: skip
@click.option("--ardm", is_flag=True, help="Write .ardm files instead of images.")
@click.option("-f", "--force", is_flag=True, help="Overwrite existing files.")
@decoding_options
@common.jobs_option
@common.engine_options
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
def unpack(
    file: str, out: str | None, ardm: bool, force: bool, model: str | None, device: str, backend: str, max_pixels: int,
    workers: int, engine: str, address: str | None, quiet: bool,
) -> int:  # fmt: skip
    """Restore all images of an archive, below a folder.

    Each is written by its name, in that format; with .png added where the format is not one that ardmzip writes.
    Labels and JSON, if there are any, go to a file metadata.jsonl, one line an image. What cannot be restored is
    named, and all others are.
    """
    folder = Path(out if out is not None else Path(file).stem)

    def work() -> None:
        from ardmzip.archive.reader import Archive
        from ardmzip.distributed import map_shards

        run = partial(map_shards, workers=workers, engine=engine, address=address)

        started = time.perf_counter()
        failed = 0

        def complain(name: str, error: ArdmError | OSError) -> None:
            nonlocal failed
            failed += 1
            common.complain(f"{file}: {name}", common.describe(error) or str(error))

        with Archive(file, model=model, device=device, backend=backend, max_pixels=max_pixels) as archive:
            with Counter(file, "images", quiet) as counter:
                for index, found in _files(archive, complain) if ardm else read_all(archive, complain, run):
                    name = name_of(archive, index)
                    try:
                        _write(folder / output_name(name), found, force, file, quiet)
                    except (ArdmError, OSError) as error:
                        complain(name, error)
                    counter.add()
            _write_table(archive, folder, force)
            if ardm:
                _write_models(archive, folder, force, file, quiet)
            if not quiet:
                done = f"{len(archive) - failed} images" if failed else f"all {len(archive)} images"
                seconds = time.perf_counter() - started
                click.echo(common.plain(f"{file} -> {folder}  {done}  {seconds:.1f} s"), err=True)
        if failed:
            raise ArdmError("not all images could be restored")

    return common.exit_code(file, work)


def _files(archive: Archive, complain: Any) -> Any:
    """The .ardm files of all images, with their numbers."""
    for index in readable(archive, complain):
        try:
            yield index, archive.file(index)
        except ArdmError as error:
            complain(name_of(archive, index), error)


def _write(path: Path, found: Picture | bytes, force: bool, label: str, quiet: bool) -> None:
    """Write an image in the format of the path's suffix, or a file as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(found, bytes):
        write_atomic(path.with_suffix(".ardm"), found, force)
        return
    from ardmzip import writing

    data, lost = writing.write(found, path.suffix.lower())
    write_atomic(path, data, force)
    if lost and not quiet:
        common.note(label, f"{path}: a {path.suffix.lower()} file does not hold: {', '.join(lost)}")


def _write_models(archive: Archive, folder: Path, force: bool, label: str, quiet: bool) -> None:
    """The models that the archive brings with it: .ardm files that are coded by them need them."""
    from ardmzip import model

    for found in archive.models():
        path = folder / f"{found.id.hex()}{model.SUFFIX}"
        write_atomic(path, model.to_bytes(found), force)
        if not quiet:
            common.note(label, f".ardm files that are coded by its own model need -m {path}")


def _write_table(archive: Archive, folder: Path, force: bool) -> None:
    """Labels and JSON of the images, if any has some."""
    rows = []
    damaged = archive.damaged_blocks()
    for number in range(len(archive.blocks)):
        for index in () if number in damaged else archive.numbers(number):
            name, label, metadata = archive.described(index)
            if label is not None or metadata is not None:
                rows.append(json.dumps({"file_name": name, "label": label, "metadata": metadata}))
    if rows:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / _TABLE, ("\n".join(rows) + "\n").encode(), force)


@click.command(
    epilog="""\b
Examples:
  ardmzip extract photos.ardmz 2024/a.tif             writes 2024/a.tif
  ardmzip extract photos.ardmz 517 518 -o some/       by numbers, below the folder some
  ardmzip extract photos.ardmz 2024/a.tif -o a.png    another name and format
  ardmzip extract photos.ardmz 0 -o - | display       a PNG file on stdout"""
)
@archive_argument
@click.argument("names", nargs=-1, required=True, metavar="NAME|INDEX...")
@click.option("-o", "--output", "out", metavar="OUT", type=common.path_type,
              help="Folder, which must exist or end in /; or, for one image, a file; - is stdout.")  # fmt: skip
@click.option("-f", "--force", is_flag=True, help="Overwrite existing files.")
@decoding_options
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
def extract(
    file: str, names: tuple[str, ...], out: str | None, force: bool, model: str | None, device: str, backend: str,
    max_pixels: int, quiet: bool,
) -> int:  # fmt: skip
    """Restore some images of an archive; only they are read.

    NAME is the name of an image as ardmzip list prints it, and INDEX its number, counted from 0. Images are written
    below OUT, or the current folder, by their names.
    """
    single = out is not None and not out.endswith("/") and not Path(out).is_dir()
    if single and len(names) > 1:
        raise click.UsageError(
            f"with several images -o must name a folder (a new one ends in /), not {common.plain(out)}"
        )
    if single and out != "-" and Path(str(out)).suffix.lower() not in IMAGE_FORMATS:
        raise click.UsageError(f"{common.plain(out)}: lossless formats: {' '.join(IMAGE_FORMATS)}; a folder ends in /")

    def work() -> None:
        from ardmzip.archive.reader import Archive

        with Archive(file, model=model, device=device, backend=backend, max_pixels=max_pixels) as archive:
            wanted = [_find(archive, name) for name in names]
            failed = 0
            found = (one for part in archive.batches(wanted) for one in zip(part, archive.read(part), strict=True))
            for index, picture in found:
                name = archive.name_at(index)
                try:
                    if isinstance(picture, ArdmError):
                        raise picture
                    _extract(name, picture, out, single, force, file, quiet)
                except (ArdmError, OSError) as error:
                    failed += 1
                    common.complain(f"{file}: {name}", common.describe(error) or str(error))
        if failed:
            raise ArdmError("not all images could be restored")

    return common.exit_code(file, work)


def _find(archive: Archive, name: str) -> int:
    try:
        return archive.index(name)
    except KeyError:
        if name.isascii() and name.isdigit() and int(name) < len(archive):
            return int(name)
    raise ArdmError(f"it has no image {name}" + (f", only {len(archive)}" if name.isdigit() else ""))


def _extract(name: str, found: Picture, out: str | None, single: bool, force: bool, label: str, quiet: bool) -> None:
    if out == "-":
        from ardmzip import writing

        common.print_out(writing.write(found, ".png")[0])
        return
    path = Path(str(out)) if single else Path(out or ".") / output_name(name)
    _write(path, found, force, label, quiet)
    if not quiet:
        click.echo(common.plain(f"{label}: {name} -> {path}"), err=True)


@click.command(
    epilog="""\b
Examples:
  ardmzip repair photos.ardmz                              in place, once the new file is complete
  ardmzip repair photos.ardmz.part -o first.ardmz          what an interrupted pack has done so far"""
)
@archive_argument
@click.option("-o", "--output", "out", metavar="OUT.ardmz", type=common.path_type,
              help="The repaired archive.  [default: replaces X.ardmz]")  # fmt: skip
@click.option("-f", "--force", is_flag=True, help="Overwrite an existing OUT.ardmz.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
def repair(file: str, out: str | None, force: bool, quiet: bool) -> int:
    """Make a new index for an archive that was cut off or damaged, of the images that are still there.

    What is lost is not restored: records that are damaged stay as they are, and ardmzip test names them.
    """
    target = Path(out if out is not None else file)
    if target.suffix.lower() != ARCHIVE_SUFFIX:
        raise click.UsageError(f"{common.plain(target)}: the archive should end in {ARCHIVE_SUFFIX} (-o)")
    if force and out is None:
        raise click.UsageError("-f is for -o")

    def work() -> None:
        from ardmzip.archive import writer

        if out is None and _is_complete(file):
            if not quiet:
                click.echo(common.plain(f"{file}  its index is complete: there is nothing to repair"), err=True)
            return
        found = writer.repair(Path(file), target, force or out is None)
        if not quiet:
            for remark in found.notes:
                common.note(file, remark)
            line = f"{file} -> {target}  {found.images} images, {found.written} bytes"
            click.echo(common.plain(line), err=True)

    return common.exit_code(file, work)


def _is_complete(file: str) -> bool:
    from ardmzip.archive.reader import Archive

    try:
        with Archive(file) as archive:
            return archive.complete_bytes == archive.total_bytes and not archive.damaged_blocks()
    except ArdmError:
        return False
