"""Coding atoms side by side, which an encoder can do: it knows all values beforehand."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np

from ardmzip.order import Atom

#: (pixels, values) of the batches of an atom, as they are coded.
Batches = Iterator[tuple[np.ndarray, np.ndarray]]
#: How often an encoder that works in the background tells its progress.
_REPORT_SECONDS = 0.2


class Lanes:
    """Codes atoms in the background, one on each thread; those of one head one after another.

    Only an encoder can use more than one: it knows the values beforehand, so that no atom waits for those before it.
    ``report`` is called now and then, ``flush`` as Coder.flush.
    """

    def __init__(self, threads: int, report: Callable[[], None], flush: Callable[[Atom, bool], None]) -> None:
        self._report, self._flush = report, flush
        self._pool = ThreadPoolExecutor(threads, "ardmzip-lane")
        self._most = threads + 1
        self._queue: deque[tuple[Atom, Future[None]]] = deque()
        self._last: dict[int, Future[None]] = {}
        self._stopped = False

    def __enter__(self) -> Lanes:
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped = True  # with an error there may be work left
        self._pool.shutdown(cancel_futures=True)

    def submit(self, atom: Atom, work: Callable[[], Batches]) -> None:
        """Code an atom, batch by batch; waits while enough are under way."""
        while len(self._queue) >= self._most:
            self._take()
        head = atom.expert
        before = self._last.get(head)

        def run() -> None:
            if before is not None:  # it was begun before this one, so this wait ends
                before.result()
            for _ in () if self._stopped else work():
                if self._stopped:
                    return

        self._last[head] = self._pool.submit(run)
        self._queue.append((atom, self._last[head]))

    def finish(self) -> None:
        while self._queue:
            self._take()

    def _take(self) -> None:
        """Wait for the atom that was submitted first."""
        atom, future = self._queue.popleft()
        while not wait([future], _REPORT_SECONDS).done:
            self._flush(atom, False)
            self._report()
        future.result()
        self._flush(atom, True)
        self._report()
