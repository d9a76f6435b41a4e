"""The order of these models: blocks of an image, stages of a value, and a random permutation of the sub-pixels.

docs/FORMAT.md, "Random order", defines all of it exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from ardmzip.errors import FormatError

#: Most rows and columns of a block.
SIDE = 32
CHANNELS = 3
#: Seeds are below this.
SEEDS = 1 << 31
VALUES = 256
#: How calls are spread (schedule.py), by number.
SPREADS = ("even", "stage by stage", "best")


def digits(branching: int) -> tuple[tuple[int, ...], ...]:
    """The digits of a value by stage, the most significant first: their bases.

    A stage of the order-agnostic model, which has but one, is a whole value, coded as two nibbles.

    >>> digits(256), digits(4)
    (((16, 16),), ((4,), (4,), (4,), (4,)))
    """
    if branching not in (2, 4, 16, VALUES):
        raise ValueError(f"values are cut into digits of 2, 4, 16 or {VALUES}, not of {branching}")
    if branching == VALUES:
        return ((16, 16),)
    return ((branching,),) * (8 // (branching.bit_length() - 1))


def spans(branching: int) -> tuple[int, ...]:
    """How many values are possible before each stage, and after the last.

    >>> spans(4)
    (256, 64, 16, 4, 1)
    """
    found = [VALUES]
    for stage in digits(branching):
        found.append(found[-1] // int(np.prod(stage)))
    return tuple(found)


def _mixed(x: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64, of uint64 numbers."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permutation(seed: int, stage: int, count: int) -> np.ndarray:
    """The order int64 [count] of the sub-pixels of a block in a stage.

    Sub-pixel i has the (i + 1)-th number of SplitMix64, begun with 256 * seed + stage; they are sorted by it.

    >>> permutation(1, 0, 8).tolist()
    [0, 7, 2, 5, 3, 4, 6, 1]
    """
    with np.errstate(over="ignore"):
        numbers = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return np.argsort(_mixed(np.uint64(256 * seed + stage) + numbers), kind="stable")


@dataclass(frozen=True)
class Block:
    """A rectangle of pixels that is coded by itself."""

    top: int
    left: int
    height: int
    width: int

    @property
    def rows(self) -> slice:
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.left + self.width)

    @property
    def size(self) -> int:
        """Its sub-pixels."""
        return CHANNELS * self.height * self.width


def blocks(height: int, width: int) -> list[Block]:
    """The blocks of an image in raster order: as few as are at most SIDE pixels a side, and as alike as can be.

    >>> blocks(1, 70)  # doctest: +NORMALIZE_WHITESPACE
    [Block(top=0, left=0, height=1, width=23), Block(top=0, left=23, height=1, width=23),
     Block(top=0, left=46, height=1, width=24)]
    """
    return [
        Block(top, left, bottom - top, right - left)
        for (top, bottom), (left, right) in product(_cut(height), _cut(width))
    ]


def _cut(length: int) -> list[tuple[int, int]]:
    count = -(-length // SIDE)
    return [(i * length // count, (i + 1) * length // count) for i in range(count)]


@dataclass(frozen=True)
class RandomOrder:
    """What a file says of it: the seed of the permutations, the number of network calls a block, and how the calls are
    spread (SPREADS)."""

    seed: int
    calls: int
    kind: int

    def __post_init__(self) -> None:
        if not 0 <= self.seed < SEEDS or self.calls < 1 or self.kind not in range(len(SPREADS)):
            raise FormatError(f"a random order of seed {self.seed} with {self.calls} network calls of kind {self.kind}")
