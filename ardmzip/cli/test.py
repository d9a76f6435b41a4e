"""``ardmzip test``."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import click

from ardmzip.cli import _common as common
from ardmzip.cli._archives import is_archive, read_all
from ardmzip.cli._jobs import Job, input_jobs, run_jobs
from ardmzip.cli._progress import Counter
from ardmzip.cli.decompress import Decoding
from ardmzip.errors import ArdmError
from ardmzip.files import ARCHIVE_SUFFIX, SUFFIX


@click.command(
    epilog="""\b
Examples:
  ardmzip test img.ardm
  ardmzip test -q archive/*.ardm && echo all good
  ardmzip test photos.ardmz
  ardmzip test -r archive --jobs 4 --continue-on-error"""
)
@common.files_argument
@common.recursive_option(".ardm and .ardmz files", writes=False)
@common.decoding_model_option
@common.device_options
@common.jobs_option
@common.continue_option
@common.max_pixels_option
@common.message_options()
def test(
    files: tuple[str, ...], recursive: bool, model: str | None, device: str, backend: str, workers: int,
    continue_on_error: bool, max_pixels: int, quiet: bool, verbose: bool, as_json: bool,
) -> int:  # fmt: skip
    """Check that .ardm files and .ardmz archives can be restored; writes nothing.

    Every FILE, or - for stdin, is decoded completely and its pixels are compared with the checksum in the file. The
    exit code is 0 if all of them are good, and 1 if not: the first bad one ends the run, unless --continue-on-error is
    given. Of an archive every damaged image is named.
    """
    common.check_model(model)
    decoding = Decoding(model, device, backend, max_pixels, common.Messages(quiet, verbose, as_json))
    jobs = input_jobs(files, (SUFFIX, ARCHIVE_SUFFIX) if recursive else None, continue_on_error)
    return run_jobs(jobs, partial(_test, decoding=decoding), common.Batch(workers, continue_on_error, quiet, as_json))


def _test(job: Job, decoding: Decoding) -> common.Report | None:
    started = time.perf_counter()
    if job.source is not None and is_archive(job.source):
        _test_archive(job, job.source, decoding, started)
        return None
    return decoding.tell(job, decoding.restore(job), started, None)


def _test_archive(job: Job, path: Path, decoding: Decoding, started: float) -> None:
    """Decode all images of an archive; raises ArdmError if one is damaged, after all are named."""
    from ardmzip.archive.reader import Archive

    damaged: list[str] = []

    def complain(name: str, error: ArdmError) -> None:
        damaged.append(name)
        common.complain(f"{job.label}: {name}", str(error))

    options = {"device": decoding.device, "backend": decoding.backend, "max_pixels": decoding.max_pixels}
    messages = decoding.messages
    with Archive(path, model=decoding.model, **options) as archive:  # type: ignore[arg-type]
        with Counter(job.label, "images", messages.quiet) as counter:
            for _ in read_all(archive, complain):
                counter.add()
        count = len(archive)
        rest = archive.total_bytes - archive.complete_bytes
    seconds = round(time.perf_counter() - started, 3)
    if messages.as_json:
        common.print_json({"input": job.label, "images": count, "damaged": damaged, "seconds": seconds})
    if rest and not messages.quiet:
        common.note(job.label, f"{rest} bytes after the last index are of a write that was cut off")
    if damaged:
        raise ArdmError(f"damaged: {len(damaged)} of {count} images or blocks")
    if not messages.quiet:
        click.echo(common.plain(f"{job.label}  ok  {count} images  {seconds:.1f} s"), err=True)
