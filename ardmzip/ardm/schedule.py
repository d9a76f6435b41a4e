"""How a block is cut into network calls: the paper's dynamic programme, in integers, so that a file need not list them.

``loss`` int [stages, D] holds L_t of every stage in 2**-16 bits, not rising: the mean bits of a sub-pixel that is not
known when t are. A call for the sub-pixels t to u - 1 costs (u - t) * L_t (schedule.py has the general case).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ardmzip.ardm import kernels

#: How calls are spread, as in order.SPREADS: evenly; the cheapest way within each stage, stages having as many each;
#: and the cheapest way altogether.
EVEN, BY_STAGE, BEST = 0, 1, 2
#: Network calls unless the user asks for another number: the paper's larger budget.
DEFAULT_CALLS = 500
_IMPOSSIBLE = np.int64(1) << 61

Calls = tuple[tuple[int, ...], ...]


def stretch(loss: np.ndarray, size: int) -> np.ndarray:
    """L_t of blocks of ``size`` sub-pixels, int64 [stages, size], from those of full blocks."""
    places = np.arange(size, dtype=np.int64) * loss.shape[1] // size
    return loss.astype(np.int64)[:, places]


def best_calls(loss: np.ndarray, count: int) -> tuple[int, ...]:
    """Where exactly ``count`` calls of one stage begin, at the least cost; loss int64 [D].

    Of equals the last call is the one that begins first, then the last but one.

    >>> best_calls(np.array([5, 3, 2, 1, 1]), 2), best_calls(np.array([5, 3, 2, 1, 1]), 4)
    ((0, 2), (0, 1, 2, 3))
    """
    _, last = _layers(loss.astype(np.int64).tobytes(), count)
    starts, end = [], len(loss)
    for layer in last[::-1]:
        end = int(layer[end])
        starts.append(end)
    return tuple(reversed(starts))


def _layers(loss_bytes: bytes, count: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """(least cost of the whole stage in n calls, int64 [count + 1]; where the last of n calls begins, by its end)."""
    loss = np.frombuffer(loss_bytes, np.int64)
    size = len(loss)
    before = np.full(size + 1, _IMPOSSIBLE)
    before[0] = 0
    totals, last = np.full(count + 1, _IMPOSSIBLE), []
    for n in range(1, count + 1):
        best, place = np.full(size + 1, _IMPOSSIBLE), np.zeros(size + 1, np.int64)
        kernels.next_layer(before, loss, best, place)
        totals[n] = best[size]
        last.append(place.astype(np.uint16))
        before = best
    return totals, last


@lru_cache(maxsize=16)
def _totals(loss_bytes: bytes, count: int) -> np.ndarray:
    return _layers(loss_bytes, count)[0]


def even_calls(size: int, count: int) -> tuple[int, ...]:
    """Where ``count`` calls for ``size`` sub-pixels begin that are as alike as can be."""
    return tuple(i * size // count for i in range(count))


def shares(loss: np.ndarray, count: int, kind: int) -> list[int]:
    """How many of ``count`` calls each stage gets."""
    stages, size = loss.shape
    if kind != BEST or stages == 1 or count == stages * size:
        return [(s + 1) * count // stages - s * count // stages for s in range(stages)]
    most = min(size, count - stages + 1)
    before = np.zeros(1, np.int64)
    last: list[np.ndarray] = []
    for stage in loss:
        totals = _totals(stage.astype(np.int64).tobytes(), most)
        best, place = np.full(len(before) + most, _IMPOSSIBLE), np.zeros(len(before) + most, np.int64)
        kernels.share(before, totals, best, place)
        last.append(place)
        before = best
    found, left = [], count
    for place in last[::-1]:
        found.append(int(place[left]))
        left -= found[-1]
    return found[::-1]


def calls(loss: np.ndarray, count: int, kind: int) -> Calls:
    """Where the calls of every stage begin; loss int64 [stages, D], at least a call a stage and at most D.

    >>> loss = np.array([[9, 2, 1, 1], [5, 5, 5, 5]])
    >>> calls(loss, 4, EVEN), calls(loss, 4, BY_STAGE), calls(loss, 4, BEST)
    (((0, 2), (0, 2)), ((0, 1), (0, 1)), ((0, 1, 2), (0,)))
    """
    stages, size = loss.shape
    if not stages <= count <= stages * size or kind not in (EVEN, BY_STAGE, BEST):
        raise ValueError(f"{count} calls for {stages} stages of {size} sub-pixels, kind {kind}")
    found = []
    for stage, share in zip(loss, shares(loss, count, kind), strict=True):
        cheap = kind == EVEN or share == size
        found.append(even_calls(size, share) if cheap else best_calls(stage, share))
    return tuple(found)


def cost(loss: np.ndarray, starts: Calls) -> int:
    """What calls cost, in units of the losses."""
    total = 0
    for stage, own in zip(loss, starts, strict=True):
        total += int((np.diff([*own, len(stage)]) * stage[list(own)]).sum())
    return total
