"""``ardmzip decompress``, and the decoding that it shares with ``ardmzip test``."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import click

from ardmzip.cli import _common as common
from ardmzip.cli._jobs import STREAM, Job, plan, run_jobs
from ardmzip.cli._progress import Bar
from ardmzip.container import WHOLE, Container, Part, unpack
from ardmzip.errors import ArdmError
from ardmzip.files import IMAGE_FORMATS, SUFFIX, part_name, restored_name
from ardmzip.tiling import Rectangle

if TYPE_CHECKING:
    from ardmzip.formats import Picture

_PREVIEW = 512  # pixels at most, on the longer side


class Region(click.ParamType):
    """X,Y,W,H, as in 0,0,640,480."""

    name = "region"

    def convert(
        self, value: str | Rectangle, param: click.Parameter | None, context: click.Context | None
    ) -> Rectangle:
        if isinstance(value, Rectangle):
            return value
        match = re.fullmatch(r"(\d{1,10}),(\d{1,10}),([1-9]\d{0,9}),([1-9]\d{0,9})", value)
        if match is None:
            self.fail(f"{value!r} is not a region such as 0,0,640,480", param, context)
        x, y, width, height = map(int, match.groups())
        return Rectangle(y, x, height, width)


def _name(part: Part) -> str:
    """What the default name of the output has before its suffix, empty for the whole image."""
    if part.level:
        return f"level{part.level}"
    return "preview" if part.side else "region" if part.region else ""


class Restored(NamedTuple):
    """What a file, of so many bytes, holds, and the picture of it, or of the part that is wanted."""

    container: Container
    picture: Picture
    input_bytes: int


@dataclass(frozen=True)
class Decoding:
    """How to decode, and what to print of it."""

    model: str | None
    device: str
    backend: str
    max_pixels: int
    messages: common.Messages

    def restore(self, job: Job, part: Part = WHOLE) -> Restored:
        """The picture of a file, or a part of it, with a progress bar."""
        with job.opened() as source:
            # what is no .ardm file is refused before torch is imported
            container = unpack(source, self.max_pixels, part)
            size = source.size()
        from ardmzip import api

        with Bar(job.label, self.messages.quiet) as bar:
            picture = api.picture_of(container, self.model, self.device, self.backend, bar)
        return Restored(container, picture, size)

    def tell(
        self, job: Job, restored: Restored, started: float, written: int | None, part: Part = WHOLE
    ) -> common.Report:
        """The summary of a decoded file, of which ``written`` bytes were made, or nothing if None."""
        container, picture, size = restored
        values = {
            "input": job.label if job.source else STREAM,
            "output": None if written is None else job.output if job.target else STREAM,
            "input_bytes": size,
            "output_bytes": written,
            "model": common.model_name(container.model_id),
            "seconds": round(time.perf_counter() - started, 3),
            **common.content(container, size),
        }
        if part == WHOLE:
            report = common.Report(**values)
        else:
            level, place = container.part.level, container.part.region
            region = None if place is None else (place.left, place.top, place.width, place.height)
            report = common.PartReport(
                **values, level=level, region=region, part_width=picture.width, part_height=picture.height
            )
        details = f"{common.details(container, report, self.device, self.backend)}, {report.seconds:.1f} s"
        outcome = f"{job.label}  ok" if written is None else f"{job.label} -> {job.output}"
        self.messages.tell(report, f"{outcome}  {report.figures}", details)
        return report


@click.command(
    epilog="""\b
Examples:
  ardmzip decompress img.ardm                    writes img.png beside img.ardm
  ardmzip decompress a.ardm b.ardm -o restored/  writes restored/a.png and restored/b.png
  ardmzip decompress img.ardm -o img.tif         writes a TIFF file
  ardmzip decompress -r archive -o restored      archive/2024/a.ardm becomes restored/2024/a.png
  ardmzip decompress -c img.ardm | display       a PNG file on stdout
  ardmzip decompress --preview img.ardm          writes img.preview.png, of 512 x 512 pixels at most
  ardmzip decompress --level 2 img.ardm          writes img.level2.png, of every fourth row and column
  ardmzip decompress --region 900,0,640,480 img.ardm      writes img.region.png

\b
Suffixes for -o, all lossless:
  .png .tif .tiff              every kind of image
  .pnm                         gray of 1, 8 or 16 bits, RGB of 8 or 16 bits
  .ppm, .pgm (gray only)       8 or 16 bits
  .pbm                         gray of 1 bit
  .bmp                         gray of 1 or 8 bits, RGB and palettes of 8 bits
  .webp                        8 bits, with or without alpha; gray becomes RGB"""
)
@common.files_argument
@click.option(
    "-o", "--output", "out", metavar="OUT", type=common.path_type,
    help="Output file (for one FILE; its suffix chooses the format) or existing folder; - is stdout.",
)  # fmt: skip
@common.recursive_option(".ardm files")
@click.option(
    "--level", type=click.IntRange(1, 31), metavar="N",
    help="Restore every 2^N-th row and column only, which reads and decodes less of FILE.",
)  # fmt: skip
@click.option("--preview", is_flag=True, help=f"Restore the finest level of at most {_PREVIEW} x {_PREVIEW} pixels.")
@click.option(
    "--region", type=Region(), metavar="X,Y,W,H",
    help="Restore W x H pixels only, from column X and row Y on; of a FILE of tiles, only these are read and decoded.",
)  # fmt: skip
@common.decoding_model_option
@common.device_options
@common.output_options
@common.jobs_option
@common.continue_option
@common.max_pixels_option
@common.message_options()
def decompress(
    files: tuple[str, ...], out: str | None, model: str | None, device: str, backend: str, force: bool, remove: bool,
    stdout: bool, quiet: bool, verbose: bool, as_json: bool, recursive: bool, workers: int, continue_on_error: bool,
    max_pixels: int, level: int | None, preview: bool, region: Rectangle | None,
) -> int:  # fmt: skip
    """Restore images from .ardm files.

    FILE is an .ardm file, or - for stdin. The output is a PNG file named after it: img.ardm becomes img.png, with the
    mode, depth, palette and metadata of the original; img.tif.ardm becomes img.tif. Pixels are compared with the
    checksum in the file: a damaged file gives an error, never a wrong image.

    --level, --preview and --region restore a part of the image, and name it so: img.level2.png, img.preview.png,
    img.region.png. No more of FILE is read than that needs, and the rest may be missing, as of a download that is under
    way. The checksums of these pixels are compared, that of the file only where all of it is read anyway.

    Of several files the first that fails ends the run, unless --continue-on-error is given; a last line sums up.
    """
    if (level is not None) + preview + (region is not None) > 1:
        raise click.UsageError("--level, --preview and --region are for one part of an image: choose one")
    part = Part(level or 0, _PREVIEW if preview else None, region)
    if remove and part != WHOLE:
        raise click.UsageError("--rm removes what was restored as a whole: leave out --level, --preview and --region")
    common.check_model(model)
    name = restored_name if part == WHOLE else partial(part_name, part=_name(part))
    jobs = plan(
        files, out, name, suffixes=(SUFFIX,) if recursive else None, stdout=stdout, remove=remove, as_json=as_json,
        continue_on_error=continue_on_error,
    )  # fmt: skip
    for job in jobs:
        _check_suffix(job)
    decoding = Decoding(model, device, backend, max_pixels, common.Messages(quiet, verbose, as_json))
    work = partial(_decompress, decoding=decoding, part=part, force=force, remove=remove)
    return run_jobs(jobs, work, common.Batch(workers, continue_on_error, quiet, as_json))


def _suffix(job: Job) -> str:
    return ".png" if job.target is None else job.target.suffix.lower()


def _check_suffix(job: Job) -> None:
    if _suffix(job) not in IMAGE_FORMATS:
        problem = f"ardmzip does not write {_suffix(job)} files" if _suffix(job) else "it has no suffix"
        known = " ".join(IMAGE_FORMATS)
        raise click.UsageError(f"{common.plain(job.output)}: {problem}; lossless formats it writes: {known}")


def _decompress(job: Job, decoding: Decoding, part: Part, force: bool, remove: bool) -> common.Report:
    started = time.perf_counter()
    job.check_target(force)
    restored = decoding.restore(job, part)
    from ardmzip import writing

    file, lost = writing.write(restored.picture, _suffix(job))
    if remove and not writing.holds(file, restored.picture):
        raise ArdmError(f"verification failed: the {_suffix(job)} file does not hold the image")
    job.write(file, force)
    unheld = f"a {_suffix(job)} file does not hold: {', '.join(lost)}" if lost else ""
    if remove:
        job.remove_source(unheld)
    report = decoding.tell(job, restored, started, len(file), part)
    if unheld and not decoding.messages.quiet:
        common.note(job.label, unheld)
    return report
