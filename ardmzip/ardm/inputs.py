"""What is known of a block -> the network's int8 inputs, and for each sub-pixel a centre and an activity class.

A masked image, as the paper's network sees it, leaves all of interpolation to the network. Here every sub-pixel comes
with a guess: first the mean of what is known of its channel, weighted by distance, plus most of what the other channels
at the same pixel deviate from theirs; then some rounds in which every guess moves towards what its neighbours, and the
other channels' differences from theirs, say of it. Differences are measured from the guess and from a smoother mean, in
units of how far the first guesses err nearby. All is exact: float64 products of integers whose sums stay below 2**53,
and integers (docs/FORMAT.md, "Random order").
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ardmzip import tables
from ardmzip.ardm.order import CHANNELS, SIDE, VALUES

#: Inputs a pixel: seven for each channel and three for all.
INPUTS = 7 * CHANNELS + 3
#: Weight of what is assumed where nothing is known: medium gray, and an activity of 64 grey levels.
PRIOR = 1
GRAY, ACTIVITY = 255 * tables.UNIT // 2, 64 * 16
#: Of the mean deviation of the other channels, in eighths.
SHARED = 7
#: Entries of table density.
DENSITIES = 1 << 12
#: Rounds of ``relaxed``.
ROUNDS = 16
#: Bits of the weight of the nearest pixels.
NEAR_BITS, WIDE_BITS = 20, 16

#: Like tables.LIMITS: type, length and range.
LIMITS = {
    "near": (np.int32, SIDE * SIDE, 0, 1 << NEAR_BITS),
    "wide": (np.int32, SIDE * SIDE, 0, 1 << WIDE_BITS),
    "density": (np.int8, DENSITIES, -128, 127),
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
    height, width = low.shape[2:]
    t = tabs.tensors

    def around(planes: Tensor, name: str) -> Tensor:
        sums = planes.reshape(-1, height * width).to(kind) @ tabs.weights(name, height, width, kind)
        return sums.reshape(planes.shape).long()

    # twice the middle of the possible values
    left = torch.where(mask, finer - 1, span - 1).int()
    twice = 2 * low.int() + left
    trust = mask.int() if span == VALUES else 1 + mask.int()
    known = trust > 0
    both = torch.stack([trust, trust * twice])
    means = []
    for name in ("near", "wide"):
        den, num = around(both, name)
        mean = (tables.UNIT // 2 * num + PRIOR * GRAY).div(den + PRIOR, rounding_mode="floor")
        means.append(mean.int())
    near, wide = means
    value = tables.UNIT // 2 * twice
    deviation = torch.where(known, value - near, 0)
    others = deviation.sum(1, keepdim=True) - deviation
    count = known.sum(1, keepdim=True) - known.int()
    first = near + (SHARED * others).div(8 * count.clamp(min=1), rounding_mode="floor")
    error = torch.where(known, value - first, 0)
    errors = around((trust * (error.abs() >> 4).clamp(max=tables.DIFFERENCES - 1)).sum(1), "wide")
    total = den.sum(1)
    activity = (4 * errors + PRIOR * ACTIVITY).div(total + PRIOR, rounding_mode="floor")
    cls = t["class_of"][activity.clamp(max=len(t["class_of"]) - 1)]
    least = tables.UNIT * low.int()
    most = least + tables.UNIT * left
    centre, free = relaxed(first.int(), least, most)
    scale = t["class_scale"][cls.long()][:, None]
    size = ((value - free).abs() >> 4).clamp(max=tables.DIFFERENCES - 1)
    compand = t["compand"][cls.long()[:, None] * tables.DIFFERENCES + size].int()

    def in_scales(difference: Tensor, parts: int) -> Tensor:
        return (parts * difference).div(scale, rounding_mode="floor").clamp(-127, 127)

    def density(sums: Tensor) -> Tensor:
        return t["density"][(sums >> (WIDE_BITS - 9)).clamp(max=DENSITIES - 1)].int()

    planes = [
        64 * mask.int(),
        torch.where(known, in_scales(value - wide, 16), 0),
        in_scales(centre - wide, 16),
        in_scales(near - centre, 32),
        torch.where(known, compand * (value - free).sign(), 0),
        density(den),
        (centre >> 7).clamp(0, 127) - 64,
        3 * cls.int()[:, None] - 54,
        density(total[:, None] >> 1),
        torch.full_like(scale, 64),
    ]
    x = torch.cat(planes, 1).to(torch.int8)
    return Inputs(x.permute(0, 2, 3, 1).contiguous(), centre, cls)


def inputs_by_kernels(low: Tensor, mask: Tensor, span: int, finer: int, tabs: Tables) -> Inputs:
    """The same by numba kernels, on the CPU."""
    from ardmzip.ardm import kernels

    n, _, height, width = low.shape
    pixels = height * width
    flat, known = low.reshape(n, CHANNELS, pixels), mask.reshape(n, CHANNELS, pixels)
    trust = known.double() if span == VALUES else 1.0 + known.double()
    both = torch.stack([trust, trust * (2 * flat.double() + torch.where(known, finer - 1, span - 1))])
    near_sums, wide_sums = (
        (both.reshape(-1, pixels) @ tabs.weights(name, height, width, torch.float64)).reshape(both.shape).numpy()
        for name in ("near", "wide")
    )
    near, wide, value, first, den = np.empty((5, n, CHANNELS, pixels), np.int32)
    errors = torch.empty((n, pixels), dtype=torch.float64)
    kernels.first_guesses(
        flat.numpy(), known.numpy(), span, finer, near_sums, wide_sums, near, wide, value, first, den, errors.numpy()
    )
    errors = errors @ tabs.weights("wide", height, width, torch.float64)
    x = torch.empty((n, height, width, INPUTS), dtype=torch.int8)
    centre = torch.empty(low.shape, dtype=torch.int32)
    cls = torch.empty((n, height, width), dtype=torch.uint8)
    square = [a.reshape(low.shape) for a in (near, wide, value, first, den)]
    t = {name: tabs.tensors[name].numpy() for name in ("class_of", "class_scale", "compand", "density")}
    kernels.network_inputs(
        low.numpy(), mask.numpy(), span, finer, *square, errors.numpy().reshape(n, height, width), t["class_of"],
        t["class_scale"], t["compand"], t["density"], x.numpy(), centre.numpy(), cls.numpy(),
    )  # fmt: skip
    return Inputs(x, centre, cls)


def relaxed(x: Tensor, least: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """The guesses int32 [n, 3, height, width] in 1/64 after all rounds, each within what is possible, and what the last
    round wanted them to be before it moved them."""
    x = torch.minimum(torch.maximum(x, least), most)
    wanted = x
    for _ in range(ROUNDS):
        vertical = _shifted(x, 2)
        mean = (3 * (vertical + _shifted(x, 3)) - _shifted(vertical, 3)) >> 3
        rough = x - mean
        wanted = mean + ((15 * (rough.sum(1, keepdim=True, dtype=torch.int32) - rough)) >> 5)
        x = torch.minimum(torch.maximum(x + ((7 * (wanted - x)) >> 4), least), most)
    return x, wanted


def _shifted(x: Tensor, axis: int) -> Tensor:
    """The sum of both neighbours along an axis; beyond the border there is what is at it."""
    size = x.shape[axis]
    before = torch.cat([x.narrow(axis, 0, 1), x.narrow(axis, 0, size - 1)], axis)
    after = torch.cat([x.narrow(axis, 1, size - 1), x.narrow(axis, size - 1, 1)], axis)
    return before + after
