"""Random pixels of many images, as the experts of a network see them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ardmzip import choice, codec, codes, features, kernels, network, sideinfo, tables
from ardmzip.features import CHANNELS
from ardmzip.model import Model
from ardmzip.order import Atom, LatticeOrder
from ardmzip.predictor import window_offsets

#: Atoms of images that a draw is spread over, at most.
_SPREAD = 32


@dataclass(frozen=True)
class Draw:
    """Pixels of one expert: inputs int8 [n, inputs]; value, mixture centre and activity scale in grey levels, float32
    [n]."""

    inputs: np.ndarray
    values: np.ndarray
    centre: np.ndarray
    scale: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, part: slice) -> Draw:
        return Draw(self.inputs[part], self.values[part], self.centre[part], self.scale[part])


@dataclass(frozen=True)
class _Part:
    """An atom of images of one size, ``size`` sub-pixels in each: where these are in a level array of all of them."""

    array: np.ndarray
    at: np.ndarray
    #: Numbers from one image to the next.
    apart: int
    images: int
    stride: int
    level: int
    side: np.ndarray

    @property
    def pixels(self) -> int:
        return self.images * len(self.at)


class Pool:
    """Images, planes uint8 [channels, height, width] each, cut into the atoms that each expert codes."""

    def __init__(self, images: Sequence[np.ndarray], model: Model) -> None:
        self._tables = model.tables
        self._parts: dict[int, list[_Part]] = {expert: [] for expert in range(features.EXPERTS)}
        stacks: defaultdict[tuple[int, ...], list[np.ndarray]] = defaultdict(list)
        for planes in images:
            phase = codec.lattice_phase(planes)
            side = codec.side_information(planes, model, phase)
            if side is None:
                stacks[planes.shape].append(planes)
            else:
                self._add(planes[None], phase, sideinfo.inputs(side)[None])
        for stack in map(np.stack, stacks.values()):
            numbers = choice.best_codes(stack, model, network.backend("cpu"))
            self._add(stack, (0, 0), codes.inputs(numbers, model))
        self._bounds = {expert: np.cumsum([p.pixels for p in parts]) for expert, parts in self._parts.items()}

    def _add(self, planes: np.ndarray, phase: tuple[int, int], side: np.ndarray) -> None:
        """side: int8 [images, SIDE + 1], as the network takes it."""
        images, channels, height, width = planes.shape
        order = LatticeOrder(height, width, channels, phase)
        for level in range(order.levels):
            py, px = (0, 0) if level == 0 else phase
            at_level = planes[:, :, py :: 1 << level, px :: 1 << level]
            array = features.unknown_array(*order.level_shape(level), (images,))
            features.without_border(array)[..., :channels] = at_level.transpose(0, 2, 3, 1)
            apart = array[0].size
            for atom in order.atoms:
                if atom.level == level:
                    self._add_atom(order, atom, array.reshape(-1), apart, images, side)

    def _add_atom(
        self, order: LatticeOrder, atom: Atom, array: np.ndarray, apart: int, images: int, side: np.ndarray
    ) -> None:
        size = int(np.prod(order.lattice_shape(atom.level, atom.kind)))
        if size:
            at, stride = window_offsets(order, atom, np.arange(size))
            expert = atom.expert
            self._parts[expert].append(_Part(array, at, apart, images, stride, atom.level, side))

    def pixels(self, expert: int) -> int:
        """How many sub-pixels of the images an expert codes."""
        return int(self._bounds[expert][-1]) if self._parts[expert] else 0

    def draw(self, expert: int, count: int, rng: np.random.Generator) -> Draw:
        """Random sub-pixels of an expert that codes some."""
        bounds = self._bounds[expert]
        picks = (rng.random() + np.arange(_SPREAD)) / _SPREAD * bounds[-1]
        parts, shares = np.unique(np.searchsorted(bounds, picks, "right").clip(max=len(bounds) - 1), return_counts=True)
        numbers = rng.multinomial(count, shares / _SPREAD)
        draws = [
            self._look(expert, self._parts[expert][part], rng.integers(0, self._parts[expert][part].pixels, n))
            for part, n in zip(parts.tolist(), numbers.tolist(), strict=True) if n
        ]  # fmt: skip
        columns = zip(*((d.inputs, d.values, d.centre, d.scale) for d in draws), strict=True)
        return Draw(*(np.concatenate(column) for column in columns))

    def _look(self, expert: int, part: _Part, pixels: np.ndarray) -> Draw:
        """pixels: numbers of sub-pixels, image after image."""
        layout, n = features.expert_layout(expert), len(pixels)
        image, pixel = np.divmod(pixels, len(part.at))
        at = part.at[pixel] + image * part.apart
        x, centre, cls = np.empty((n, layout.inputs), np.int8), np.empty(n, np.int32), np.empty(n, np.uint8)
        kernels.window_features(
            part.array, at, part.stride, layout, part.level, part.side, self._tables, x, centre, cls
        )  # fmt: skip
        values = part.array[at + expert % CHANNELS]
        return Draw(x, values.astype(np.float32), (centre / tables.UNIT).astype(np.float32), _scale(cls))


def _scale(cls: np.ndarray) -> np.ndarray:
    return tables.class_scale(cls).astype(np.float32)
