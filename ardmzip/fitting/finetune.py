"""Fitting a model to a dataset: integer steps of its weights and biases that save more than they take.

Experts are trained on random pixels of a sample of the images, with frozen heads, quantised as they will be. Biases,
and the weights of heads, move by steps of their own; to the weights of the layers before the head, which are too many,
outer products of small integer vectors are added (as in LoRA; Hu et al. 2021). All move by gradients (Adam; Kingma and
Ba 2015). The size of steps is chosen by how sharply the code length depends on them (the diagonal of the Fisher
matrix), times the pixels of the dataset: finer steps would take bits and gain none. So small datasets get few and
coarse changes, and large ones many.

What the encoder computes with is of no concern to a decoder, which gets the integers.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ardmzip import differences, features, network
from ardmzip.differences import STEP_MAX, UNITS, WEIGHT_MAX, Steps
from ardmzip.fitting.pool import Draw, Pool
from ardmzip.model import Model
from ardmzip.network import ACTIVATION_MAX, exact_arithmetic

Progress = Callable[[float], None]

#: Pixels after which an expert's numbers move.
BATCH = 512
#: Largest move, in steps, at the start; it falls to 0 linearly. Decays of the moments of the gradient.
RATE, FIRST, SECOND = 0.1, 0.9, 0.99
#: Fewest moves.
LEAST = 64
#: Batches by which the sizes of steps are found.
LOOKS = 16
#: Bits that a single step is worth, by its size, and that it is taken to cost.
WORTH, PRICE = 4.0, 3.0
#: Outer products that are added to the weights of a layer, and the steps that their vectors of inputs begin with.
RANK, SPREAD = 4, 2.0
#: Pixels by which is found out whether an expert's changes pay.
MEASURED = 1 << 13
#: How long that takes, in the time of LOOKS batches.
_TO_CHOOSE = 2.0
_EPSILON = 1e-12
#: Seconds that a batch can take: a process that was suspended does not use up its time.
_LONGEST = 2.0


class _Numbers:
    """The numbers of a tensor that change by steps of their own: biases, and the weights of heads."""

    #: Steps grow with the unit.
    sense = 1

    def __init__(self, name: str, tensors: dict[str, np.ndarray]) -> None:
        self.name, self._tensors = name, tensors
        before = tensors[name]
        self.before = torch.from_numpy(before.astype(np.float32))
        #: What the 15 bits of a head's weights hold; biases are far from their bounds.
        self._most = float(2**14 - 1) if before.dtype == np.int16 else math.inf
        self.moving = [_Moving(self.before.shape)]
        self.resize(0)

    def resize(self, unit: int) -> None:
        """Choose the size of a step."""
        self.unit = unit
        size = differences.step_size(self.name, unit, self._tensors).astype(np.float32)
        self._size = torch.from_numpy(np.ascontiguousarray(size))

    def current(self, *steps: Tensor) -> Tensor:
        """The numbers after so many steps."""
        return (self.before + steps[0] * self._size).clamp(-self._most, self._most)

    def settled(self) -> Steps:
        """The steps that are taken."""
        steps = self.moving[0].whole()
        if self._most < math.inf:
            low, high = (((side * self._most - self.before) / self._size) for side in (-1, 1))
            steps = steps.clamp(low.ceil(), high.floor())
        return Steps(self.unit, steps.numpy().astype(np.int8))


class _Products:
    """Weights to which outer products are added."""

    #: Steps fall with the unit.
    sense = -1

    def __init__(self, name: str, tensors: dict[str, np.ndarray], random: torch.Generator) -> None:
        before, shift = tensors[name], tensors[name.removesuffix("weight") + "shift"]
        self.before = torch.from_numpy(before.astype(np.float32))
        self._share = torch.from_numpy(2.0 ** shift.astype(np.float32))[:, None]
        outputs, inputs = before.shape
        self.moving = [_Moving((RANK, outputs)), _Moving((RANK, inputs), 0.0)]
        self.moving[1].exact.normal_(0, SPREAD, generator=random).clamp_(-STEP_MAX, STEP_MAX)
        self.resize(UNITS // 2)

    def resize(self, unit: int) -> None:
        """Choose the size of a step."""
        self.unit = unit

    def current(self, *steps: Tensor) -> Tensor:
        """The weights as int8 holds them."""
        exact = (steps[0].t() @ steps[1]) * (self._share * 2.0**-self.unit)
        found = (self.before + exact).clamp(-WEIGHT_MAX, WEIGHT_MAX)
        with torch.no_grad():
            rounding = (self.before + (exact + 0.5).floor()).clamp(-WEIGHT_MAX, WEIGHT_MAX) - found
        return found + rounding

    def settled(self) -> Steps:
        """The steps that are taken, of the products that do something."""
        outputs, inputs = (moving.whole().numpy().astype(np.int8) for moving in self.moving)
        used = outputs.any(1) & inputs.any(1)
        return Steps(self.unit, np.concatenate([inputs, outputs], 1)[used])


class _Moving:
    """Steps that move (Adam)."""

    def __init__(self, shape: tuple[int, ...], price: float = PRICE) -> None:
        self.price = price
        self.exact, self._first, self._second = (torch.zeros(shape) for _ in range(3))
        self._moves, self._looks = 0, 0

    def whole(self) -> Tensor:
        """As they are taken."""
        return self.exact.round()

    def look(self, gradient: Tensor) -> None:
        """Only take note of a gradient, in bits a pixel."""
        self._looks += 1
        self._second += (gradient * gradient - self._second) / self._looks

    def curvature(self) -> float:
        """Second derivative of the code length of a pixel by a step, in the mean: of means over a batch, squares of
        gradients are smaller by its length; and of logarithms to the base 2, greater."""
        return float(self._second.mean()) * BATCH * math.log(2)

    def scale(self, factor: float) -> None:
        """Steps have become so much larger."""
        self._second *= factor * factor

    def move(self, gradient: Tensor, price: float, rate: float) -> None:
        """gradient: of the bits of a pixel by the steps. price: bits a pixel that a step costs."""
        gradient = gradient + price * self.exact.sign()
        self._moves += 1
        self._first.lerp_(gradient, 1 - FIRST)
        self._second.lerp_(gradient * gradient, 1 - SECOND)
        step = self._first / (self._second.sqrt() + _EPSILON)
        self.exact.add_(step, alpha=-rate / (1 - FIRST**self._moves)).clamp_(-STEP_MAX, STEP_MAX)


class _Trainee:
    """An expert that changes."""

    def __init__(self, model: Model, expert: int) -> None:
        self.model, self.expert = model, expert
        random = torch.Generator().manual_seed(expert)
        self.tensors: dict[str, _Numbers | _Products] = {}
        for name in differences.names(model):
            if name.startswith(f"expert.{expert}."):
                low_rank = differences.is_low_rank(name)
                self.tensors[name] = (
                    _Products(name, model.tensors, random) if low_rank else _Numbers(name, model.tensors)
                )
        self._shares: list[Tensor] = []
        while (name := f"expert.{expert}.{len(self._shares)}.shift") in model.tensors:
            self._shares.append(torch.from_numpy(2.0 ** -model.tensors[name].astype(np.float32)))

    def bits(self, draw: Draw, numbers: dict[str, Tensor]) -> Tensor:
        """The code length of pixels, [n], by tensors in place of the model's."""
        from ardmzip.likelihood import code_length

        prefix = f"expert.{self.expert}"
        x = torch.from_numpy(draw.inputs).float()
        for i, share in enumerate(self._shares):
            x = _layer(x, numbers[f"{prefix}.{i}.weight"], numbers[f"{prefix}.{i}.bias"], share)
        sums = torch.addmm(numbers[f"{prefix}.head.bias"], x, numbers[f"{prefix}.head.weight"].t())
        outputs = sums * 2.0 ** -(network.HEAD_SHIFT + 8)
        values, centre, scale = (torch.from_numpy(column) for column in (draw.values, draw.centre, draw.scale))
        return code_length(outputs, values, centre, scale)

    def moving(self) -> Iterator[_Moving]:
        """All that moves."""
        for tensor in self.tensors.values():
            yield from tensor.moving

    def gradients(self, draw: Draw) -> list[Tensor]:
        """Of the bits of a pixel, by the steps of all that moves."""
        steps = [moving.whole().requires_grad_() for moving in self.moving()]
        left = iter(steps)
        numbers = {
            name: tensor.current(*(next(left) for _ in tensor.moving)) for name, tensor in self.tensors.items()
        }  # fmt: skip
        return [*torch.autograd.grad(self.bits(draw, numbers).mean(), steps)]

    def settle(self, pixels: int) -> None:
        """Choose the sizes of steps. pixels: sub-pixels of the dataset that the expert codes."""
        for tensor in self.tensors.values():
            worth = 0.5 * tensor.moving[0].curvature() * pixels
            larger = tensor.sense * round(0.5 * math.log2(WORTH / max(worth, _EPSILON)))
            before = tensor.unit
            tensor.resize(min(max(before + larger, 0), UNITS - 1))
            for moving in tensor.moving:
                moving.scale(2.0 ** (tensor.sense * (tensor.unit - before)))

    @torch.no_grad()
    def measured(self, draw: Draw, chosen: frozenset[str]) -> float:
        """Bits of a pixel if only the chosen tensors change."""
        numbers = {
            name: tensor.current(*(moving.whole() for moving in tensor.moving)) if name in chosen else tensor.before
            for name, tensor in self.tensors.items()
        }  # fmt: skip
        parts = [draw[first : first + BATCH] for first in range(0, len(draw), BATCH)]
        return sum(float(self.bits(part, numbers).sum()) for part in parts) / len(draw)


def _layer(x: Tensor, weight: Tensor, bias: Tensor, share: Tensor) -> Tensor:
    """``clamp(floor((x @ weight.T + bias) * share), 0, 127)``; the gradient passes straight through the rounding."""
    exact = torch.addmm(bias, x, weight.t()) * share
    held = torch.nn.functional.hardtanh(exact - 0.5, 0.0, float(ACTIVATION_MAX))
    with torch.no_grad():
        rounding = exact.floor().clamp(0, ACTIVATION_MAX) - held
    return held + rounding


def fit(
    training: Pool, held_out: Pool, model: Model, share: float, seconds: float, *, threads: int | None = None,
    progress: Progress | None = None, seed: int = 0,
) -> dict[str, Steps]:  # fmt: skip
    """Steps that suit images, by the names of tensors; none if they do not pay.

    share: how much of the dataset the training images are. held_out: other images of it, by which is found out what
    pays. seconds: how long to train. threads: None: as many as torch is set to.
    """
    experts = [e for e in range(features.EXPERTS) if training.pixels(e) and held_out.pixels(e)]
    total = sum(map(training.pixels, experts))
    found: dict[str, Steps] = {}
    done = 0.0
    stop = threading.Event()
    with exact_arithmetic("cpu") as available, ThreadPoolExecutor(threads or available) as pool:
        workers = min(threads or available, len(experts) or 1)

        def work(expert: int) -> dict[str, Steps]:
            own = 0.5 * training.pixels(expert) / total + 0.5 / len(experts)
            clock = _Clock(min(1.0, own * workers) * seconds, stop)
            return _fit_expert(
                _Trainee(model, expert), training, held_out, round(training.pixels(expert) / share), clock,
                np.random.default_rng([seed, expert]),
            )  # fmt: skip

        try:
            for steps in pool.map(work, experts):
                found |= steps
                done += 1 / len(experts)
                if progress:
                    progress(done)
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return found


class _Clock:
    """The time that an expert has; that in which the process was suspended does not count."""

    def __init__(self, seconds: float, stop: threading.Event) -> None:
        self._seconds, self._stop = seconds, stop
        self._spent, self._mark = 0.0, time.monotonic()

    def done(self) -> float:
        """The share that has gone by; to be asked after every batch."""
        now = time.monotonic()
        self._spent += min(now - self._mark, _LONGEST)
        self._mark = now
        return 1.0 if self._spent >= self._seconds else self._spent / self._seconds

    @property
    def stopped(self) -> bool:
        """Whether the work is given up."""
        return self._stop.is_set()

    def spend(self, factor: float) -> None:
        """Set so much time aside, in what has gone by."""
        self._seconds -= factor * self._spent


def _fit_expert(
    trainee: _Trainee, training: Pool, held_out: Pool, pixels: int, clock: _Clock, random: np.random.Generator
) -> dict[str, Steps]:  # fmt: skip
    expert = trainee.expert
    for _ in range(LOOKS):
        gradients = trainee.gradients(training.draw(expert, BATCH, random))
        for moving, gradient in zip(trainee.moving(), gradients, strict=True):
            moving.look(gradient)
        clock.done()
    trainee.settle(pixels)
    clock.spend(_TO_CHOOSE)
    for moves in itertools.count():
        # fewer moves are of no use, however little time there is
        done = min(clock.done(), moves / LEAST)
        if done >= 1 or clock.stopped:
            break
        gradients = trainee.gradients(training.draw(expert, BATCH, random))
        for moving, gradient in zip(trainee.moving(), gradients, strict=True):
            moving.move(gradient, moving.price / pixels, RATE * (1 - done))
    return _paying(trainee, held_out.draw(expert, MEASURED, random), pixels)


def _paying(trainee: _Trainee, draw: Draw, pixels: int) -> dict[str, Steps]:
    """The changes of some tensors of an expert that save most, less what they take."""
    settled = {name: tensor.settled() for name, tensor in trainee.tensors.items()}
    steps = {name: found for name, found in settled.items() if found.steps.any()}
    before = trainee.measured(draw, frozenset())
    best: tuple[float, frozenset[str]] = 0.0, frozenset()
    for kept in _choices(steps):
        gain = (before - trainee.measured(draw, kept)) * pixels
        gain -= sum(differences.cost(name, steps[name], trainee.model) for name in kept)
        best = max(best, (gain, kept), key=lambda one: one[0])
    return {name: steps[name] for name in best[1]}


def _choices(steps: dict[str, Steps]) -> Iterator[frozenset[str]]:
    """All tensors; all but the head, or but the weights before it; biases; the head."""
    low_rank, head = (frozenset(filter(test, steps)) for test in (differences.is_low_rank, _is_head))
    biases = frozenset(name for name in steps if name.endswith(".bias"))
    every = frozenset(steps)
    yield from {every, every - head, every - low_rank, biases, head}


def _is_head(name: str) -> bool:
    return ".head." in name
