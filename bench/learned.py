"""What an expert of the search (search.py) reaches on whole images, with a frozen head and with a learning one.

Layers may be of any kind, in floating point; their outputs are rounded as the codec has them. The head that sees them
is the codec's own, with its exact steps, its offsets by context, and a basis that is measured for each network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ardmzip import learning, network, streams
from ardmzip.fitting import samples
from ardmzip.fitting.samples import Samples
from ardmzip.model import Model
from ardmzip.order import LatticeOrder
from ardmzip.predictor import CHUNK, Activations, LearnedDistribution, Predictor, code_length
from ardmzip.training import basis
from ardmzip.training.net import ACTIVATION_MAX, ACTIVATION_SHIFT, HEAD_MAX, HEAD_SHIFT
from bench.further import Windows

#: The outputs of the last layer before the head, float [n, hidden], by inputs int8 [n, inputs] and by the windows that
#: are seen beside them.
Trunk = Callable[[torch.Tensor, np.ndarray | None], torch.Tensor]


@dataclass(frozen=True)
class Pixels:
    """All pixels of an expert of level 0 in an image, in coding order; the number of the image among those that were
    looked at, and rows and columns in the lattice, int64 [n]."""

    samples: Samples
    image: int
    row: np.ndarray
    column: np.ndarray


def pixels(images: Sequence[np.ndarray], model: Model, experts: list[int]) -> dict[int, list[Pixels]]:
    """By expert, image by image. images: planes uint8 [3, height, width] each; model: the one that tells how side
    information is made."""
    found: dict[int, list[Pixels]] = {expert: [] for expert in experts}
    for number, planes in enumerate(images):
        order = LatticeOrder(planes.shape[1], planes.shape[2], 3)
        own = samples.collect([planes], model, network.backend("cpu"), planes.size, order.phase, experts)
        for expert in experts:
            _, columns = order.lattice_shape(0, expert // 3)
            n = len(own[expert])
            row, column = np.divmod(np.arange(n, dtype=np.int64) * learning.spread(n) % n, columns)
            found[expert].append(Pixels(own[expert], number, row, column))
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

    def measure_basis(self, crops: Sequence[Pixels], windows: Windows | None = None) -> None:
        """Find out by crops how the head learns. windows: what is seen of them beside the inputs."""
        head, units = basis.without_basis(self._tensors, self._expert), basis.scales(self._hidden, self._expert)
        sums = basis.Statistics(len(head.start.bias), len(units))
        for crop in crops:
            activations = self._activations(crop, windows)
            sums.add(*basis.output_gradients(head, activations, crop.samples.values, self._predictor, units))
        self._tensors = self._tensors | basis.directions(sums, self._expert)

    def bits(self, image: Pixels, windows: Windows | None = None) -> tuple[float, float]:
        """Bits per sub-pixel of an image, with a frozen head and with a learning one."""
        activations, values = self._activations(image, windows), image.samples.values
        head = learning.Head(learning.start(self._tensors, self._expert), image.samples.context_count)
        frozen, learned, start = 0.0, 0.0, 0
        for size in streams.batches(0, len(values)):
            part = slice(start, start + size)
            batch = LearnedDistribution(head, activations[part], self._predictor)
            frozen += code_length(batch.frozen_intervals(values[part])[1])
            learned += code_length(batch.intervals(values[part])[1])
            batch.learn(values[part])
            start += size
        return frozen / len(values), learned / len(values)

    def _activations(self, image: Pixels, windows: Windows | None) -> Activations:
        s, hidden, skip = image.samples, self._hidden, learning.skip_inputs(self._expert)
        inputs = torch.from_numpy(s.inputs * self._read)
        u = torch.zeros(len(s), learning.padded_inputs(hidden, self._expert), dtype=torch.int8)
        for first in range(0, len(s), CHUNK):
            part = slice(first, first + CHUNK)
            seen = None
            if windows is not None:
                row, column = image.row[part], image.column[part]
                seen = windows.read(np.full(len(row), image.image), row, column)
            with torch.no_grad():
                outputs = self._trunk(inputs[part], seen)
            u[part, :hidden] = torch.floor(outputs.clamp(0, ACTIVATION_MAX) * 2**ACTIVATION_SHIFT + 0.5).to(torch.int8)
        u[:, hidden : hidden + skip] = inputs[:, :skip]
        u[:, hidden + skip] = learning.BIAS_INPUT
        return Activations(u, s.centre, s.cls, s.contexts)
