"""Which file goes where: inputs, outputs, and doing one after the other."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from ardmzip.cli._common import FAILED, attempt, plain
from ardmzip.files import check_target, write_atomic

STREAM = "-"  # stands for stdin or stdout


@dataclass(frozen=True)
class Job:
    """One input and where its result goes; None stands for stdin, stdout or, in ``test``, nowhere."""

    source: Path | None
    target: Path | None

    @property
    def label(self) -> str:
        return "stdin" if self.source is None else str(self.source)

    @property
    def output(self) -> str:
        return "stdout" if self.target is None else str(self.target)

    def read(self) -> bytes:
        return sys.stdin.buffer.read() if self.source is None else self.source.read_bytes()

    def check_target(self, force: bool) -> None:
        if self.target is not None:
            check_target(self.target, force)

    def write(self, data: bytes, force: bool) -> None:
        if self.target is not None:
            write_atomic(self.target, data, force)
        else:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()

    def remove_source(self) -> None:
        if self.source is not None:
            self.source.unlink()


def input_jobs(files: Iterable[str]) -> list[Job]:
    """Jobs that only read."""
    return [Job(source, None) for source in _sources(files)]


def plan(
    files: Sequence[str],
    out: str | None,
    name: Callable[[Path], Path],
    *,
    stdout: bool = False,
    remove: bool = False,
    as_json: bool = False,
) -> list[Job]:
    """Inputs and outputs, or a usage error before anything is done: what cannot all be written is not begun.

    ``out`` is -o, ``name`` makes the default name of an output, ``stdout`` is -c.
    """
    sources = _sources(files)
    if stdout and out not in (None, STREAM):
        raise click.UsageError("-c writes to stdout and -o to a file: choose one")
    if stdout or out == STREAM or (out is None and sources == [None]):
        _check_stdout(len(sources), remove, as_json)
        return [Job(sources[0], None)]
    jobs = [Job(source, _target(source, out, name, len(sources))) for source in sources]
    _refuse_clashes(jobs)
    return jobs


def run_jobs(jobs: Iterable[Job], work: Callable[[Job], None]) -> int:
    """Do every job, going on after a failed one; the exit code."""
    done = [attempt(job.label, lambda job=job: work(job)) for job in jobs]  # type: ignore[misc]
    return 0 if all(done) else FAILED


def _sources(files: Iterable[str]) -> list[Path | None]:
    """The inputs, None for stdin, which can be read only once."""
    found = [None if file == STREAM else Path(file) for file in files]
    if found.count(None) > 1:
        raise click.UsageError("stdin (-) was given twice")
    return found


def _check_stdout(inputs: int, remove: bool, as_json: bool) -> None:
    if inputs > 1:
        raise click.UsageError("only one file can be written to stdout")
    if remove:
        raise click.UsageError("--rm needs an output file: what goes to stdout may not be kept anywhere")
    if as_json:
        raise click.UsageError("--json needs stdout for itself: write the result to a file")
    if sys.stdout.isatty():
        raise click.UsageError("binary data is not written to a terminal: use -o, or redirect the output")


def _target(source: Path | None, out: str | None, name: Callable[[Path], Path], inputs: int) -> Path:
    is_folder = out is not None and (out.endswith("/") or Path(out).is_dir())
    if out is not None and not is_folder:
        if inputs > 1:
            raise click.UsageError(f"with several files -o must name an existing folder, not {plain(out)}")
        return Path(out)
    if source is None:
        raise click.UsageError("stdin has no name to make one from: give -o a file")
    if not source.name or source.name == "..":
        raise click.UsageError(f"{plain(source)} is not a file")
    if out is None:
        return name(source)
    if not Path(out).is_dir():
        raise click.UsageError(f"there is no folder {plain(out)}")
    return Path(out) / name(source).name


def _refuse_clashes(jobs: Sequence[Job]) -> None:
    inputs = {os.path.realpath(job.source) for job in jobs if job.source is not None}
    written: dict[str, Job] = {}
    for job in jobs:
        assert job.target is not None
        # not the real path of the target itself: a link there is replaced, not followed
        place = os.path.join(os.path.realpath(job.target.parent), job.target.name)
        if place in inputs:
            raise click.UsageError(f"{plain(job.label)} would be written to {plain(job.output)}, which is an input")
        if place in written:
            first, second = plain(written[place].label), plain(job.label)
            raise click.UsageError(f"{first} and {second} would both be written to {plain(job.output)}")
        written[place] = job
