"""The networks of docs/PAPER.md for training: residual convolutions, float or with fake quantisation (net.py)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ardmzip import tables
from ardmzip.ardm.inputs import INPUTS
from ardmzip.ardm.order import CHANNELS, VALUES, digits
from ardmzip.likelihood import FLOOR
from ardmzip.training.net import ACTIVATION_MAX, HEAD_MAX, fake_activation, fake_weight

#: Steps of a stage that share their biases: a stage is cut into so many parts.
TIMES = 16


class Conv(nn.Module):
    """A convolution; ``weight`` [out, kernel * kernel * in] in the order row, column, channel, and a bias for each of
    ``rows`` times and stages."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, dilation: int = 1, rows: int = 1, gain: float = 1.0):
        super().__init__()
        taps = kernel * kernel * inputs
        self.kernel, self.dilation = kernel, dilation
        self.weight = nn.Parameter(torch.randn(outputs, taps) * (gain * math.sqrt(2 / taps)))
        self.bias = nn.Parameter(torch.zeros(1, rows, outputs))

    def forward(self, x: Tensor, row: Tensor, quantise: bool) -> Tensor:
        """Sums and bias, before any activation: x [n, in, height, width], row [n]."""
        weight = fake_weight(self.weight) if quantise else self.weight
        weight = weight.view(len(weight), self.kernel, self.kernel, -1).permute(0, 3, 1, 2)
        y = functional.conv2d(x, weight, padding=self.dilation * (self.kernel // 2), dilation=self.dilation)
        bias = self.bias[0]
        return y + (bias[row] if len(bias) > 1 else bias)[:, :, None, None]


class Network(nn.Module):
    """A first convolution, residual blocks, a wider last layer and a head that says how every channel is distributed.

    ``dilations``: one for each block, whose first convolution is 3x3 with that dilation; its second one has the kernel
    ``second``. ``outputs``: numbers of the head for each channel.
    """

    def __init__(
        self, branching: int, parametrisation: str, width: int, dilations: list[int], second: int, neck: int,
        components: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.branching, self.direct = branching, parametrisation == "direct"
        rows = TIMES * len(digits(branching))
        convs = [Conv(INPUTS, width, 3, 1, rows)]
        for dilation in dilations:
            convs += [Conv(width, width, 3, dilation, rows), Conv(width, width, second, gain=0.3)]
        convs.append(Conv(width, neck))
        self.convs = nn.ModuleList(convs)
        self.outputs = branching if self.direct else 3 * components
        self.head = nn.Parameter(torch.randn(CHANNELS * self.outputs, neck) * 0.01)
        if self.direct:
            first = torch.zeros(branching)
        else:
            means = torch.linspace(-0.3, 0.3, components)
            scales = torch.linspace(-3.0, 0.5, components)[torch.arange(components) * 2 % components]
            first = torch.cat([torch.zeros(components), means, scales])
        self.head_bias = nn.Parameter(first.repeat(CHANNELS))

    def forward(self, x: Tensor, row: Tensor, quantise: bool) -> Tensor:
        """x: float [n, height, width, INPUTS] (integers / 32); row int64 [n]: 16 * stage + time. Float [n, height,
        width, 3, outputs]."""

        def activate(y: Tensor) -> Tensor:
            return fake_activation(y) if quantise else functional.hardtanh(y, 0.0, ACTIVATION_MAX)

        first, *blocks, last = self.convs
        h = activate(first(x.permute(0, 3, 1, 2), row, quantise))
        for one, two in zip(blocks[::2], blocks[1::2], strict=True):
            h = activate(h + two(activate(one(h, row, quantise)), row, quantise))
        h = activate(last(h, row, quantise)).permute(0, 2, 3, 1)
        with torch.autocast(x.device.type, enabled=False):
            y = functional.linear(h.to(self.head.dtype), self.head.clamp(-HEAD_MAX, HEAD_MAX), self.head_bias)
        return y.view(*h.shape[:3], CHANNELS, self.outputs)


def _mass(low: Tensor, count: int, weight: Tensor, mu: Tensor, inv: Tensor) -> Tensor:
    """Probability of the values from ``low`` on, ``count`` of them: float [n]."""
    edge = low[:, None] - 0.5
    below = torch.where(low[:, None] == 0, 0.0, torch.sigmoid((edge - mu) * inv))
    above = torch.where(low[:, None] + count == VALUES, 1.0, torch.sigmoid((edge + count - mu) * inv))
    return (weight * (above - below)).sum(1).clamp_min(0) * (1 - VALUES * FLOOR) + count * FLOOR


def code_length(outputs: Tensor, value: Tensor, span: int, finer: int, centre: Tensor, scale: Tensor) -> Tensor:
    """Bits of the digit of a stage, under mixtures of logistics (the paper's data parametrisation): float [n].

    outputs: float [n, 3 K]; value: int [n]; ``span`` values are possible before the digit is known, ``finer`` after;
    centre: float [n] grey levels; scale: float [n] activity scale.
    """
    logit, mean, log_scale = outputs.chunk(3, 1)
    weight = torch.softmax(logit * math.log(2), 1)
    log_scale = (log_scale + torch.log2(scale)[:, None]).clamp(tables.SCALE_MIN, tables.SCALE_MAX - 1e-3)
    inv = torch.exp2(-log_scale)
    mu = (centre[:, None] + mean * scale[:, None]).clamp(-64, 319)
    bits = -torch.log2(_mass((value - value % finer).float(), finer, weight, mu, inv))
    if span < VALUES:
        bits = bits + torch.log2(_mass((value - value % span).float(), span, weight, mu, inv))
    return bits


def direct_code_length(outputs: Tensor, value: Tensor, span: int, finer: int) -> Tensor:
    """Bits of the digit of a stage, under a softmax over digits (direct parametrisation): outputs float [n, b] in
    octaves."""
    digit = (value % span).div(finer, rounding_mode="floor").long()
    return functional.cross_entropy(outputs * math.log(2), digit, reduction="none") / math.log(2)
