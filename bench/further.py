"""Further inputs of experts of level 0, for the search (search.py): none of them is part of the codec.

What is seen of an image is some int16 numbers at every pixel of a lattice, or at those around it, its *window*.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ardmzip import features
from ardmzip.features import KIND_OFFSETS
from ardmzip.tables import INPUT_ONE

#: Experts of level 0.
COUNT = features.KINDS * features.CHANNELS
#: Taps of a linear predictor: the nearest ones of the own plane, and of each of the two others.
OWN_TAPS, OTHER_TAPS = 14, 8
#: Pixels that a predictor is fitted to, and the unit of its coefficients.
FITTED, COEFFICIENT = 6000, 128
#: Crops that generic predictors are fitted to; how far the neighbours are whose errors are seen; levels with errors.
GENERIC_CROPS, ERROR_RADIUS, ERROR_LEVELS = 150, 2.3, 4
#: Windows of 11x11 pixels; means and deviations of windows of 7x7 and 17x17 pixels of the coarser lattice.
RING_RADIUS, WIDE_RADII = 5, (3, 8)
#: A coarse trunk sees windows of 7x7 pixels of the coarser lattice, of which the central one is next to the pixel.
COARSE_RADIUS = 3


@dataclass
class Windows:
    """int16 [images, rows + 2 * radius, columns + 2 * radius, numbers]; 0 where an image is smaller than others."""

    array: np.ndarray
    radius: int = 0

    def read(self, image: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Those around pixels of the lattice, int64 [n] each: int16 [n, 2 * radius + 1, 2 * radius + 1, numbers]."""
        around = np.arange(2 * self.radius + 1)
        return self.array[
            image[:, None, None], row[:, None, None] + around[:, None], column[:, None, None] + around
        ]  # fmt: skip


def windows(kind: str, images: Sequence[np.ndarray], expert: int, generic: GenericPredictors) -> Windows:
    """What further inputs of a kind see of images, planes uint8 [3, height, width] each."""
    look, radius = KINDS[kind]
    found = [look(planes, expert, generic) for planes in images]
    rows, columns, numbers = np.max([one.shape for one in found], 0)
    array = np.zeros((len(found), rows, columns, numbers), np.int16)
    for own, one in zip(array, found, strict=True):
        own[: one.shape[0], : one.shape[1]] = one
    return Windows(array, radius)


def coarse_lattice(planes: np.ndarray, expert: int, generic: GenericPredictors) -> np.ndarray:
    """The coarser lattice, which is known when level 0 begins."""
    coarse = planes[:, ::2, ::2].transpose(1, 2, 0).astype(np.int16)
    return np.pad(coarse, ((COARSE_RADIUS, COARSE_RADIUS), (COARSE_RADIUS, COARSE_RADIUS), (0, 0)), mode="edge")


def _differences(planes: np.ndarray) -> np.ndarray:
    """G, R-G and B-G: float32 [3, height, width]."""
    g, r, b = planes.astype(np.float32)
    return np.stack([g, r - g, b - g])


@dataclass
class _Regression:
    """Pixels of an expert away from the borders: rows and columns in their level, references of the planes float32 [3,
    n], differences of taps [n, taps] and of the pixel itself [n] from them, and the activity of its plane [n]."""

    row: np.ndarray
    column: np.ndarray
    references: np.ndarray
    taps: np.ndarray
    target: np.ndarray
    activity: np.ndarray

    def moments(self, every: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Of weighted least squares."""
        taps, target = self.taps[::every], self.target[::every]
        weighted = taps / (self.activity[::every, None] + 1) ** 2
        return weighted.T @ taps, weighted.T @ target


def _regression(planes: np.ndarray, expert: int, level: int) -> _Regression:
    lay, radius = features.expert_layout(expert), features.RADIUS
    oy, ox = KIND_OFFSETS[lay.kind]
    own = _differences(planes[:, :: 1 << level, :: 1 << level])
    height, width = own.shape[1:]
    rows, columns = np.arange(oy, height - radius, 2), np.arange(ox, width - radius, 2)
    rows, columns = rows[rows >= radius], columns[columns >= radius]
    row, column = (a.ravel() for a in np.meshgrid(rows, columns, indexing="ij"))
    taps, references = [], []
    for plane in range(features.CHANNELS):
        count = lay.taps(plane)
        offsets, weights = lay.offsets[:count], lay.weights[:count].astype(np.float32)
        values = np.stack([own[plane, row + dy, column + dx] for dy, dx in offsets], 1)
        reference = values @ weights / weights.sum() if plane >= lay.channel else own[plane, row, column]
        references.append(reference)
        differences = values - reference[:, None]
        if plane == lay.channel:
            target = own[plane, row, column] - reference
            activity = np.abs(differences) @ weights / weights.sum()
        nearest = np.argsort(np.hypot(*offsets.T), kind="stable")
        taps.append(differences[:, nearest[: OWN_TAPS if plane == lay.channel else OTHER_TAPS]])
    return _Regression(row, column, np.stack(references), np.concatenate(taps, 1), target, activity)


def _solve(moments: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    inner, outer = moments
    damping = 1e-3 * np.trace(inner) / len(outer) + 1e-9  # an image without pixels has coefficients of 0
    solved: np.ndarray = np.linalg.solve(inner + np.eye(len(outer)) * damping, outer)
    return solved


def _companded(difference: np.ndarray, activity: np.ndarray) -> np.ndarray:
    return np.sign(difference) * np.log1p(np.abs(difference) / (activity + 0.5))


def _of_lattice(planes: np.ndarray, expert: int, found: _Regression, numbers: np.ndarray) -> np.ndarray:
    """Numbers float [n, count] of the pixels of a regression as int16 [rows, columns, count], in units of inputs: 0
    near the borders."""
    oy, ox = KIND_OFFSETS[features.expert_layout(expert).kind]
    whole = np.zeros((*planes[0, oy::2, ox::2].shape, numbers.shape[1]), np.int16)
    whole[found.row // 2, found.column // 2] = np.clip(np.rint(numbers * INPUT_ONE), -127, 127)
    return whole


def fitted_prediction(planes: np.ndarray, expert: int, generic: GenericPredictors) -> np.ndarray:
    """What a linear predictor tells that is fitted to the image. Its coefficients are free of charge here."""
    found = _regression(planes, expert, 0)
    coefficients = _solve(found.moments(max(1, len(found.target) // FITTED)))
    predicted = found.taps @ (np.rint(coefficients * COEFFICIENT) / COEFFICIENT)
    return _of_lattice(planes, expert, found, _companded(predicted, found.activity)[:, None])


class GenericPredictors:
    """Linear predictors that are fitted to many crops, once, when they are first asked for."""

    def __init__(self, crops: Sequence[np.ndarray]) -> None:
        self._crops = crops[:GENERIC_CROPS]
        #: With the image, which must not be freed while its errors are kept by its identity.
        self._errors: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @cached_property
    def _coefficients(self) -> dict[tuple[int, int], np.ndarray]:
        """By level, 0 or coarser, and expert."""
        found = {}
        for level, expert in itertools.product((0, 1), range(COUNT)):
            moments = [_regression(planes, expert, level).moments() for planes in self._crops]
            inner, outer = (np.sum(part, 0) for part in zip(*moments, strict=True))
            found[level, expert] = _solve((inner, outer))
        return found

    def predict(self, found: _Regression, expert: int, level: int) -> np.ndarray:
        """The differences of pixels from their reference, float [n]."""
        return found.taps @ self._coefficients[min(level, 1), expert]

    def errors(self, planes: np.ndarray) -> np.ndarray:
        """Their errors at all pixels of an image: float16 [3, height, width]."""
        if id(planes) not in self._errors:
            errors = np.zeros(planes.shape, np.float16)
            for level, expert in itertools.product(range(ERROR_LEVELS), range(COUNT)):
                found = _regression(planes, expert, level)
                error = found.target - self.predict(found, expert, level)
                errors[expert % features.CHANNELS, found.row << level, found.column << level] = error
            self._errors[id(planes)] = planes, errors
        return self._errors[id(planes)][1]


def generic_prediction(planes: np.ndarray, expert: int, generic: GenericPredictors) -> np.ndarray:
    """What a generic linear predictor tells."""
    found = _regression(planes, expert, 0)
    predicted = _companded(generic.predict(found, expert, 0), found.activity)
    return _of_lattice(planes, expert, found, predicted[:, None])


def coding_errors(planes: np.ndarray, expert: int, generic: GenericPredictors) -> np.ndarray:
    """Errors of generic predictors at the neighbours, in all planes; their mean size; errors of earlier channels at the
    pixel."""
    found, lay = _regression(planes, expert, 0), features.expert_layout(expert)
    places = [
        (plane, dy, dx)
        for plane in range(features.CHANNELS)
        for dy, dx in lay.offsets[: lay.taps(plane)].tolist()
        if np.hypot(dy, dx) <= ERROR_RADIUS
    ]
    errors, row, column = generic.errors(planes).astype(np.float32), found.row, found.column
    near = np.stack([errors[plane, row + dy, column + dx] for plane, dy, dx in places], 1)
    here = errors[: lay.channel, row, column].T
    size = np.abs(near).mean(1, keepdims=True)
    seen = np.concatenate([_companded(near, size), np.log2(size + 0.5) / 2, _companded(here, size)], 1)
    return _of_lattice(planes, expert, found, seen)


def prediction_and_errors(planes: np.ndarray, expert: int, generic: GenericPredictors) -> np.ndarray:
    """A prediction that is fitted to the image, and errors."""
    return np.concatenate([fitted_prediction(planes, expert, generic), coding_errors(planes, expert, generic)], 2)


def ring(planes: np.ndarray, expert: int, generic: GenericPredictors) -> np.ndarray:
    """What is known in windows of 11x11 pixels, beyond 7x7."""
    found, lay = _regression(planes, expert, 0), features.expert_layout(expert)
    odd_y, odd_x = KIND_OFFSETS[lay.kind]
    lattices = [(0, 0), *KIND_OFFSETS]
    far = range(-RING_RADIUS, RING_RADIUS + 1)
    pad = RING_RADIUS - features.RADIUS
    own = np.pad(_differences(planes), ((0, 0), (pad, pad), (pad, pad)), constant_values=np.nan)
    seen = []
    for plane, dy, dx in itertools.product(range(features.CHANNELS), far, far):
        lattice = lattices.index(((odd_y + dy) % 2, (odd_x + dx) % 2))
        known = lattice <= lay.kind or (lattice == lay.kind + 1 and plane < lay.channel)
        if known and max(abs(dy), abs(dx)) > features.RADIUS:
            values = own[plane, found.row + pad + dy, found.column + pad + dx]
            seen.append(np.nan_to_num(_companded(values - found.references[plane], found.activity)))
    return _of_lattice(planes, expert, found, np.stack(seen, 1))


def wide(planes: np.ndarray, expert: int, generic: GenericPredictors) -> np.ndarray:
    """Means and standard deviations of the coarser lattice in two wide windows, all planes."""
    found, coarse = _regression(planes, expert, 0), _differences(planes[:, ::2, ::2])
    at = found.row // 2, found.column // 2
    seen = []
    for plane, radius in itertools.product(range(features.CHANNELS), WIDE_RADII):
        mean = _box_mean(coarse[plane], radius)
        deviation = np.sqrt(np.maximum(_box_mean(coarse[plane] ** 2, radius) - mean**2, 0))
        seen.append(_companded(mean[at] - found.references[plane], found.activity))
        seen.append(np.log2((deviation[at] + 0.5) / (found.activity + 0.5)) / 2)
    return _of_lattice(planes, expert, found, np.stack(seen, 1))


def _box_mean(array: np.ndarray, radius: int) -> np.ndarray:
    """Means of the squares around all numbers, mirrored at the borders: float64 [rows, columns]."""
    padded = torch.from_numpy(np.pad(array.astype(np.float64), radius, "symmetric"))
    means: np.ndarray = torch.nn.functional.avg_pool2d(padded[None], 2 * radius + 1, 1)[0].numpy()
    return means


#: By name: what an expert sees of planes uint8 [3, height, width], int16 [rows + 2 * radius, columns + 2 * radius,
#: numbers], and the radius.
KINDS: dict[str, tuple[Callable[[np.ndarray, int, GenericPredictors], np.ndarray], int]] = {
    "coarse trunk": (coarse_lattice, COARSE_RADIUS),
    "ring": (ring, 0),
    "wide": (wide, 0),
    "fitted": (fitted_prediction, 0),
    "generic": (generic_prediction, 0),
    "errors": (coding_errors, 0),
    "fitted, errors": (prediction_and_errors, 0),
}
