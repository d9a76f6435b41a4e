"""Which file goes where: inputs, outputs, and doing all of them."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import click

from ardmzip.cli._common import FAILED, Batch, Report, attempt, complain, fail, plain, print_out
from ardmzip.errors import ArdmError
from ardmzip.filebytes import AHEAD, Seekable, Stream, source_of
from ardmzip.files import check_target, write_atomic

STREAM = "-"  # stands for stdin or stdout
_NAMED = 20  # files that the line of those not processed names


@dataclass(frozen=True)
class Job:
    """One input and where its result goes; None stands for stdin, stdout or, in ``test``, nowhere."""

    source: Path | None
    target: Path | None
    #: Whether the target's folder is made if it is missing: -r keeps trees of folders.
    in_tree: bool = False
    #: Why it cannot be done, found before it was begun.
    problem: str = ""

    @property
    def label(self) -> str:
        return "stdin" if self.source is None else str(self.source)

    @property
    def output(self) -> str:
        return "stdout" if self.target is None else str(self.target)

    def read(self) -> bytes:
        with self.opened() as source:
            return source.everything()

    @contextmanager
    def opened(self) -> Iterator[Seekable | Stream]:
        """The input, of which only what is looked at is read."""
        if self.source is None:
            if sys.stdin is None:
                raise OSError("it is closed")
            yield source_of(sys.stdin.buffer)
            return
        if self.source.is_dir():
            raise IsADirectoryError("is a folder (-r takes the files below it)")
        with open(self.source, "rb", buffering=AHEAD) as file:
            yield source_of(file)

    def check_target(self, force: bool) -> None:
        if self.source is not None and not os.path.lexists(self.source):
            return  # that is what reading it tells
        if self.target is not None and not (self.in_tree and not os.path.lexists(self.target.parent)):
            check_target(self.target, force)

    def write(self, data: bytes, force: bool) -> None:
        if self.target is None:
            print_out(data)
            return
        if self.in_tree:
            self.target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.target, data, force, self._status())

    def _status(self) -> os.stat_result | None:
        """Permissions and times of the source, for its output; of a regular file only."""
        with contextlib.suppress(OSError):
            if self.source is not None and self.source.is_file():
                return self.source.stat()
        return None

    def remove_source(self, reason: str = "") -> None:
        """Remove the source of an output that is complete, unless there is a reason to keep it."""
        if self.source is None:
            return
        if not reason:
            try:
                self.source.unlink()
                return
            except OSError as error:
                reason = error.strerror or str(error)
        raise ArdmError(f"{self.output} is written, but the source is not removed: {reason}")


@dataclass(frozen=True)
class Source:
    """An input; None is stdin. ``below`` is its path below the folder that was named, if it was found there."""

    path: Path | None
    below: Path | None = None
    #: Why it cannot be read, if that is known.
    problem: str = ""


def input_jobs(
    files: Iterable[str], suffixes: Collection[str] | None = None, continue_on_error: bool = False
) -> list[Job]:
    """Jobs that only read; ``suffixes`` and ``continue_on_error`` as for ``plan``."""
    return [Job(source.path, None, problem=source.problem) for source in _sources(files, suffixes, continue_on_error)]


def plan(
    files: Sequence[str],
    out: str | None,
    name: Callable[[Path], Path],
    *,
    suffixes: Collection[str] | None = None,
    stdout: bool = False,
    remove: bool = False,
    as_json: bool = False,
    continue_on_error: bool = False,
    hint: str = "",
) -> list[Job]:
    """Inputs and outputs, or a usage error before anything is done: what cannot all be written is not begun.

    ``out`` is -o, ``name`` makes the default name of an output, ``stdout`` is -c. With -r, ``suffixes`` are those of
    the files that are taken from folders. With ``continue_on_error`` only the jobs fail that cannot be done.
    ``hint`` ends what is said of two files with the same output.
    """
    sources = _sources(files, suffixes, continue_on_error)
    if stdout and out not in (None, STREAM):
        raise click.UsageError("-c writes to stdout and -o to a file: choose one")
    if stdout or out == STREAM or (out is None and sources == [Source(None)]):
        _check_stdout(len(sources), remove, as_json)
        return [Job(sources[0].path, None)]
    jobs = []
    for source in sources:
        if source.problem:
            jobs.append(Job(source.path, None, problem=source.problem))
        elif out is not None and suffixes is not None:
            jobs.append(_tree_job(source, Path(out), name))
        else:
            jobs.append(Job(source.path, _target(source.path, out, name, len(sources))))
    clashes = _clashes(jobs)
    if not continue_on_error:
        _refuse(jobs, clashes, hint)
    return [_unwritten(job, clashes[index], hint) if index in clashes else job for index, job in enumerate(jobs)]


def _sources(files: Iterable[str], suffixes: Collection[str] | None, continue_on_error: bool) -> list[Source]:
    """The inputs; with ``suffixes``, what is below the folders among them."""
    found: list[Source] = []
    for file in files:
        if file == STREAM and Source(None) in found:
            raise click.UsageError("stdin (-) was given twice")  # it can be read only once
        if suffixes is not None and file != STREAM and Path(file).is_dir():
            found += _below(Path(file), suffixes, continue_on_error)
        else:
            found.append(Source(None if file == STREAM else Path(file)))
    if not found:
        wanted, folders = " ".join(sorted(suffixes or ())), " ".join(map(plain, files))
        raise click.UsageError(f"there is nothing to do below {folders}: no {wanted} files")
    return found


def _below(folder: Path, suffixes: Collection[str], continue_on_error: bool) -> Iterator[Source]:
    """The files with these suffixes below a folder, in order; links to folders are not followed.

    Pipes and devices are left out: reading one could take for ever. A folder that cannot be read is an error, or comes
    at the end, with its problem.
    """
    unread: list[OSError] = []

    def fail(error: OSError) -> None:
        if not continue_on_error:
            raise error
        unread.append(error)

    for path, folders, files in os.walk(folder, onerror=fail):
        folders.sort()
        for file in sorted(files):
            found = Path(path, file)
            if found.suffix.lower() in suffixes and (found.is_file() or not found.exists()):
                yield Source(found, found.relative_to(folder))
    for error in unread:
        yield Source(Path(error.filename or folder), problem=error.strerror or str(error))


# Running


@dataclass(frozen=True)
class Outcome:
    """Whether a job went well, and its report where it makes one."""

    good: bool
    report: Report | None = None


def run_jobs(jobs: Sequence[Job], work: Callable[[Job], Report | None], batch: Batch) -> int:
    """Do the jobs, up to the first that fails unless the batch says otherwise; the exit code.

    ``work`` must be picklable: a function of a module, or a ``partial`` of one.
    """
    started = time.perf_counter()
    outcomes: dict[int, Outcome] = {}
    failed = False

    def go_on() -> bool:
        return batch.continue_on_error or not failed

    if batch.workers > 1 and len(jobs) > 1:
        if any(job.source is None for job in jobs):
            raise click.UsageError("--jobs is for named files: leave out -")
        with contextlib.closing(_in_parallel(jobs, work, batch, go_on)) as done:
            for index, outcome in done:
                outcomes[index] = outcome
                failed = failed or not outcome.good
    else:
        for index, job in enumerate(jobs):
            if not go_on():
                break
            outcomes[index] = _outcome(work, batch.as_json, job)
            failed = failed or not outcomes[index].good
    if len(jobs) > 1:
        _sum_up(jobs, outcomes, batch, time.perf_counter() - started)
    return FAILED if failed else 0


def _in_parallel(
    jobs: Sequence[Job], work: Callable[[Job], Report | None], batch: Batch, go_on: Callable[[], bool]
) -> Generator[tuple[int, Outcome], None, None]:
    """Outcomes by the numbers of the jobs, as they are done; what a job prints stays together."""
    from ardmzip.cli import _workers

    do = partial(_outcome, work, batch.as_json)
    with contextlib.closing(_workers.run(jobs, do, batch.workers, go_on)) as answers:
        for index, answer in answers:
            for line in answer.stdout.splitlines():
                print_out(line)
            click.echo(answer.stderr, nl=False, err=True)
            if answer.value is None:
                fail(jobs[index].label, "its process was killed, perhaps for want of memory", batch.as_json)
            yield index, answer.value or Outcome(False)


def _sum_up(jobs: Sequence[Job], outcomes: dict[int, Outcome], batch: Batch, seconds: float) -> None:
    """What was not processed, and a line of totals."""
    rest = [plain(job.label) for index, job in enumerate(jobs) if index not in outcomes]
    if rest:
        more = f" and {len(rest) - _NAMED} more" if len(rest) > _NAMED else ""
        complain(None, f"not processed: {' '.join(rest[:_NAMED])}{more} (--continue-on-error goes on after a failure)")
    if batch.quiet:
        return
    good = [outcome for outcome in outcomes.values() if outcome.good]
    counts = {"done": len(good), "failed": len(outcomes) - len(good), "not processed": len(rest)}
    parts = ", ".join(f"{count} {what}" for what, count in counts.items() if count or what == "done")
    click.echo(f"{len(jobs)} files: {parts}{_sizes(good)}  {seconds:.1f} s", err=True)


def _sizes(outcomes: Sequence[Outcome]) -> str:
    """The bytes that were read, and written."""
    reports = [outcome.report for outcome in outcomes if outcome.report is not None]
    if not reports:
        return ""
    written = [report.output_bytes for report in reports if report.output_bytes is not None]
    return f"  {sum(report.input_bytes for report in reports)}" + (f" -> {sum(written)}" if written else "") + " bytes"


def _outcome(work: Callable[[Job], Report | None], as_json: bool, job: Job) -> Outcome:
    reports: list[Report | None] = []

    def do() -> None:
        if job.problem:
            raise ArdmError(job.problem)
        reports.append(work(job))

    good = attempt(job.label, do, as_json)
    return Outcome(good, *reports)


def _check_stdout(inputs: int, remove: bool, as_json: bool) -> None:
    if inputs > 1:
        raise click.UsageError("only one file can be written to stdout")
    if remove:
        raise click.UsageError("--rm needs an output file: what goes to stdout may not be kept anywhere")
    if as_json:
        raise click.UsageError("--json needs stdout for itself: write the result to a file")
    if sys.stdout is not None and sys.stdout.isatty():
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
        raise click.UsageError(f"{plain(source)} is a folder (-r takes the files below it)")
    if out is None:
        return name(source)
    if not Path(out).is_dir():
        raise click.UsageError(f"there is no folder {plain(out)}")
    return Path(out) / name(source).name


def _tree_job(source: Source, out: Path, name: Callable[[Path], Path]) -> Job:
    """A job with -r and -o: what was found in a folder keeps its place below it."""
    if source.path is None:
        raise click.UsageError("stdin has no name to make one from: leave out -r")
    if out.exists() and not out.is_dir():
        raise click.UsageError(f"with -r, -o must name a folder, not {plain(out)}")
    return Job(source.path, out / name(source.below or Path(source.path.name)), in_tree=True)


def _clashes(jobs: Sequence[Job]) -> dict[int, Job | None]:
    """By their numbers, the jobs whose output is also that of another one, or (None) an input."""
    inputs = {os.path.realpath(job.source) for job in jobs if job.source is not None}
    written: dict[str, list[int]] = {}
    for index, job in enumerate(jobs):
        if job.target is not None:
            # not the real path of the target itself: a link there is replaced, not followed
            place = os.path.join(os.path.realpath(job.target.parent), job.target.name)
            written.setdefault(place, []).append(index)
    found: dict[int, Job | None] = {}
    for place, indices in written.items():
        if place in inputs:
            found |= dict.fromkeys(indices)
        elif len(indices) > 1:
            found |= {index: jobs[indices[index == indices[0]]] for index in indices}
    return found


def _refuse(jobs: Sequence[Job], clashes: dict[int, Job | None], hint: str) -> None:
    for index, other in clashes.items():
        name, output = plain(jobs[index].label), plain(jobs[index].output)
        if other is None:
            raise click.UsageError(f"{name} would be written to {output}, which is an input")
        raise click.UsageError(f"{name} and {plain(other.label)} would both be written to {output}{hint}")


def _unwritten(job: Job, other: Job | None, hint: str) -> Job:
    """A job that fails for what _clashes has found."""
    what = "is an input" if other is None else f"would be the output of {plain(other.label)}, too"
    return replace(job, problem=f"not written: {plain(job.output)} {what}{hint if other else ''}")
