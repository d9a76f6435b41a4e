"""The code length of values in floating point, with gradients: what training and fitting make small."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ardmzip import tables

#: Share of a uniform floor in every distribution: 256 values at 2**-20 each (mixture.py).
FLOOR = 2.0**-20


def code_length(outputs: Tensor, target: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
    """Bits of each value under its mixture of logistics: float [n].

    outputs: float [n, 3 K]; target: float [n] 0..255; centre: float [n] grey levels; scale: float [n] activity scale.
    The edge bins take the tails, and every value keeps at least FLOOR, exactly as in the coder (mixture.py).
    """
    logit, mean, log_scale = outputs.chunk(3, 1)
    weight = torch.softmax(logit * math.log(2), 1)
    log_scale = (log_scale + torch.log2(scale)[:, None]).clamp(tables.SCALE_MIN, tables.SCALE_MAX - 1e-3)
    inv = torch.exp2(-log_scale)
    mu = (centre[:, None] + mean * scale[:, None]).clamp(-64, 319)
    below = torch.sigmoid((target[:, None] - 0.5 - mu) * inv)
    above = torch.sigmoid((target[:, None] + 0.5 - mu) * inv)
    below = torch.where(target[:, None] == 0, torch.zeros_like(below), below)
    above = torch.where(target[:, None] == 255, torch.ones_like(above), above)
    p = (weight * (above - below)).sum(1)
    return -torch.log2(p.clamp_min(0) * (1 - 256 * FLOOR) + FLOOR)
