"""Tiny images, which a general coder stores at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ardmzip import formats
from ardmzip.sources import Item


def picture(i: int) -> formats.Picture:
    return formats.from_array(np.random.default_rng(i).integers(0, 256, (4, 3, 3), dtype=np.uint8))


def made(count: int, **changed: Callable) -> Iterator[Item]:
    """Items, of which one in five is the same as another; ``changed``: other ways to read images, by name."""
    for i in range(count):
        name = f"{'a' if i < 20 else 'b'}/{i:03}.png"
        label, metadata = ("ab"[i % 2], {"number": i}) if i % 3 else (None, None)
        yield Item(name, label, metadata, changed.get(name, lambda i=i: picture(i - 3 if i % 5 == 4 else i)))
