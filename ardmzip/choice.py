"""Which model suits an image: by the code length of a sample of its pixels."""

from __future__ import annotations

from collections.abc import Sequence

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


def candidates() -> list[Model]:
    """The installed models to choose from; raises ModelError if there is none."""
    installed = model.available()
    found = [model.load(name) for name in CANDIDATES if name in installed]
    if not found:
        raise ModelError(f"none of the models {', '.join(CANDIDATES)} is installed")
    return found


def best_model(planes: np.ndarray, models: Sequence[Model], backend: Backend) -> Model:
    """The model by which a sample of an image's pixels takes the fewest bits, with frozen heads; the first of equals.

    planes: uint8 [channels, height, width].
    """
    if len(models) == 1 or planes[0].size == 1:
        return models[0]
    bits = [sampled_bits(planes, candidate, backend) for candidate in models]
    return models[int(np.argmin(bits))]


def sampled_bits(planes: np.ndarray, chosen: Model, backend: Backend) -> float:
    """Code length of pixels spread over the first lattice of the finest level, in all channels, by a frozen model.

    That lattice has the fewest known neighbours, so it is where models differ most; and nothing but the image itself is
    needed to code it, as an encoder knows the values of all other lattices.
    """
    channels, height, width = planes.shape
    side, phase = codec.side_information(planes, chosen)
    order = LatticeOrder(height, width, channels, phase)
    array = features.unknown_array(height, width)
    features.without_border(array)[:, :, :channels] = planes.transpose(1, 2, 0)
    bits = 0.0
    with Predictor(chosen, backend, side) as predictor:
        known = predictor.array(array)
        # images one pixel high or wide lack some lattices
        kind = next(kind for kind in range(KINDS) if np.prod(order.lattice_shape(0, kind)))
        size = int(np.prod(order.lattice_shape(0, kind)))
        pixels = np.unique(np.linspace(0, size - 1, min(size, SAMPLE)).astype(np.int64))
        for channel in range(channels):
            atom = Atom(0, kind, channel)
            values = planes[channel][order.lattice(0, kind)].ravel()[pixels]
            distribution = predictor.distribution(atom, known, *window_offsets(order, atom, pixels))
            bits += code_length(distribution.intervals(values)[1])
    return bits
