"""Jobs in several processes (``--jobs``). Each prints into a buffer, which this process prints when the job is done."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Generic, TypeVar

import click

from ardmzip.cli import _signals
from ardmzip.files import remove_temporaries

T = TypeVar("T")
R = TypeVar("R")
_PATIENCE = 5.0  # seconds that a process has to clean up before it is killed
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Answer(Generic[R]):
    """What a job gave and printed; ``value`` is None if its process died."""

    value: R | None
    stdout: str = ""
    stderr: str = ""


def run(
    items: Sequence[T], work: Callable[[T], R], workers: int, go_on: Callable[[], bool]
) -> Generator[tuple[int, Answer[R]], None, None]:
    """Do the work on every item, as many at a time as there are workers; answers come when they are ready, by number.

    After every answer ``go_on`` says whether to begin with more items; those that were begun are finished. If a
    process dies, all items that were being worked on are given up, and the others get new processes.
    """
    left = [*enumerate(items)][::-1]
    while left and go_on():
        yield from _run(left, work, min(workers, len(left)), go_on)


def _run(
    left: list[tuple[int, T]], work: Callable[[T], R], workers: int, go_on: Callable[[], bool]
) -> Generator[tuple[int, Answer[R]], None, None]:
    """``run`` until a process dies; takes the items from the end of ``left``."""
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    setup = max(1, cores() // workers), sys.stderr.isatty()
    with ProcessPoolExecutor(workers, context, _begin, setup) as pool:
        try:
            begun: dict[Future[Answer[R]], int] = {}
            broken = False
            while True:
                while left and len(begun) < workers and not broken and go_on():
                    index, item = left[-1]
                    try:
                        with _signals.blocked():
                            begun[pool.submit(_answer, work, item)] = index
                        left.pop()
                    except BrokenProcessPool:
                        broken = True
                if not begun:
                    return
                for future in wait(begun, return_when=FIRST_COMPLETED).done:
                    died = isinstance(future.exception(), BrokenProcessPool)
                    broken = broken or died
                    yield begun.pop(future), Answer(None) if died else future.result()
        except BaseException:
            _stop_processes()
            raise


def cores() -> int:
    """The threads that this process may use; OMP_NUM_THREADS limits them, as it does for torch."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    if limit.isdigit() and int(limit) > 0:
        return int(limit)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _stop_processes() -> None:
    """End the processes, which clean up after themselves; one that does not is killed."""
    _signals.ignore()
    processes = multiprocessing.active_children()
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_PATIENCE)
        if process.is_alive():
            process.kill()


# In the processes


def _answer(work: Callable[[T], R], item: T) -> Answer[R]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), click.Context(click.Command("")) as context:
        context.color = _colour
        value = work(item)
    return Answer(value, out.getvalue(), err.getvalue())


_colour = False


def _begin(threads: int, colour: bool) -> None:
    """Set up a process before torch is imported: its threads, colours, and that it ends with its parent."""
    global _colour
    _colour = colour
    os.environ.update(dict.fromkeys(_THREADS, str(threads)))
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end(_number: int, _frame: object) -> None:
    remove_temporaries()
    os._exit(128 + signal.SIGTERM)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)  # which waits, or cleans up its file
    else:
        os._exit(128 + signal.SIGTERM)
