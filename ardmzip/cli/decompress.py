"""``ardmzip decompress``, and the decoding that it shares with ``ardmzip test``."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import click

from ardmzip.cli import _common as common
from ardmzip.cli._jobs import STREAM, Job, plan, run_jobs
from ardmzip.cli._progress import Bar
from ardmzip.errors import ArdmError
from ardmzip.files import IMAGE_FORMATS, SUFFIX, restored_name

if TYPE_CHECKING:
    from ardmzip.formats import Picture


@dataclass(frozen=True)
class Decoding:
    """How to decode, and what to print of it."""

    model: str | None
    device: str
    backend: str
    max_pixels: int
    messages: common.Messages

    def restore(self, job: Job, data: bytes) -> Picture:
        """The picture of a file's bytes, with a progress bar."""
        from ardmzip.container import unpack

        unpack(data, self.max_pixels)  # what is no .ardm file is refused before torch is imported
        from ardmzip import api

        with Bar(job.label, self.messages.quiet) as bar:
            return api.restore(
                data, model=self.model, device=self.device, backend=self.backend, progress=bar,
                max_pixels=self.max_pixels,
            )  # fmt: skip

    def tell(self, job: Job, data: bytes, started: float, written: int | None) -> common.Report:
        """The summary of a decoded file, of which ``written`` bytes were made, or nothing if None."""
        from ardmzip.container import unpack

        container = unpack(data, self.max_pixels)
        name = common.model_name(container.model_id)
        report = common.Report(
            input=job.label if job.source else STREAM,
            output=None if written is None else job.output if job.target else STREAM,
            input_bytes=len(data), output_bytes=written, model=name, seconds=round(time.perf_counter() - started, 3),
            **common.content(container, len(data)),
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

\b
Suffixes for -o, all lossless:
  .png .tif .tiff              every kind of image
  .ppm .pnm, .pgm (gray only)  gray and RGB of 8 or 16 bits
  .bmp                         gray, RGB and palettes of 8 bits
  .webp                        8 bits, with or without alpha; gray becomes RGB"""
)
@common.files_argument
@click.option(
    "-o", "--output", "out", metavar="OUT", type=common.path_type,
    help="Output file (for one FILE; its suffix chooses the format) or existing folder; - is stdout.",
)  # fmt: skip
@common.recursive_option(".ardm files")
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
    max_pixels: int,
) -> int:  # fmt: skip
    """Restore images from .ardm files.

    FILE is an .ardm file, or - for stdin. The output is a PNG file named after it: img.ardm becomes img.png, with the
    mode, depth, palette and metadata of the original. Pixels are compared with the checksum in the file: a damaged file
    gives an error, never a wrong image.

    Of several files the first that fails ends the run, unless --continue-on-error is given; a last line sums up.
    """
    suffixes = (SUFFIX,) if recursive else None
    jobs = plan(files, out, restored_name, suffixes=suffixes, stdout=stdout, remove=remove, as_json=as_json)
    for job in jobs:
        _check_suffix(job)
    decoding = Decoding(model, device, backend, max_pixels, common.Messages(quiet, verbose, as_json))
    work = partial(_decompress, decoding=decoding, force=force, remove=remove)
    return run_jobs(jobs, work, common.Batch(workers, continue_on_error, quiet))


def _suffix(job: Job) -> str:
    return ".png" if job.target is None else job.target.suffix.lower()


def _check_suffix(job: Job) -> None:
    if _suffix(job) not in IMAGE_FORMATS:
        problem = f"ardmzip does not write {_suffix(job)} files" if _suffix(job) else "it has no suffix"
        known = " ".join(IMAGE_FORMATS)
        raise click.UsageError(f"{common.plain(job.output)}: {problem}; lossless formats it writes: {known}")


def _decompress(job: Job, decoding: Decoding, force: bool, remove: bool) -> common.Report:
    started = time.perf_counter()
    job.check_target(force)
    data = job.read()
    picture = decoding.restore(job, data)
    from ardmzip import writing

    file, lost = writing.write(picture, _suffix(job))
    if remove and not writing.holds(file, picture):
        raise ArdmError(f"verification failed: the {_suffix(job)} file does not hold the image")
    job.write(file, force)
    if remove:
        job.remove_source()
    report = decoding.tell(job, data, started, len(file))
    if lost and not decoding.messages.quiet:
        common.note(job.label, f"a {_suffix(job)} file does not hold: {', '.join(lost)}")
    return report
