"""Gradients through the layers before the head, in exact integers like the network itself.

So a fitted file does not depend on the machine either. Gradients are rounded to 15 bits before each layer, and the sums
of their products are exact.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ardmzip.kernels import jit, requantise
from ardmzip.learning import HALVES_MAX
from ardmzip.network import HEAD_SPLIT, Backend, Expert


class Trunk:
    """The layers before the head of an expert, on the CPU, with biases that move."""

    def __init__(self, expert: Expert, backend: Backend) -> None:
        self.biases = [layer.bias.numpy() for layer in expert.layers]
        self._layers, self._backend = expert.layers, backend
        self._turned = [layer.weight.t().contiguous() for layer in expert.layers]

    def forward(self, x: Tensor) -> list[Tensor]:
        """The outputs of all layers, int8 [n, outputs] each; x: int8 [n, inputs]."""
        found = []
        for layer, bias in zip(self._layers, self.biases, strict=True):
            sums = self._backend.matmul(x, layer.weight)
            x = torch.empty(sums.shape, dtype=torch.int8)
            requantise(sums.numpy(), bias, layer.shift.numpy(), x.numpy().ravel(), x.shape[1])
            found.append(x)
        return found

    def backward(self, slopes: np.ndarray, outputs: list[Tensor]) -> list[np.ndarray]:
        """The gradient of n pixels by each layer's biases, float64 [outputs], in units of its output.

        slopes: gradient by the last layer's outputs, float64 [n, outputs]; overwritten.
        """
        found, unit = [], 1.0
        for i in reversed(range(len(self._layers))):
            sums = np.zeros(slopes.shape[1])
            shares = 2.0 ** -self._layers[i].shift.numpy().astype(np.float64)
            most = gate(slopes, outputs[i].numpy(), shares, sums)
            found.append(sums * unit)
            if i == 0:
                break
            scale = HALVES_MAX / most if most > 0 else 1.0
            halves = torch.empty(2 * len(slopes), slopes.shape[1], dtype=torch.int8)
            halve(slopes, shares * scale, halves.numpy())
            product = self._backend.matmul(halves, self._turned[i])
            slopes = np.empty((len(slopes), product.shape[1]))
            join(product.numpy(), slopes)
            unit /= scale
        return found[::-1]


@jit
def gate(slopes, outputs, shares, sums):
    """Set the slopes to 0 where an output is at an end of its range, and add up the others; returns the largest of them
    times its share."""
    most = 0.0
    for i in range(slopes.shape[0]):
        for o in range(slopes.shape[1]):
            slope = slopes[i, o] if 0 < outputs[i, o] < 127 else 0.0
            slopes[i, o] = slope
            sums[o] += slope
            most = max(most, abs(slope) * shares[o])
    return most


@jit
def halve(slopes, scale, halves):
    """Round the scaled slopes, which are at most HALVES_MAX: high halves, and below them the low ones."""
    n = slopes.shape[0]
    for i in range(n):
        for o in range(slopes.shape[1]):
            whole = np.int32(np.rint(slopes[i, o] * scale[o]))
            halves[i, o] = whole >> HEAD_SPLIT
            halves[n + i, o] = whole & ((1 << HEAD_SPLIT) - 1)


@jit
def join(product, slopes):
    """Products of the halves, int32 [2 n, outputs] -> float64 [n, outputs]."""
    n = len(slopes)
    for i in range(n):
        for o in range(slopes.shape[1]):
            slopes[i, o] = np.float64(product[i, o]) * (1 << HEAD_SPLIT) + np.float64(product[n + i, o])
