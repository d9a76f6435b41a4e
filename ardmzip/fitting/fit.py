"""Fitting: biases and the starting points of heads that make images shorter by more than it takes to send them.

Every expert is fitted for itself, on samples of its pixels. What is minimised is the images' code length plus the bits
of the changes. Beside what is sent, head and offsets by context move freely, as they will while coding: so the biases
are fitted to what learning heads leave over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from llvmlite import binding
from torch import Tensor

from ardmzip import changes, learning, tables
from ardmzip.changes import STEP_MAX, Changes
from ardmzip.fitting import smooth
from ardmzip.fitting.samples import Samples, collect
from ardmzip.model import Model
from ardmzip.network import Backend, exact_arithmetic

Progress = Callable[[float], None]

#: Pixels of a batch.
BATCH = 2048
#: Bits that a unit of a step is taken to cost, for biases.
PRICE = 2.0
#: Rates of Adam at the start, in steps; they fall to 0 linearly. Offsets are in octaves and class scales.
BIAS_RATE, HEAD_RATE, OFFSET_RATE = 0.3, 0.1, 0.01
#: The starting point of a head is where it got to, less this many steps towards zero: the rest it learns by itself.
SHRINKAGE = 1.0
#: Weights and gradients are rounded to these where the processor computes with them.
_HALF = torch.bfloat16
#: Fewer samples than this tell nothing.
MIN_SAMPLES = 4 * BATCH


@dataclass(frozen=True)
class Budget:
    """How much work fitting may take: most pixels of an expert to look at, and how often."""

    samples: int = 100_000
    passes: float = 4.0


def fit(
    images: Sequence[np.ndarray], model: Model, backend: Backend, budget: Budget, *, learn: bool = True,
    phase: tuple[int, int] | None = None, threads: int | None = None, progress: Progress | None = None,
) -> Changes:  # fmt: skip
    """Changes that suit images, planes uint8 [channels, height, width] each; the caller finds out whether they pay.

    learn: whether heads will learn. phase: of the lattice; None: what suits each image.
    """
    samples = collect(images, model, backend, budget.samples, phase)
    done, total = 0, sum(map(len, samples.values()))
    found: dict[str, np.ndarray] = {}
    with exact_arithmetic("cpu") as available, ThreadPoolExecutor(threads or available) as pool:
        work = {e: pool.submit(_fit_expert, model, e, s, budget.passes, learn) for e, s in samples.items()}
        for expert, future in work.items():
            found |= future.result()
            done += len(samples[expert])
            if progress:
                progress(done / total)
    return Changes({name: steps for name, steps in found.items() if steps.any()})


class _Expert:
    """An expert in floating point: constants of the integer network, and what moves."""

    def __init__(self, model: Model, expert: int, samples: Samples, learn: bool) -> None:
        tensors = model.tensors
        self.weights: list[Tensor] = []
        self.constants: list[Tensor] = []
        while f"expert.{expert}.{len(self.weights)}.weight" in tensors:
            name = f"expert.{expert}.{len(self.weights)}"
            shift = tensors[f"{name}.shift"].astype(np.float64)
            unit = shift + smooth.ACTIVATION_SHIFT
            exponent = unit - (smooth.ACTIVATION_SHIFT if self.weights else smooth.INPUT_SHIFT)
            half = np.where(shift > 0, 2.0 ** (shift - 1), 0.0)
            self.weights.append(_float(tensors[f"{name}.weight"] / 2.0 ** exponent[:, None]).to(_kind()))
            self.constants.append(_float((tensors[f"{name}.bias"] - half) / 2.0**unit))
        self.hidden = len(self.constants[-1])
        self.head = _float(tensors[f"expert.{expert}.head.weight"] / 2.0**smooth.HEAD_SHIFT)
        self.head_bias = _float(
            tensors[f"expert.{expert}.head.bias"] / 2.0 ** (smooth.HEAD_SHIFT + smooth.ACTIVATION_SHIFT)
        )
        self.steps = [torch.zeros(len(c), requires_grad=True) for c in self.constants]
        self.skip = learning.skip_inputs(expert)
        self.moves: list[Tensor] = []
        if learn and model.learns:
            mix, rate = tensors[f"learning.{expert}.mix"], tensors[f"learning.{expert}.rate"]
            # what a step adds to weights, in their own units
            along = rate / 2.0 ** (5 + 16 + smooth.HEAD_SHIFT)
            self.basis = _float(tensors[f"learning.{expert}.basis"] * along[:, None])
            self.mix = _float(mix / 2.0**16)
            self.moves = [
                torch.zeros(len(self.head), len(rate), requires_grad=True),
                torch.zeros(samples.context_count, len(self.head), requires_grad=True),
            ]

    def outputs(self, inputs: Tensor, contexts: Tensor) -> Tensor:
        """inputs: float [n, inputs], whole numbers; contexts: int [n, TABLES]."""
        x = inputs / 2**smooth.INPUT_SHIFT
        for weight, constant, steps in zip(self.weights, self.constants, self.steps, strict=True):
            moved = constant + _rounded(steps) * 2.0 ** (changes.BIAS_BITS - smooth.ACTIVATION_SHIFT)
            x = smooth.fake_activation((x.to(weight.dtype) @ weight.t()).float() + moved)
        y = x @ self.head.t() + self.head_bias
        if self.moves:
            start, offsets = self.moves
            rest = torch.cat([inputs[:, : self.skip], torch.full((len(x), 1), float(learning.BIAS_INPUT))], 1)
            u = torch.cat([x, rest / 2**smooth.ACTIVATION_SHIFT], 1)
            y = y - (u @ self.basis.t()) @ (self.mix @ start).t()
            y = y + torch.nn.functional.embedding_bag(contexts, offsets, mode="sum")
        return y


def _fit_expert(model: Model, expert: int, samples: Samples, passes: float, learn: bool) -> dict[str, np.ndarray]:
    """Steps of an expert by group."""
    count = len(samples)
    if count < MIN_SAMPLES:
        return {}
    net = _Expert(model, expert, samples, learn)
    groups = [{"params": net.steps, "lr": BIAS_RATE}]
    groups += [{"params": [move], "lr": r} for move, r in zip(net.moves, (HEAD_RATE, OFFSET_RATE), strict=False)]
    optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99))
    begin = [group["lr"] for group in optimiser.param_groups]
    generator = torch.Generator().manual_seed(expert)
    batches = max(1, round(passes * count / BATCH))
    order = torch.cat([torch.randperm(count, generator=generator) for _ in range(int(passes) + 1)])
    for step in range(batches):
        chosen = order[step * BATCH : (step + 1) * BATCH]
        bits = _bits(net, samples, chosen).mean()
        price = PRICE / samples.pixels * sum(steps.abs().sum() for steps in net.steps)
        optimiser.zero_grad()
        (bits + price).backward()
        for group, rate in zip(optimiser.param_groups, begin, strict=True):
            group["lr"] = rate * (1 - step / batches)
        optimiser.step()
    found = {f"{expert}.{i}": _integers(steps) for i, steps in enumerate(net.steps)}
    if net.moves:
        start = net.moves[0].detach()
        found[f"{expert}.head"] = _integers(start.sign() * (start.abs() - SHRINKAGE).clamp_min(0))
    return found


def _bits(net: _Expert, samples: Samples, chosen: Tensor) -> Tensor:
    rows = chosen.numpy()
    outputs = net.outputs(_float(samples.inputs[rows]), torch.from_numpy(samples.contexts[rows]))
    return smooth.code_length(
        outputs, _float(samples.values[rows]), _float(samples.centre[rows] / tables.UNIT),
        _float(tables.class_scale(samples.cls[rows])),
    )  # fmt: skip


def _float(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(array, np.float32))


def _rounded(steps: Tensor) -> Tensor:
    """Whole steps; the gradient passes straight through."""
    return steps + (steps.clamp(-STEP_MAX, STEP_MAX).round() - steps).detach()


def _integers(steps: Tensor) -> np.ndarray:
    return steps.detach().clamp(-STEP_MAX, STEP_MAX).round().to(torch.int8).numpy()


def _kind() -> torch.dtype:
    """What the products are computed in. Changes differ from one kind of machine to the other; files do not care."""
    return _HALF if binding.get_host_cpu_features().get("avx512bf16") else torch.float32
