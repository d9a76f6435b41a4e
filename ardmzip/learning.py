"""The head learns while coding (docs/FORMAT.md, "Learning"): exact state, the same in encoder and decoder.

The last layer of every expert starts as trained and takes a step after each batch of pixels, from the gradient of the
batch's code length. Its inputs are the last hidden layer, the network's own inputs (with weights that start at zero)
and a constant. Steps are taken in a *basis* that ships with the model: the directions in which the heads of training
photographs differ from each other, scaled by how much they do, with the outputs decorrelated. In it a root-mean-square
normalised gradient step is close to a natural one, so few batches are enough (docs/LEARNING.md has the measurements).

Exactness: all matrix products are of whole numbers and exact, and the step between them is made of separately rounded
float64 operations in a fixed order, always on the CPU (kernels.py): every back end, thread count and split gives the
same bits.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ardmzip import features
from ardmzip.contexts import Offsets

if TYPE_CHECKING:
    import torch

#: Scalars that the head sees beside the taps: activities and references of the three planes.
SKIP_SCALARS = 6
#: The constant input, next to activations of 0..127.
BIAS_INPUT = 16
#: Decay of the mean square by which steps are normalised.
DECAY = 0.95
#: Added to the root mean square, so that no gradient gives no step. Far below what gradients measure: 1/1024 bit a
#: pixel times inputs and a basis of tens.
EPSILON = 2.0**-20
#: Rates fall as 1 / sqrt(1 + seen / SETTLING): late steps average instead of chasing noise.
SETTLING = 16384
#: Probability floor in 2**-30 (mixture.py has the same floor of 16 * 2**-24 in frequencies).
GRADIENT_FLOOR = 1 << 10
#: 8 / ln 2: from the slope by the mean to 1/1024 bit.
MEAN_GRADIENT = 11.541560327111707
#: Units of a model's arrays: correlation of outputs and rates of directions.
MIX_ONE, RATE_ONE = 1 << 16, 1 << 24
#: Weights and gradients have 14 bits and a sign: two int8 halves, 128 * high + low.
HALVES_MAX = (1 << 14) - 1
#: Steps are rounded to so many parts of a weight's unit. With at most STEP_MAX of them, times 127 in every direction,
#: the change of a weight is a sum of whole numbers below 2**53.
WEIGHT_ONE, STEP_MAX, MAX_DIRECTIONS = 1 << 16, 1 << 36, 1 << 10
#: Gradient sums of streams.LIMIT pixels, at most 2**14 * 2**7 each, times 127 for every input, stay below 2**53 too.
MAX_INPUTS = 512


def head_inputs(hidden: int, expert: int) -> int:
    """Number of inputs of an expert's learning head: last hidden layer, skip inputs, constant."""
    return hidden + skip_inputs(expert) + 1


def padded_inputs(hidden: int, expert: int) -> int:
    """``head_inputs`` and zeros up to a multiple of 16, as matrix products like it."""
    return -(-head_inputs(hidden, expert) // features.ALIGN) * features.ALIGN


def skip_inputs(expert: int) -> int:
    """How many of the network's inputs, from the first on, the learning head sees too."""
    layout = features.expert_layout(expert)
    return sum(layout.taps(plane) for plane in range(features.CHANNELS)) + SKIP_SCALARS


def spread(n: int) -> int:
    """The step of the order within an atom of ``n`` pixels: the i-th pixel is number ``i * spread(n) % n``.

    About the golden ratio of n and prime to it, so any stretch of the order lies evenly in the atom.

    >>> [i * spread(10) % 10 for i in range(10)]
    [0, 7, 4, 1, 8, 5, 2, 9, 6, 3]
    """
    step = n * 40503 >> 16
    while math.gcd(step, n) > 1:
        step += 1
    return max(step, 1)


class Gain(NamedTuple):
    """Ideal code length in bits of a batch of ``pixels`` of a level, by the frozen head and by the learning one, after
    it has learned from ``seen`` pixels."""

    level: int
    seen: int
    pixels: int
    frozen: float
    learned: float


class Start(NamedTuple):
    """What the head of an expert begins with, the same for all images.

    halves: weights as trained, int8 [2 * padded, inputs] (network.split_head); exact: the same as float64
    [outputs, inputs] in units of 1/WEIGHT_ONE; bias: int32 [outputs]; basis: float64 [directions, inputs]; projection:
    its transpose, contiguous; mix: float64 [outputs, outputs]; rate: float64 [directions], in units of 1/WEIGHT_ONE.
    """

    halves: torch.Tensor
    exact: np.ndarray
    bias: np.ndarray
    basis: np.ndarray
    projection: np.ndarray
    mix: np.ndarray
    rate: np.ndarray


def start(tensors: dict[str, np.ndarray], expert: int) -> Start:
    """The untaught head of an expert, from a model's tensors."""
    import torch

    from ardmzip.network import split_head

    trained = tensors[f"expert.{expert}.head.weight"]
    basis = tensors[f"learning.{expert}.basis"]
    inputs = padded_inputs(trained.shape[1], expert)
    weight = np.zeros((len(trained), inputs), np.int16)
    weight[:, : trained.shape[1]] = trained
    directions = np.zeros((len(basis), inputs))
    directions[:, : basis.shape[1]] = basis
    return Start(
        torch.from_numpy(split_head(weight)), weight * float(WEIGHT_ONE), tensors[f"expert.{expert}.head.bias"],
        directions, np.ascontiguousarray(directions.T),
        tensors[f"learning.{expert}.mix"] / MIX_ONE, tensors[f"learning.{expert}.rate"] / (RATE_ONE // WEIGHT_ONE),
    )  # fmt: skip


class Head:
    """What one expert's head has learned from an image of so many ``contexts`` (contexts.py).

    weight: as used, int8 [2 * padded, inputs]; exact: the same with all its digits, float64 [outputs, inputs] in units
    of 1/WEIGHT_ONE, whole numbers; square: float64 [outputs, directions]; offsets: those of its outputs by context.
    """

    def __init__(self, start: Start, contexts: int) -> None:
        self.start = start
        self.weight, self.exact = start.halves.clone(), start.exact.copy()
        outputs, directions, inputs = len(start.bias), *start.basis.shape
        self.square = np.zeros((outputs, directions))
        self.offsets = Offsets(contexts, len(start.halves) // 2)
        self.seen = 0
        self._power = 1.0
        self._gradient, self._change = np.zeros((2, outputs, inputs))
        self._projected, self._step = np.zeros((2, outputs, directions))

    def learn(self, gradient: torch.Tensor, pixels: int) -> None:
        """One step. gradient: its sums over a batch by halves, int32 [2 * padded, inputs], in 1/1024 bit.

        Both products are of whole numbers and stay below 2**53, so they are exact in any order of summation. (NumPy's
        take half as long as torch's for matrices of this size.)
        """
        from ardmzip import kernels

        self._power *= DECAY
        rate = self.start.rate / math.sqrt(1.0 + self.seen / SETTLING)
        kernels.join_gradient(gradient.numpy(), self._gradient)
        np.matmul(self._gradient, self.start.projection, out=self._projected)
        kernels.steps(self._projected, pixels, self.start.mix, rate, 1.0 - self._power, self.square, self._step)
        np.matmul(self._step, self.start.basis, out=self._change)
        kernels.descend(self._change, self.exact, self.weight.numpy())
        self.seen += pixels
