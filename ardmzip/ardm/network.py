"""The convolutions in exact integers, by the products of network.py, and what the head says of sub-pixels.

A convolution is a product: every pixel's window becomes a row (im2col). Activations are int8, in 1/16; a layer is
``clamp((sum + bias) >> shift, 0, 127)``, and the second layer of a block adds what went into the block, shifted to its
units. Time and stage choose the bias (docs/FORMAT.md, "Random order").
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ardmzip import mixture
from ardmzip.ardm.inputs import Inputs, Tables
from ardmzip.ardm.order import CHANNELS
from ardmzip.mixture import EXP_ENTRIES, TOTAL
from ardmzip.network import ACTIVATION_MAX, Backend, Expert

#: Every digit keeps at least so much of TOTAL.
FLOOR = 2


@dataclass(frozen=True)
class Conv:
    """weight int8 [out, kernel * kernel * in] in the order row, column, channel; bias int32 [rows, out]; shift int32
    [out]."""

    weight: Tensor
    bias: Tensor
    shift: Tensor
    kernel: int
    dilation: int

    def to(self, device: torch.device) -> Conv:
        weight, bias, shift = (t.to(device) for t in (self.weight, self.bias, self.shift))
        return Conv(weight, bias, shift, self.kernel, self.dilation)


@dataclass(frozen=True)
class Network:
    """First layer, blocks of two, last layer; and the head, which has ``outputs`` numbers for each channel."""

    convs: tuple[Conv, ...]
    head: Expert
    tables: Tables
    branching: int
    direct: bool
    #: Rows of biases a stage.
    times: int

    @property
    def outputs(self) -> int:
        return self.head.outputs // CHANNELS

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of all products, for network.self_test."""
        found = {(conv.weight.shape[1], conv.weight.shape[0]) for conv in self.convs}
        return (*sorted(found), (self.head.halves.shape[1], len(self.head.halves)))

    def to(self, device: torch.device) -> Network:
        tables = Tables({name: t.to(device) for name, t in self.tables.tensors.items()})
        convs = tuple(conv.to(device) for conv in self.convs)
        return Network(convs, self.head.to(device), tables, self.branching, self.direct, self.times)

    def trunk(self, x: Tensor, row: Tensor, backend: Backend) -> Tensor:
        """int8 [n, height, width, inputs], row int64 [n] -> int8 [n * height * width, units]."""
        first, *blocks, last = self.convs
        shape = x.shape[:3]
        h = _layer(x, first, row, backend)
        for one, two in zip(blocks[::2], blocks[1::2], strict=True):
            y = _layer(h.view(*shape, -1), one, row, backend)
            h = _layer(y.view(*shape, -1), two, row, backend, h)
        return _layer(h.view(*shape, -1), last, row, backend)


def _layer(x: Tensor, conv: Conv, row: Tensor, backend: Backend, before: Tensor | None = None) -> Tensor:
    """One layer: int8 [n, height, width, in] -> int8 [n * height * width, out]."""
    acc = backend.matmul(columns(x, conv.kernel, conv.dilation), conv.weight)
    row = row if len(conv.bias) > 1 else torch.zeros_like(row)
    pixels = x.shape[1] * x.shape[2]
    if backend.numba:
        from ardmzip.ardm import kernels

        out = torch.empty(acc.shape, dtype=torch.int8)
        common = acc.numpy(), conv.bias.numpy(), row.numpy(), pixels, conv.shift.numpy()
        if before is None:
            kernels.requantise(*common, out.numpy())
        else:
            kernels.requantise_sum(*common, before.numpy(), out.numpy())
        return out
    acc = acc + conv.bias[row].repeat_interleave(pixels, 0)
    if before is not None:
        acc = acc + (before.int() << conv.shift)
    return (acc >> conv.shift).clamp(0, ACTIVATION_MAX).to(torch.int8)


def columns(x: Tensor, kernel: int, dilation: int) -> Tensor:
    """The window of every pixel as a row, zero outside: [n, height, width, c] -> [n * height * width, kernel^2 * c]."""
    n, height, width, c = x.shape
    if kernel == 1:
        return x.reshape(-1, c)
    border = dilation * (kernel // 2)
    padded = torch.nn.functional.pad(x, (0, 0, border, border, border, border))
    shifts = range(0, kernel * dilation, dilation)
    windows = [padded[:, y : y + height, z : z + width] for y in shifts for z in shifts]
    return torch.cat(windows, 3).view(n * height * width, -1)


@dataclass
class Digits:
    """How m sub-pixels are distributed: what the head says of them, and of each the least possible value, ``low`` int64
    [m], and how many values from there are possible."""

    network: Network
    outputs: Tensor
    centre: Tensor
    cls: Tensor
    low: Tensor
    span: int

    def __post_init__(self) -> None:
        if not self.network.direct:
            self._mixture = mixture.mixture(self.outputs, self.centre, self.cls, self.network.tables.tensors)

    def boundaries(self, base: int) -> Tensor:
        """Where the intervals of the next digit's values begin and end: int64 [m, base + 1], from 0 to TOTAL."""
        steps = torch.arange(base + 1, device=self.low.device)
        if self.network.direct:
            logit = self.outputs.long()
            e = self.network.tables.tensors["exp2"].long()
            e = e[((logit.amax(1, keepdim=True) - logit) >> 2).clamp(max=EXP_ENTRIES - 1)]
            f = torch.nn.functional.pad(e.cumsum(1), (1, 0))
        else:
            f = mixture.cumulative(self._mixture, self.low[:, None] + steps * (self.span // base))
            f = f - f[:, :1]
        return f * (TOTAL - FLOOR * base) // f[:, -1:] + FLOOR * steps

    def fix(self, digit: Tensor, base: int) -> None:
        """Make a digit known: int64 [m]."""
        self.span //= base
        self.low = self.low + digit * self.span


def digits(
    network: Network, backend: Backend, found: Inputs, row: Tensor, state: Tensor, place: Tensor, low: Tensor,
    span: int,
) -> Digits:  # fmt: skip
    """Distributions of m sub-pixels of n states: sub-pixel ``place`` int64 [m] (in the order channel, row, column) of
    ``state`` int64 [m], where ``span`` values from ``low`` uint8 [n, 3, height, width] on are possible."""
    _, height, width, _ = found.x.shape
    pixels = height * width
    h = network.trunk(found.x, row, backend)
    channel, pixel = place // pixels, place % pixels
    at = state * pixels + pixel
    wide = backend.head(network.head, h[at]).view(-1, CHANNELS, network.outputs)
    outputs = wide[torch.arange(len(at), device=at.device), channel]
    flat = state * (CHANNELS * pixels) + place
    return Digits(
        network, outputs, found.centre.reshape(-1)[flat], found.cls.reshape(-1)[at], low.reshape(-1)[flat].long(), span
    )
