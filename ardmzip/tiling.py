"""Cutting large images into tiles, each a picture of its own: memory does not grow with the image then."""

from __future__ import annotations

from typing import NamedTuple

#: Sides of tiles are multiples of this, so that previews of up to so many halvings fit together.
LEVELS = 6
UNIT = 1 << LEVELS
#: Images of fewer pixels are coded in one piece, which saves a little, as heads that learn begin anew in each tile.
WHOLE = 1 << 24
#: About the side of a tile: larger ones take more memory; python -m bench.tiles tells what tiles cost.
SIDE = 2048


class Rectangle(NamedTuple):
    """Some pixels of an image."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def overlap(self, other: Rectangle) -> Rectangle | None:
        """The pixels that are in both, None if there are none."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom = min(self.top + self.height, other.top + other.height)
        right = min(self.left + self.width, other.left + other.width)
        return Rectangle(top, left, bottom - top, right - left) if top < bottom and left < right else None

    def within(self, other: Rectangle) -> Rectangle:
        """The same pixels, counted from the first one of ``other``."""
        return Rectangle(self.top - other.top, self.left - other.left, self.height, self.width)


def grid(height: int, width: int, tile: tuple[int, int], region: Rectangle | None = None) -> list[Rectangle]:
    """The tiles of an image, row by row, or those that hold pixels of a region; those at the right and at the bottom
    may be smaller.

    >>> [tuple(rectangle) for rectangle in grid(100, 70, (64, 64))]
    [(0, 0, 64, 64), (0, 64, 64, 6), (64, 0, 36, 64), (64, 64, 36, 6)]
    >>> grid(100, 70, (64, 64), Rectangle(70, 10, 5, 54))
    [Rectangle(top=64, left=0, height=36, width=64)]
    """
    top, left, rows, columns = region or (0, 0, height, width)
    return [
        Rectangle(y, x, min(tile[0], height - y), min(tile[1], width - x))
        for y in range(top - top % tile[0], top + rows, tile[0])
        for x in range(left - left % tile[1], left + columns, tile[1])
    ]


def number(top: int, left: int, width: int, tile: tuple[int, int]) -> int:
    """The number of the tile that holds a pixel of an image of some width, counted from 0 row by row.

    >>> number(70, 3, 70, (64, 64))
    2
    """
    return top // tile[0] * -(-width // tile[1]) + left // tile[1]


def tile_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width of tiles of about ``side`` pixels that are about as large at the edges as elsewhere.

    >>> tile_size(3000, 9000, 2048), tile_size(2048, 2100, 2048)
    ((3008, 2304), (2048, 2112))
    """
    return _length(height, side), _length(width, side)


def _length(length: int, side: int) -> int:
    """A side of equal tiles: the length over their number, rounded up to whole units."""
    number = max(1, round(length / side))
    return -(-length // (number * UNIT)) * UNIT


def default_tile(height: int, width: int) -> tuple[int, int] | None:
    """The tiles that an image is cut into unless told otherwise; None: it is coded in one piece.

    >>> default_tile(3000, 4000), default_tile(6000, 8000), default_tile(1000, 30000)
    (None, (2048, 2048), (1024, 4288))
    """
    if height * width < WHOLE:
        return None
    # those of a narrow image are longer, so that they have as much to learn from
    return tile_size(height, width, max(SIDE, SIDE * SIDE // min(height, width)))
