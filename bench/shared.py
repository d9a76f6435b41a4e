"""Changes in directions that all images share, against those of single biases, which ``--effort`` makes.

    python -m bench.shared CONFIG [--experts 0 4] [--coefficients 16 64]

The directions in which the biases of an expert differ most between images are measured on training crops, as those of
learning heads are (training/basis.py). Then held-out photographs, plain and processed, send so many coefficients, a
byte each. Prints what they save of an expert's bits, free of charge, and less their bytes where they pay for them
(docs/FITTING.md has the table).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from ardmzip import changes, model, network
from ardmzip.errors import ArdmError
from ardmzip.fitting.fit import Coding, move_biases
from ardmzip.training.train import TrainConfig
from bench import learned
from bench.search import MODEL, add_config, expert_name, held_out_photographs, training_crops

#: Crops that the directions are measured on, and passes over a photograph.
CROPS, PASSES = 300, 4
#: Coefficients are whole multiples of a quarter of their standard deviation, and take a byte.
QUARTERS, BITS = 4, 8
#: Largest move of a coefficient at the start, in standard deviations; it falls to 0 linearly. Decays of Adam's moments.
RATE, FIRST, SECOND = 0.2, 0.9, 0.999
#: Added to the variance of gradients, as a share of its mean.
DAMPING = 0.1


class Biases:
    """All biases of an expert as one vector of steps, as ``changes`` counts them."""

    def __init__(self, coding: Coding) -> None:
        self._trained = [layer.bias.numpy().astype(np.int64) for layer in coding.layers]
        self._units = [changes.bias_unit(layer.shift.numpy()) for layer in coding.layers]
        self._ends = np.cumsum([len(bias) for bias in self._trained])[:-1]

    def after(self, steps: np.ndarray) -> list[np.ndarray]:
        """The biases after steps float [biases], which need not be whole: int32 [outputs] of each layer."""
        parts = np.split(np.clip(steps, -changes.STEP_MAX, changes.STEP_MAX), self._ends)
        return [
            (bias + np.rint(unit * own)).astype(np.int32)
            for bias, unit, own in zip(self._trained, self._units, parts, strict=True)
        ]


def batch_gradients(coding: Coding) -> tuple[np.ndarray, np.ndarray]:
    """Of all batches of the samples, with a head that learns: bits a pixel by a step of each bias, float64 [batches,
    biases], and pixels [batches]."""
    found = [
        (_gradient(coding, slopes, outputs), len(slopes)) for _, outputs, slopes in coding.run(len(coding.samples))
    ]
    gradients, pixels = zip(*found, strict=True)
    return np.stack(gradients), np.array(pixels)


def _gradient(coding: Coding, slopes: np.ndarray, outputs: list[torch.Tensor]) -> np.ndarray:
    return np.concatenate(coding.bias_gradients(slopes, outputs))


def directions(crops: Iterable[tuple[np.ndarray, np.ndarray]], count: int) -> np.ndarray:
    """Directions of steps float64 [count, biases], the largest first: each one standard deviation of images.

    crops: ``batch_gradients`` of each. The variance of a pixel's gradient is the Fisher information, which decorrelates
    mean gradients; the leading eigenvectors of their second moment over crops, less what is noise, are where images
    differ.
    """
    means, sizes, variance, batches = [], [], 0.0, 0
    for gradients, pixels in crops:
        means.append(pixels @ gradients / pixels.sum())
        sizes.append(pixels.sum())
        spread = gradients - means[-1]
        variance, batches = variance + (pixels * spread.T) @ spread, batches + len(pixels) - 1
    values, vectors = np.linalg.eigh(variance / batches)
    inverse_root = (vectors * (np.maximum(values, 0) + DAMPING * values.mean()) ** -0.5) @ vectors.T
    white = np.stack(means) @ inverse_root
    values, vectors = np.linalg.eigh(white.T @ white / len(means))
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    size = np.sqrt(np.maximum(values - np.mean(1 / np.array(sizes)), 0))
    # Newton's step: of bits, the second derivative is ln 2 times the variance of the first
    steps: np.ndarray = size[:, None] * (vectors.T @ inverse_root) / np.log(2)
    return steps


def code_length(coding: Coding, biases: list[np.ndarray]) -> float:
    """Bits of the samples with these biases."""
    coding.trunk.biases = biases
    return sum(bits for bits, _, _ in coding.run(len(coding.samples)))


def fit_coefficients(coding: Coding, biases: Biases, basis: np.ndarray) -> np.ndarray:
    """Coefficients of directions that suit the samples, whole multiples of their unit: float64 [directions]."""
    z, first, second = np.zeros((3, len(basis)))
    count, done, moves = len(coding.samples), 0, 0
    for _ in range(PASSES):
        coding.trunk.biases = biases.after(z @ basis)
        for _, outputs, slopes in coding.run(count):
            own = basis @ _gradient(coding, slopes, outputs)
            moves += 1
            first, second = FIRST * first + (1 - FIRST) * own, SECOND * second + (1 - SECOND) * own**2
            root = np.sqrt(second / (1 - SECOND**moves)) + 1e-30
            z -= RATE * (1 - done / (PASSES * count)) * first / (1 - FIRST**moves) / root
            done += len(slopes)
            coding.trunk.biases = biases.after(z @ basis)
    whole: np.ndarray = np.clip(np.rint(z * QUARTERS), -127, 127) / QUARTERS
    return whole


def gains(coding: Coding, basis: np.ndarray, counts: Sequence[int]) -> tuple[float, np.ndarray]:
    """Bits of the samples, and those that single biases and so many coefficients save, float64 [1 + counts, 2]: free of
    charge, and less what they take, where that pays."""
    biases = Biases(coding)
    before, found = code_length(coding, coding.trunk.biases), []
    steps = move_biases(coding, PASSES)
    tries = [(coding.trunk.biases, sum(map(changes.cost, steps.values())))]
    for count in counts:
        z = fit_coefficients(coding, biases, basis[:count])
        tries.append((biases.after(z @ basis[:count]), count * BITS))
    for moved, cost in tries:
        saved = before - code_length(coding, moved)
        found.append((saved, max(0.0, saved - cost)))
    return before, np.array(found)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.shared", description="Changes that images share: ten minutes an expert."
    )
    add_config(parser)
    parser.add_argument("--coefficients", nargs="+", type=int, default=[16, 64], metavar="N", help="(default 16 64)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        compare(args.config, args.experts, args.coefficients)
    except ArdmError as error:
        print(f"shared: {error}", file=sys.stderr)
        return 1
    return 0


def compare(path: Path, experts: list[int], coefficients: list[int]) -> None:
    """Print the table."""
    config, loaded, backend = TrainConfig.load(path), model.load(MODEL), network.backend("cpu")
    crops = learned.pixels(training_crops(config, CROPS, True), loaded, experts)
    photographs = learned.pixels(held_out_photographs(config), loaded, experts)

    cells = "".join(f" {count} coefficients | less their bytes |" for count in coefficients)
    print(f"| expert | photographs | biases | less their bytes |{cells}")
    print("|---|---|---:|---:|" + "---:|---:|" * len(coefficients), flush=True)
    for expert in experts:
        measured = (batch_gradients(Coding(loaded, backend, expert, crop.samples)) for crop in crops[expert])
        basis = directions(measured, max(coefficients))
        found = [
            gains(Coding(loaded, backend, expert, own.samples), basis, coefficients) for own in photographs[expert]
        ]
        half = len(found) // 2
        for name, part in (("plain", found[:half]), ("processed", found[half:])):
            shares = 100 * sum(saved for _, saved in part) / sum(before for before, _ in part)
            print(
                f"| {expert_name(expert)} | {name} |" + "".join(f" {share:.2f} % |" for share in np.ravel(shares)),
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
