"""What an expert of the search (search.py) reaches on whole images, with a frozen head and with a learning one.

Layers may be of any kind, in floating point; their outputs are rounded as the codec has them. The head that sees them
is the codec's own, with its exact steps, its offsets by context, and a basis that is measured for each network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from ardmzip import features, learning, network, streams
from ardmzip.fitting import samples
from ardmzip.fitting.samples import Samples
from ardmzip.model import Model
from ardmzip.predictor import Activations, LearnedDistribution, Predictor, code_length
from ardmzip.training import basis
from ardmzip.training.data import KIND_OFFSETS
from ardmzip.training.net import ACTIVATION_MAX, ACTIVATION_SHIFT, HEAD_MAX, HEAD_SHIFT

#: Outputs of the last layer before the head, float [n, hidden], for pixels of an image: its number, rows and columns in
#: the lattice int64 [n], inputs int8 [n, inputs].
Trunk = Callable[[int, np.ndarray, np.ndarray, torch.Tensor], torch.Tensor]

CHUNK = 1 << 12


def pixels(images: Iterable[np.ndarray], model: Model, experts: list[int]) -> dict[int, list[tuple[Samples, int]]]:
    """All pixels of some experts of level 0, image by image in coding order, and the columns of their lattice.

    images: planes uint8 [3, height, width] each; model: the one that tells how side information is made.
    """
    found: dict[int, list[tuple[Samples, int]]] = {expert: [] for expert in experts}
    for planes in images:
        own = samples.collect([planes], model, network.backend("cpu"), planes.size, (0, 0))
        for expert in experts:
            _, first = KIND_OFFSETS[features.expert_layout(expert).kind]
            found[expert].append((own[expert], (planes.shape[2] - first + 1) // 2))
    return found


def head_tensors(net: Any, expert: int) -> dict[str, np.ndarray]:
    """The head of a float network (training/net.py) in the integers of the codec."""
    head = (net.head.clamp(-HEAD_MAX, HEAD_MAX) * 2**HEAD_SHIFT).round().to(torch.int16)
    bias = (net.head_bias.double() * 2 ** (HEAD_SHIFT + ACTIVATION_SHIFT)).round().to(torch.int32)
    return {f"expert.{expert}.head.weight": head.numpy(), f"expert.{expert}.head.bias": bias.numpy()}


class Learned:
    """An expert with a trunk of some kind."""

    def __init__(
        self, tensors: dict[str, np.ndarray], trunk: Trunk, expert: int, read: np.ndarray, model: Model
    ) -> None:  # fmt: skip
        """tensors: ``head_tensors``, and how the head learns, or ``measure_basis`` finds out; read: the inputs that are
        read, bool [inputs]; model: any, for its tables."""
        self._tensors, self._trunk, self._expert, self._read = tensors, trunk, expert, read
        self._hidden = tensors[f"expert.{expert}.head.weight"].shape[1]
        self._predictor = Predictor(model, network.backend("cpu"), None)

    def measure_basis(self, crops: list[tuple[Samples, int]], first: int) -> None:
        """Find out how the head learns, by crops, whose numbers go on from ``first``."""
        head, units = basis.untaught(self._tensors, self._expert), basis.scales(self._hidden, self._expert)
        sums = basis.Statistics(len(head.start.bias), len(units))
        for number, (crop, columns) in enumerate(crops, first):
            sums.add(*basis.slopes(head, self._activations(number, crop, columns), crop.values, self._predictor, units))
        self._tensors = self._tensors | basis.directions(sums, self._expert)

    def bits(self, number: int, image: Samples, columns: int) -> tuple[float, float]:
        """Bits per sub-pixel of an image with such a number, with a frozen head and with a learning one."""
        activations = self._activations(number, image, columns)
        head = learning.Head(learning.start(self._tensors, self._expert), image.context_count)
        frozen, learned, start = 0.0, 0.0, 0
        for size in streams.batches(0, len(image)):
            part = slice(start, start + size)
            batch, values = LearnedDistribution(head, activations[part], self._predictor), image.values[part]
            frozen += code_length(batch.frozen_intervals(values)[1])
            learned += code_length(batch.intervals(values)[1])
            batch.learn(values)
            start += size
        return frozen / len(image), learned / len(image)

    def _activations(self, number: int, image: Samples, columns: int) -> Activations:
        n, hidden, skip = len(image), self._hidden, learning.skip_inputs(self._expert)
        numbers = np.arange(n, dtype=np.int64) * learning.spread(n) % n
        row, column = numbers // columns, numbers % columns
        seen = image.inputs * self._read
        u = torch.zeros(n, learning.padded_inputs(hidden, self._expert), dtype=torch.int8)
        for first in range(0, n, CHUNK):
            part = slice(first, first + CHUNK)
            with torch.no_grad():
                outputs = self._trunk(number, row[part], column[part], torch.from_numpy(seen[part]))
            u[part, :hidden] = torch.floor(outputs.clamp(0, ACTIVATION_MAX) * 2**ACTIVATION_SHIFT + 0.5).to(torch.int8)
        u[:, hidden : hidden + skip] = torch.from_numpy(seen[:, :skip])
        u[:, hidden + skip] = learning.BIAS_INPUT
        return Activations(u, image.centre, image.cls, image.contexts)
