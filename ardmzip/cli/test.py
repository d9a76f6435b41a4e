"""``ardmzip test``."""

from __future__ import annotations

import time
from functools import partial

import click

from ardmzip.cli import _common as common
from ardmzip.cli._jobs import Job, input_jobs, run_jobs
from ardmzip.cli.decompress import Decoding
from ardmzip.files import SUFFIX


@click.command(
    epilog="""\b
Examples:
  ardmzip test img.ardm
  ardmzip test -q archive/*.ardm && echo all good
  ardmzip test -r archive --jobs 4 --continue-on-error"""
)
@common.files_argument
@common.recursive_option(".ardm files", writes=False)
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
    """Check that .ardm files can be restored; writes nothing.

    Every FILE, or - for stdin, is decoded completely and its pixels are compared with the checksum in the file. The
    exit code is 0 if all of them are good, and 1 if not: the first bad one ends the run, unless --continue-on-error is
    given.
    """
    common.check_model(model)
    decoding = Decoding(model, device, backend, max_pixels, common.Messages(quiet, verbose, as_json))
    jobs = input_jobs(files, (SUFFIX,) if recursive else None, continue_on_error)
    return run_jobs(jobs, partial(_test, decoding=decoding), common.Batch(workers, continue_on_error, quiet, as_json))


def _test(job: Job, decoding: Decoding) -> common.Report:
    started = time.perf_counter()
    data = job.read()
    picture = decoding.restore(job, data)
    return decoding.tell(job, data, started, None, picture)
