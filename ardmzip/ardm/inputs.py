"""What is known of a block -> the network's int8 inputs, and for each sub-pixel a centre and an activity class.

A masked image, as the paper's network sees it, leaves all of interpolation to the network. Here every sub-pixel comes
with a guess: the mean of what is known of its channel, weighted by distance, plus most of what the other channels at
the same pixel deviate from theirs. Differences are measured from it and from a smoother mean, in units of how far the
guesses err nearby. All is exact: float64 products of integers whose sums stay below 2**53, and integers
(docs/FORMAT.md, "Random order").
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ardmzip import tables
from ardmzip.ardm.order import CHANNELS, SIDE

#: Inputs a pixel: seven for each channel and three for all.
INPUTS = 7 * CHANNELS + 3
#: Weight of what is assumed where nothing is known: medium gray, and an activity of 64 grey levels.
PRIOR = 1
_GRAY, _ACTIVITY = 255 * tables.UNIT // 2, 64 * 16
#: Of the mean deviation of the other channels, in eighths.
_SHARED = 7
#: Bits of the weight of the nearest pixels.
NEAR_BITS, WIDE_BITS = 20, 16
#: A density is the number of bits of a sum of weights, and three more.
_DENSITY_BITS = 3

#: Like tables.LIMITS: type, length and range.
LIMITS = {
    "near": (np.int32, SIDE * SIDE, 0, 1 << NEAR_BITS),
    "wide": (np.int32, SIDE * SIDE, 0, 1 << WIDE_BITS),
    "density": (np.int8, 1 << 12, -128, 127),
}


def build() -> dict[str, np.ndarray]:
    """Tables beside those of tables.build.

    * ``near``, ``wide``: int32 [32 * 32], weight of a known pixel so many rows and columns away; 0 for the pixel itself
    * ``density``: int8 [4096], logarithm of a sum of wide weights in 2**-9 of the largest
    """
    rows, columns = np.mgrid[:SIDE, :SIDE]
    distance = np.sqrt(rows**2 + columns**2)
    distance[0, 0] = np.inf
    near = np.rint(2**NEAR_BITS / distance**5)
    wide = np.rint(2**WIDE_BITS / distance**2.5)
    density = np.clip(np.rint(16 * np.log2(1 + np.arange(1 << 12) / 16) - 64), -128, 127)
    return {
        "near": np.where(distance < np.inf, np.maximum(near, 1), 0).astype(np.int32).ravel(),
        "wide": wide.astype(np.int32).ravel(),
        "density": density.astype(np.int8),
    }


@dataclass(frozen=True)
class Tables:
    """Tables of a model on one device, and the weight matrices of the blocks that have been asked for."""

    tensors: dict[str, Tensor]

    def __hash__(self) -> int:
        return id(self)

    @lru_cache(maxsize=16)  # noqa: B019 - as long as the model itself
    def weights(self, name: str, height: int, width: int, kind: torch.dtype) -> Tensor:
        """[pixels, pixels]: how much each pixel counts for each."""
        table = self.tensors[name].reshape(SIDE, SIDE)
        rows = torch.arange(height, device=table.device).repeat_interleave(width)
        columns = torch.arange(width, device=table.device).repeat(height)
        return table[(rows[:, None] - rows).abs(), (columns[:, None] - columns).abs()].to(kind)


@dataclass(frozen=True)
class Inputs:
    """x int8 [n, height, width, INPUTS]; centre int32 [n, 3, height, width] in 1/64; cls uint8 [n, height, width]."""

    x: Tensor
    centre: Tensor
    cls: Tensor


def inputs(low: Tensor, mask: Tensor, span: int, finer: int, tabs: Tables, kind: torch.dtype = torch.float64) -> Inputs:
    """Inputs of n states of blocks.

    low: uint8 [n, 3, height, width], the least possible value of every sub-pixel; mask: bool of that shape, whether it
    has one of ``finer`` values, else one of ``span`` values. Sub-pixels of which all 256 values are possible count as
    unknown. kind: of the products; float32 is for training, which need not be exact.
    """
    n, _, height, width = low.shape
    t = tabs.tensors

    def around(planes: Tensor, name: str) -> Tensor:
        sums = planes.reshape(-1, height * width).to(kind) @ tabs.weights(name, height, width, kind)
        return sums.reshape(planes.shape).long()

    # twice the middle of the possible values
    twice = 2 * low.long() + torch.where(mask, finer - 1, span - 1)
    trust = mask.long() if span == 256 else 1 + mask.long()
    known = trust > 0
    both = torch.stack([trust, trust * twice])
    means = []
    wide_sum = trust
    for name in ("near", "wide"):
        den, num = around(both, name)
        means.append((tables.UNIT // 2 * num + PRIOR * _GRAY).div(den + PRIOR, rounding_mode="floor"))
        wide_sum = den
    near, wide = means
    value = tables.UNIT // 2 * twice
    deviation = torch.where(known, value - near, 0)
    others = deviation.sum(1, keepdim=True) - deviation
    count = known.sum(1, keepdim=True) - known.long()
    shared = (_SHARED * others).div(8 * count.clamp(min=1), rounding_mode="floor")
    centre = near + shared
    error = value - centre
    size = (error.abs() >> 4).clamp(max=tables.DIFFERENCES - 1)
    total = wide_sum.sum(1)
    errors = around((trust * size).sum(1), "wide")
    activity = (4 * errors + PRIOR * _ACTIVITY).div(total + PRIOR, rounding_mode="floor")
    cls = t["class_of"][activity.clamp(max=len(t["class_of"]) - 1)]
    scale = t["class_scale"].long()[cls.long()][:, None]
    compand = t["compand"][cls.long()[:, None] * tables.DIFFERENCES + size].long()

    def in_scales(difference: Tensor, parts: int) -> Tensor:
        return (parts * difference).div(scale, rounding_mode="floor").clamp(-127, 127)

    def density(sums: Tensor) -> Tensor:
        return t["density"][(sums >> (WIDE_BITS - 9)).clamp(max=(1 << 12) - 1)].long()

    planes = [
        64 * mask.long(),
        torch.where(known, in_scales(value - wide, 16), 0),
        in_scales(near - wide, 16),
        in_scales(shared, 32),
        torch.where(known, compand * error.sign(), 0),
        density(wide_sum),
        (centre >> 7).clamp(0, 127) - 64,
        3 * cls.long()[:, None] - 54,
        density(total[:, None] >> 1),
        torch.full_like(total[:, None], 64),
    ]
    x = torch.cat(planes, 1).to(torch.int8)
    return Inputs(x.permute(0, 2, 3, 1).contiguous(), centre.int(), cls)
