"""Changes of weights by products of small vectors (LoRA; Hu et al. 2021), against those of single biases.

    python -m bench.lowrank CONFIG [--experts 0 4] [--images FILE...]

Each expert codes held-out photographs, plain and processed, or other images, as the codec does it, with a head that
learns, and its layers are changed: *biases*, as ``--effort`` does it; and *products*, where so many outer products of
vectors of small integers are added to the weights of each layer, and both vectors sent. Prints what that saves of an
expert's bits, free of charge, and less the bytes of the changes (docs/FITTING.md has the table).

Layers changed by products are in floating point here, though their outputs are rounded as the codec has them: integers
that do the same can only gain less.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ardmzip import changes, model, network
from ardmzip.errors import ArdmError
from ardmzip.fitting.fit import BATCH, PRICE, Coding, move_biases
from ardmzip.fitting.samples import Samples
from ardmzip.model import Model
from ardmzip.network import ACTIVATION_MAX, Layer
from ardmzip.training.train import TrainConfig
from bench import learned
from bench.search import MODEL, add_config, expert_name, held_out_photographs

#: Products of each layer that are compared, and passes over an image.
PRODUCTS, PASSES = (1, 4, 16), 3
#: Largest move of a step at the start; it falls to 0 linearly. Bits that a step of outputs is worth at first.
RATE, WORTH = 0.2, 4.0
#: Steps that a product's vector of inputs begins with, root mean square.
SPREAD = 2.0
#: Smallest side of an image.
SMALLEST = 64
#: The input that biases belong to.
ONE = 16.0


class FloatTrunk:
    """The layers before a head, with weights in floating point: in the place of fitting.backward.Trunk.

    weights: float32 [outputs, inputs + 1] of each layer, in units of its output; the last input is ONE.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
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
            sums = torch.addmm(weight[:, -1] * ONE, x.float(), weight[:, :-1].t())
            x = sums.floor().clamp(0, ACTIVATION_MAX).to(torch.int8)
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


class Fitted:
    """An expert that codes the pixels of an image, with weights that can be changed."""

    def __init__(self, loaded: Model, expert: int, samples: Samples) -> None:
        self.coding = Coding(loaded, network.backend("cpu"), expert, samples)
        self.trunk, self.samples = FloatTrunk(self.coding.layers), samples
        self.coding.trunk = self.trunk  # type: ignore[assignment]

    def gradients(self) -> Iterator[tuple[int, list[Tensor]]]:
        """Code all pixels; yields for each batch its length, and the gradient of its mean code length by the weights,
        in bits: float32 [outputs, inputs + 1] of each layer."""
        done = 0
        for _, outputs, slopes in self.coding.run(len(self.samples)):
            n = len(slopes)
            inputs = [torch.from_numpy(self.samples.inputs[done : done + n]), *outputs[:-1]]
            slopes *= 1 / (1024 * 2**15 * n)  # as Coding.bias_gradients has it
            found = self.trunk.backward(slopes, outputs)
            yield n, [gradient.t() @ _with_one(x) for x, gradient in zip(inputs, found, strict=True)]
            done += n

    def bits(self) -> float:
        """Bits of all pixels."""
        return sum(bits for bits, _, _ in self.coding.run(len(self.samples)))


def _with_one(x: Tensor) -> Tensor:
    """Inputs int8 [n, inputs] and the last one, float32 [n, inputs + 1]."""
    return torch.cat([x.float(), torch.full((len(x), 1), ONE)], 1)


class Products:
    """Outer products for each layer of an expert: steps of outputs, float32 [count, outputs], and of inputs, [count,
    inputs + 1], layer by layer. Vectors of inputs begin as those of the leading products of the gradient."""

    def __init__(self, fitted: Fitted, count: int) -> None:
        self._sizes, self.exact = [], []
        for own in zip(*(gradients for _, gradients in fitted.gradients()), strict=True):
            inputs = torch.linalg.svd(torch.stack(own).mean(0), full_matrices=False).Vh[:count]
            inputs = (inputs * (SPREAD / inputs.square().mean(1, keepdim=True).sqrt())).round().clamp(-15, 15)
            self._sizes.append(_worth([inputs @ gradient.t() for gradient in own], fitted.samples.pixels))
            self.exact += [torch.zeros(count, len(own[0])), inputs]

    def whole(self) -> list[Tensor]:
        """Steps as they are sent."""
        return [steps.round() for steps in self.exact]

    def deltas(self, steps: list[Tensor]) -> list[Tensor]:
        """What steps add to the weights of each layer."""
        pairs = zip(self._sizes, steps[::2], steps[1::2], strict=True)
        return [(size * outputs).t() @ inputs for size, outputs, inputs in pairs]

    def fit(self, fitted: Fitted) -> None:
        """Move the steps to where the image takes the fewest bits (Adam, as for biases)."""
        optimiser = torch.optim.Adam(self.exact, lr=RATE, betas=(0.9, 0.999))
        count, done = len(fitted.samples), 0
        for _ in range(PASSES):
            fitted.trunk.change(self.deltas(self.whole()))
            for n, gradients in fitted.gradients():
                steps = [whole.requires_grad_() for whole in self.whole()]
                found = torch.autograd.grad(self.deltas(steps), steps, gradients)
                for exact, gradient in zip(self.exact, found, strict=True):
                    exact.grad = gradient + PRICE / fitted.samples.pixels * exact.sign()
                optimiser.param_groups[0]["lr"] = RATE * (1 - done / (PASSES * count))
                optimiser.step()
                for exact in self.exact:
                    exact.clamp_(-changes.STEP_MAX, changes.STEP_MAX)
                fitted.trunk.change(self.deltas(self.whole()))
                done += n

    def cost(self) -> float:
        """Bits of the products that do something: their steps, and a byte for the size of those of outputs."""
        steps, bits = self.whole(), 0.0
        for outputs, inputs in zip(steps[::2], steps[1::2], strict=True):
            used = outputs.any(1) & inputs.any(1)
            bits += 8 * int(used.sum())
            bits += sum(changes.cost(each[used].numpy().astype(np.int8).ravel()) for each in (outputs, inputs))
        return bits


def _worth(gradients: Sequence[Tensor], pixels: int) -> Tensor:
    """The size of a step that is worth WORTH bits of so many pixels, by what batches tell of its gradient: the second
    derivative of bits is ln 2 times the variance of the first."""
    curvature = torch.stack([gradient.square().mean(-1, keepdim=True) for gradient in gradients]).mean(0)
    return torch.sqrt(2 * WORTH / (curvature * BATCH * math.log(2) * pixels + 1e-30))


def _with_biases(loaded: Model, expert: int, samples: Samples) -> tuple[float, float]:
    """Bits of an image whose single biases are fitted, and those of the changes."""
    coding = Coding(loaded, network.backend("cpu"), expert, samples)
    steps = move_biases(coding, PASSES)
    bits = sum(bits for bits, _, _ in coding.run(len(samples)))
    return bits, sum(map(changes.cost, steps.values()))


def _with_products(loaded: Model, expert: int, samples: Samples, count: int) -> tuple[float, float]:
    """The same with products."""
    fitted = Fitted(loaded, expert, samples)
    found = Products(fitted, count)
    found.fit(fitted)
    return fitted.bits(), found.cost()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.lowrank", description="Low-rank changes: three minutes a megapixel and expert."
    )
    add_config(parser)
    parser.add_argument("--images", nargs="+", type=Path, metavar="FILE", help="in place of held-out photographs")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        compare(args.config, args.experts, args.images)
    except (ArdmError, OSError) as error:
        print(f"lowrank: {error}", file=sys.stderr)
        return 1
    return 0


def compare(path: Path, experts: list[int], files: list[Path] | None) -> None:
    """Print the table."""
    config, loaded = TrainConfig.load(path), model.load(MODEL)
    images = held_out_photographs(config) if files is None else [_planes(file) for file in files]
    half = len(images) // 2
    parts = {"plain": slice(half), "processed": slice(half, None)} if files is None else {"given": slice(None)}
    print("| expert | images | changes | saved | less their bytes |")
    print("|---|---|---|---:|---:|", flush=True)
    for expert, found in learned.pixels(images, loaded, experts).items():
        before = np.array([Fitted(loaded, expert, own.samples).bits() for own in found])
        ways: dict[str, Callable[[Model, int, Samples], tuple[float, float]]] = {"biases": _with_biases}
        ways |= {f"products: {count}": partial(_with_products, count=count) for count in PRODUCTS}
        for name, change in ways.items():
            bits, cost = np.array([change(loaded, expert, own.samples) for own in found]).T
            saved = before - bits
            for part, own in parts.items():
                shares = " | ".join(
                    f"{100 * each[own].sum() / before[own].sum():.2f} %" for each in (saved, saved - cost)
                )
                print(f"| {expert_name(expert)} | {part} | {name} | {shares} |", flush=True)


def _planes(path: Path) -> np.ndarray:
    from ardmzip.image import to_planes
    from bench.images import UnsupportedImage, read

    try:
        pixels = read(path)
    except UnsupportedImage as error:
        raise ArdmError(f"{path}: {error}") from error
    if min(pixels.shape[:2]) < SMALLEST or pixels.ndim == 2:
        raise ArdmError(f"{path}: not an RGB image of at least {SMALLEST}x{SMALLEST} pixels")
    return to_planes(pixels)


if __name__ == "__main__":
    sys.exit(main())
