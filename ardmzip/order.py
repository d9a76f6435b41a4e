"""Which sub-pixels are coded when.

An *order* lists *atoms*: groups of sub-pixels that one network call can predict together. This is the lattice order
(docs/FORMAT.md, "Order"; ardm/order.py has the random ones): from coarse to fine, every level doubles the resolution by
adding three lattices, channel after channel, so a photograph needs about 100 atoms whatever its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

KINDS = 3  # lattices a level
CHANNELS = 3  # at most
#: Levels that add so many pixels begin a new stream, so that coarser levels can be read alone: some 12 bytes for each.
CUT = 1 << 15


@dataclass(frozen=True)
class Atom:
    """One group of sub-pixels: a channel of a lattice of a level.

    ``kind`` 0 is (odd, odd), 1 is (even, odd) and 2 is (odd, even) in (y, x), relative to the level's known lattice.
    """

    level: int
    kind: int
    channel: int

    @property
    def expert(self) -> int:
        """The number of the expert that predicts it: level 0 has its own, and all the others share theirs."""
        return (min(self.level, 1) * KINDS + self.kind) * CHANNELS + self.channel


@dataclass(frozen=True)
class LatticeOrder:
    """The lattice order of an image.

    The dense array of level 0 is the whole image, and the array of level l+1 holds the pixels of level l that are
    already known when level l is coded: every second row and column, counted from ``level_phase(l)``. After ``levels``
    such steps a single pixel is left, the base: it lies at ``phase`` in the image, is coded first, and belongs to no
    atom.

    >>> order = LatticeOrder(3, 5, channels=1)
    >>> order.levels
    3
    >>> [order.level_shape(level) for level in range(4)]
    [(3, 5), (2, 3), (1, 2), (1, 1)]
    >>> order.atoms[:4]  # doctest: +NORMALIZE_WHITESPACE
    (Atom(level=2, kind=0, channel=0), Atom(level=2, kind=1, channel=0), Atom(level=2, kind=2, channel=0),
     Atom(level=1, kind=0, channel=0))
    >>> order.sizes().tolist()  # atoms may be empty; with the base they cover the image
    [0, 1, 0, 1, 1, 2, 2, 4, 3]
    """

    height: int
    width: int
    channels: int
    phase: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"an image needs at least one pixel, not {self.width} x {self.height}")
        if self.channels not in (1, 3):
            raise ValueError(f"an image has 1 or 3 channels, not {self.channels}")
        for offset, length in zip(self.phase, (self.height, self.width), strict=True):
            if offset not in (0, 1):
                raise ValueError(f"a phase is 0 or 1, not {offset}")
            if offset == 1 and length < 2:
                raise ValueError("phase 1 needs at least two pixels along its axis")

    @cached_property
    def levels(self) -> int:
        """The smallest number of halvings that leaves one pixel."""
        if self.height == self.width == 1:
            return 0
        longest = max(self.height - self.phase[0], self.width - self.phase[1])
        return max(1, (longest - 1).bit_length())

    @property
    def atom_count(self) -> int:
        """How many atoms there are, empty ones included."""
        return KINDS * self.channels * self.levels

    @cached_property
    def atoms(self) -> tuple[Atom, ...]:
        """All atoms in coding order, empty ones included."""
        return tuple(
            Atom(level, kind, channel)
            for level in reversed(range(self.levels))
            for kind in range(KINDS)
            for channel in range(self.channels)
        )

    def sizes(self) -> np.ndarray:
        """``int64[A]``: the number of sub-pixels of every atom."""
        areas = [rows * cols for rows, cols in (self.lattice_shape(atom.level, atom.kind) for atom in self.atoms)]
        return np.array(areas, dtype=np.int64)

    @cached_property
    def cuts(self) -> tuple[int, ...]:
        """Levels that begin a new stream, coarse to fine: those that add at least CUT pixels.

        >>> LatticeOrder(512, 512, 3).cuts, LatticeOrder(64, 64, 3).cuts
        ((1, 0), ())
        """
        areas = [rows * columns for rows, columns in map(self.level_shape, range(self.levels + 1))]
        return tuple(level for level in reversed(range(self.levels)) if areas[level] - areas[level + 1] >= CUT)

    def checked_level(self, level: int) -> int:
        """The coarsest level, ``level`` or finer, with which a stream ends: it can be decoded and checked alone.

        >>> [LatticeOrder(512, 512, 3).checked_level(level) for level in range(5)]
        [0, 1, 2, 2, 2]
        """
        return max((cut + 1 for cut in self.cuts if cut < level), default=0)

    def level_shape(self, level: int) -> tuple[int, int]:
        """(rows, columns) of the dense array of a level, 0 to ``levels``; that of level 0 is the whole image."""
        if not 0 <= level <= self.levels:
            raise ValueError(f"level {level} is not in 0..{self.levels}")
        if level == 0:
            return self.height, self.width
        # Only level 0 has a phase, so level l is the image from that phase on, every 2^l-th row and column.
        stride = 1 << level
        py, px = self.phase
        return (self.height - py + stride - 1) // stride, (self.width - px + stride - 1) // stride

    def level_phase(self, level: int) -> tuple[int, int]:
        """(y, x) of the first known pixel in the dense array of a level."""
        return self.phase if level == 0 else (0, 0)

    def known(self, level: int) -> tuple[slice, slice]:
        """Slices into the dense array of a level: the pixels known before it, which are the array of level + 1."""
        self._check_coded(level)
        py, px = self.level_phase(level)
        return slice(py, None, 2), slice(px, None, 2)

    def lattice(self, level: int, kind: int) -> tuple[slice, slice]:
        """Slices into the dense array of a level: the pixels of one of its three lattices."""
        y, x = self._lattice_start(level, kind)
        return slice(y, None, 2), slice(x, None, 2)

    def lattice_shape(self, level: int, kind: int) -> tuple[int, int]:
        """(rows, columns) of a lattice; either can be 0 where the level is one pixel high or wide."""
        y, x = self._lattice_start(level, kind)
        height, width = self.level_shape(level)
        return (height - y + 1) // 2, (width - x + 1) // 2

    def _lattice_start(self, level: int, kind: int) -> tuple[int, int]:
        self._check_coded(level)
        py, px = self.level_phase(level)
        if kind == 0:
            return 1 - py, 1 - px
        if kind == 1:
            return py, 1 - px
        if kind == 2:
            return 1 - py, px
        raise ValueError(f"lattice kind {kind} is not in 0..{KINDS - 1}")

    def _check_coded(self, level: int) -> None:
        if not 0 <= level < self.levels:
            raise ValueError(f"level {level} is not among the {self.levels} coded levels")
