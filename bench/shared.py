"""Changes in directions that all images share, against those of single biases, which ``--effort`` makes.

    python -m bench.shared CONFIG [--experts 0 4] [--coefficients 16 64]

The directions in which the biases of an expert differ most between images are measured on training crops, as those of
learning heads are (training/basis.py). Then held-out photographs, plain and processed, send so many coefficients, a
byte each. Prints what they save of an expert's bits, free of charge and with their bytes paid for, where they pay
(docs/FITTING.md has it).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ardmzip import changes, model, network
from ardmzip.fitting import fit
from ardmzip.fitting.fit import Coding
from ardmzip.fitting.samples import Samples
from ardmzip.model import Model
from ardmzip.training.train import TrainConfig
from bench import learned
from bench.search import held_out_photographs, training_crops

#: Crops that the directions are measured on, and passes over a photograph.
CROPS, PASSES = 300, 4
#: Coefficients are whole multiples of a quarter of their standard deviation, and take a byte.
QUARTERS, BITS = 4, 8
#: Largest move of a coefficient at the start, in standard deviations; it falls to 0 linearly. Decays of Adam's moments.
RATE, FIRST, SECOND = 0.2, 0.9, 0.999
#: Bias steps of a layer are at most so large.
MOST = changes.STEP_MAX


class Biases:
    """All biases of an expert as one vector of steps, as ``changes`` counts them."""

    def __init__(self, loaded: Model, expert: int) -> None:
        layers = loaded.on(torch.device("cpu"))[0][expert].layers
        self._trained = [layer.bias.numpy().astype(np.int64) for layer in layers]
        self._units = [changes.bias_unit(layer.shift.numpy()) for layer in layers]
        self._ends = np.cumsum([len(bias) for bias in self._trained])[:-1]

    def moved(self, steps: np.ndarray) -> list[np.ndarray]:
        """The biases after steps, float [biases]: int32 [outputs] of each layer."""
        parts = np.split(np.clip(steps, -MOST, MOST), self._ends)
        return [
            (bias + np.rint(unit * own)).astype(np.int32)
            for bias, unit, own in zip(self._trained, self._units, parts, strict=True)
        ]


def gradients(coding: Coding, count: int) -> list[tuple[np.ndarray, int]]:
    """Of each batch of samples, with a head that learns: bits a pixel by a step of each bias, and pixels."""
    return [(gradient(coding, slopes, outputs), len(slopes)) for _, outputs, slopes in coding.run(count)]


def gradient(coding: Coding, slopes: np.ndarray, outputs: list[torch.Tensor]) -> np.ndarray:
    """Of one batch."""
    unit = 2.0**changes.BIAS_BITS / (1024 * 2**15 * len(slopes))
    return np.concatenate(coding.trunk.backward(slopes, outputs)) * unit


def directions(codings: Sequence[tuple[Coding, int]], count: int) -> np.ndarray:
    """Steps of the biases, float64 [count, biases], one standard deviation of the images each, the largest first.

    Mean gradients are divided by the root of their variance, pixel by pixel; the leading eigenvectors of their second
    moment over images, less the noise, are where images differ.
    """
    means, sizes, spread, batches = [], [], 0.0, 0
    for coding, size in codings:
        found = gradients(coding, size)
        own = np.stack([g for g, _ in found])
        pixels = np.array([n for _, n in found])
        means.append(pixels @ own / pixels.sum())
        sizes.append(pixels.sum())
        spread = spread + (pixels[:, None] * (own - means[-1]) ** 2).sum(0)
        batches += len(found) - 1
    root = np.sqrt(spread / batches) + 1e-12  # of the variance of a pixel's gradient
    white = np.stack(means) / root
    _, singular, vectors = np.linalg.svd(white, full_matrices=False)
    variance = singular**2 / len(means) - np.mean(1 / np.array(sizes))
    size = np.sqrt(np.maximum(variance, 0))[:count, None]
    steps: np.ndarray = size * vectors[:count] / root
    return steps


def send(coding: Coding, biases: Biases, basis: np.ndarray, count: int) -> np.ndarray:
    """Coefficients that suit the samples, whole multiples of their unit: float64 [directions]."""
    z, first, second = np.zeros((3, len(basis)))
    done, move = 0, 0
    for _ in range(PASSES):
        coding.trunk.biases = biases.moved(z @ basis)
        for _, outputs, slopes in coding.run(count):
            own = basis @ gradient(coding, slopes, outputs)
            move += 1
            first, second = FIRST * first + (1 - FIRST) * own, SECOND * second + (1 - SECOND) * own**2
            root = np.sqrt(second / (1 - SECOND**move)) + 1e-30
            z -= RATE * (1 - done / (PASSES * count)) * first / (1 - FIRST**move) / root
            done += len(slopes)
            coding.trunk.biases = biases.moved(z @ basis)
    whole: np.ndarray = np.clip(np.rint(z * QUARTERS), -127, 127) / QUARTERS
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.shared", description="Changes that images share.")
    parser.add_argument("config", type=Path, metavar="CONFIG", help="of a training run, for its data")
    parser.add_argument("--experts", nargs="+", type=int, default=[0, 4], metavar="N", choices=range(9))
    parser.add_argument("--coefficients", nargs="+", type=int, default=[16, 64], metavar="N")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    config, loaded, backend = TrainConfig.load(args.config), model.load("photo"), network.backend("cpu")
    crops = learned.pixels(training_crops(config, CROPS, True), loaded, args.experts)
    sets = [learned.pixels(part, loaded, args.experts) for part in held_out_photographs(config)]

    def coding(expert: int, samples: Samples) -> Coding:
        return Coding(loaded, backend, expert, samples)

    numbers = args.coefficients
    print("| expert | photographs | biases | less their bytes |", end="")
    print("".join(f" {n} coefficients | less their bytes |" for n in numbers))
    print("|---|---|---:|---:|" + "---:|---:|" * len(numbers), flush=True)
    for expert in args.experts:
        biases = Biases(loaded, expert)
        parts = [(coding(expert, own), len(own)) for own, _ in crops[expert]]
        basis = directions(parts, max(numbers))
        for name, images in zip(("plain", "processed"), sets, strict=True):
            before, saved, paid = 0.0, np.zeros(1 + len(numbers)), np.zeros(1 + len(numbers))
            for own, _ in images[expert]:
                coder = coding(expert, own)
                bits = coder.bits(coder.trunk.biases)
                steps = fit.fit_expert(loaded, backend, expert, own, PASSES)
                whole = np.concatenate([*steps.values()]) if steps else np.zeros(basis.shape[1])
                tries = [(biases.moved(whole), sum(map(changes.cost, steps.values())))]
                for n in numbers:
                    z = send(coder, biases, basis[:n], len(own))
                    tries.append((biases.moved(z @ basis[:n]), n * BITS))
                gains = np.array([bits - coder.bits(moved) for moved, _ in tries])
                costs = np.array([cost for _, cost in tries])
                before, saved, paid = before + bits, saved + gains, paid + np.maximum(gains - costs, 0)
            shares = np.stack([saved, paid], 1).ravel() * 100 / before
            cells = "".join(f" {share:.2f} % |" for share in shares)
            print(f"| {expert} | {name} |{cells}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
