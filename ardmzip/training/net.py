"""The float network, with fake quantisation that follows the integer network (ardmzip/network.py) step for step."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from ardmzip import features
from ardmzip.fitting.smooth import ACTIVATION_MAX, HEAD_SHIFT, fake_activation

#: Largest power-of-two exponent of a weight row: keeps biases far inside int32.
EXPONENT_MAX = 14
#: Largest head weight.
HEAD_MAX = 8 - 2.0**-HEAD_SHIFT


def weight_exponent(weight: Tensor) -> Tensor:
    """Per output row: the largest e with max|w| * 2**e <= 127, clamped to 0..14. float [outputs, 1]."""
    peak = weight.detach().abs().amax(1, keepdim=True).clamp_min(1e-8)
    return torch.floor(torch.log2(127 / peak)).clamp(0, EXPONENT_MAX)


def fake_weight(weight: Tensor) -> Tensor:
    """Round to int8 with a power-of-two scale per output row; the gradient passes straight through."""
    scale = torch.exp2(weight_exponent(weight))
    with torch.no_grad():
        delta = (weight * scale).round().clamp(-127, 127) / scale - weight
    return weight + delta


class Expert(nn.Module):
    """One MLP: trunk layers and the head with 3 K outputs (weight logits in octaves, means, log2 scales)."""

    def __init__(self, inputs: int, hidden: list[int], components: int):
        super().__init__()
        sizes = [inputs, *hidden]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for a, b in itertools.pairwise(sizes):
            self.weights.append(nn.Parameter(torch.randn(b, a) * math.sqrt(2 / a)))
            self.biases.append(nn.Parameter(torch.zeros(b)))
        self.head = nn.Parameter(torch.randn(3 * components, sizes[-1]) * 0.01)
        # components start narrow to wide around the centre, so that none is idle at first
        logits = torch.zeros(components)
        means = torch.linspace(-0.3, 0.3, components)
        scales = torch.linspace(-2.0, 1.0, components)[torch.arange(components) * 2 % components]
        self.head_bias = nn.Parameter(torch.cat([logits, means, scales]))

    def forward(self, x: Tensor, quantise: bool) -> Tensor:
        """x: float [n, inputs] (integers / 32) -> float [n, 3 K]."""
        for w, b in zip(self.weights, self.biases, strict=True):
            if quantise:
                x = fake_activation(nn.functional.linear(x, fake_weight(w), b))
            else:
                x = nn.functional.hardtanh(nn.functional.linear(x, w, b), 0.0, ACTIVATION_MAX)
        # bfloat16 holds the trunk's integers, but is too coarse for means and scales
        with torch.autocast(x.device.type, enabled=False):
            return nn.functional.linear(x.to(self.head.dtype), self.head.clamp(-HEAD_MAX, HEAD_MAX), self.head_bias)


class Network(nn.Module):
    """All experts, by (level group, lattice kind, channel)."""

    def __init__(self, hidden: list[int], components: int):
        super().__init__()
        self.hidden, self.components = hidden, components
        self.experts = nn.ModuleList(
            Expert(features.expert_layout(e).inputs, hidden, components) for e in range(features.EXPERTS)
        )
