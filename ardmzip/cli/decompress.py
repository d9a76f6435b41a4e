"""``ardmzip decompress``, and the decoding that it shares with ``ardmzip test``."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import click

from ardmzip.cli import _common as common
from ardmzip.cli._jobs import STREAM, Job, plan, run_jobs
from ardmzip.cli._progress import Bar
from ardmzip.errors import ArdmError
from ardmzip.files import IMAGE_FORMATS, SUFFIX, part_name, restored_name

if TYPE_CHECKING:
    from ardmzip.container import Container
    from ardmzip.formats import Picture

Rectangle = tuple[int, int, int, int]  # x, y, width, height

_PREVIEW = 512  # pixels at most, on the longer side


class Region(click.ParamType):
    """X,Y,W,H, as in 0,0,640,480."""

    name = "region"

    def convert(
        self, value: str | Rectangle, param: click.Parameter | None, context: click.Context | None
    ) -> Rectangle:
        if not isinstance(value, str):
            return value
        match = re.fullmatch(r"(\d{1,10}),(\d{1,10}),([1-9]\d{0,9}),([1-9]\d{0,9})", value)
        if match is None:
            self.fail(f"{value!r} is not a region such as 0,0,640,480", param, context)
        x, y, width, height = map(int, match.groups())
        return x, y, width, height


@dataclass(frozen=True)
class Part:
    """What is wanted of an image: a level, the level of a preview, or a region; or the whole image."""

    level: int = 0
    preview: bool = False
    region: Rectangle | None = None

    @property
    def name(self) -> str:
        """What the default name of the output has before its suffix, empty for the whole image."""
        return f"level{self.level}" if self.level else "preview" if self.preview else "region" if self.region else ""

    def level_of(self, c: Container) -> int:
        """The level to decode."""
        if not self.preview:
            return self.level
        return next(level for level in range(c.order.levels + 1) if max(c.order.level_shape(level)) <= _PREVIEW)


_WHOLE = Part()


@dataclass(frozen=True)
class Decoding:
    """How to decode, and what to print of it."""

    model: str | None
    device: str
    backend: str
    max_pixels: int
    messages: common.Messages

    def restore(self, job: Job, data: bytes | memoryview, part: Part = _WHOLE) -> Picture:
        """The picture of a file's bytes, or a part of it, with a progress bar."""
        from ardmzip.container import unpack

        # what is no .ardm file is refused before torch is imported
        container = unpack(data, self.max_pixels, whole=part == _WHOLE)
        from ardmzip import api

        with Bar(job.label, self.messages.quiet) as bar:
            return api.restore(
                data, model=self.model, device=self.device, backend=self.backend, progress=bar,
                level=part.level_of(container), region=part.region, max_pixels=self.max_pixels,
            )  # fmt: skip

    def tell(
        self, job: Job, data: bytes | memoryview, started: float, written: int | None, picture: Picture,
        part: Part = _WHOLE,
    ) -> common.Report:  # fmt: skip
        """The summary of a decoded file, of which ``written`` bytes were made, or nothing if None."""
        from ardmzip.container import unpack

        container = unpack(data, self.max_pixels, whole=False)
        values = {
            "input": job.label if job.source else STREAM,
            "output": None if written is None else job.output if job.target else STREAM,
            "input_bytes": len(data),
            "output_bytes": written,
            "model": common.model_name(container.model_id),
            "seconds": round(time.perf_counter() - started, 3),
            **common.content(container, len(data)),
        }
        if part == _WHOLE:
            report = common.Report(**values)
        else:
            report = common.PartReport(
                **values, level=part.level_of(container), region=part.region, part_width=picture.width,
                part_height=picture.height,
            )  # fmt: skip
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
    img.region.png. The checksums of these pixels are compared, that of the file only where all of it is read anyway.

    Of several files the first that fails ends the run, unless --continue-on-error is given; a last line sums up.
    """
    if (level is not None) + preview + (region is not None) > 1:
        raise click.UsageError("--level, --preview and --region are for one part of an image: choose one")
    part = Part(level or 0, preview, region)
    if remove and part != _WHOLE:
        raise click.UsageError("--rm removes what was restored as a whole: leave out --level, --preview and --region")
    common.check_model(model)
    name = partial(part_name, part=part.name) if part.name else restored_name
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
    data = job.read() if part == _WHOLE else job.mapped()
    picture = decoding.restore(job, data, part)
    from ardmzip import writing

    file, lost = writing.write(picture, _suffix(job))
    if remove and not writing.holds(file, picture):
        raise ArdmError(f"verification failed: the {_suffix(job)} file does not hold the image")
    job.write(file, force)
    unheld = f"a {_suffix(job)} file does not hold: {', '.join(lost)}" if lost else ""
    if remove:
        job.remove_source(unheld)
    report = decoding.tell(job, data, started, len(file), picture, part)
    if unheld and not decoding.messages.quiet:
        common.note(job.label, unheld)
    return report
