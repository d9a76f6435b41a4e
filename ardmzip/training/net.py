"""The float network, with fake quantisation that follows the integer network (ardmzip/network.py) step for step."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ardmzip import features

if TYPE_CHECKING:
    from ardmzip.training.data import Samples

#: Units of the integer network: inputs 1/32, activations 1/16 (0..127), head outputs 1/256.
INPUT_SHIFT, ACTIVATION_SHIFT = 5, 4
ACTIVATION_MAX = 127 / 2**ACTIVATION_SHIFT
#: Largest power-of-two exponent of a weight row: keeps biases far inside int32.
EXPONENT_MAX = 14
#: Head weights have 15 bits in units of 2**-11 (two int8 halves), so |w| < 8.
HEAD_SHIFT = 11
HEAD_MAX = 8 - 2.0**-HEAD_SHIFT


def weight_exponent(weight: Tensor) -> Tensor:
    """Per output row: the largest e with max|w| * 2**e <= 127, clamped to 0..14. float [outputs, 1]."""
    peak = weight.detach().abs().amax(1, keepdim=True).clamp_min(1e-8)
    return torch.floor(torch.log2(127 / peak)).clamp(0, EXPONENT_MAX)


def fake_round(x: Tensor) -> Tensor:
    """Round to integers; the gradient passes straight through."""
    with torch.no_grad():
        delta = x.round() - x
    return x + delta


def fake_weight(weight: Tensor) -> Tensor:
    """Round to int8 with a power-of-two scale per output row; the gradient passes straight through."""
    scale = torch.exp2(weight_exponent(weight))
    with torch.no_grad():
        delta = (weight * scale).round().clamp(-127, 127) / scale - weight
    return weight + delta


def fake_activation(x: Tensor) -> Tensor:
    """ReLU to 0..127 in steps of 1/16, rounded half up as the integer network does."""
    x = nn.functional.hardtanh(x, 0.0, ACTIVATION_MAX)
    with torch.no_grad():
        delta = torch.floor(x * 2**ACTIVATION_SHIFT + 0.5) / 2**ACTIVATION_SHIFT - x
    return x + delta


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

    def trunk(self, x: Tensor, quantise: bool) -> Tensor:
        """All layers but the head: float [n, inputs] (integers / 32) -> float [n, hidden]."""
        for w, b in zip(self.weights, self.biases, strict=True):
            if quantise:
                x = fake_activation(nn.functional.linear(x, fake_weight(w), b))
            else:
                x = nn.functional.hardtanh(nn.functional.linear(x, w, b), 0.0, ACTIVATION_MAX)
        return x

    def forward(self, x: Tensor, quantise: bool) -> Tensor:
        """float [n, inputs] -> float [n, 3 K]."""
        x = self.trunk(x, quantise)
        # bfloat16 holds the trunk's integers, but is too coarse for means and scales
        with torch.autocast(x.device.type, enabled=False):
            return nn.functional.linear(x.to(self.head.dtype), self.head.clamp(-HEAD_MAX, HEAD_MAX), self.head_bias)


class Network(nn.Module):
    """All experts, by (level group, lattice kind, channel), and codes (codes.py) if there are any."""

    def __init__(self, hidden: list[int], components: int, codes: int = 0):
        super().__init__()
        self.hidden, self.components = hidden, components
        self.experts = nn.ModuleList(
            Expert(features.expert_layout(e).inputs, hidden, components) for e in range(features.EXPERTS)
        )
        #: In units of 1: the integers that files name are their multiples of 1/32.
        self.codes = nn.Parameter(torch.zeros(codes, features.SIDE)) if codes else None

    def inputs(self, expert: int, samples: Samples, code: np.ndarray | None = None) -> Tensor:
        """Inputs float [n, inputs] of samples, with the codes int64 [n] of them; None: those that they have."""
        x = samples.x.float() / 2**INPUT_SHIFT
        number = samples.code if code is None else code
        if self.codes is None or not (number >= 0).any():
            return x
        rounded = fake_round(self.codes * 2**INPUT_SHIFT).clamp(-127, 127) / 2**INPUT_SHIFT
        coded = torch.from_numpy(number).to(x.device)
        side = torch.where((coded >= 0)[:, None], rounded[coded.clamp_min(0)], 0)
        part = features.expert_layout(expert).side
        return torch.cat([x[:, : part.start], side, x[:, part.stop :]], 1)
