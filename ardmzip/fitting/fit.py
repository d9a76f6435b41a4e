"""Fitting: changes of biases that make images shorter by more than it takes to send them.

Samples of the images are coded as the codec does it, learning heads included, several times. The gradient of the code
length goes on through the layers before the head, and moves their biases, which keep what they have learned from one
pass to the next, while the heads begin anew. So the biases are fitted to what learning leaves over.

All sums are exact and all else is single rounded operations in a fixed order: every machine finds the same changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from ardmzip import changes, features, learning, network, streams
from ardmzip.changes import STEP_MAX, Changes
from ardmzip.fitting.backward import Trunk
from ardmzip.fitting.samples import Samples, collect
from ardmzip.learning import Head
from ardmzip.model import Model
from ardmzip.network import Backend, Layer, exact_arithmetic
from ardmzip.predictor import Activations, LearnedDistribution, Predictor, code_length

Progress = Callable[[float], None]

#: Pixels after which biases move.
BATCH = 2048
#: Bits that a unit of a step is taken to cost, for biases.
PRICE = 4.0
#: Largest move of a bias, in steps, at the start; it falls to 0 linearly. Decays of the moments of its gradient.
RATE, FIRST, SECOND = 0.2, 0.9, 0.999
_EPSILON = 2.0**-40
#: Fewer samples of an expert than this tell nothing; and so many tell what its changes gain.
MIN_SAMPLES, MEASURED = 4 * BATCH, 1 << 15


@dataclass(frozen=True)
class Budget:
    """How much work fitting may take: most pixels of an expert to look at, and how often."""

    samples: int = 100_000
    passes: int = 4


def fit(
    images: Sequence[np.ndarray], model: Model, budget: Budget, *, phase: tuple[int, int] | None = None,
    side: np.ndarray | None = None, threads: int | None = None, progress: Progress | None = None,
) -> Changes:  # fmt: skip
    """Changes that suit images, planes uint8 [channels, height, width] each, whose heads learn; the caller finds out
    whether they pay.

    phase: of the lattice, and side: side information int8 [SIDE]; None: what suits each image. threads: None: as many
    as torch is set to.
    """
    backend = network.backend("cpu")
    samples = collect(images, model, backend, budget.samples, phase)
    if side is not None:
        for expert, found_samples in samples.items():
            found_samples.inputs[:, features.expert_layout(expert).side] = side
    samples = {expert: s for expert, s in samples.items() if len(s) >= MIN_SAMPLES}
    done, total = 0, sum(map(len, samples.values()))
    found: dict[str, np.ndarray] = {}
    with exact_arithmetic("cpu") as available, ThreadPoolExecutor(threads or available) as pool:
        work = {e: pool.submit(_fit_expert, model, backend, e, s, budget.passes) for e, s in samples.items()}
        try:
            for expert, future in work.items():
                found |= future.result()
                done += len(samples[expert])
                if progress:
                    progress(done / total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return Changes({name: steps for name, steps in found.items() if steps.any()})


class _Biases:
    """The biases of a layer, their steps, and how these move (Adam, Kingma and Ba 2015)."""

    def __init__(self, layer: Layer) -> None:
        self._trained, self._unit = layer.bias.numpy().astype(np.int64), changes.bias_unit(layer.shift.numpy())
        self._exact, self._first, self._second = np.zeros((3, len(layer.bias)))
        self._unsettled = np.ones(2)

    @property
    def steps(self) -> np.ndarray:
        """Whole steps, int8 [outputs]."""
        return np.rint(self._exact).astype(np.int8)

    @property
    def biases(self) -> np.ndarray:
        """As they are now, int32 [outputs]."""
        return (self._trained + self._unit * self.steps).astype(np.int32)

    def move(self, gradient: np.ndarray, price: float, rate: float) -> None:
        """gradient: of the images' bits by a step, price: bits of a step, both a pixel; rate: the largest move."""
        gradient = gradient + price * np.sign(self._exact)
        self._unsettled *= FIRST, SECOND
        self._first = FIRST * self._first + (1 - FIRST) * gradient
        self._second = SECOND * self._second + (1 - SECOND) * (gradient * gradient)
        settled = 1 - self._unsettled
        first, root = self._first / settled[0], np.sqrt(self._second / settled[1])
        self._exact = np.clip(self._exact - rate * (first / (root + _EPSILON)), -STEP_MAX, STEP_MAX)


class Coding:
    """An expert that codes its samples, batch after batch, as the codec does it."""

    def __init__(self, model: Model, backend: Backend, expert: int, samples: Samples) -> None:
        own = model.on(torch.device("cpu"))[0][expert]
        self.expert, self.layers, self.samples, self.trunk = expert, own.layers, samples, Trunk(own, backend)
        self._start = model.untaught(expert)
        self._hidden, self._skip = len(self.trunk.biases[-1]), learning.skip_inputs(expert)
        self._inputs = torch.zeros(BATCH, learning.padded_inputs(self._hidden, expert), dtype=torch.int8)
        self._inputs[:, self._hidden + self._skip] = learning.BIAS_INPUT
        self._predictor = Predictor(model, backend, None)

    def run(self, count: int) -> Iterator[tuple[float, list[torch.Tensor], np.ndarray]]:
        """Code the first samples, with a new head; yields for each batch its code length, the outputs of all layers,
        and the gradient of the code length by the last ones, float64 [n, outputs]."""
        s, hidden = self.samples, self._hidden
        head = Head(self._start, s.context_count)
        for first in range(0, count, BATCH):
            part = slice(first, min(first + BATCH, count))
            n = part.stop - first
            x = torch.from_numpy(s.inputs[part])
            outputs = self.trunk.forward(x)
            self._inputs[:n, :hidden], self._inputs[:n, hidden : hidden + self._skip] = outputs[-1], x[:, : self._skip]
            activations = Activations(self._inputs[:n], s.centre[part], s.cls[part], s.contexts[part])
            slopes, bits, start = np.empty((n, hidden)), 0.0, 0
            for size in streams.batches(head.seen, n):
                own = slice(start, start + size)
                batch = LearnedDistribution(head, activations[own], self._predictor)
                values = s.values[part][own]
                bits += code_length(batch.intervals(values)[1])
                _by_hidden(batch.gradient(values), head, slopes[own])
                batch.learn(values)
                start += size
            yield bits, outputs, slopes

    def bias_gradients(self, slopes: np.ndarray, outputs: list[torch.Tensor]) -> list[np.ndarray]:
        """Bits a pixel by a step of each bias, float64 [outputs] of each layer, by what ``run`` yields of a batch;
        slopes are overwritten."""
        # slopes are in 1/1024 bit by 2**15 units of a weight and an activation
        unit = 2.0**changes.BIAS_BITS / (1024 * 2**15 * len(slopes))
        return [sums * unit for sums in self.trunk.backward(slopes, outputs)]

    def bits(self, biases: list[np.ndarray]) -> float:
        """Code length of all pixels that the samples stand for, with these biases, by some of the samples."""
        self.trunk.biases = biases
        count = min(len(self.samples), MEASURED)
        return sum(bits for bits, _, _ in self.run(count)) * self.samples.pixels / count


def move_biases(coding: Coding, passes: int) -> dict[str, np.ndarray]:
    """Fit the biases of an expert, which ``coding`` has then; returns their steps by layer, whether they pay or not."""
    count, done, price = len(coding.samples), 0, PRICE / coding.samples.pixels
    layers = [_Biases(layer) for layer in coding.layers]
    for _ in range(passes):
        coding.trunk.biases = [layer.biases for layer in layers]
        for _, outputs, slopes in coding.run(count):
            rate = RATE * (1 - done / (passes * count))
            for i, (layer, own) in enumerate(zip(layers, coding.bias_gradients(slopes, outputs), strict=True)):
                layer.move(own, price, rate)
                coding.trunk.biases[i] = layer.biases
            done += len(slopes)
    return {f"{coding.expert}.{i}": layer.steps for i, layer in enumerate(layers)}


def _fit_expert(model: Model, backend: Backend, expert: int, samples: Samples, passes: int) -> dict[str, np.ndarray]:
    """Steps of an expert's biases, by layer; none if they do not pay."""
    coding = Coding(model, backend, expert, samples)
    trained = coding.trunk.biases
    steps = move_biases(coding, passes)
    moved = coding.trunk.biases
    gain = coding.bits(trained) - coding.bits(moved)
    return steps if gain > sum(map(changes.cost, steps.values())) else {}


def _by_hidden(gradient: torch.Tensor, head: Head, slopes: np.ndarray) -> None:
    """Gradient by a head's outputs, int8 [2 * padded, n] by halves, as that by the last hidden layer: exact."""
    half, outputs = len(gradient) // 2, len(head.exact)
    g = gradient[:outputs].double() * (1 << network.HEAD_SPLIT) + gradient[half : half + outputs]
    weight = head.weight[:outputs].double() * (1 << network.HEAD_SPLIT) + head.weight[half : half + outputs]
    torch.mm(g.t(), weight[:, : slopes.shape[1]], out=torch.from_numpy(slopes))
