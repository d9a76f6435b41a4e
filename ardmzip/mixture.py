"""Mixture of logistics -> integer frequencies (docs/FORMAT.md, "Mixture and frequencies"), in torch on any device.

All arithmetic is on integers. ``kernels.py`` has the same functions for the CPU. A value 0..255 is coded as its high
nibble and then its low nibble given the high one: 16 + 16 boundaries instead of 256, with the same code length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ardmzip import tables

#: Frequencies of a symbol's alternatives sum to this: constriction's precision.
TOTAL = 1 << 24
#: Every value keeps at least this much of TOTAL, so that any pixel can be coded.
FLOOR = 16
MEAN_LIMIT = 1 << 14
MU_MIN, MU_MAX = -64 * tables.UNIT, 319 * tables.UNIT
SCALE_ENTRIES = (tables.SCALE_MAX - tables.SCALE_MIN) * tables.SCALE_STEPS
#: Scale entries from one activity class to the next.
CLASS_STEPS = tables.SCALE_STEPS // tables.CLASSES_PER_OCTAVE
#: Table index of class 0's scale, 2**-1 grey levels.
SCALE_ZERO = -tables.SCALE_MIN * tables.SCALE_STEPS - tables.SCALE_STEPS
LOGISTIC_ENTRIES = 2 * tables.LOGISTIC_RANGE * tables.LOGISTIC_STEPS
EXP_ENTRIES = tables.EXP_RANGE * tables.EXP_STEPS


@dataclass(frozen=True)
class Mixture:
    """Integer parameters of n mixtures, all int64 [n, K]: weights (sum 2**14), means (1/64 grey level), and the
    reciprocal scales as mantissa and shift."""

    weight: Tensor
    mean: Tensor
    mantissa: Tensor
    shift: Tensor
    logistic: Tensor


def mixture(outputs: Tensor, centre: Tensor, cls: Tensor, tabs: dict[str, Tensor]) -> Mixture:
    """Head outputs int32 [n, 3 K] (1/256), centre int32 [n] (1/64), activity class uint8 [n] -> Mixture."""
    logit, mean, log_scale = outputs.long().chunk(3, 1)
    cls = cls.long()[:, None]
    e = tabs["exp2"].long()[((logit.amax(1, keepdim=True) - logit) >> 2).clamp(max=EXP_ENTRIES - 1)]
    weight = (e << tables.WEIGHT_BITS) // e.sum(1, keepdim=True)
    rest = (1 << tables.WEIGHT_BITS) - weight.sum(1)
    # the first largest component takes what integer division left over (argmax need not be the first: make it so)
    first = ((logit == logit.amax(1, keepdim=True)).long().cumsum(1) == 0).sum(1)
    weight = weight.scatter_add(1, first[:, None], rest[:, None])
    mean = mean.clamp(-MEAN_LIMIT, MEAN_LIMIT) * tabs["class_scale"].long()[cls]
    mean = (centre.long()[:, None] + (mean >> 8)).clamp(MU_MIN, MU_MAX)
    scale = ((log_scale >> 2) + CLASS_STEPS * cls + SCALE_ZERO).clamp(0, SCALE_ENTRIES - 1)
    return Mixture(weight, mean, tabs["inv_mantissa"].long()[scale], tabs["inv_shift"].long()[scale], tabs["logistic"])


def cumulative(m: Mixture, x: Tensor) -> Tensor:
    """Frequency of all values below x: int64 [n, b] for x int64 [n, b] in 0..256; 0 at 0 and TOTAL at 256."""
    distance = (tables.UNIT * x - tables.UNIT // 2)[:, :, None] - m.mean[:, None]
    z = ((distance * m.mantissa[:, None]) >> m.shift[:, None]) + LOGISTIC_ENTRIES // 2
    c = (m.weight[:, None] * m.logistic.long()[z.clamp(0, LOGISTIC_ENTRIES - 1)]).sum(2) >> 6
    c = c - (c >> 12) + FLOOR * x
    return torch.where(x == 0, 0, torch.where(x == 256, TOTAL, c))


def rescale(part: Tensor, whole: Tensor) -> Tensor:
    """floor(part * (TOTAL - 16) / whole), by which the low nibble's frequencies fill TOTAL again."""
    return part * (TOTAL - 16) // whole


def intervals(m: Mixture, value: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(start, width) of the high and of the low nibble of each value: int64 [n] each. value: uint8 [n]."""
    value = value.long()
    high = value & ~15
    f = cumulative(m, torch.stack([high, value, value + 1, high + 16], 1))
    whole = f[:, 3] - f[:, 0]
    low, above = rescale(f[:, 1] - f[:, 0], whole), rescale(f[:, 2] - f[:, 0], whole)
    nibble = value & 15
    return f[:, 0], whole, low + nibble, above - low + 1


def high_rows(m: Mixture) -> Tensor:
    """Frequencies of the high nibble less one: float32 [n, 16], integers that sum to TOTAL - 16."""
    x = 16 * torch.arange(17, device=m.mean.device).expand(len(m.mean), 17)
    return (cumulative(m, x).diff(dim=1) - 1).float()


def low_rows(m: Mixture, high: Tensor) -> Tensor:
    """Frequencies of the low nibble less one, given the high nibble int [n]: float32 [n, 16]."""
    x = 16 * high.long()[:, None] + torch.arange(17, device=m.mean.device)
    f = cumulative(m, x)
    part = f - f[:, :1]
    return rescale(part, part[:, 16:]).diff(dim=1).float()
