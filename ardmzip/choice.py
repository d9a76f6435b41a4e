"""Which model suits an image: by the code length of a sample of its pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ardmzip import codec, codes, differences, features, model
from ardmzip.errors import ModelError
from ardmzip.features import KINDS
from ardmzip.image import turned, turns
from ardmzip.model import Model
from ardmzip.network import Backend
from ardmzip.order import Atom, LatticeOrder
from ardmzip.predictor import Predictor, code_length, stacked_offsets

#: Models to choose from, where they are installed. Of equals the first is taken; ``fast`` is for those who ask for it.
CANDIDATES = ("photo", "thumb")
#: Models for special kinds of what another one is for: efforts from 1 on try them in its place, where they are
#: installed.
RELATIVES = {"photo": ("photo-cd",)}
#: Pixels of each atom that is looked at: enough to tell models apart that differ by some per cent.
SAMPLE = 512
#: Finest levels by whose pixels the length of an image is estimated.
ESTIMATE_LEVELS = 2
PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))
#: Pixels of images, once for each code, that are looked at together.
_TOGETHER = 1 << 18
#: Another phase, or another model, must be better by this share to be worth coding the image in it.
MARGIN = 1e-3


def candidates(brought: Sequence[bytes] = ()) -> list[Model]:
    """The installed models to choose from, or what comes out of differences that begin with them; raises ModelError if
    there is none."""
    installed = model.available()
    found = [differences.instead(model.load(name), brought) for name in CANDIDATES if name in installed]
    if not found:
        raise ModelError(f"none of the models {', '.join(CANDIDATES)} is installed")
    return found


def best_model(
    planes: np.ndarray, models: Sequence[Model], backend: Backend, phase: tuple[int, int] = (0, 0),
    stats: np.ndarray | None = None,
) -> Model:  # fmt: skip
    """The model by which a sample of an image's pixels takes the fewest bits, with frozen heads; the first of equals.

    planes: uint8 [channels, height, width]; phase: of the lattice; stats: codec.statistics, where they are known.
    """
    return best_models(planes[None], models, backend, phase, stats)[0]


def best_models(
    planes: np.ndarray, models: Sequence[Model], backend: Backend, phase: tuple[int, int] = (0, 0),
    stats: np.ndarray | None = None,
) -> list[Model]:  # fmt: skip
    """``best_model`` for each of several small images: uint8 [images, channels, height, width]."""
    if len(models) == 1 or planes[0, 0].size == 1:
        return [models[0]] * len(planes)
    if len(planes) == 1 and stats is None:
        stats = codec.statistics(planes[0], phase)
    bits = [_sampled_bits(planes, candidate, backend, phase, stats) for candidate in models]
    return [models[best] for best in np.argmin(bits, axis=0)]


def relatives(chosen: Model) -> list[Model]:
    """Those of RELATIVES that are installed."""
    installed = model.available()
    return [model.load(name) for name in RELATIVES.get(chosen.name, ()) if name in installed]


def best_relative(planes: np.ndarray, chosen: Model, backend: Backend, phase: tuple[int, int], sample: int) -> Model:
    """The model among relatives by which ``sample`` pixels of each atom take the fewest bits, or the chosen one if
    others are hardly better."""
    models = [chosen, *relatives(chosen)]
    if len(models) == 1:
        return chosen
    return models[_clearly_least([estimated_bytes(planes, each, backend, phase, sample) for each in models])]


def sampled_bits(planes: np.ndarray, chosen: Model, backend: Backend, phase: tuple[int, int] = (0, 0)) -> float:
    """Code length of pixels spread over the first lattice of the finest level, in all channels, by a frozen model.

    That lattice has the fewest known neighbours, so it is where models differ most; and nothing but the image itself is
    needed to code it, as an encoder knows the values of all other lattices.
    """
    return float(_sampled_bits(planes[None], chosen, backend, phase)[0])


def _sampled_bits(
    planes: np.ndarray, chosen: Model, backend: Backend, phase: tuple[int, int], stats: np.ndarray | None = None
) -> np.ndarray:
    """``sampled_bits`` of each image: float64 [images]."""
    order = _order(planes, phase)
    # images one pixel high or wide lack some lattices
    kind = next(kind for kind in range(KINDS) if np.prod(order.lattice_shape(0, kind)))
    with _predictor(planes, chosen, backend, phase, stats) as predictor:
        return sum((sample.bits for sample in _samples(planes, order, 0, [kind], predictor)), np.zeros(len(planes)))


def best_phase(
    planes: np.ndarray, chosen: Model, backend: Backend, first: tuple[int, int], sample: int
) -> tuple[int, int]:
    """The phase in which ``sample`` pixels of each atom take the fewest bits; ``first`` if others are hardly better.

    Images that are too small for side information stay as they are.
    """
    if codec.side_information(planes, chosen, first) is None:
        return first
    phases = [first, *(phase for phase in PHASES if phase != first)]
    return phases[_clearly_least([estimated_bytes(planes, chosen, backend, phase, sample) for phase in phases])]


def _clearly_least(sizes: list[float]) -> int:
    """Which of them is the least, or 0 if it is hardly less than the first one."""
    best = int(np.argmin(sizes))
    return best if sizes[best] < (1 - MARGIN) * sizes[0] else 0


def estimated_bytes(
    planes: np.ndarray, chosen: Model, backend: Backend, phase: tuple[int, int] = (0, 0), sample: int = SAMPLE,
    stats: np.ndarray | None = None, code: int | None = None,
) -> float:  # fmt: skip
    """About how long an image is in the code of a frozen model, by pixels spread over its two finest levels.

    planes: uint8 [channels, height, width]; phase: of the lattice; sample: pixels of each atom that are looked at;
    stats: codec.statistics, where they are known; code: of a small image, None for the nearest.
    """
    order = _order(planes[None], phase)
    given = None if code is None else np.array([code])
    with _predictor(planes[None], chosen, backend, phase, stats, given) as predictor:
        samples = [
            one
            for level in range(min(ESTIMATE_LEVELS, order.levels))
            for one in _samples(planes[None], order, level, range(KINDS), predictor, sample)
        ]
    return float(estimates(samples, 1, planes.size)[0])


def estimates(samples: Iterable[Sample], images: int, subpixels: int) -> np.ndarray:
    """About how many bytes images of so many sub-pixels take, float64 [images], by samples of the atoms of the finest
    levels, in the order of the levels from 0 on, of kinds and of channels."""
    bits, pixels = np.zeros(images), 0
    for sample in samples:
        bits += sample.bits * sample.size / sample.pixels
        pixels += sample.size
    return bits / pixels * subpixels / 8 if pixels else np.full(images, float(subpixels))


def sampled_pixels(size: int, sample: int = SAMPLE) -> np.ndarray:
    """Which ``sample`` pixels of an atom of ``size`` are looked at: int64 [n], numbers in raster order."""
    return np.unique(np.linspace(0, size - 1, min(size, sample)).astype(np.int64))


def code_lengths(widths: np.ndarray) -> np.ndarray:
    """Code lengths of images: widths uint32 [images, 2, n] of their nibbles' intervals -> float64 [images]."""
    # each as a lone image has them in memory, so that the sum is the same to the last bit
    return np.array([code_length(np.ascontiguousarray(own)) for own in widths])


def may_name_code(height: int, width: int, chosen: Model) -> bool:
    """Whether images of a size may name a code of a model, and gain from it."""
    carried = codec.carries_side_information(height, width)
    pays = height * width >= codes.LEAST_PIXELS and not carried
    return len(chosen.codes) > 0 and codes.suits(height, width) and pays


def best_codes(
    planes: np.ndarray, chosen: Model, backend: Backend, phase: tuple[int, int] = (0, 0),
    search: codes.Search = codes.QUICK,
) -> np.ndarray:  # fmt: skip
    """The code by which a sample of its pixels is shortest, with frozen heads, for each of several small images; or
    NO_CODE, if none pays. planes: uint8 [images, channels, height, width]; phase: of the lattice."""
    none = np.full(len(planes), codes.NO_CODE, np.int64)
    if not may_name_code(planes.shape[-2], planes.shape[-1], chosen):
        return none
    numbers = np.column_stack([none, codes.nearest(planes, chosen, search.tried)])
    for sample, left in search.rounds:
        bits = _bits_by_code(planes, numbers, chosen, backend, phase, sample)
        numbers = np.take_along_axis(numbers, np.argsort(bits, 1, kind="stable")[:, :left], 1)
    return numbers[:, 0]


def _bits_by_code(
    planes: np.ndarray, numbers: np.ndarray, chosen: Model, backend: Backend, phase: tuple[int, int], sample: int
) -> np.ndarray:
    """About how many bits small images take by each of some codes, int64 [images, codes]: float64 of the same shape."""
    count = numbers.shape[1]
    together = max(1, _TOGETHER // (count * planes[0, 0].size))
    bits = np.where(numbers == codes.NO_CODE, 0, codes.BITS)
    for first in range(0, len(planes), together):
        part = slice(first, first + together)
        stack = np.repeat(planes[part], count, 0)
        with Predictor(chosen, backend, codes.inputs(numbers[part].ravel(), chosen)) as predictor:
            samples = _samples(stack, _order(stack, phase), 0, range(KINDS), predictor, sample)
            bits[part] += 8 * estimates(samples, len(stack), planes[0].size).reshape(-1, count)
    return bits


def best_views(
    planes: np.ndarray, chosen: Model, backend: Backend, search: codes.Search, views: int
) -> list[tuple[tuple[int, int], int]]:
    """In which phases, and turned in which ways (image.turned), a small image that names a code is shortest, with a
    frozen head, as far as the pixels of its two finest levels tell: so many of them, the best one first."""
    count = turns(*planes.shape[1:])
    stack = np.stack([turned(planes, turn) for turn in range(count)])
    numbers = np.repeat(best_codes(planes[None], chosen, backend, search=search), count)
    sizes = []
    for phase in PHASES:
        order = _order(stack, phase)
        with Predictor(chosen, backend, codes.inputs(numbers, chosen)) as predictor:
            samples = [
                one
                for level in range(min(ESTIMATE_LEVELS, order.levels))
                for one in _samples(stack, order, level, range(KINDS), predictor, planes[0].size)
            ]
        sizes.append(estimates(samples, count, planes.size))
    best = np.argsort(np.ravel(sizes), kind="stable")[:views].tolist()
    return [(PHASES[number // count], number % count) for number in best]


def _order(planes: np.ndarray, phase: tuple[int, int]) -> LatticeOrder:
    _, channels, height, width = planes.shape
    return LatticeOrder(height, width, channels, phase)


def _predictor(
    planes: np.ndarray, chosen: Model, backend: Backend, phase: tuple[int, int], stats: np.ndarray | None,
    numbers: np.ndarray | None = None,
) -> Predictor:  # fmt: skip
    """For one image, or for several that carry no side information. numbers: of their codes, None for the nearest."""
    side = codec.side_information(planes[0], chosen, phase, stats)
    if side is not None and len(planes) > 1:
        raise ValueError("images that carry side information are looked at one by one")
    if side is None and may_name_code(planes.shape[-2], planes.shape[-1], chosen):
        side = codes.inputs(codes.nearest(planes, chosen, 1)[:, 0] if numbers is None else numbers, chosen)
    return Predictor(chosen, backend, side)


@dataclass(frozen=True)
class Sample:
    """The code length of some pixels of an atom, which has ``size``, in each image: float64 [images]."""

    bits: np.ndarray
    pixels: int
    size: int


def _samples(
    planes: np.ndarray, order: LatticeOrder, level: int, kinds: Iterable[int], predictor: Predictor,
    sample: int = SAMPLE,
) -> Iterator[Sample]:  # fmt: skip
    """Samples of the atoms of some lattices of a level, those that are not empty, in all channels."""
    if level:
        planes = planes[:, :, order.phase[0] :: 1 << level, order.phase[1] :: 1 << level]
    images, channels, height, width = planes.shape
    array = features.unknown_array(height, width, (images,))
    features.without_border(array)[..., :channels] = planes.transpose(0, 2, 3, 1)
    known = predictor.array(array)
    for kind in kinds:
        size = int(np.prod(order.lattice_shape(level, kind)))
        if size == 0:
            continue
        pixels = sampled_pixels(size, sample)
        for channel in range(channels):
            atom = Atom(level, kind, channel)
            rows, columns = order.lattice(level, kind)
            values = planes[:, channel, rows, columns].reshape(images, -1)[:, pixels].ravel()
            distribution = predictor.distribution(atom, known, *stacked_offsets(order, atom, pixels, images))
            widths = distribution.intervals(values)[1].reshape(2, images, -1).transpose(1, 0, 2)
            yield Sample(code_lengths(widths), len(pixels), size)
