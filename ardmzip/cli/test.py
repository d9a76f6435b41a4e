"""``ardmzip test``."""

from __future__ import annotations

import time

import click

from ardmzip.cli import _common as common
from ardmzip.cli._jobs import Job, input_jobs, run_jobs
from ardmzip.cli.decompress import Decoding


@click.command(
    epilog="""\b
Examples:
  ardmzip test img.ardm
  ardmzip test -q archive/*.ardm && echo all good"""
)
@common.files_argument
@common.decoding_model_option
@common.device_options
@common.message_options()
def test(
    files: tuple[str, ...], model: str | None, device: str, backend: str, quiet: bool, verbose: bool, as_json: bool
) -> int:
    """Check that .ardm files can be restored; writes nothing.

    Every FILE is decoded completely and its pixels are compared with the checksum in the file. The exit code is 0 if
    all of them are good.
    """
    decoding = Decoding(model, device, backend, common.Messages(quiet, verbose, as_json))
    return run_jobs(input_jobs(files), lambda job: _test(job, decoding))


def _test(job: Job, decoding: Decoding) -> None:
    started = time.perf_counter()
    data = job.read()
    decoding.restore(job, data)
    decoding.tell(job, data, started, None)
