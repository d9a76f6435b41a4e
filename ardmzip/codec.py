"""The codec: one walk over the network calls of a schedule, shared by encoder and decoder.

At every batch of pixels the walk computes the distributions from what is known so far and asks a *coder* for the
values: the encoder knows them and notes their intervals, the decoder pops them from the rANS words. Nothing else
differs, so the two cannot drift apart.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from ardmzip import features, learning, mixture, rans, sideinfo, streams
from ardmzip.codes import NO_CODE
from ardmzip.container import MAX_PIXELS, Container
from ardmzip.contexts import block_tables
from ardmzip.errors import FormatError, ImageError, OptionError
from ardmzip.image import interleaved, turned, turned_back, turns
from ardmzip.lanes import Batches, Lanes
from ardmzip.learning import Head
from ardmzip.model import Model
from ardmzip.network import Backend
from ardmzip.order import Atom, LatticeOrder
from ardmzip.predictor import (
    CHUNK,
    Activations,
    Distribution,
    LearnedDistribution,
    Predictor,
    code_length,
    window_offsets,
)
from ardmzip.schedule import best_batches, best_schedule, loss_for_order
from ardmzip.streams import Coding

Progress = Callable[[float], None]
#: Maps a function over rows and yields the results in order, as the built-in map does.
Ahead = Callable[..., Iterator[Any]]

#: Images of fewer sub-pixels are coded atom by atom: the threads would wait for each other more than they work.
LANES_FROM = 1 << 16
#: Images with fewer pixels carry no side information: 24 bytes cost more than they save. Nor do images without a whole
#: block of sideinfo.BLOCK pixels a side: of strips the statistics are too few to tell anything.
SIDE_INFO_PIXELS = 96 * 96


class Coder(Protocol):
    """What the walk asks for values: see EncodingCoder and DecodingCoder."""

    def base(self, channels: int) -> np.ndarray:
        """The base pixel: uint8 [channels]."""

    def known(self, atom: Atom) -> np.ndarray | None:
        """All values of an atom, uint8 [n] in raster order, if they are known before it is coded."""

    def batch(self, atom: Atom, pixels: np.ndarray, distribution: Distribution | LearnedDistribution) -> np.ndarray:
        """Values uint8 [n] of pixels of an atom, given by their numbers in raster order, int64 [n]."""

    def flush(self, atom: Atom, ended: bool) -> None:
        """Called in coding order, for every atom: some of its batches are through, or all of them."""


class EncodingCoder:
    """Looks the values up in the image and notes their intervals; and, if ``gains`` is a list, code lengths and what
    learning gains."""

    def __init__(self, planes: np.ndarray, order: LatticeOrder, gains: list[learning.Gain] | None = None) -> None:
        self.planes, self.order, self.gains = planes, order, gains
        self.encoder = rans.Encoder()
        self._cuts = streams.Cuts(order)
        # Of atoms that are being coded: several threads may each have one. The entries are made by ``known``, which the
        # walk calls before any thread begins with the atom.
        self._values: dict[Atom, np.ndarray] = {}
        self._intervals: dict[Atom, deque[tuple[np.ndarray, np.ndarray]]] = {}
        self._gains: dict[Atom, list[learning.Gain]] = {}

    def code(self, number: int, turn: int) -> None:
        """Begin with the number of a code, and with how the picture is laid out, unless it is as it is."""
        self._push_flat(np.array([number >> 4, number & 15]))
        if turn:
            self._push_flat(np.array([turn]))

    def base(self, channels: int) -> np.ndarray:
        py, px = self.order.phase
        values = self.planes[:, py, px]
        self._push_flat(np.concatenate([values >> 4, values & 15]))
        return values

    def _push_flat(self, nibbles: np.ndarray) -> None:
        width = mixture.TOTAL // 16
        self.encoder.push(nibbles.astype(np.uint32) * np.uint32(width), np.full(len(nibbles), width, np.uint32))

    def known(self, atom: Atom) -> np.ndarray:
        if atom not in self._values:
            py, px = (0, 0) if atom.level == 0 else self.order.phase
            step = 1 << atom.level
            level = self.planes[atom.channel, py::step, px::step]
            self._values[atom] = level[self.order.lattice(atom.level, atom.kind)].ravel()
            self._intervals[atom], self._gains[atom] = deque(), []
        return self._values[atom]

    def batch(self, atom: Atom, pixels: np.ndarray, distribution: Distribution | LearnedDistribution) -> np.ndarray:
        values = self.known(atom)[pixels]
        start, width = distribution.intervals(values)
        self._intervals[atom].append((start, width))
        if self.gains is not None:
            learned = frozen = code_length(width)
            if isinstance(distribution, LearnedDistribution) and distribution.seen:
                frozen = code_length(distribution.frozen_intervals(values)[1])
            self._gains[atom].append(learning.Gain(atom.level, distribution.seen, len(values), frozen, learned))
        return values

    def flush(self, atom: Atom, ended: bool) -> None:
        intervals = self._intervals[atom]
        if intervals and self._cuts.before(atom.level):
            self.encoder.cut()
        while intervals:
            start, width = intervals.popleft()
            self.encoder.push(start.ravel(), width.ravel())
        if ended:
            if self.gains is not None:
                self.gains.extend(self._gains[atom])
            del self._values[atom], self._intervals[atom], self._gains[atom]


class DecodingCoder:
    """Decodes the values from the rANS words."""

    def __init__(self, segments: tuple[np.ndarray, ...], order: LatticeOrder) -> None:
        self.decoder = rans.Decoder(segments)
        self._cuts = streams.Cuts(order)

    def code(self, turned: bool) -> tuple[int, int]:
        """The number of a code, with which the stream begins, and how the picture is laid out."""
        high, low = self._pop_flat(2).tolist()
        return 16 * high + low, int(self._pop_flat(1)[0]) if turned else 0

    def base(self, channels: int) -> np.ndarray:
        nibbles = self._pop_flat(2 * channels)
        return (nibbles[:channels] << 4 | nibbles[channels:]).astype(np.uint8)

    def _pop_flat(self, count: int) -> np.ndarray:
        nibbles = self.decoder.pop(np.tile(rans.FLAT_ROW, (count, 1)))
        self.decoder.end_batch(count)
        return nibbles

    def known(self, atom: Atom) -> None:
        return None

    def flush(self, atom: Atom, ended: bool) -> None:
        """Nothing is kept of an atom."""

    def batch(self, atom: Atom, pixels: np.ndarray, distribution: Distribution | LearnedDistribution) -> np.ndarray:
        if self._cuts.before(atom.level):
            self.decoder.cut()
        high = self.decoder.pop(distribution.rows())
        low = self.decoder.pop(distribution.rows(high))
        self.decoder.end_batch(2 * len(high))
        return (high << 4 | low).astype(np.uint8)


class Pyramid:
    """Level arrays (features.py) filled as the image becomes known; or stacks of them, for images of one size that are
    coded in lock-step (lockstep.py)."""

    def __init__(self, order: LatticeOrder, base: np.ndarray) -> None:
        """base: the base pixel, uint8 [channels]; of several images [images, channels]."""
        self.order = order
        self._images = base.shape[:-1]
        self._arrays: dict[int, np.ndarray] = {}
        self._arrays[order.levels] = features.unknown_array(*order.level_shape(order.levels), self._images)
        self._inner(order.levels)[..., 0, 0, : base.shape[-1]] = base

    def _inner(self, level: int) -> np.ndarray:
        return features.without_border(self._arrays[level])

    def array(self, level: int) -> np.ndarray:
        """The array of a level, made from the coarser one when first asked for."""
        if level not in self._arrays:
            coarser = self.array(level + 1)
            self._arrays[level] = features.unknown_array(*self.order.level_shape(level), self._images)
            rows, columns = self.order.known(level)
            self._inner(level)[..., rows, columns, :] = features.without_border(coarser)
        return self._arrays[level]

    def fill(self, atom: Atom, values: np.ndarray) -> None:
        """Make an atom known. Arrays of finer levels, made for a call that spans levels, are out of date then."""
        for level in [level for level in self._arrays if level < atom.level]:
            del self._arrays[level]
        self.array(atom.level)
        rows, columns = self.order.lattice(atom.level, atom.kind)
        lattice = self._inner(atom.level)[..., rows, columns, atom.channel]
        lattice[:] = values.reshape(lattice.shape)
        # the coarser array is contained in this one
        self._arrays.pop(atom.level + 1, None)

    def planes(self, channels: int, level: int = 0) -> np.ndarray:
        """The pixels of a level that is complete: uint8 [channels, rows, columns]; of several images one more."""
        self.array(level)
        return np.ascontiguousarray(np.moveaxis(self._inner(level)[..., :channels], -1, -3), np.uint8)


@dataclass
class Plan:
    """What both sides must agree on: the order, the first atoms of the network calls, whether the heads learn, and
    where their batches end then (streams.batches)."""

    order: LatticeOrder
    calls: tuple[int, ...]
    learning: bool = False
    batch_ends: tuple[int, ...] | None = None


class _Walk:
    """What the atoms of one image share while they are coded."""

    def __init__(self, plan: Plan, predictor: Predictor, coder: Coder, progress: Progress | None, level: int) -> None:
        self.plan, self.predictor, self.coder, self._progress = plan, predictor, coder, progress
        order = plan.order
        self.pyramid = Pyramid(order, coder.base(order.channels))
        self._codings = streams.codings(order, plan.learning, plan.batch_ends, level)
        #: Sub-pixels of the atoms; those of levels that are not wanted count as empty.
        self.sizes = [coding.size for coding in self._codings]
        self._done = [0] * len(self.sizes)
        self._blocks = block_tables(order.height, order.width)
        self._heads: dict[int, Head] = {}

    def report(self) -> None:
        if self._progress:
            self._progress(sum(self._done) / sum(self.sizes))

    def code(self, index: int, array: Any, ahead: Ahead) -> Batches:
        """Code an atom from its level array, as the predictor takes it; yields (pixels, values) of each batch.

        ``ahead``: maps a function over rows, as Predictor.ahead does.
        """
        for pixels, values in self._batches(index, array, ahead):
            self._done[index] += len(values)
            yield pixels, values

    def _batches(self, index: int, array: Any, ahead: Ahead) -> Batches:
        atom, coding = self.plan.order.atoms[index], self._codings[index]
        if not coding.learns:
            return self._frozen(atom, coding, array)
        if atom.expert not in self._heads:
            self._heads[atom.expert] = Head(self.predictor.model.untaught(atom.expert), int(self._blocks[-1, 2]))
        return self._learned(atom, coding, array, self._heads[atom.expert], ahead)

    def _frozen(self, atom: Atom, coding: Coding, array: Any) -> Batches:
        """Code an atom with the head as trained."""
        step = learning.spread(coding.size) if coding.spread else 1
        for start, end in pairwise(coding.bounds()):
            pixels = np.arange(start, end, dtype=np.int64) * step % coding.size
            at, stride = window_offsets(self.plan.order, atom, pixels)
            yield pixels, self.coder.batch(atom, pixels, self.predictor.distribution(atom, array, at, stride))

    def _learned(self, atom: Atom, coding: Coding, array: Any, head: Head, ahead: Ahead) -> Batches:
        """Code an atom in the order of learning.spread, with a head that learns from each batch.

        The trunk does not depend on the head, so ``ahead`` may evaluate the next chunks of batches meanwhile.
        """
        size, step = coding.size, learning.spread(coding.size)
        chunks = _chunks(coding.bounds(), self.predictor.chunk)

        def evaluate(ends: list[int]) -> tuple[np.ndarray, Activations]:
            pixels = np.arange(ends[0], ends[-1], dtype=np.int64) * step % size
            at, stride = window_offsets(self.plan.order, atom, pixels)
            return pixels, self.predictor.activations(atom, array, at, stride, self._blocks)

        for chunk, (pixels, activations) in zip(chunks, ahead(evaluate, chunks), strict=True):
            for start, end in pairwise(chunk):
                part = slice(start - chunk[0], end - chunk[0])
                distribution = LearnedDistribution(head, activations[part], self.predictor)
                values = self.coder.batch(atom, pixels[part], distribution)
                if not coding.final or end < size:
                    distribution.learn(values)
                yield pixels[part], values


def _chunks(bounds: Iterable[int], size: int) -> list[list[int]]:
    """Batches gathered to chunks of about ``size`` pixels: each the pixels at which its batches begin, and its end."""
    first, *ends = bounds
    chunks = [[first]]
    for end in ends:
        if chunks[-1][-1] - chunks[-1][0] >= size:
            chunks.append(chunks[-1][-1:])
        chunks[-1].append(end)
    return chunks


def walk(
    plan: Plan, predictor: Predictor, coder: Coder, progress: Progress | None = None, level: int = 0
) -> np.ndarray:
    """Code an image, call by call, up to ``level``; returns the planes uint8 [channels, rows, columns] of that level.

    All atoms of a call are predicted from what is known before the call; their values become known after it.
    """
    order = plan.order
    state = _Walk(plan, predictor, coder, progress, level)
    lanes_pay = plan.learning and predictor.threads > 1 and sum(state.sizes) >= LANES_FROM
    with Lanes(predictor.threads, state.report, coder.flush) as lanes:
        for start, end in pairwise((*plan.calls, len(order.atoms))):
            coded: list[tuple[Atom, np.ndarray]] = []
            arrays: dict[int, Any] = {}
            for index in range(start, end):
                atom, size = order.atoms[index], state.sizes[index]
                if size == 0:
                    continue
                values = coder.known(atom)
                beside = lanes_pay and values is not None
                if atom.level not in arrays:
                    array = state.pyramid.array(atom.level)
                    # The pyramid may be filled while an atom is coded in a lane: in a call of its own the atom's
                    # features read nothing of what becomes known with it or later, in others they would.
                    arrays[atom.level] = predictor.array(array.copy() if beside and end - start > 1 else array)
                array = arrays[atom.level]
                if values is not None and beside:
                    lanes.submit(atom, partial(state.code, index, array, map))
                else:
                    values = np.empty(size, np.uint8)
                    for pixels, batch in state.code(index, array, predictor.ahead):
                        values[pixels] = batch
                        coder.flush(atom, False)
                        state.report()
                    coder.flush(atom, True)
                coded.append((atom, values))
            for atom, values in coded:
                state.pyramid.fill(atom, values)
        lanes.finish()
    return state.pyramid.planes(order.channels, level)


def pixel_checksum(planes: np.ndarray) -> int:
    """CRC-32 of the raster, as in the file."""
    return zlib.crc32(interleaved(planes).tobytes())


def lattice_phase(planes: np.ndarray) -> tuple[int, int]:
    """The lattice phase that suits an image: (0, 0) for small ones."""
    return sideinfo.lattice_phase(sideinfo.measure(planes)) if carries_side_information(*planes.shape[1:]) else (0, 0)


def statistics(planes: np.ndarray, phase: tuple[int, int]) -> np.ndarray | None:
    """Statistics (sideinfo.measure) of an image that is coded in a phase, or None for small images."""
    return sideinfo.measure(planes[:, phase[0] :, phase[1] :]) if carries_side_information(*planes.shape[1:]) else None


def side_information(
    planes: np.ndarray, model: Model, phase: tuple[int, int], stats: np.ndarray | None = None
) -> np.ndarray | None:
    """Side information int8 [SIDE] of an image that is coded in a phase, or None for small images.

    stats: ``statistics``, where they are known.
    """
    stats = statistics(planes, phase) if stats is None else stats
    return None if stats is None else sideinfo.quantise(stats, model.side_mean, model.side_std)


def code_side(number: int, turn: int, container: Container, model: Model) -> np.ndarray:
    """Side information int8 [SIDE] of a code, by the number that was decoded; raises FormatError if there is none, and
    for a turn that cannot be."""
    if number >= len(model.codes):
        raise FormatError(f"damaged: code {number} of model {model.name}, which has {len(model.codes)}")
    if turn >= turns(container.height, container.width) or bool(turn) != container.turned:
        raise FormatError(f"damaged: {container.width} x {container.height} pixels, turned in way {turn}")
    code: np.ndarray = model.codes[number]
    return code


def carries_side_information(height: int, width: int) -> bool:
    """Whether an image of a size carries side information of its own."""
    return height * width >= SIDE_INFO_PIXELS and min(height, width) >= sideinfo.BLOCK


def encode(planes: np.ndarray, model: Model, backend: Backend, steps: int | None = None,
           progress: Progress | None = None, chunk: int = CHUNK, learn: bool = True, batches: int | None = None,
           gains: list[learning.Gain] | None = None, phase: tuple[int, int] | None = None,
           threads: int | None = None, side: np.ndarray | None = None, stats: np.ndarray | None = None,
           code: int = NO_CODE, turn: int = 0) -> Container:  # fmt: skip
    """Code an image.

    planes: uint8 [channels, height, width] in coding order (image.to_planes). steps: budget of network calls; None:
    every atom is a call of its own, which no cut beats, as knowing more never costs bits. chunk: pixels the network
    evaluates at a time; the file does not depend on it. learn: let the heads learn while coding (if the model tells
    how). batches: most batches to plan for a head; None: the rule of streams.batches. gains: takes the code lengths
    and what learning brings, batch by batch; the latter needs more time. phase: of the lattice; None: the one that
    suits the image. threads: None: as many as torch is set to. side: side information int8 [SIDE] in place of what is
    measured, where the image carries any. stats: ``statistics`` in the phase, where they are known. code: number of the
    model's code to name in place of side information, if any (codes.py); turn: how to lay out a picture that names one
    (image.turned).
    """
    crc = pixel_checksum(planes)
    if turn:
        if code == NO_CODE or turn >= turns(*planes.shape[1:]):
            raise ValueError(f"planes of shape {planes.shape} cannot be turned in way {turn}")
        planes = turned(planes, turn)
    channels, height, width = planes.shape
    if height * width > MAX_PIXELS:
        raise ImageError(f"an image of {width} x {height} pixels is over the limit of {MAX_PIXELS} pixels")
    phase = lattice_phase(planes) if phase is None else phase
    measured = side_information(planes, model, phase, stats)
    side = measured if measured is None or side is None else side
    order = LatticeOrder(height, width, channels, phase)
    calls: tuple[int, ...] = tuple(range(len(order.atoms)))
    if steps is not None and order.atoms:
        calls = best_schedule(order.sizes(), loss_for_order(model.loss[channels], order), steps).calls
    # an image whose atoms are all too small to teach is no different, but says what it is
    teaches = order.sizes().max(initial=0) >= streams.MIN_ATOM
    plan = Plan(order, calls, learn and model.learns and teaches)
    coder = EncodingCoder(planes, order, gains)
    if code != NO_CODE:
        side = model.codes[code]
        coder.code(code, turn)
    if batches is not None and not (learn and model.learns):
        raise OptionError("batches are for a head that learns, not for learn=False or a model that cannot")
    if batches is not None and not model.learning_gain.any():
        raise OptionError(f"model {model.name} has no learning curve to choose batches by")
    if batches is not None and plan.learning:
        plan.batch_ends = best_batches(int(order.sizes().max()), model.learning_gain, batches).ends
    with Predictor(model, backend, side, chunk, threads) as predictor:
        walk(plan, predictor, coder, progress)
    return Container(
        width=width, height=height, channels=channels, phase=order.phase, model_id=model.id,
        side_info=b"" if side is None or code != NO_CODE else side.tobytes(), code=code != NO_CODE, turned=turn > 0,
        calls=calls if steps is not None else None,
        learning=plan.learning, batch_ends=plan.batch_ends,
        segments=coder.encoder.finish(), pixel_crc=crc,
    )  # fmt: skip


def decode(container: Container, model: Model, backend: Backend, progress: Progress | None = None,
           chunk: int = CHUNK, level: int = 0, threads: int | None = None) -> np.ndarray:  # fmt: skip
    """The planes of a container; raises FormatError rather than return a wrong pixel, if it has a checksum.

    level: 0, or one at whose end a stream ends (LatticeOrder.checked_level), which no picture has that is turned. Only
    its pixels are decoded then, which the caller must check, and streams that code finer levels need not be there.
    """
    order = container.order
    side = None
    if container.side_info:
        if len(container.side_info) != features.SIDE:
            raise FormatError(f"{len(container.side_info)} bytes of side information, the model needs {features.SIDE}")
        side = np.frombuffer(container.side_info, np.int8)
    if container.learning and not model.learns:
        raise FormatError(f"the file wants a learning head, which model {model.name} does not have")
    plan = Plan(order, container.call_starts, container.learning, container.batch_ends)
    # before memory is taken for what is not there
    if len(container.segments) < streams.count(order, plan.learning, plan.batch_ends, level):
        raise FormatError("damaged: a stream is missing")
    coder = DecodingCoder(container.segments, order)
    turn = 0
    if container.code:
        code, turn = coder.code(container.turned)
        side = code_side(code, turn, container, model)
    with Predictor(model, backend, side, chunk, threads) as predictor:
        planes = walk(plan, predictor, coder, progress, level)
    if level:
        coder.decoder.cut()
        return planes
    coder.decoder.finish()
    planes = turned_back(planes, turn)
    if not container.agrees(pixel_checksum(planes)):
        raise FormatError("the decoded pixels do not match the file's checksum")
    return planes
