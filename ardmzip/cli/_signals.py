"""Signals that end a command: it cleans up, says so in one line, and exits with 128 and the signal's number."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

#: Ctrl-C, ``kill``, and the end of a terminal; not every system has all of them.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class Stopped(KeyboardInterrupt):
    """A signal asked us to end. As for Ctrl-C, no ``except Exception`` catches it, and every ``finally`` is run."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def reason(error: KeyboardInterrupt) -> tuple[str, int]:
    """What to say of it, and the exit code.

    >>> reason(KeyboardInterrupt()), reason(Stopped(signal.SIGTERM))
    (('interrupted', 130), ('ended by SIGTERM', 143))
    """
    number = error.number if isinstance(error, Stopped) else signal.SIGINT
    return "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}", 128 + number


@contextlib.contextmanager
def caught() -> Iterator[None]:
    """Signals raise Stopped meanwhile. Those that are ignored, as nohup does, stay ignored."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Stopped(number)

    before = {}
    with contextlib.suppress(ValueError):  # only the main thread may set handlers
        for number in _numbers():
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore() -> None:
    """From now on the command ends by itself and cannot be interrupted while it cleans up."""
    with contextlib.suppress(ValueError):
        for number in _numbers():
            signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Ctrl-C waits, in this thread and, for good, in processes started meanwhile: their parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _numbers() -> list[int]:
    return [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
