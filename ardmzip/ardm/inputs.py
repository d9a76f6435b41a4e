"""What is known of a block -> the network's int8 inputs, and for each sub-pixel a centre and an activity class.

A masked image as the paper's network sees it leaves all of interpolation to the network. Here every sub-pixel also
comes with the mean of what is known around it in its channel, weighted by distance, and differences are measured from
that mean, in units of how well it predicts what is known nearby. All is exact: float32 products of integers whose sums
stay below 2**24, and integers (docs/FORMAT.md, "Random order").
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ardmzip import tables
from ardmzip.ardm.order import CHANNELS, SIDE

#: Inputs a pixel: for each channel mask, companded difference, plain difference, mean and density; and the class.
INPUTS = 5 * CHANNELS + 1
#: Weight of what is assumed where nothing is known: medium gray, and an activity of 64 grey levels.
PRIOR = 2
_GRAY, _ACTIVITY = 255 * tables.UNIT // 2, 64 * 16
DENSITIES = 4096
#: Sums of weights up to this keep all sums below 2**24 (inputs of an activity are the largest).
WEIGHT_SUM_MAX = (1 << 24) // (2 * CHANNELS * 511)

#: Like tables.LIMITS: type, length and range.
LIMITS = {
    "distance": (np.int32, SIDE * SIDE, 0, 2**12),
    "density": (np.int8, DENSITIES, -128, 127),
}


def build() -> dict[str, np.ndarray]:
    """Tables beside those of tables.build.

    * ``distance``: int32 [32 * 32], weight of a known pixel so many rows and columns away; 0 for the pixel itself
    * ``density``: int8 [4096], logarithm of a sum of weights in 1/4
    """
    rows, columns = np.mgrid[:SIDE, :SIDE]
    distance = np.sqrt(rows**2 + columns**2)
    distance[0, 0] = np.inf
    weight = np.where(np.isinf(distance), 0, np.maximum(np.rint(448 / distance**3), 1))
    density = np.clip(np.rint(12 * np.log2(1 + np.arange(DENSITIES)) - 64), -128, 127)
    return {"distance": weight.astype(np.int32).ravel(), "density": density.astype(np.int8)}


def weight_sum(distance: np.ndarray) -> int:
    """The largest sum of weights for a pixel of a block."""
    table = distance.reshape(SIDE, SIDE).astype(np.int64)
    places = np.arange(SIDE)
    offsets = np.abs(places[:, None] - places)
    return int(np.einsum("yixj->yx", table[offsets[:, :, None, None], offsets]).max())


@dataclass(frozen=True)
class Tables:
    """Tables of a model on one device, and the weight matrices of the blocks that have been asked for."""

    tensors: dict[str, Tensor]

    def __hash__(self) -> int:
        return id(self)

    @lru_cache(maxsize=8)  # noqa: B019 - as long as the model itself
    def weights(self, height: int, width: int) -> Tensor:
        """float32 [pixels, pixels]: how much each pixel counts for each."""
        table = self.tensors["distance"].reshape(SIDE, SIDE)
        rows = torch.arange(height, device=table.device).repeat_interleave(width)
        columns = torch.arange(width, device=table.device).repeat(height)
        return table[(rows[:, None] - rows).abs(), (columns[:, None] - columns).abs()].float()


@dataclass(frozen=True)
class Inputs:
    """x int8 [n, height, width, INPUTS]; centre int32 [n, 3, height, width] in 1/64; cls uint8 [n, height, width]."""

    x: Tensor
    centre: Tensor
    cls: Tensor


def inputs(low: Tensor, mask: Tensor, span: int, finer: int, tabs: Tables) -> Inputs:
    """Inputs of n states of blocks.

    low: uint8 [n, 3, height, width], the least possible value of every sub-pixel; mask: bool of that shape, whether it
    has one of ``finer`` values, else one of ``span`` values. The sub-pixels with all 256 values possible count as
    unknown.
    """
    n, _, height, width = low.shape
    t = tabs.tensors
    weights = tabs.weights(height, width)
    # twice the middle of the possible values
    twice = 2 * low.int() + torch.where(mask, finer - 1, span - 1)
    trust = mask.int() if span == 256 else 1 + mask.int()
    sums = torch.stack([trust, trust * twice]).reshape(-1, height * width).float() @ weights
    den, num = sums.to(torch.int32).reshape(2, n, CHANNELS, height, width)
    centre = (tables.UNIT // 2 * num + PRIOR * _GRAY).div(den + PRIOR, rounding_mode="floor")
    difference = tables.UNIT // 2 * twice - centre
    size = (difference.abs() >> 4).clamp(max=tables.DIFFERENCES - 1)
    errors = (trust * (size >> 1)).sum(1).reshape(-1, height * width).float() @ weights
    total = den.sum(1)
    activity = (8 * errors.to(torch.int32).reshape(n, height, width) + PRIOR * _ACTIVITY).div(
        total + PRIOR, rounding_mode="floor"
    )
    cls = t["class_of"][activity.clamp(max=len(t["class_of"]) - 1).long()]
    known = trust > 0
    compand = t["compand"][cls.long()[:, None] * tables.DIFFERENCES + size].int()
    planes = [
        64 * mask.int(),
        torch.where(known, compand * difference.sign(), 0),
        torch.where(known, (difference >> 6).clamp(-127, 127), 0),
        (centre >> 7) - 64,
        t["density"][(den >> 2).clamp(max=DENSITIES - 1).long()].int(),
    ]
    x = torch.cat([*planes, 3 * cls.int()[:, None] - 54], 1).clamp(-128, 127).to(torch.int8)
    return Inputs(x.permute(0, 2, 3, 1).contiguous(), centre, cls)
