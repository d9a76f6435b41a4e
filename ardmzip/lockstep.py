"""Many small images of one size at once: every network call serves all of them.

A small image has few pixels an atom, so that calls cost more than what they compute. Here the level arrays of a batch
of images lie in one stack, and one call predicts an atom of all of them. Each image has a rANS stream of its own, and
its bytes are those of coding it alone (codec.py): the network is exact, and no pixel looks beyond its own image.

The heads are frozen here: those that learn are different in every image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from ardmzip import choice, codec, mixture, rans
from ardmzip.codes import NO_CODE
from ardmzip.codes import inputs as code_inputs
from ardmzip.container import Container
from ardmzip.errors import FormatError
from ardmzip.image import turned_back
from ardmzip.model import Model
from ardmzip.network import Backend
from ardmzip.order import Atom, LatticeOrder
from ardmzip.predictor import CHUNK, Distribution, Predictor, stacked_offsets

#: Larger images gain nothing, and would carry side information of their own.
MAX_PIXELS = codec.SIDE_INFO_PIXELS - 1
#: Pixels of the images that go through the network together: more gain nothing (python -m bench.batches), and take
#: memory, about 400 bytes each.
BATCH_PIXELS = 1 << 18


class Coder(Protocol):
    """What the walk asks for values, as codec.Coder does for a single image."""

    def base(self, channels: int) -> np.ndarray:
        """The base pixels: uint8 [images, channels]."""

    def batch(self, atom: Atom, distribution: Distribution) -> np.ndarray:
        """Values uint8 [images * n] of all pixels of an atom, image after image."""


class _EncodingCoder:
    """Looks the values up in the images, and notes their intervals."""

    def __init__(self, planes: np.ndarray, order: LatticeOrder, extra: int) -> None:
        """extra: symbols of each image before its pixels."""
        self._planes, self._order = planes, order
        #: Intervals of the symbols of each image, in coding order.
        self.start, self.width = np.empty((2, len(planes), 2 * planes[0].size + extra), np.uint32)
        #: Where those of each atom begin.
        self.places: dict[Atom, int] = {}
        self._done = 0

    def codes(self, numbers: np.ndarray) -> None:
        """Begin each stream with the number of a code, int64 [images]."""
        self._note_flat(np.column_stack([numbers >> 4, numbers & 15]))

    def base(self, channels: int) -> np.ndarray:
        py, px = self._order.phase
        values = self._planes[:, :, py, px]
        self._note_flat(np.concatenate([values >> 4, values & 15], axis=1))
        return values

    def _note_flat(self, nibbles: np.ndarray) -> None:
        """uint8 [images, n]."""
        nibbles, width = nibbles.astype(np.uint32), np.uint32(mixture.TOTAL // 16)
        self._note(nibbles * width, np.full_like(nibbles, width))

    def batch(self, atom: Atom, distribution: Distribution) -> np.ndarray:
        py, px = (0, 0) if atom.level == 0 else self._order.phase
        step = 1 << atom.level
        rows, columns = self._order.lattice(atom.level, atom.kind)
        values = self._planes[:, atom.channel, py::step, px::step][:, rows, columns].ravel()
        start, width = distribution.intervals(values)
        self.places[atom] = self._done
        self._note(self._by_image(start), self._by_image(width))
        return values

    def _by_image(self, nibbles: np.ndarray) -> np.ndarray:
        """[2, images * n], high and low nibbles -> [images, 2 n], the high ones of an image before its low ones."""
        images = len(self._planes)
        return nibbles.reshape(2, images, -1).transpose(1, 0, 2).reshape(images, -1)

    def samples(self) -> Iterator[choice.Sample]:
        """Of the finest levels, as choice.estimated_bytes takes them."""
        for level in range(min(choice.ESTIMATE_LEVELS, self._order.levels)):
            for atom in (atom for atom in self._order.atoms if atom.level == level and atom in self.places):
                size = int(np.prod(self._order.lattice_shape(atom.level, atom.kind)))
                pixels = choice.sampled_pixels(size)
                first = self.places[atom]
                widths = self.width[:, first : first + 2 * size].reshape(-1, 2, size)
                yield choice.Sample(choice.code_lengths(widths[:, :, pixels]), len(pixels), size)

    def _note(self, start: np.ndarray, width: np.ndarray) -> None:
        part = slice(self._done, self._done + start.shape[1])
        self.start[:, part], self.width[:, part] = start, width
        self._done = part.stop


class _DecodingCoder:
    """Decodes the values from the rANS words of each image."""

    def __init__(self, streams: Sequence[np.ndarray]) -> None:
        self._decoder = rans.StackedDecoder(streams)

    def codes(self, turned: bool) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of codes with which the streams begin, and how the pictures are laid out: int64 [images] each."""
        high, low = self._pop_flat(2).T
        return 16 * high + low, self._pop_flat(1)[:, 0] if turned else np.zeros_like(high)

    def base(self, channels: int) -> np.ndarray:
        nibbles = self._pop_flat(2 * channels)
        return (nibbles[:, :channels] << 4 | nibbles[:, channels:]).astype(np.uint8)

    def _pop_flat(self, count: int) -> np.ndarray:
        """int64 [images, count]."""
        nibbles = self._decoder.pop(np.tile(rans.FLAT_ROW, (count * self._decoder.images, 1)))
        return nibbles.reshape(-1, count).astype(np.int64)

    def batch(self, atom: Atom, distribution: Distribution) -> np.ndarray:
        high = self._decoder.pop(distribution.rows())
        low = self._decoder.pop(distribution.rows(high))
        return (high << 4 | low).astype(np.uint8)

    def ends(self) -> list[bool]:
        """Of each image, whether its words are used up."""
        return self._decoder.ends()


def _walk(order: LatticeOrder, calls: Sequence[int], images: int, predictor: Predictor, coder: Coder) -> np.ndarray:
    """Code images, call by call, as codec.walk does; returns their planes uint8 [images, channels, rows, columns]."""
    pyramid = codec.Pyramid(order, coder.base(order.channels))
    sizes = order.sizes().tolist()
    for start, end in pairwise((*calls, len(sizes))):
        coded: list[tuple[Atom, np.ndarray]] = []
        arrays: dict[int, Any] = {}
        for atom, size in zip(order.atoms[start:end], sizes[start:end], strict=True):
            if size == 0:
                continue
            if atom.level not in arrays:
                arrays[atom.level] = predictor.array(pyramid.array(atom.level))
            at, stride = stacked_offsets(order, atom, np.arange(size), images)
            coded.append((atom, coder.batch(atom, predictor.distribution(atom, arrays[atom.level], at, stride))))
        for atom, values in coded:
            pyramid.fill(atom, values)
    return pyramid.planes(order.channels)


def suits(height: int, width: int) -> bool:
    """Whether images of a size can be coded in lock-step: they carry no side information, and are a single stream."""
    return height * width <= MAX_PIXELS


def batch_size(height: int, width: int) -> int:
    """How many images of a size to code together, at most."""
    return max(1, BATCH_PIXELS // (height * width))


def encode(
    planes: np.ndarray, model: Model, backend: Backend, chunk: int = CHUNK, codes: np.ndarray | None = None
) -> list[Container]:
    """Code images uint8 [images, channels, height, width] that ``suits`` allows.

    codes: numbers of the model's codes for them, int64 [images]; None for none. The containers are those of
    codec.encode with ``learn=False``.
    """
    return encode_estimated(planes, model, backend, chunk, codes, estimate=False)[0]


def encode_estimated(
    planes: np.ndarray, model: Model, backend: Backend, chunk: int = CHUNK, codes: np.ndarray | None = None,
    estimate: bool = True,
) -> tuple[list[Container], np.ndarray]:  # fmt: skip
    """``encode``, and what choice.estimated_bytes says of each image, which costs little here: float64 [images]."""
    images, channels, height, width = planes.shape
    if not suits(height, width):
        raise ValueError(f"images of {width} x {height} pixels are not small")
    order = LatticeOrder(height, width, channels)
    coder = _EncodingCoder(planes, order, 0 if codes is None else 2)
    side = None
    if codes is not None:
        coder.codes(codes)
        side = code_inputs(codes, model)
    with Predictor(model, backend, side, chunk) as predictor:
        _walk(order, range(order.atom_count), images, predictor, coder)
    estimates = choice.estimates(coder.samples() if estimate else (), images, planes[0].size)
    containers = [
        Container(
            width=width, height=height, channels=channels, phase=order.phase, model_id=model.id, side_info=b"",
            code=codes is not None, calls=None, segments=(words,), pixel_crc=codec.pixel_checksum(planes[i]),
        )
        for i, words in enumerate(rans.stacked_words(coder.start, coder.width))
    ]  # fmt: skip
    return containers, estimates


@dataclass(frozen=True)
class Kind:
    """What images that are decoded together have in common."""

    height: int
    width: int
    channels: int
    phase: tuple[int, int]
    model_id: bytes
    code: bool
    turned: bool
    calls: tuple[int, ...] | None

    @property
    def order(self) -> LatticeOrder:
        return LatticeOrder(self.height, self.width, self.channels, self.phase)


def kind(c: Container) -> Kind | None:
    """The images that a container can be decoded with; None if it must be decoded alone."""
    unusual = (c.tile, c.stored, c.low, c.alpha, c.changes, c.random)
    if any(part is not None for part in unusual) or c.side_info or c.learning:
        return None
    if len(c.segments) != 1 or not suits(c.height, c.width):
        return None
    return Kind(c.height, c.width, c.channels, c.phase, c.model_id, c.code, c.turned, c.calls)


def decode(
    containers: Sequence[Container], model: Model, backend: Backend, chunk: int = CHUNK
) -> list[np.ndarray | FormatError]:
    """The planes uint8 [channels, height, width] of containers of one ``kind``, or what is wrong with one of them.

    Damage to one of them does not touch the others: each has a stream of its own.
    """
    common = kind(containers[0])
    if common is None or any(kind(c) != common for c in containers):
        raise ValueError("these images cannot be decoded together")
    coder = _DecodingCoder([c.segments[0] for c in containers])
    side, turns = None, np.zeros(len(containers), np.int64)
    wrong: list[FormatError | None] = [None] * len(containers)
    if common.code:
        codes, turns = coder.codes(common.turned)
        for i, c in enumerate(containers):
            try:
                codec.code_side(int(codes[i]), int(turns[i]), c, model)
            except FormatError as error:
                wrong[i], codes[i] = error, NO_CODE
        side = code_inputs(codes, model)
    with Predictor(model, backend, side, chunk) as predictor:
        planes = _walk(common.order, containers[0].call_starts, len(containers), predictor, coder)
    found: list[np.ndarray | FormatError] = []
    for c, coded, turn, ends, problem in zip(containers, planes, turns.tolist(), coder.ends(), wrong, strict=True):
        if problem is not None:
            found.append(problem)
            continue
        own = turned_back(coded, turn)
        if not ends:
            found.append(FormatError("damaged: the coded data does not end where the image does"))
        elif not c.agrees(codec.pixel_checksum(own)):
            found.append(FormatError("the decoded pixels do not match the file's checksum"))
        else:
            found.append(own)
    return found
