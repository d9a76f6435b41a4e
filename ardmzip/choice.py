"""Which model suits an image: by the code length of a sample of its pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ardmzip import codec, features, model
from ardmzip.errors import ModelError
from ardmzip.features import KINDS
from ardmzip.model import Model
from ardmzip.network import Backend
from ardmzip.order import Atom, LatticeOrder
from ardmzip.predictor import Predictor, code_length, window_offsets

#: Models to choose from, where they are installed. Of equals the first is taken; ``fast`` is for those who ask for it.
CANDIDATES = ("photo", "thumb")
#: Pixels of each atom that is looked at: enough to tell models apart that differ by some per cent.
SAMPLE = 512
#: Another phase must be better by this share to be worth coding the image in it.
PHASE_MARGIN = 1e-3


def candidates() -> list[Model]:
    """The installed models to choose from; raises ModelError if there is none."""
    installed = model.available()
    found = [model.load(name) for name in CANDIDATES if name in installed]
    if not found:
        raise ModelError(f"none of the models {', '.join(CANDIDATES)} is installed")
    return found


def best_model(planes: np.ndarray, models: Sequence[Model], backend: Backend, phase: tuple[int, int] = (0, 0)) -> Model:
    """The model by which a sample of an image's pixels takes the fewest bits, with frozen heads; the first of equals.

    planes: uint8 [channels, height, width]; phase: of the lattice.
    """
    if len(models) == 1 or planes[0].size == 1:
        return models[0]
    bits = [sampled_bits(planes, candidate, backend, phase) for candidate in models]
    return models[int(np.argmin(bits))]


def sampled_bits(planes: np.ndarray, chosen: Model, backend: Backend, phase: tuple[int, int] = (0, 0)) -> float:
    """Code length of pixels spread over the first lattice of the finest level, in all channels, by a frozen model.

    That lattice has the fewest known neighbours, so it is where models differ most; and nothing but the image itself is
    needed to code it, as an encoder knows the values of all other lattices.
    """
    side = codec.side_information(planes, chosen, phase)
    channels, height, width = planes.shape
    order = LatticeOrder(height, width, channels, phase)
    # images one pixel high or wide lack some lattices
    kind = next(kind for kind in range(KINDS) if np.prod(order.lattice_shape(0, kind)))
    with Predictor(chosen, backend, side) as predictor:
        return sum(sample.bits for sample in _samples(planes, order, 0, [kind], predictor))


def best_phase(
    planes: np.ndarray, chosen: Model, backend: Backend, first: tuple[int, int], sample: int
) -> tuple[int, int]:
    """The phase in which ``sample`` pixels of each atom take the fewest bits; ``first`` if others are hardly better.

    Images that are too small for side information stay as they are.
    """
    if codec.side_information(planes, chosen, first) is None:
        return first
    phases = [first, *(phase for phase in ((0, 0), (0, 1), (1, 0), (1, 1)) if phase != first)]
    sizes = [estimated_bytes(planes, chosen, backend, phase, sample) for phase in phases]
    best = int(np.argmin(sizes))
    return phases[best] if sizes[best] < (1 - PHASE_MARGIN) * sizes[0] else first


def estimated_bytes(
    planes: np.ndarray, chosen: Model, backend: Backend, phase: tuple[int, int] = (0, 0), sample: int = SAMPLE
) -> float:
    """About how long an image is in the code of a frozen model, by pixels spread over its two finest levels.

    planes: uint8 [channels, height, width]; phase: of the lattice; sample: pixels of each atom that are looked at.
    """
    side = codec.side_information(planes, chosen, phase)
    channels, height, width = planes.shape
    order = LatticeOrder(height, width, channels, phase)
    bits, pixels = 0.0, 0
    with Predictor(chosen, backend, side) as predictor:
        for level in range(min(2, order.levels)):
            for found in _samples(planes, order, level, range(KINDS), predictor, sample):
                bits += found.bits * found.size / found.pixels
                pixels += found.size
    return bits / pixels * planes.size / 8 if pixels else float(planes.size)


@dataclass(frozen=True)
class _Sample:
    """The code length of some pixels of an atom, which has ``size``."""

    bits: float
    pixels: int
    size: int


def _samples(
    planes: np.ndarray, order: LatticeOrder, level: int, kinds: Iterable[int], predictor: Predictor,
    sample: int = SAMPLE,
) -> Iterator[_Sample]:  # fmt: skip
    """Samples of the atoms of some lattices of a level, those that are not empty, in all channels."""
    if level:
        planes = planes[:, order.phase[0] :: 1 << level, order.phase[1] :: 1 << level]
    channels, height, width = planes.shape
    array = features.unknown_array(height, width)
    features.without_border(array)[:, :, :channels] = planes.transpose(1, 2, 0)
    known = predictor.array(array)
    for kind in kinds:
        size = int(np.prod(order.lattice_shape(level, kind)))
        if size == 0:
            continue
        pixels = np.unique(np.linspace(0, size - 1, min(size, sample)).astype(np.int64))
        for channel in range(channels):
            atom = Atom(level, kind, channel)
            values = planes[channel][order.lattice(level, kind)].ravel()[pixels]
            distribution = predictor.distribution(atom, known, *window_offsets(order, atom, pixels))
            yield _Sample(code_length(distribution.intervals(values)[1]), len(pixels), size)
