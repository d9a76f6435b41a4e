"""The network's arithmetic as functions that gradients pass through: for training and for fitting."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ardmzip import tables

#: Units of the integer network: inputs 1/32, activations 1/16 (0..127).
INPUT_SHIFT, ACTIVATION_SHIFT = 5, 4
ACTIVATION_MAX = 127 / 2**ACTIVATION_SHIFT
#: Head weights have 15 bits in units of 2**-11 (two int8 halves), so |w| < 8.
HEAD_SHIFT = 11
#: Share of a uniform floor in every distribution: 256 values at 2**-20 each (mixture.py).
FLOOR = 2.0**-20


def fake_activation(x: Tensor) -> Tensor:
    """ReLU to 0..127 in steps of 1/16, rounded half up as the integer network does; the gradient passes straight
    through."""
    x = nn.functional.hardtanh(x, 0.0, ACTIVATION_MAX)
    with torch.no_grad():
        delta = torch.floor(x * 2**ACTIVATION_SHIFT + 0.5) / 2**ACTIVATION_SHIFT - x
    return x + delta


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
