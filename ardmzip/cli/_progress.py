"""The progress bar."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from ardmzip.cli._common import plain

if TYPE_CHECKING:
    from rich.progress import Progress
    from typing_extensions import Self

_AFTER = 1.0  # seconds: no bar for what is done at once


class _Shown:
    """What is shown on a terminal while a ``with`` block works, from _AFTER seconds on."""

    def __init__(self, label: str, quiet: bool) -> None:
        self._label, self._enabled = plain(label), not quiet and sys.stderr.isatty()
        self._started = time.perf_counter()
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()


class Counter(_Shown):
    """The number of things done, on stderr, for terminals and for work of more than a second."""

    def __init__(self, label: str, unit: str, quiet: bool) -> None:
        super().__init__(label, quiet)
        self._unit = unit
        self.count = 0

    def add(self, count: int = 1) -> None:
        self.count += count
        seconds = time.perf_counter() - self._started
        if self._enabled and self._progress is None and seconds > _AFTER:
            self._progress = self._open()
        if self._progress is not None:
            text = f"{self.count} {self._unit}, {self.count / seconds:.0f}/s"
            self._progress.update(self._progress.task_ids[0], description=text)

    def _open(self) -> Progress:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import Progress, SpinnerColumn, TextColumn

        columns = (TextColumn(escape(self._label)), SpinnerColumn(), TextColumn("{task.description}"))
        progress = Progress(*columns, console=Console(stderr=True), transient=True)
        progress.add_task("", total=None)
        progress.start()
        return progress


class Bar(_Shown):
    """A progress bar on stderr, for terminals and for work of more than a second; call it with the fraction done."""

    def __init__(self, label: str, quiet: bool) -> None:
        super().__init__(label, quiet)
        #: Seconds after which the fraction reached one half: where verification begins.
        self.half: float | None = None

    def __call__(self, fraction: float) -> None:
        seconds = time.perf_counter() - self._started
        if self.half is None and fraction >= 0.5:
            self.half = seconds
        if self._enabled and self._progress is None and seconds > _AFTER:
            self._progress = self._open()
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=fraction)

    def _open(self) -> Progress:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn(escape(self._label)), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        progress = Progress(*columns, console=Console(stderr=True), transient=True)
        progress.add_task("", total=1.0)
        progress.start()
        return progress
