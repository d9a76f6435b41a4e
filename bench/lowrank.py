"""Changes of weights, of an image's own or in directions that images share, against those of single biases.

    python -m bench.lowrank CONFIG [--experts 0 4] [--minutes 8] [--images FILE...]

Each expert codes held-out photographs, plain and processed, or other images, as the codec does it, with a head that
learns, and is changed in these ways:

* *biases*: steps of single biases, as ``--effort`` sends them;
* *products*: N outer products of small integer vectors are added to the weights of each layer, and both vectors sent
  (LoRA; Hu et al. 2021);
* *directions*: the same with vectors of inputs that all images share, so that only those of outputs are sent: a bias,
  and so many of the directions in which the layers of training crops differ most (training/basis.py has them for
  heads);
* *starts*: the layers are left alone, and heads begin in another place: an image sends so many coefficients of the
  directions in which the learned heads of training crops differ most; or, free of charge, they begin as they end;
* *atoms*: an image sends 64 coefficients of outer products that all images share. They are trained together with the
  coefficients of training crops, whose heads are what they have learned in the end;
* *base and atoms*: the weights are trained on with them, for being changed; *base*: as long, without them.

Changed layers are in floating point here, though their outputs are rounded as the codec has them: integers that do the
same can only gain less. Prints what is saved of an expert's bits, free of charge, and less the bytes of the changes
where they pay for them (docs/FITTING.md has the table).
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import hardtanh

from ardmzip import changes, learning, model, network, tables
from ardmzip.errors import ArdmError
from ardmzip.fitting.fit import BATCH, PRICE, Coding, move_biases
from ardmzip.fitting.samples import Samples
from ardmzip.likelihood import code_length
from ardmzip.model import Model
from ardmzip.network import ACTIVATION_MAX, HEAD_SHIFT, Layer
from ardmzip.training import basis
from ardmzip.training.train import TrainConfig
from bench import learned
from bench.search import MODEL, add_config, expert_name, held_out_photographs, training_crops

#: Crops that atoms are trained on, and those of them that directions are measured on; passes over a photograph.
CROPS, MEASURED, PASSES = 600, 300, 4
#: Numbers of products and directions that are compared, and of atoms.
PRODUCTS, DIRECTIONS, STARTS, ATOMS = (1, 4), (4, 16), (16, 64), 64
#: Largest move of a step at the start; it falls to 0 linearly. Bits that a step is worth at first.
RATE, WORTH = 0.2, 4.0
#: Steps of a coefficient in its standard deviation.
QUARTERS = 4
#: Steps that a product's vector of inputs begins with, root mean square.
SPREAD = 2.0
#: The input that biases belong to, as 1.0 is in activations.
ONE = 16.0
#: Crops and pixels of each that atoms are trained on at a time; rates, which fall to 0 linearly: of the atoms' outputs,
#: of the coefficients, and of weights and biases of the base.
GROUP, PIXELS = 16, 128
OUTPUT_RATE, COEFFICIENT_RATE, BASE_RATE = 0.02, 0.02, 2e-4


class FloatTrunk:
    """The layers before a head, with weights in floating point: in the place of fitting.backward.Trunk.

    weights: float32 [outputs, inputs + 1] of each layer, in units of its output; the last input is ONE.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.biases = [layer.bias.numpy() for layer in layers]  # Coding asks how many there are
        self.trained = [
            torch.cat([layer.weight.float(), layer.bias.float()[:, None] / ONE], 1)
            * 2.0 ** -layer.shift.float()[:, None]
            for layer in layers
        ]
        self.weights = self.trained

    def change(self, deltas: Sequence[Tensor]) -> None:
        """Add these to the trained weights."""
        self.weights = [weight + delta for weight, delta in zip(self.trained, deltas, strict=True)]

    def forward(self, x: Tensor) -> list[Tensor]:
        """The outputs of all layers, int8 [n, outputs] each; x: int8 [n, inputs]."""
        found = []
        for weight in self.weights:
            x = _affine(x.float(), weight).floor().clamp(0, ACTIVATION_MAX).to(torch.int8)
            found.append(x)
        return found

    def backward(self, slopes: np.ndarray, outputs: list[Tensor]) -> list[Tensor]:
        """The gradient by the sums of each layer, in units of its output: float32 [n, outputs]; slopes: that by the
        last layer's outputs."""
        gradient, found = torch.from_numpy(slopes).float(), []
        for weight, own in zip(self.weights[::-1], outputs[::-1], strict=True):
            gradient = gradient * ((own > 0) & (own < ACTIVATION_MAX))
            found.append(gradient)
            gradient = gradient @ weight[:, :-1]
        return found[::-1]


def _affine(x: Tensor, weight: Tensor) -> Tensor:
    return torch.addmm(weight[:, -1] * ONE, x, weight[:, :-1].t())


class Fitted:
    """An expert that codes the pixels of an image, with layers that can be changed."""

    def __init__(self, loaded: Model, expert: int, samples: Samples) -> None:
        self.coding = Coding(loaded, network.backend("cpu"), expert, samples)
        self.trunk = FloatTrunk(self.coding.layers)
        self.samples = samples
        self.coding.trunk = self.trunk  # type: ignore[assignment]

    def reset(self) -> None:
        """Take back what was changed, to ``trunk.trained``."""
        self.trunk.weights = self.trunk.trained

    def run(self) -> Iterator[tuple[int, list[Tensor], list[Tensor]]]:
        """Code all pixels; yields for each batch its length, the inputs of all layers, and the gradient of its mean
        code length by their sums, in bits."""
        done, (first, *_) = 0, self.samples.inputs.shape
        for _, outputs, slopes in self.coding.run(first):
            n = len(slopes)
            inputs = [torch.from_numpy(self.samples.inputs[done : done + n]), *outputs[:-1]]
            slopes *= 1 / (1024 * 2**15 * n)  # as Coding.bias_gradients has it
            yield n, inputs, self.trunk.backward(slopes, outputs)
            done += n

    def gradients(self) -> Iterator[tuple[int, list[Tensor]]]:
        """The same by the weights, float32 [outputs, inputs + 1]."""
        for n, inputs, slopes in self.run():
            yield n, [g.t() @ with_one(x) for x, g in zip(inputs, slopes, strict=True)]

    def head_inputs(self) -> np.ndarray:
        """What the head sees of all pixels: float64 [n, inputs]."""
        x, skip = torch.from_numpy(self.samples.inputs), learning.skip_inputs(self.coding.expert)
        one = torch.full((len(x), 1), learning.BIAS_INPUT, dtype=torch.int8)
        return torch.cat([self.trunk.forward(x)[-1], x[:, :skip], one], 1).numpy().astype(np.float64)

    def learned(self) -> np.ndarray:
        """What the head has learned in the latest run: what its weights became less what they were, float64 [outputs,
        inputs]."""
        change = (self.coding.head.exact - self.coding.start.exact) / learning.WEIGHT_ONE
        return change[:, : learning.head_inputs(len(self.trunk.trained[-1]), self.coding.expert)]

    def bits(self, start: np.ndarray | None = None) -> float:
        """Bits of all pixels. start: what is added to the weights that the head begins with."""
        if start is not None:
            trained = self.coding.start
            self.coding.start = _moved(trained, start)
            try:
                return self.bits()
            finally:
                self.coding.start = trained
        return sum(bits for bits, _, _ in self.coding.run(len(self.samples)))


def with_one(x: Tensor) -> Tensor:
    """Inputs int8 [n, inputs] and the last one, float32 [n, inputs + 1]."""
    return torch.cat([x.float(), torch.full((len(x), 1), ONE)], 1)


def _moved(start: learning.Start, change: np.ndarray) -> learning.Start:
    padded = np.pad(change, ((0, 0), (0, start.exact.shape[1] - change.shape[1])))
    exact = np.rint(start.exact + padded * learning.WEIGHT_ONE)
    most = float(learning.HALVES_MAX * learning.WEIGHT_ONE)
    exact = exact.clip(-most, most)
    halves = network.split_head(np.rint(exact / learning.WEIGHT_ONE).astype(np.int16))
    return start._replace(exact=exact, halves=torch.from_numpy(halves))


class Starts:
    """Directions in which the learned heads of images differ most.

    Heads are compared in the metric of the Fisher information, E[u u'] (x) E[g g'] with inputs u, and gradients g by
    the outputs, which the model has decorrelated (Start.mix).
    """

    def __init__(self, images: Sequence[Fitted]) -> None:
        inner, ends = 0.0, []
        for fitted in images:
            u = fitted.head_inputs()
            inner = inner + u.T @ u / len(u)
            ends.append(fitted.learned())
        self._inner, self._outer = _root(inner / len(images)), np.linalg.inv(images[0].coding.start.mix)
        white = np.stack([self._outer @ end @ self._inner for end in ends]).reshape(len(images), -1)
        _, values, vectors = np.linalg.svd(white, full_matrices=False)
        #: Each one standard deviation.
        self._directions = vectors * (values / math.sqrt(len(images)))[:, None]

    def coefficients(self, change: np.ndarray, count: int) -> np.ndarray:
        """Of a head that has learned, in whole steps."""
        white = (self._outer @ change @ self._inner).ravel()
        used = self._directions[:count]
        z = used @ white / np.square(used).sum(1)
        return np.rint(z * QUARTERS).clip(-changes.STEP_MAX, changes.STEP_MAX)

    def change(self, steps: np.ndarray) -> np.ndarray:
        """What these add to the weights of a head."""
        white = (steps / QUARTERS @ self._directions[: len(steps)]).reshape(len(self._outer), len(self._inner))
        return np.linalg.solve(self._outer, np.linalg.solve(self._inner, white.T).T)


def _root(matrix: np.ndarray) -> np.ndarray:
    """The square root of a symmetric matrix, all of whose values are taken to be some thousandth of the mean."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0) + 1e-3 * values.mean())) @ vectors.T


class Change:
    """Steps that move, by layer, and what they add to the weights of each."""

    def __init__(self, steps: list[Tensor], add: Callable[[list[Tensor]], list[Tensor]], price: float = PRICE) -> None:
        """steps: those to begin with; add: deltas [outputs, inputs + 1] of all layers by whole steps; price: bits that
        a step is taken to cost."""
        self.exact, self._add, self._price = steps, add, price

    def whole(self) -> list[Tensor]:
        """As they are sent."""
        return [steps.round() for steps in self.exact]

    def fit(self, fitted: Fitted) -> None:
        """Move the steps to where the image takes the fewest bits."""
        optimiser = torch.optim.Adam(self.exact, lr=RATE, betas=(0.9, 0.999))
        count, done = len(fitted.samples), 0
        for _ in range(PASSES):
            fitted.trunk.change(self._add(self.whole()))
            for n, gradients in fitted.gradients():
                steps = [whole.requires_grad_() for whole in self.whole()]
                found = torch.autograd.grad(self._add(steps), steps, gradients)
                for exact, gradient in zip(self.exact, found, strict=True):
                    exact.grad = gradient + self._price / fitted.samples.pixels * exact.sign()
                optimiser.param_groups[0]["lr"] = RATE * (1 - done / (PASSES * count))
                optimiser.step()
                for exact in self.exact:
                    exact.clamp_(-changes.STEP_MAX, changes.STEP_MAX)
                fitted.trunk.change(self._add(self.whole()))
                done += n

    def cost(self) -> float:
        """Bits of the steps."""
        return sum(changes.cost(steps.numpy().astype(np.int8).ravel()) for steps in self.whole())


def _worth(gradients: Sequence[Tensor], pixels: int) -> Tensor:
    """The size of a step that is worth WORTH bits of so many pixels, by what batches tell of its gradient: the second
    derivative of bits is ln 2 times the variance of the first."""
    curvature = torch.stack([gradient.square().mean(-1, keepdim=True) for gradient in gradients]).mean(0)
    return torch.sqrt(2 * WORTH / (curvature * BATCH * math.log(2) * pixels + 1e-30))


def products(fitted: Fitted, count: int) -> Change:
    """Vectors of inputs begin as those of the leading products of the gradient."""
    looks = list(zip(*(gradients for _, gradients in fitted.gradients()), strict=True))
    sizes, steps = [], []
    for own in looks:
        _, _, inputs = torch.svd_lowrank(torch.stack(own).mean(0), count + 4)
        begin = inputs.t()[:count]
        begin = (begin * (SPREAD / begin.square().mean(1, keepdim=True).sqrt())).round().clamp(-15, 15)
        sizes.append(_worth([begin @ gradient.t() for gradient in own], fitted.samples.pixels))
        steps += [torch.zeros(count, own[0].shape[0]), begin]

    def add(steps: list[Tensor]) -> list[Tensor]:
        return [(size * a).t() @ b for size, a, b in zip(sizes, steps[::2], steps[1::2], strict=True)]

    return Change(steps, add)


def directions(fitted: Fitted, shared: list[Tensor], count: int) -> Change:
    """shared: directions [most, inputs + 1] of the inputs of each layer."""
    looks = list(zip(*(gradients for _, gradients in fitted.gradients()), strict=True))
    used, sizes = [], []
    for own, all_of_them in zip(looks, shared, strict=True):
        bias = torch.zeros(1, all_of_them.shape[1])
        bias[0, -1] = 1 / ONE
        used.append(torch.cat([bias, all_of_them[:count]]))
        sizes.append(_worth([used[-1] @ gradient.t() for gradient in own], fitted.samples.pixels))

    def add(steps: list[Tensor]) -> list[Tensor]:
        return [(size * a).t() @ v for size, a, v in zip(sizes, steps, used, strict=True)]

    return Change([torch.zeros(len(v), own[0].shape[0]) for v, own in zip(used, looks, strict=True)], add)


class Atoms:
    """Outer products that images share, one of each layer to a coefficient: outputs float32 [ATOMS, outputs] and inputs
    [ATOMS, inputs + 1] of each layer."""

    def __init__(self, outputs: list[Tensor], inputs: list[Tensor]) -> None:
        self.outputs, self.inputs = outputs, inputs

    def change(self, fitted: Fitted) -> Change:
        """Coefficients, to be fitted to an image."""

        def add(steps: list[Tensor]) -> list[Tensor]:
            z = steps[0][:, None] / QUARTERS
            return [(z * u).t() @ v for u, v in zip(self.outputs, self.inputs, strict=True)]

        return Change([torch.zeros(ATOMS)], add, 0.0)


def measure_directions(images: Sequence[Fitted]) -> list[Tensor]:
    """The directions of the inputs of each layer in which it differs most from image to image, the first ones first,
    float32 [count, inputs + 1]: inputs and gradients decorrelated."""
    sums: list[basis.Statistics] = []
    for fitted in images:
        columns = zip(*((with_one_all(inputs), slopes, n) for n, inputs, slopes in fitted.run()), strict=True)
        inputs, slopes, sizes = columns
        for i in range(len(inputs[0])):
            x = torch.cat([part[i] for part in inputs]).numpy()
            g = torch.cat([part[i] * n for part, n in zip(slopes, sizes, strict=True)]).numpy()
            if i == len(sums):
                sums.append(basis.Statistics(g.shape[1], x.shape[1]))
            sums[i].add(x / ONE, g)
    found = []
    for own in sums:
        inner, vectors, _, _ = basis.leading(own)
        found.append(torch.from_numpy((inner @ vectors).T.astype(np.float32) / ONE))
    return found


def with_one_all(inputs: list[Tensor]) -> list[Tensor]:
    """``with_one`` of each."""
    return [with_one(x) for x in inputs]


def learn_atoms(
    images: Sequence[Fitted], shared: list[Tensor] | None, seconds: float, base: bool
) -> tuple[Atoms | None, list[Tensor]]:
    """Atoms, and the weights of the layers, which are trained with them if ``base`` says so.

    images: training crops. shared: directions of the inputs that atoms begin with; None: there shall be none.
    """
    random = np.random.default_rng(0)
    heads, skip = _heads(images), learning.skip_inputs(images[0].coding.expert)
    trained = images[0].trunk.trained
    weights = [weight.clone().requires_grad_(base) for weight in trained]
    groups = [{"params": weights, "rate": BASE_RATE * ONE}] if base else []
    z = torch.from_numpy(random.normal(0, 1, (len(images), ATOMS)).astype(np.float32))
    outputs, inputs = [], []
    if shared is not None:
        inputs = [directions[:ATOMS].clone() for directions in shared]
        outputs = [torch.zeros(ATOMS, len(weight)) for weight in trained]
        own_rate = [OUTPUT_RATE * float(v.square().mean().sqrt()) for v in inputs]
        for parameters, rate in ((outputs, OUTPUT_RATE), ([z], COEFFICIENT_RATE)):
            groups.append({"params": [p.requires_grad_() for p in parameters], "rate": rate})
        groups += [{"params": [v.requires_grad_()], "rate": rate} for v, rate in zip(inputs, own_rate, strict=True)]
    optimiser = torch.optim.Adam(groups, lr=1.0, betas=(0.9, 0.99))
    bias = torch.from_numpy(images[0].coding.start.bias.astype(np.float32))
    begin, moves = time.monotonic(), 0
    while (left := 1 - (time.monotonic() - begin) / seconds) > 0:
        for group in optimiser.param_groups:
            group["lr"] = group["rate"] * left
        chosen = random.choice(len(images), min(GROUP, len(images)), replace=False)
        first, values, centre, scale = _draw(images, chosen, random)
        x = first
        for i, weight in enumerate(weights):
            flat = x.flatten(0, 1)
            exact = _affine(flat, weight)
            if shared is not None:
                sums = (_affine(flat, inputs[i]).view(*x.shape[:2], -1) * z[chosen][:, None]).flatten(0, 1)
                exact = exact + sums @ outputs[i]
            x = _rounded(exact).view(*x.shape[:2], -1)
        seen = torch.cat([x, first[:, :, :skip], torch.full((*x.shape[:2], 1), float(learning.BIAS_INPUT))], 2)
        sums = torch.bmm(seen, heads[chosen].transpose(1, 2)) + bias
        bits = code_length(sums.flatten(0, 1) * 2.0 ** -(HEAD_SHIFT + 8), values, centre, scale)
        prior = z[chosen].square().sum(1).mean() / (2 * math.log(2) * len(images[0].samples))
        optimiser.zero_grad()
        (bits.mean() + (prior if shared is not None else 0)).backward()
        optimiser.step()
        moves += 1
    print(f"# {moves} moves", file=sys.stderr, flush=True)
    atoms = None
    if shared is not None:
        deviation = z.detach().std(0)
        atoms = Atoms([u.detach() * deviation[:, None] for u in outputs], [v.detach() for v in inputs])
    return atoms, [weight.detach() for weight in weights]


def _heads(images: Sequence[Fitted]) -> Tensor:
    """What the heads of images have learned in the end, float32 [images, outputs, inputs]."""
    found = []
    for fitted in images:
        fitted.bits()
        inputs = learning.head_inputs(len(fitted.trunk.trained[-1]), fitted.coding.expert)
        found.append(torch.from_numpy((fitted.coding.head.exact / learning.WEIGHT_ONE)[:, :inputs]).float())
    return torch.stack(found)


def _draw(images: Sequence[Fitted], chosen: np.ndarray, random: np.random.Generator) -> tuple[Tensor, ...]:
    """Random pixels of some images: inputs float32 [images, PIXELS, inputs], and of all pixels, float32 [n], values,
    centres and activity scales in grey levels."""
    inputs, values, centre, cls = [], [], [], []
    for number in chosen:
        own = images[number].samples
        pixels = random.integers(0, len(own), PIXELS)
        inputs.append(own.inputs[pixels])
        values.append(own.values[pixels])
        centre.append(own.centre[pixels])
        cls.append(own.cls[pixels])
    scale = tables.class_scale(np.concatenate(cls)).astype(np.float32)
    return (
        torch.from_numpy(np.stack(inputs)).float(), torch.from_numpy(np.concatenate(values)).float(),
        torch.from_numpy(np.concatenate(centre).astype(np.float32) / tables.UNIT), torch.from_numpy(scale),
    )  # fmt: skip


def _rounded(exact: Tensor) -> Tensor:
    """``floor(exact)`` from 0 to the largest activation; the gradient passes straight through the rounding."""
    held = hardtanh(exact - 0.5, 0.0, float(ACTIVATION_MAX))
    with torch.no_grad():
        rounding = exact.floor().clamp(0, ACTIVATION_MAX) - held
    return held + rounding


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.lowrank", description="Changes of weights.")
    add_config(parser)
    parser.add_argument("--minutes", type=float, default=8, help="to train atoms, and a base (default 8 each)")
    parser.add_argument("--images", nargs="+", type=Path, metavar="FILE", help="in place of held-out photographs")
    args = parser.parse_args(argv)
    try:
        compare(args.config, args.experts, args.minutes, args.images)
    except ArdmError as error:
        print(f"lowrank: {error}", file=sys.stderr)
        return 1
    return 0


def compare(path: Path, experts: list[int], minutes: float, files: list[Path] | None) -> None:
    """Print the table."""
    config, loaded = TrainConfig.load(path), model.load(MODEL)
    crops = training_crops(config, CROPS, True)
    photographs = held_out_photographs(config) if files is None else [_planes(file) for file in files]
    half = len(photographs) // 2
    parts = {"plain": slice(half), "processed": slice(half, None)} if files is None else {"given": slice(None)}
    print("| expert | photographs | changes | saved | less their bytes |")
    print("|---|---|---|---:|---:|", flush=True)
    for expert in experts:
        training, held_out = (
            [Fitted(loaded, expert, own.samples) for own in learned.pixels(images, loaded, [expert])[expert]]
            for images in (crops, photographs)
        )
        _Rows(expert, held_out, parts).tell_all(loaded, training, minutes * 60)


class _Rows:
    """Rows of the table for an expert. parts: of the images, by name."""

    def __init__(self, expert: int, images: list[Fitted], parts: dict[str, slice]) -> None:
        self._expert, self._images, self._parts = expert, images, parts
        self._before = np.array([fitted.bits() for fitted in images])

    def tell_all(self, loaded: Model, training: list[Fitted], seconds: float) -> None:
        """All ways to change the expert. training: crops; seconds: to train atoms, and a base."""
        self._tell("biases", lambda fitted: _biases(loaded, self._expert, fitted))
        shared = measure_directions(training[:MEASURED])
        for count in PRODUCTS:
            self._measure(f"{count} products", partial(products, count=count))
        for count in DIRECTIONS:
            self._measure(f"{count} directions", partial(directions, shared=shared, count=count))
        starts = Starts(training)
        self._tell("start as it ends", _as_it_ends)
        for count in STARTS:
            self._tell(f"{count} starts", partial(_start, starts=starts, count=count))
        for name, base, begin in (("atoms", False, shared), ("base and atoms", True, shared), ("base", True, None)):
            atoms, weights = learn_atoms(training, begin, seconds, base)
            for fitted in self._images:
                fitted.trunk.trained = weights
            if base:
                self._tell(f"{name}, unchanged", lambda fitted: (fitted.bits(), 0.0))
            if atoms is not None:
                self._measure(name, atoms.change)

    def _measure(self, name: str, change: Callable[[Fitted], Change]) -> None:
        def fit(fitted: Fitted) -> tuple[float, float]:
            own = change(fitted)
            own.fit(fitted)
            return fitted.bits(), own.cost()

        self._tell(name, fit)

    def _tell(self, name: str, change: Callable[[Fitted], tuple[float, float]]) -> None:
        """change: gives bits of an image, and those of the changes, 0 if they are free."""
        found = []
        for fitted in self._images:
            fitted.reset()
            found.append(change(fitted))
        bits, cost = np.array(found).T
        saved = self._before - bits
        # what an encoder does not have to take can only be better
        paid = np.where(cost > 0, np.maximum(saved - cost, 0), saved)
        for part, own in self._parts.items():
            shares = " | ".join(f"{100 * each[own].sum() / self._before[own].sum():.2f} %" for each in (saved, paid))
            print(f"| {expert_name(self._expert)} | {part} | {name} | {shares} |", flush=True)


def _as_it_ends(fitted: Fitted) -> tuple[float, float]:
    fitted.bits()
    return fitted.bits(fitted.learned()), 0.0


def _start(fitted: Fitted, starts: Starts, count: int) -> tuple[float, float]:
    """Bits of an image whose head begins elsewhere, and those of the steps."""
    fitted.bits()
    steps = starts.coefficients(fitted.learned(), count)
    return fitted.bits(starts.change(steps)), changes.cost(steps.astype(np.int8))


def _biases(loaded: Model, expert: int, fitted: Fitted) -> tuple[float, float]:
    """Bits of an image whose single biases are fitted, and those of the changes."""
    coding = Coding(loaded, network.backend("cpu"), expert, fitted.samples)
    steps = move_biases(coding, PASSES)
    bits = sum(bits for bits, _, _ in coding.run(len(fitted.samples)))
    return bits, sum(map(changes.cost, steps.values()))


def _planes(path: Path) -> np.ndarray:
    from PIL import Image

    from ardmzip.image import to_planes

    with Image.open(path) as image:
        return to_planes(np.asarray(image.convert("RGB")))


if __name__ == "__main__":
    sys.exit(main())
