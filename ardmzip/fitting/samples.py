"""What experts see of images: samples of pixels, by expert, with all that their distribution depends on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ardmzip import codec, features, kernels, learning, streams
from ardmzip.contexts import FIXED, TABLES, block_tables, context_inputs
from ardmzip.features import RADIUS
from ardmzip.model import Model
from ardmzip.network import Backend
from ardmzip.order import LatticeOrder
from ardmzip.predictor import Predictor, window_offsets


@dataclass(frozen=True)
class Samples:
    """Pixels of one expert: inputs int8 [n, inputs], centre int32, activity class and value uint8 [n], contexts int32
    [n, TABLES] of so many; and how many pixels of the images they stand for."""

    inputs: np.ndarray
    centre: np.ndarray
    cls: np.ndarray
    values: np.ndarray
    contexts: np.ndarray
    context_count: int
    pixels: int

    def __len__(self) -> int:
        return len(self.values)


def collect(
    images: Sequence[np.ndarray], model: Model, backend: Backend, most: int, phase: tuple[int, int] | None = None,
    experts: Collection[int] = range(features.EXPERTS),
) -> dict[int, Samples]:  # fmt: skip
    """Samples of those experts that code something of the images, about ``most`` each, spread evenly.

    images: planes uint8 [channels, height, width] each; phase: as for codec.encode.
    """
    sizes = np.zeros(features.EXPERTS, np.int64)
    orders = []
    for planes in images:
        own = codec.lattice_phase(planes) if phase is None else phase
        order = LatticeOrder(planes.shape[1], planes.shape[2], planes.shape[0], own)
        orders.append(order)
        for atom, size in zip(order.atoms, order.sizes().tolist(), strict=True):
            sizes[atom.expert] += size
    shares = np.minimum(1.0, most / np.maximum(sizes, 1))
    parts: dict[int, list[Samples]] = {}
    blocks_before = 0
    for planes, order in zip(images, orders, strict=True):
        blocks = block_tables(order.height, order.width)
        for expert, part in _of_image(planes, order, model, backend, shares, blocks, experts):
            part.contexts[:, FIXED:] += blocks_before  # blocks of another image are other contexts
            parts.setdefault(expert, []).append(part)
        blocks_before += int(blocks[-1, 2])
    return {expert: _joined(found, blocks_before, int(sizes[expert])) for expert, found in sorted(parts.items())}


def _of_image(
    planes: np.ndarray, order: LatticeOrder, model: Model, backend: Backend, shares: np.ndarray, blocks: np.ndarray,
    experts: Collection[int],
) -> Iterator[tuple[int, Samples]]:  # fmt: skip
    channels = len(planes)
    with Predictor(model, backend, codec.side_information(planes, model, order.phase)) as predictor:
        for level in range(order.levels):
            py, px = (0, 0) if level == 0 else order.phase
            at_level = planes[:, py :: 1 << level, px :: 1 << level]
            array = features.unknown_array(*order.level_shape(level))
            features.without_border(array)[:, :, :channels] = at_level.transpose(1, 2, 0)
            # what a pixel must not see yet is no tap of its layout
            known = predictor.array(array)
            for atom, size in zip(order.atoms, order.sizes().tolist(), strict=True):
                expert = atom.expert
                if atom.level != level or size < streams.MIN_ATOM or expert not in experts:
                    continue
                count = max(1, int(size * shares[expert]))
                pixels = np.arange(count, dtype=np.int64) * learning.spread(size) % size
                at, stride = window_offsets(order, atom, pixels)
                layout = features.expert_layout(expert)
                x, centre, cls = (t.cpu().numpy() for t in predictor.features(known, at, stride, layout, level))
                contexts = np.empty((count, TABLES), np.int32)
                kernels.find_contexts(
                    x, context_inputs(expert), centre, cls, at, stride, RADIUS, level, blocks, contexts
                )  # fmt: skip
                values = at_level[atom.channel][order.lattice(level, atom.kind)].ravel()[pixels]
                yield expert, Samples(x, centre, cls, values, contexts, 0, size)


def _joined(parts: list[Samples], contexts: int, pixels: int) -> Samples:
    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    return Samples(
        column("inputs"), column("centre"), column("cls"), column("values"), column("contexts"), contexts, pixels
    )  # fmt: skip
