"""How the atoms of an order are cut into network calls: dynamic programming over measured losses.

This is the parallel generation of Hoogeboom et al. 2021 (arXiv 2110.02037, section 3.1, "Parallelized ARDMs"), for
atoms of any size in a fixed order. One call codes the atoms t..u-1 from what is known before atom t, so each of them
costs what it costs at step t: more than it would later. ``loss[t][r]``, for t <= r, is the mean number of bits per
sub-pixel of atom r when only the atoms before t are known. In the paper the order is random, so every variable not yet
known is alike: ``loss[t][r] = L_t`` whatever r is, every size is 1, and a call of k variables costs ``k * L_t``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ardmzip import streams
from ardmzip.order import KINDS, LatticeOrder

# Two cuts whose bits differ by less than this fraction are alike: sums of the same terms differ in their last digits.
_TIE = 1e-12


@dataclass(frozen=True)
class Schedule:
    """A cut of the atoms into calls: ``calls`` holds the atoms at which they begin, ``bits`` the expected total."""

    calls: tuple[int, ...]
    bits: float


def best_schedule(sizes: np.ndarray, loss: np.ndarray, steps: int | None = None) -> Schedule:
    """The cheapest cut into at most ``steps`` calls, or into any number of calls if that is None.

    The paper's dynamic programme (section 3.1): the cheapest way to code the atoms before u with s calls is the
    cheapest way to code the atoms before some t with s - 1 calls, and one call for t..u-1. Among cuts of equal cost one
    with the fewest calls is taken, so empty atoms join a neighbour's call.

    The paper's special case, five variables with L_t = 5, 3, 2, 1, 1 bits: one call costs 5 * 5 bits, five cost 12, and
    four as much, because the last two variables have the same loss:

    >>> sizes = np.ones(5)
    >>> loss = np.repeat([[5.0], [3.0], [2.0], [1.0], [1.0]], 5, axis=1)
    >>> best_schedule(sizes, loss, steps=1)
    Schedule(calls=(0,), bits=25.0)
    >>> best_schedule(sizes, loss, steps=2)
    Schedule(calls=(0, 2), bits=16.0)
    >>> best_schedule(sizes, loss)
    Schedule(calls=(0, 1, 2, 3), bits=12.0)
    """
    if steps is not None and steps < 1:
        raise ValueError(f"a schedule needs at least one step, not {steps}")
    cost = _call_costs(sizes, loss)
    atoms = len(cost)
    if atoms == 0:
        return Schedule((), 0.0)
    most = atoms if steps is None else min(steps, atoms)

    # best[s, u]: bits of the atoms before u in exactly s + 1 calls, last[s, u]: where the last of these calls begins.
    # Costs are transposed so that the minimum over t runs along memory.
    ends_first = np.ascontiguousarray(cost.T)
    best = np.empty((most, atoms + 1))
    last = np.zeros((most, atoms + 1), dtype=np.int64)
    best[0] = cost[0]
    for s in range(1, most):
        through = best[s - 1, :atoms] + ends_first
        last[s] = through.argmin(axis=1)
        best[s] = np.take_along_axis(through, last[s][:, None], axis=1)[:, 0]

    totals = best[:, atoms]
    lowest = totals.min()
    fewest = int(np.argmax(totals <= lowest + abs(lowest) * _TIE))
    calls, end = [], atoms
    for s in range(fewest, -1, -1):
        end = int(last[s, end])
        calls.append(end)
    return Schedule(tuple(reversed(calls)), float(totals[fewest]))


@dataclass(frozen=True)
class BatchSchedule:
    """Where the batches that a head learns from end, in pixels seen, and the expected gain in bits a sub-pixel."""

    ends: tuple[int, ...]
    gain: float


def best_batches(pixels: int, gain: np.ndarray, steps: int) -> BatchSchedule:
    """The best cut of an atom of ``pixels`` pixels into at most ``steps`` batches for a learning head.

    The same dynamic programme as for network calls: a pixel of a batch is coded by a head that has learned from the
    pixels before the batch, and gains what was measured at that place of the learning curve, ``gain`` float [G], at
    ``learning_grid(G)`` pixels. Batches may end where they would if they were a 32nd of what was seen before.
    (The end of an atom ends a batch as well, and none is longer than streams.LIMIT.)

    >>> curve = np.sqrt(learning_grid(20)) / 1000
    >>> best_batches(10_000, curve, steps=1)
    BatchSchedule(ends=(10000,), gain=0.0)
    >>> best = best_batches(10_000, curve, steps=3)
    >>> best.ends, round(best.gain, 4)
    ((2048, 5740, 10000), 0.049)
    """
    ends = [0]
    while ends[-1] < pixels:
        ends.append(min(ends[-1] + max(streams.MIN_BATCH, ends[-1] // 32), pixels))
    starts = np.array(ends[:-1])
    # whole numbers, so that sums are exact and the cut is the same on every machine
    gains = np.interp(starts, learning_grid(len(gain)), gain)
    missed = np.rint(2.0**20 * (gains.max() - gains))
    cut = best_schedule(np.diff(ends), np.repeat(missed[:, None], len(starts), axis=1), steps)
    cells = np.diff([*cut.calls, len(starts)])
    mean = np.repeat(gains[list(cut.calls)], cells) @ np.diff(ends) / max(pixels, 1)
    return BatchSchedule((*(ends[start] for start in cut.calls[1:]), pixels), float(mean))


def learning_grid(points: int) -> np.ndarray:
    """Pixels seen at the points of a learning curve: 0, then from 64 on, doubling every second point. float64 [G]."""
    return np.concatenate([[0.0], 64.0 * 2.0 ** (np.arange(points - 1) / 2)])


def expected_bits(calls: Sequence[int], sizes: np.ndarray, loss: np.ndarray) -> float:
    """The expected bits of a given cut: the sum over its calls of the paper's cost of a call (section 3.1).

    >>> sizes = np.array([1, 2, 10])
    >>> loss = np.array([[5.0, 5.5, 6.0], [0.0, 4.0, 4.5], [0.0, 0.0, 3.0]])
    >>> expected_bits([0, 2], sizes, loss)  # 1 * 5 + 2 * 5.5 + 10 * 3
    46.0
    """
    cost = _call_costs(sizes, loss)
    ends = [*calls[1:], len(cost)]
    if list(calls[:1]) != [0][: len(cost)] or any(start >= end for start, end in zip(calls, ends, strict=False)):
        raise ValueError(f"calls must begin with atom 0, rise and stay below {len(cost)}")
    return float(sum(cost[start, end] for start, end in zip(calls, ends, strict=False)))


def loss_for_order(table: np.ndarray, order: LatticeOrder) -> np.ndarray:
    """The loss matrix of an image's order, from the table that ships with a model.

    The table is indexed from its end: its last row and column belong to the finest atom, so an order with as many atoms
    as the table or fewer takes the table's last rows and columns. Larger images have coarser levels than the table:

    * if only t is coarser than the table, less is known at t than in any row, and the first row stands in;
    * if both are, the pair is moved by whole levels until t is in the table's coarsest level: lattice and channel of
      both, and their distance, remain. If r would then be finer than the image itself, the table cannot show such a
      distance: the first row and r's lattice and channel in the finest level stand in.

    Empty atoms: before an empty atom just as much is known as before the next atom that is not empty, so its row is
    that one's, and it can join the call of its successor. Entries below the diagonal are 0 and mean nothing.

    >>> table = np.triu(np.arange(36.0).reshape(6, 6))
    >>> loss_for_order(table, LatticeOrder(2, 2, channels=1)).tolist()
    [[21.0, 22.0, 23.0], [0.0, 28.0, 29.0], [0.0, 0.0, 35.0]]
    >>> larger = loss_for_order(table, LatticeOrder(8, 8, channels=1))
    >>> np.array_equal(larger[3:, 3:], table)
    True
    >>> larger[:3].tolist()  # doctest: +NORMALIZE_WHITESPACE
    [[0.0, 1.0, 2.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
     [0.0, 7.0, 8.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
     [0.0, 0.0, 14.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0]]
    """
    table = np.asarray(table, dtype=np.float64)
    entries, period = len(table), KINDS * order.channels
    if table.shape != (entries, entries) or entries == 0 or entries % period:
        raise ValueError(f"a loss table of shape {table.shape} does not hold whole levels of {order.channels} channels")
    sizes = order.sizes()
    atoms = len(sizes)
    indices = np.arange(entries - atoms, entries)  # negative: coarser than the table
    t, r = indices[:, None], indices[None, :]
    shift = -(t // period) * period
    too_far = r + shift >= entries
    rows = np.where(t >= 0, t, np.where((r >= 0) | too_far, 0, t + shift))
    columns = np.where(r >= 0, r, np.where(too_far, entries - period + r % period, r + shift))
    loss = table[rows, np.maximum(columns, 0)]  # negative ones are left only below the diagonal
    return np.triu(loss[_next_filled(sizes)])


def _next_filled(sizes: np.ndarray) -> np.ndarray:
    """For every atom the first from it on that is not empty (the last atom where there is none)."""
    atoms = len(sizes)
    filled = np.where(sizes > 0, np.arange(atoms), atoms - 1)
    return np.minimum.accumulate(filled[::-1])[::-1]


def _call_costs(sizes: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """``float64[A, A + 1]``: entry (t, u) holds the bits of one call for the atoms t..u-1, infinity where u <= t."""
    sizes, loss = np.asarray(sizes, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    atoms = len(sizes)
    if sizes.shape != (atoms,) or loss.shape != (atoms, atoms):
        raise ValueError(f"losses of shape {loss.shape} do not fit sizes of shape {sizes.shape}")
    coded = np.triu(np.ones((atoms, atoms), dtype=bool))
    # np.where, not a product: entries that mean nothing may hold NaN or infinity.
    bits = np.where(coded & (sizes > 0), loss, 0.0) * sizes
    if np.isnan(bits).any():
        raise ValueError("the loss matrix has NaN on or above its diagonal")
    cost = np.full((atoms, atoms + 1), np.inf)
    cost[:, 1:][coded] = np.cumsum(bits, axis=1)[coded]
    return cost
