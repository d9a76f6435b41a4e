"""Where batches and streams end (docs/FORMAT.md, "Streams" and "Learning"): one rule for the encoder, the decoder, and
those who read only the first streams of a file."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

from ardmzip.order import LatticeOrder

#: Pixels coded together by a head that does not learn (high nibbles of a batch precede its low nibbles in the stream).
BATCH = 1 << 16
#: Pixels of a batch of a head that learns: at least MIN_BATCH, then a GROWTH-th of what the head has learned from, at
#: most MAX_BATCH. Small batches learn faster while there is much to learn; large ones cost less time.
MIN_BATCH, GROWTH, MAX_BATCH = 128, 32, 4096
#: Atoms of fewer pixels teach nothing: in a small image they are most of the atoms, and would take most of the time.
MIN_ATOM = 64
#: Pixels of a batch where the file says how many: an encoder's and a decoder's memory is bounded.
LIMIT = 1 << 16
#: A stream ends where a level is cut, or with the batch in which it reaches this many symbols: bounds the encoder's
#: memory (8 bytes a symbol, beside atoms that other threads code ahead).
SYMBOLS = 1 << 22


def batches(seen: int, n: int, ends: tuple[int, ...] | None = None) -> Iterator[int]:
    """Sizes of the batches of an atom of ``n`` pixels, by a head that has learned from ``seen``.

    ``ends``: rising counts of pixels seen at which a batch ends, instead of the rule of MIN_BATCH, GROWTH and
    MAX_BATCH; after the last of them batches are as large as they may be.

    >>> list(batches(0, 300)), list(batches(0, 300, (100, 280, 1000)))
    ([128, 128, 44], [100, 180, 20])
    """
    done = 0
    while done < n:
        if ends is None:
            size = min(max(MIN_BATCH, (seen + done) // GROWTH), MAX_BATCH)
        else:
            following = bisect_right(ends, seen + done)
            size = ends[following] - seen - done if following < len(ends) else LIMIT
        size = min(size, LIMIT, n - done)
        yield size
        done += size


@dataclass(frozen=True)
class Coding:
    """How an atom is cut into batches."""

    #: Sub-pixels; 0 for an atom that is empty or not wanted.
    size: int
    #: Pixels from which its head has learned when it begins; None if the head is as trained, and does not learn.
    seen: int | None = None
    #: Whether its pixels are spread (learning.spread) rather than in raster order.
    spread: bool = False
    #: Whether no later atom needs the head.
    final: bool = False
    #: Of a head that learns, as ``batches`` takes them.
    ends: tuple[int, ...] | None = None

    @property
    def learns(self) -> bool:
        """Whether its head learns from it."""
        return self.seen is not None

    def bounds(self) -> Iterator[int]:
        """The pixels at which its batches begin, and where the last one ends."""
        if self.seen is None:
            yield from range(0, self.size, BATCH)
            yield self.size
        else:
            yield from accumulate(batches(self.seen, self.size, self.ends), initial=0)


def codings(
    order: LatticeOrder, learning: bool = False, ends: tuple[int, ...] | None = None, level: int = 0
) -> list[Coding]:
    """How the atoms of an image are coded, up to ``level``.

    learning: whether the heads learn. ends: where their batches end, if the file says so (``batches``).
    """
    sizes = [size if atom.level >= level else 0 for atom, size in zip(order.atoms, order.sizes().tolist(), strict=True)]
    last = {atom.expert: i for i, atom in enumerate(order.atoms) if sizes[i]}
    seen: dict[int, int] = {}
    found = []
    for i, (atom, size) in enumerate(zip(order.atoms, sizes, strict=True)):
        if not learning or size < MIN_ATOM:
            found.append(Coding(size))
            continue
        final = last[atom.expert] == i
        if final and atom.expert not in seen and next(batches(0, size, ends)) == size:
            # the head as trained does it all: there is neither time nor need to learn
            found.append(Coding(size, spread=True))
            continue
        found.append(Coding(size, seen.get(atom.expert, 0), True, final, ends))
        seen[atom.expert] = seen.get(atom.expert, 0) + size
    return found


class Cuts:
    """Tells, of the batches in coding order, before which of them a stream ends because a level is cut."""

    def __init__(self, order: LatticeOrder) -> None:
        self._order = order
        self._level = order.levels

    def before(self, level: int) -> bool:
        """Whether a stream ends before this batch, which is one of ``level``."""
        begins = level < self._level
        self._level = min(level, self._level)
        return begins and level in self._order.cuts


def count(order: LatticeOrder, learning: bool = False, ends: tuple[int, ...] | None = None, level: int = 0) -> int:
    """How many streams an image has, or those of its levels down to ``level``, at whose end a stream must end. The
    other arguments are those of ``codings``.

    >>> [count(LatticeOrder(512, 512, 3), level=level) for level in (2, 1, 0)]
    [1, 2, 3]
    """
    cuts, streams, symbols = Cuts(order), 0, 2 * order.channels  # of the base
    for atom, coding in zip(order.atoms, codings(order, learning, ends, level), strict=True):
        for start, end in pairwise(coding.bounds()):
            cut = cuts.before(atom.level)
            if symbols >= SYMBOLS or (cut and symbols):
                streams, symbols = streams + 1, 0
            symbols += 2 * (end - start)
    return streams + bool(symbols)
