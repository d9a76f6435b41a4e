"""Fitting the side information: 22 bytes that every file carries anyway, of which the network is told what they mean.

It has learned to make use of statistics of images; whatever numbers make an image smallest are as good, and take no
more bytes. They move by the signs of the gradient alone (Rprop, Riedmiller and Braun 1993), which has no noise, as the
same samples are coded in each round.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ardmzip import codec, features, network
from ardmzip.features import SIDE
from ardmzip.fitting.fit import Coding, Progress
from ardmzip.fitting.samples import collect
from ardmzip.model import Model
from ardmzip.network import exact_arithmetic

#: First move of a number, and the most; factors after a gradient of the same sign, and after one of the other.
FIRST, MOST, FASTER, SLOWER = 4.0, 12.0, 1.3, 0.5


def fit_side(
    images: Sequence[np.ndarray], model: Model, samples: int, rounds: int, *, phase: tuple[int, int],
    threads: int | None = None, progress: Progress | None = None,
) -> np.ndarray | None:  # fmt: skip
    """Side information int8 [SIDE] that suits images, planes uint8 [channels, height, width] each, in a phase; None if
    they carry none.

    samples: most pixels of an expert to look at. rounds: how often.
    """
    measured = [codec.side_information(planes, model, phase) for planes in images]
    carried = [side for side in measured if side is not None]
    if len(carried) < len(images):
        return None
    backend = network.backend("cpu")
    found = collect(images, model, backend, samples, phase)
    codings = {expert: Coding(model, backend, expert, part) for expert, part in found.items()}
    places = {e: features.expert_layout(e).side for e in codings}
    weights = {e: model.tensors[f"expert.{e}.0.weight"][:, places[e]].astype(np.float64) for e in codings}
    shares = {e: 2.0 ** -model.tensors[f"expert.{e}.0.shift"].astype(np.float64) for e in codings}

    def evaluate(expert: int, side: np.ndarray) -> tuple[float, np.ndarray]:
        """Bits of all pixels, and in some unit their gradient by the side information."""
        part, coding = found[expert], codings[expert]
        part.inputs[:, places[expert]] = side
        bits, sums = 0.0, np.zeros(len(shares[expert]))
        for more, outputs, slopes in coding.run(len(part)):
            bits += more
            sums += coding.trunk.backward(slopes, outputs)[0]
        factor = part.pixels / len(part)
        return bits * factor, (weights[expert] * (sums * shares[expert])[:, None]).sum(0) * factor

    exact = np.mean(carried, 0)
    move, before = np.full(SIDE, FIRST), np.zeros(SIDE)
    best, least = carried[0], np.inf
    with exact_arithmetic("cpu") as available, ThreadPoolExecutor(threads or available) as pool:
        for number in range(rounds):
            side = np.rint(exact).astype(np.int8)
            results = list(pool.map(evaluate, codings, [side] * len(codings)))
            bits = sum(result[0] for result in results)
            if bits < least:
                best, least = side, bits
            sign = np.sign(sum(result[1] for result in results))
            move = np.minimum(
                np.where(sign * before < 0, move * SLOWER, np.where(sign * before > 0, move * FASTER, move)), MOST
            )
            before = sign
            exact = np.clip(exact - sign * move, -127, 127)
            if progress:
                progress((number + 1) / rounds)
    return best
