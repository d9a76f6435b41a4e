"""In which directions and how fast the heads of a model learn while coding: measured on augmented training crops.

For every expert, with u the inputs of the learning head and g the gradient of the code length by its outputs:

* C = E[u u'] and F = E[g g'] make the Fisher information of the head's weights about F (x) C: gradients are
  decorrelated with C^-1/2 on one side and F^-1/2 (``mix``) on the other.
* The mean gradient of a crop, decorrelated, is how far its own best head lies from the general one, plus noise of
  variance 1 / pixels. The leading eigenvectors of its second moment over many crops are the directions in which images
  differ: ``basis``. The eigenvalues, less the noise, are the variances of how far they differ; ``rate`` goes with their
  fourth root.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ardmzip import choice, codec, codes, features, learning, network, sideinfo
from ardmzip.contexts import block_tables
from ardmzip.model import Model
from ardmzip.order import LatticeOrder
from ardmzip.predictor import Activations, LearnedDistribution, Predictor, window_offsets

#: Directions kept: 64 lost a sixth of the gain, 400 gained nothing (docs/LEARNING.md).
DIRECTIONS = 128
#: Step of the leading direction, in octaves or class scales over decorrelated inputs.
RATE = 2e-3
#: Weight of the skip inputs beside the hidden layer, before decorrelation.
SKIP_SCALE = 0.75
#: Added to the eigenvalues of C, so that what hardly varies does not lead.
DAMPING = 1e-2
#: Finest levels that are measured; coarser ones have few pixels.
LEVELS = 3


class Statistics:
    """Sums over crops for one expert."""

    def __init__(self, outputs: int, inputs: int) -> None:
        self.inner = np.zeros((inputs, inputs))
        self.outer = np.zeros((outputs, outputs))
        self.gradients: list[np.ndarray] = []
        self.noise: list[float] = []

    def add(self, u: np.ndarray, g: np.ndarray) -> None:
        """One crop: inputs float32 [n, inputs], gradients float32 [n, outputs] in bits."""
        self.inner += u.T @ u / len(u)
        self.outer += g.T @ g / len(g)
        self.gradients.append(g.T @ u / len(u))
        self.noise.append(1 / len(u))


def scales(hidden: int, expert: int) -> np.ndarray:
    """Value of one unit of each head input: float32 [inputs]."""
    return np.concatenate(
        [np.full(hidden, 1 / 16), np.full(learning.skip_inputs(expert), SKIP_SCALE / 32), [1 / 16]]
    ).astype(np.float32)


def without_basis(tensors: dict[str, np.ndarray], expert: int) -> learning.Head:
    """The head of an expert before its basis is known."""
    outputs, hidden = tensors[f"expert.{expert}.head.weight"].shape
    empty: dict[str, np.ndarray] = {
        f"learning.{expert}.basis": np.zeros((0, learning.head_inputs(hidden, expert)), np.int8),
        f"learning.{expert}.mix": np.zeros((outputs, outputs), np.int32),
        f"learning.{expert}.rate": np.zeros(0, np.int32),
    }
    return learning.Head(learning.start(tensors | empty, expert), 0)


def output_gradients(
    head: learning.Head, activations: Activations, values: np.ndarray, predictor: Predictor, units: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(inputs of a head float32 [n, inputs], the gradient of the code length of values by its outputs in bits, float32
    [n, outputs]), as ``Statistics.add`` takes them. units: ``scales`` of the expert."""
    halves = LearnedDistribution(head, activations, predictor).gradient(values).float()
    half, outputs = len(halves) // 2, len(head.start.bias)
    gradient = (halves[:outputs] * (1 << network.HEAD_SPLIT) + halves[half : half + outputs]).t() / 1024
    return activations.inputs.numpy()[:, : len(units)] * units, gradient.numpy()


def collect(model: Model, crops: Iterable[np.ndarray]) -> list[Statistics]:
    """Statistics of all experts over crops (planes uint8 [3, height, width])."""
    chosen = network.backend("cpu")
    heads = [without_basis(model.tensors, e) for e in range(features.EXPERTS)]
    units = [scales(model.tensors[f"expert.{e}.head.weight"].shape[1], e) for e in range(features.EXPERTS)]
    sums = [Statistics(len(head.start.bias), len(unit)) for head, unit in zip(heads, units, strict=True)]
    for planes in crops:
        order = LatticeOrder(planes.shape[1], planes.shape[2], 3)
        if choice.may_name_code(planes.shape[1], planes.shape[2], model):
            side = model.codes[codes.nearest(planes[None], model, 1)[0, 0]]
        else:
            side = sideinfo.quantise(sideinfo.measure(planes), model.side_mean, model.side_std)
        coder = codec.EncodingCoder(planes, order)
        parts: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        pyramid = codec.Pyramid(order, coder.base(3))
        blocks = block_tables(order.height, order.width)
        with Predictor(model, chosen, side) as predictor:
            for atom, size in zip(order.atoms, order.sizes(), strict=True):
                values = coder.known(atom)
                if size and atom.level < LEVELS:
                    expert = atom.expert
                    head = heads[expert]
                    at, stride = window_offsets(order, atom, np.arange(size))
                    array = predictor.array(pyramid.array(atom.level))
                    activations = predictor.activations(atom, array, at, stride, blocks)
                    parts.setdefault(expert, []).append(
                        output_gradients(head, activations, values, predictor, units[expert])
                    )
                if size:
                    pyramid.fill(atom, values)
        for expert, pieces in parts.items():
            sums[expert].add(*(np.concatenate(column) for column in zip(*pieces, strict=True)))
    return sums


def tensors(sums: list[Statistics]) -> dict[str, np.ndarray]:
    """The model tensors ``learning.*`` of all experts."""
    return {name: array for expert, s in enumerate(sums) for name, array in directions(s, expert).items()}


def directions(s: Statistics, expert: int) -> dict[str, np.ndarray]:
    """The tensors ``learning.EXPERT.*`` of one expert."""
    crops = len(s.gradients)
    values, vectors = np.linalg.eigh(s.inner / crops)
    inner = (vectors * (np.maximum(values, 0) + DAMPING) ** -0.5) @ vectors.T
    values, vectors = np.linalg.eigh(s.outer / crops)
    outer = (vectors * np.maximum(values, 1e-3 * values.max()) ** -0.5) @ vectors.T
    white = np.einsum("op,cpf,fk->cok", outer, np.stack(s.gradients), inner, optimize=True)
    second = np.einsum("cof,cok->fk", white, white, optimize=True) / (crops * len(outer))
    values, vectors = np.linalg.eigh(second)
    values, vectors = values[::-1][:DIRECTIONS], vectors[:, ::-1][:, :DIRECTIONS]
    spread = np.sqrt(np.maximum(values - np.mean(s.noise), 1e-6))

    scale = scales(inner.shape[0] - learning.skip_inputs(expert) - 1, expert)
    basis = (inner @ vectors * scale[:, None]).T
    peak = np.abs(basis).max(1)
    mix_peak = np.abs(outer).max()
    rate = RATE * np.sqrt(spread / spread.max()) * (peak / 127) * mix_peak * 2.0**15
    return {
        f"learning.{expert}.basis": np.rint(basis * (127 / peak[:, None])).astype(np.int8),
        f"learning.{expert}.mix": np.rint(outer / mix_peak * learning.MIX_ONE).astype(np.int32),
        f"learning.{expert}.rate": np.rint(rate * learning.RATE_ONE).astype(np.int32),
    }
