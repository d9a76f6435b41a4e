"""The codec: one walk over the network calls of a schedule, shared by encoder and decoder.

At every batch of pixels the walk computes the distributions from what is known so far and asks a *coder* for the
values: the encoder knows them and notes their intervals, the decoder pops them from the rANS words. Nothing else
differs, so the two cannot drift apart.
"""

from __future__ import annotations

import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ardmzip import features, kernels, learning, mixture, network, rans, sideinfo
from ardmzip.container import MAX_PIXELS, Container
from ardmzip.contexts import TABLES, block_tables, nearest_inputs
from ardmzip.errors import FormatError, ImageError, OptionError
from ardmzip.features import CHANNELS, RADIUS, UNKNOWN
from ardmzip.image import interleaved
from ardmzip.learning import Head
from ardmzip.model import Model
from ardmzip.network import Backend, exact_arithmetic
from ardmzip.order import Atom, LatticeOrder
from ardmzip.schedule import best_batches, best_schedule, loss_for_order

Progress = Callable[[float], None]

#: Pixels coded together (part of the format: high nibbles of a batch precede its low nibbles in the stream).
BATCH = 1 << 16
#: Pixels the network evaluates at a time (not part of the format): int32 sums of 256 units then stay in the cache.
CHUNK = 1 << 12
#: Fewer pixels than this are not worth a second thread.
MIN_CHUNK = 512
#: Chunks that helpers may work ahead of a learning head.
_AHEAD = 4
#: Images of fewer sub-pixels are coded atom by atom: the threads would wait for each other more than they work.
LANES_FROM = 1 << 16
#: How often an encoder that works in the background tells its progress.
_REPORT_SECONDS = 0.2
#: Images with fewer pixels carry no side information: 24 bytes cost more than they save. Nor do images without a whole
#: block of sideinfo.BLOCK pixels a side: of strips the statistics are too few to tell anything.
SIDE_INFO_PIXELS = 96 * 96


#: Mixtures of n pixels: int32 [4, K, n] as kernels.mixtures gives them, or mixture.Mixture where there is no numba.
Mixtures = np.ndarray | mixture.Mixture
Tables = dict[str, np.ndarray]
#: For heads without offsets: in place of their contexts, and of the offsets.
_NONE = np.empty((0, TABLES), np.int32)


def _mixtures(
    backend: Backend, inputs: Tensor, weight: Tensor, bias: np.ndarray, centre: np.ndarray, cls: np.ndarray,
    tables: Tables, contexts: np.ndarray = _NONE, offsets: np.ndarray = _NONE,
) -> np.ndarray:  # fmt: skip
    """Mixtures int32 [4, K, n] by a head on the CPU: inputs int8 [n, inputs], weight int8 [2 * padded, inputs] by
    halves, bias int32 [3 K], centre int32 [n], activity class uint8 [n]; contexts and offsets as in contexts.py."""
    sums = backend.matmul(weight, inputs)
    mix = np.empty((4, len(bias) // 3, len(cls)), np.int32)
    kernels.mixtures(sums.numpy(), bias, contexts, offsets, centre, cls, tables, mix)
    return mix


def _intervals(mix: Mixtures, values: np.ndarray, tables: Tables) -> tuple[np.ndarray, np.ndarray]:
    """(start, width), uint32 [2, n] each: high nibbles and low nibbles of values uint8 [n]."""
    start, width = np.empty((2, 2, len(values)), np.uint32)
    if isinstance(mix, mixture.Mixture):
        filled = mixture.intervals(mix, torch.from_numpy(values).to(mix.mean.device))
        start[0], width[0], start[1], width[1] = (t.cpu().numpy() for t in filled)
    else:
        kernels.intervals(mix, values, tables["logistic"], start, width)
    return start, width


def code_length(width: np.ndarray) -> float:
    """Code length of n values: width uint32 [2, n], as _intervals gives it."""
    return float(48.0 * width.shape[1] - np.log2(width).sum())


def _rows(mix: Mixtures, high: np.ndarray, tables: Tables) -> np.ndarray:
    """Frequencies less one, float32 [n, 16], of the high nibble (``high`` empty), or of the low one given it."""
    if isinstance(mix, mixture.Mixture):
        device = mix.mean.device
        filled = mixture.low_rows(mix, torch.from_numpy(high).to(device)) if len(high) else mixture.high_rows(mix)
        return filled.cpu().numpy()
    out = np.empty((mix.shape[2], 16), np.float32)
    kernels.rows(mix, high, tables["logistic"], out)
    return out


@dataclass
class Distribution:
    """Distributions of a batch of sub-pixels, one piece for each part of it that a thread works on."""

    pieces: list[Mixtures]
    #: The first pixel of every piece, and the end.
    ends: list[int]
    predictor: Predictor
    #: Pixels that the head has learned from.
    seen: int = 0

    def intervals(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(start, width), uint32 [2, n] each: high nibbles and low nibbles of values uint8 [n]."""
        start, width = zip(*self._each(_intervals, values), strict=True)
        return np.concatenate(start, 1), np.concatenate(width, 1)

    def rows(self, high: np.ndarray | None) -> np.ndarray:
        """Frequencies less one, float32 [n, 16], of the high nibble, or of the low one given ``high`` int32 [n]."""
        return np.concatenate(self._each(_rows, np.empty(0, np.int32) if high is None else high))

    def _each(self, work: Callable[[Mixtures, np.ndarray, Tables], Any], known: np.ndarray) -> list[Any]:
        parts = [known[a:b] for a, b in pairwise(self.ends)]
        return self.predictor.each(work, self.pieces, parts, [self.predictor.table_arrays] * len(parts))


@dataclass
class Activations:
    """What the trunk says of n pixels: inputs of the learning head int8 [n, inputs] (learning.py), mixture centre int32
    [n], activity class uint8 [n] and contexts int32 [n, TABLES] (contexts.py)."""

    inputs: Tensor
    centre: np.ndarray
    cls: np.ndarray
    contexts: np.ndarray

    def __getitem__(self, part: slice) -> Activations:
        return Activations(self.inputs[part], self.centre[part], self.cls[part], self.contexts[part])


class LearnedDistribution:
    """Distributions of a batch as the learning head of its expert sees them now; same use as Distribution."""

    def __init__(self, head: Head, activations: Activations, predictor: Predictor) -> None:
        self._head, self._activations, self.seen = head, activations, head.seen
        self._backend, self._tables = predictor.head_backend, predictor.table_arrays
        self._mixtures = self._mix(head.weight, activations.contexts, head.offsets.values)

    def _mix(self, weight: Tensor, contexts: np.ndarray = _NONE, offsets: np.ndarray = _NONE) -> np.ndarray:
        a, bias = self._activations, self._head.start.bias
        return _mixtures(self._backend, a.inputs, weight, bias, a.centre, a.cls, self._tables, contexts, offsets)

    def intervals(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As Distribution.intervals."""
        return _intervals(self._mixtures, values, self._tables)

    def rows(self, high: np.ndarray | None) -> np.ndarray:
        """As Distribution.rows."""
        return _rows(self._mixtures, np.empty(0, np.int32) if high is None else high, self._tables)

    def frozen_intervals(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same by the head as trained."""
        return _intervals(self._mix(self._head.start.halves), values, self._tables)

    def gradient(self, values: np.ndarray) -> Tensor:
        """Gradient of the code length of values uint8 [n] by the outputs, in 1/1024 bit: int8 [2 * padded, n], high and
        low halves."""
        halves = np.zeros((len(self._head.weight), len(values)), np.int8)
        kernels.gradient(self._mixtures, self._activations.cls, values, self._tables, halves)
        return torch.from_numpy(halves)

    def learn(self, values: np.ndarray) -> None:
        """Let the head learn from the batch."""
        halves = self.gradient(values)
        self._head.learn(self._backend.matmul(halves, self._activations.inputs.t()), len(values))
        self._head.offsets.learn(halves.numpy(), self._activations.contexts, self._head.seen)


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
    """Looks the values up in the image and notes their intervals; and what learning gains, if ``gains`` is a list."""

    def __init__(self, planes: np.ndarray, order: LatticeOrder, gains: list[learning.Gain] | None = None) -> None:
        self.planes, self.order, self.gains = planes, order, gains
        self.encoder = rans.Encoder()
        # of atoms that are being coded: several threads may each have one
        self._values: dict[Atom, np.ndarray] = {}
        self._intervals: defaultdict[Atom, deque[tuple[np.ndarray, np.ndarray]]] = defaultdict(deque)
        self._gains: defaultdict[Atom, list[learning.Gain]] = defaultdict(list)

    def base(self, channels: int) -> np.ndarray:
        py, px = self.order.phase
        values = self.planes[:, py, px]
        nibbles = np.concatenate([values >> 4, values & 15]).astype(np.uint32)
        width = mixture.TOTAL // 16
        self.encoder.push(nibbles * np.uint32(width), np.full(2 * channels, width, np.uint32))
        return values

    def known(self, atom: Atom) -> np.ndarray:
        if atom not in self._values:
            py, px = (0, 0) if atom.level == 0 else self.order.phase
            step = 1 << atom.level
            level = self.planes[atom.channel, py::step, px::step]
            self._values[atom] = level[self.order.lattice(atom.level, atom.kind)].ravel()
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
        while intervals:
            start, width = intervals.popleft()
            self.encoder.push(start.ravel(), width.ravel())
        if ended:
            del self._values[atom], self._intervals[atom]
            if self.gains is not None:
                self.gains.extend(self._gains.pop(atom, []))


class DecodingCoder:
    """Decodes the values from the rANS words."""

    def __init__(self, segments: tuple[np.ndarray, ...]) -> None:
        self.decoder = rans.Decoder(segments)

    def base(self, channels: int) -> np.ndarray:
        nibbles = self.decoder.pop(np.tile(rans.FLAT_ROW, (2 * channels, 1)))
        self.decoder.end_batch(2 * channels)
        return (nibbles[:channels] << 4 | nibbles[channels:]).astype(np.uint8)

    def known(self, atom: Atom) -> None:
        return None

    def flush(self, atom: Atom, ended: bool) -> None:
        """Nothing is kept of an atom."""

    def batch(self, atom: Atom, pixels: np.ndarray, distribution: Distribution | LearnedDistribution) -> np.ndarray:
        high = self.decoder.pop(distribution.rows(None))
        low = self.decoder.pop(distribution.rows(high))
        self.decoder.end_batch(2 * len(high))
        return (high << 4 | low).astype(np.uint8)


class Pyramid:
    """Level arrays (features.py) filled as the image becomes known."""

    def __init__(self, order: LatticeOrder, base: np.ndarray) -> None:
        self.order = order
        self._arrays: dict[int, np.ndarray] = {}
        self._arrays[order.levels] = self._empty(order.levels)
        self._inner(order.levels)[0, 0, : len(base)] = base

    def _empty(self, level: int) -> np.ndarray:
        rows, columns = self.order.level_shape(level)
        return np.full((rows + 2 * RADIUS, columns + 2 * RADIUS, CHANNELS), UNKNOWN, np.int16)

    def _inner(self, level: int) -> np.ndarray:
        return self._arrays[level][RADIUS:-RADIUS, RADIUS:-RADIUS]

    def array(self, level: int) -> np.ndarray:
        """The array of a level, made from the coarser one when first asked for."""
        if level not in self._arrays:
            coarser = self.array(level + 1)
            self._arrays[level] = self._empty(level)
            self._inner(level)[self.order.known(level)] = coarser[RADIUS:-RADIUS, RADIUS:-RADIUS]
        return self._arrays[level]

    def fill(self, atom: Atom, values: np.ndarray) -> None:
        """Make an atom known. Arrays of finer levels, made for a call that spans levels, are out of date then."""
        for level in [level for level in self._arrays if level < atom.level]:
            del self._arrays[level]
        self.array(atom.level)
        shape = self.order.lattice_shape(atom.level, atom.kind)
        self._inner(atom.level)[self.order.lattice(atom.level, atom.kind)][:, :, atom.channel] = values.reshape(shape)
        # the coarser array is contained in this one
        self._arrays.pop(atom.level + 1, None)

    def planes(self, channels: int) -> np.ndarray:
        """The complete image: uint8 [channels, height, width]."""
        self.array(0)
        return np.ascontiguousarray(self._inner(0)[:, :, :channels].transpose(2, 0, 1)).astype(np.uint8)


def window_offsets(order: LatticeOrder, atom: Atom, pixels: np.ndarray) -> tuple[np.ndarray, int]:
    """Flat offsets int64 [n] of pixels of an atom (numbers in raster order) in its level array, and its stride."""
    slices = order.lattice(atom.level, atom.kind)
    _, columns = order.lattice_shape(atom.level, atom.kind)
    row, column = np.divmod(pixels, columns)
    stride = order.level_shape(atom.level)[1] + 2 * RADIUS
    row = 2 * row + slices[0].start + RADIUS
    return (row * stride + 2 * column + slices[1].start + RADIUS) * CHANNELS, stride


class Predictor:
    """Features, trunk and head of one image on one back end; a context in which torch runs single-threaded and
    exactly.

    On the CPU each thread takes a chunk of pixels through all stages, so that a chunk stays in its core's cache and no
    thread waits for another within a stage (torch's and numba's own thread pools would spin against each other).
    """

    def __init__(self, model: Model, backend: Backend, side: np.ndarray | None, chunk: int = CHUNK) -> None:
        self.model, self.backend, self.chunk = model, backend, chunk
        self.experts, self.tables = model.on(backend.device)
        self.table_arrays = model.tables
        #: Learning heads are evaluated on the CPU, whatever the trunk runs on.
        self.head_backend = backend if backend.device.type == "cpu" else network.backend("cpu")
        self.side = sideinfo.inputs(side)
        self.threads = 1
        self._pool: ThreadPoolExecutor | None = None
        self._helpers: ThreadPoolExecutor | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Predictor:
        threads = self._stack.enter_context(exact_arithmetic(self.backend.device.type))
        self.threads = threads
        if self.backend.device.type == "cpu" and threads > 1:
            self._pool = self._stack.enter_context(ThreadPoolExecutor(threads, "ardmzip"))
            self._helpers = self._stack.enter_context(ThreadPoolExecutor(threads - 1, "ardmzip"))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def each(self, work: Callable[..., Any], *columns: Sequence[Any]) -> list[Any]:
        """``work`` on each row of the columns, on all threads; results in order."""
        if self._pool is None or len(columns[0]) < 2:
            return [work(*row) for row in zip(*columns, strict=True)]
        return list(self._pool.map(work, *columns))

    def distribution(self, atom: Atom, array: Any, at: np.ndarray, stride: int) -> Distribution:
        """Distributions of the pixels at flat offsets ``at`` of an atom's level array, as ``array`` gives it."""
        index = features.expert_index(atom.level, atom.kind, atom.channel)
        expert, layout = self.experts[index], features.expert_layout(index)

        def evaluate(part: np.ndarray) -> Mixtures:
            x, centre, cls = self._features(array, part, stride, layout, atom.level)
            h = self.backend.trunk(expert, x)
            if self.backend.numba:
                place = centre.numpy(), cls.numpy()
                return _mixtures(self.backend, h, expert.halves, expert.head_bias.numpy(), *place, self.table_arrays)
            return mixture.mixture(self.backend.head(expert, h), centre, cls, self.tables)

        size = min(self.chunk, max(MIN_CHUNK, -(-len(at) // self.threads))) if self._pool else self.chunk
        ends = [*range(0, len(at), size), len(at)]
        return Distribution(self.each(evaluate, [at[a:b] for a, b in pairwise(ends)]), ends, self)

    def activations(self, atom: Atom, array: Any, at: np.ndarray, stride: int, blocks: np.ndarray) -> Activations:
        """The trunk's part of ``distribution``, for a head that learns. blocks: contexts.block_tables of the image."""
        index = features.expert_index(atom.level, atom.kind, atom.channel)
        expert, layout = self.experts[index], features.expert_layout(index)
        width, skip = expert.halves.shape[1], learning.skip_inputs(index)
        inputs = torch.empty(len(at), learning.padded_inputs(width, index), dtype=torch.int8)
        centre, cls = np.empty(len(at), np.int32), np.empty(len(at), np.uint8)
        parts = max(1, round(len(at) / self.chunk))  # of equal size: a small rest would be slow
        for a, b in pairwise(len(at) * i // parts for i in range(parts + 1)):
            part = slice(a, b)
            x, *place = self._features(array, at[part], stride, layout, atom.level)
            self.backend.trunk(expert, x, inputs[part, :width])
            inputs[part, width : width + skip] = x[:, :skip]
            centre[part], cls[part] = (t.cpu().numpy() for t in place)
        numbers = inputs.numpy()
        numbers[:, width + skip] = learning.BIAS_INPUT
        numbers[:, width + skip + 1 :] = 0
        contexts = np.empty((len(at), TABLES), np.int32)
        kernels.find_contexts(
            numbers, width + nearest_inputs(index), centre, cls, at, stride, RADIUS, atom.level, blocks,
            contexts,
        )  # fmt: skip
        return Activations(inputs, centre, cls, contexts)

    def ahead(self, work: Callable[[Any], Any], rows: Sequence[Any]) -> Iterator[Any]:
        """``work`` on each row, in order, computed by helpers while the caller is busy with earlier results.

        What no helper has begun when it is needed the caller computes itself.
        """
        if self._helpers is None or len(rows) == 1:
            yield from map(work, rows)
            return
        futures: deque[Future[Any]] = deque()
        for index, row in enumerate(rows):
            futures.extend(self._helpers.submit(work, later) for later in rows[index + len(futures) : index + _AHEAD])
            future = futures.popleft()
            yield work(row) if future.cancel() else future.result()

    def _features(
        self, array: Any, at: np.ndarray, stride: int, layout: features.Layout, level: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        device = self.backend.device
        if not self.backend.numba:
            where = torch.from_numpy(at).to(device)
            side = torch.from_numpy(self.side).to(device)
            return features.window_features(array, where, stride, layout, level, side, self.tables)
        x = torch.empty(len(at), layout.inputs, dtype=torch.int8)
        centre, cls = torch.empty(len(at), dtype=torch.int32), torch.empty(len(at), dtype=torch.uint8)
        kernels.window_features(
            array, at, stride, layout, level, self.side, self.table_arrays, x.numpy(), centre.numpy(), cls.numpy()
        )
        return x, centre, cls

    def array(self, array: np.ndarray) -> np.ndarray | Tensor:
        """A level array as the features want it: flat, on the device."""
        flat = array.reshape(-1)
        return flat if self.backend.numba else torch.from_numpy(flat).to(self.backend.device)


Batches = Iterator[tuple[np.ndarray, np.ndarray]]


def _frozen_batches(atom: Atom, size: int, array: Any, pyramid: Pyramid, predictor: Predictor, coder: Coder) -> Batches:
    """Code an atom in raster order; yields (pixels, values)."""
    for first in range(0, size, BATCH):
        pixels = np.arange(first, min(first + BATCH, size), dtype=np.int64)
        at, stride = window_offsets(pyramid.order, atom, pixels)
        yield pixels, coder.batch(atom, pixels, predictor.distribution(atom, array, at, stride))


def _chunks(batches: Iterable[int], size: int) -> list[list[int]]:
    """Batches gathered to chunks of about ``size`` pixels: each the pixels at which its batches begin, and its end."""
    chunks = [[0]]
    for batch in batches:
        if chunks[-1][-1] - chunks[-1][0] >= size:
            chunks.append(chunks[-1][-1:])
        chunks[-1].append(chunks[-1][-1] + batch)
    return chunks


def _learned_batches(
    atom: Atom, size: int, array: Any, head: Head, last: bool, ends: tuple[int, ...] | None, blocks: np.ndarray,
    pyramid: Pyramid, predictor: Predictor, coder: Coder, ahead: Callable[..., Iterator[Any]],
) -> Batches:  # fmt: skip
    """Code an atom in the order of learning.spread, with a head that learns from each batch; yields (pixels, values).

    last: no later atom needs the head. ends: as for learning.batches. The trunk does not depend on the head, so
    ``ahead`` may evaluate the next chunks of batches meanwhile.
    """
    step = learning.spread(size)
    chunks = _chunks(learning.batches(head.seen, size, ends), predictor.chunk)

    def evaluate(ends: list[int]) -> tuple[np.ndarray, Activations]:
        pixels = np.arange(ends[0], ends[-1], dtype=np.int64) * step % size
        return pixels, predictor.activations(atom, array, *window_offsets(pyramid.order, atom, pixels), blocks)

    for chunk, (pixels, activations) in zip(chunks, ahead(evaluate, chunks), strict=True):
        for start, end in pairwise(chunk):
            part = slice(start - chunk[0], end - chunk[0])
            distribution = LearnedDistribution(head, activations[part], predictor)
            values = coder.batch(atom, pixels[part], distribution)
            if not last or end < size:
                distribution.learn(values)
            yield pixels[part], values


@dataclass
class Plan:
    """What both sides must agree on: the order, the first atoms of the network calls, whether the heads learn, and
    where their batches end then (learning.batches)."""

    order: LatticeOrder
    calls: tuple[int, ...]
    learning: bool = False
    batch_ends: tuple[int, ...] | None = None


class Lanes:
    """Codes atoms in the background, one on each thread; those of one head one after another.

    Only an encoder can use more than one: it knows the values beforehand, so that no atom waits for those before it.
    ``report`` is called now and then, ``flush`` as Coder.flush.
    """

    def __init__(self, threads: int, report: Callable[[], None], flush: Callable[[Atom, bool], None]) -> None:
        self._report, self._flush = report, flush
        self._pool = ThreadPoolExecutor(threads, "ardmzip-lane")
        self._most = threads + 1
        self._queue: deque[tuple[Atom, Future[None]]] = deque()
        self._last: dict[int, Future[None]] = {}
        self._stopped = False

    def __enter__(self) -> Lanes:
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped = True  # with an error there may be work left
        self._pool.shutdown(cancel_futures=True)

    def submit(self, atom: Atom, work: Callable[[], Batches]) -> None:
        """Code an atom, batch by batch; waits while enough are under way."""
        while len(self._queue) >= self._most:
            self._take()
        head = features.expert_index(atom.level, atom.kind, atom.channel)
        before = self._last.get(head)

        def run() -> None:
            if before is not None:  # it was begun before this one, so this wait ends
                before.result()
            for _ in () if self._stopped else work():
                if self._stopped:
                    return

        self._last[head] = self._pool.submit(run)
        self._queue.append((atom, self._last[head]))

    def finish(self) -> None:
        while self._queue:
            self._take()

    def _take(self) -> None:
        """Wait for the atom that was submitted first."""
        atom, future = self._queue.popleft()
        while not wait([future], _REPORT_SECONDS).done:
            self._flush(atom, False)
            self._report()
        future.result()
        self._flush(atom, True)
        self._report()


def walk(plan: Plan, predictor: Predictor, coder: Coder, progress: Progress | None = None) -> np.ndarray:
    """Code an image, call by call; returns its planes uint8 [channels, height, width].

    All atoms of a call are predicted from what is known before the call; their values become known after it.
    """
    order = plan.order
    pyramid = Pyramid(order, coder.base(order.channels))
    sizes = order.sizes()
    done = np.zeros_like(sizes)
    blocks = block_tables(order.height, order.width)
    heads: dict[int, Head] = {}
    #: The last atom that needs a head.
    last = {features.expert_index(a.level, a.kind, a.channel): i for i, a in enumerate(order.atoms) if sizes[i]}
    lanes_pay = plan.learning and predictor.threads > 1 and sizes.sum() >= LANES_FROM

    def code(index: int, array: Any, ahead: Callable[..., Iterator[Any]]) -> Batches:
        """Code an atom; yields (pixels, values) of each batch."""
        atom, size = order.atoms[index], int(sizes[index])
        expert = features.expert_index(atom.level, atom.kind, atom.channel)
        batches: Batches
        if plan.learning and size >= learning.MIN_ATOM:
            head = heads.get(expert) or Head(predictor.model.untaught(expert), int(blocks[-1, 2]))
            heads[expert] = head
            batches = _learned_batches(
                atom, size, array, head, last[expert] == index, plan.batch_ends, blocks, pyramid, predictor, coder,
                ahead,
            )  # fmt: skip
        else:
            batches = _frozen_batches(atom, size, array, pyramid, predictor, coder)
        for pixels, values in batches:
            done[index] += len(values)
            yield pixels, values

    def report() -> None:
        if progress:
            progress(done.sum() / sizes.sum())

    with Lanes(predictor.threads, report, coder.flush) as lanes:
        for start, end in pairwise((*plan.calls, len(order.atoms))):
            coded: list[tuple[Atom, np.ndarray]] = []
            arrays: dict[int, Any] = {}
            for index in range(start, end):
                atom, size = order.atoms[index], int(sizes[index])
                if size == 0:
                    continue
                values = coder.known(atom)
                beside = lanes_pay and values is not None
                if atom.level not in arrays:
                    array = pyramid.array(atom.level)
                    # The pyramid may be filled while an atom is coded in a lane: in a call of its own the atom's
                    # features read nothing of what becomes known with it or later, in others they would.
                    arrays[atom.level] = predictor.array(array.copy() if beside and end - start > 1 else array)
                array = arrays[atom.level]
                if values is not None and beside:
                    lanes.submit(atom, partial(code, index, array, map))
                else:
                    values = np.empty(size, np.uint8)
                    for pixels, batch in code(index, array, predictor.ahead):
                        values[pixels] = batch
                        coder.flush(atom, False)
                        report()
                    coder.flush(atom, True)
                coded.append((atom, values))
            for atom, values in coded:
                pyramid.fill(atom, values)
        lanes.finish()
    return pyramid.planes(order.channels)


def pixel_checksum(planes: np.ndarray) -> int:
    """CRC-32 of the raster, as in the file."""
    return zlib.crc32(interleaved(planes).tobytes())


def side_information(planes: np.ndarray, model: Model) -> tuple[np.ndarray | None, tuple[int, int]]:
    """(side information int8 [SIDE], or None for small images; lattice phase) of an image."""
    height, width = planes.shape[1:]
    if height * width < SIDE_INFO_PIXELS or min(height, width) < sideinfo.BLOCK:
        return None, (0, 0)
    stats = sideinfo.measure(planes)
    phase = sideinfo.lattice_phase(stats)
    if phase != (0, 0):
        stats = sideinfo.measure(planes[:, phase[0] :, phase[1] :])
    return sideinfo.quantise(stats, model.side_mean, model.side_std), phase


def encode(planes: np.ndarray, model: Model, backend: Backend, steps: int | None = None,
           progress: Progress | None = None, chunk: int = CHUNK, learn: bool = True, batches: int | None = None,
           gains: list[learning.Gain] | None = None) -> Container:  # fmt: skip
    """Code an image.

    planes: uint8 [channels, height, width] in coding order (image.to_planes). steps: budget of network calls; None:
    every atom is a call of its own, which no cut beats, as knowing more never costs bits. chunk: pixels the network
    evaluates at a time; the file does not depend on it. learn: let the heads learn while coding (if the model tells
    how). batches: most batches to plan for a head; None: the rule of learning.batches. gains: takes what learning
    brings, batch by batch; this needs more time.
    """
    channels, height, width = planes.shape
    if height * width > MAX_PIXELS:
        raise ImageError(f"an image of {width} x {height} pixels is over the limit of {MAX_PIXELS} pixels")
    side, phase = side_information(planes, model)
    order = LatticeOrder(height, width, channels, phase)
    calls: tuple[int, ...] = tuple(range(len(order.atoms)))
    if steps is not None and order.atoms:
        calls = best_schedule(order.sizes(), loss_for_order(model.loss[channels], order), steps).calls
    # an image whose atoms are all too small to teach is no different, but says what it is
    teaches = order.sizes().max(initial=0) >= learning.MIN_ATOM
    plan = Plan(order, calls, learn and model.learns and teaches)
    coder = EncodingCoder(planes, order, gains if plan.learning else None)
    if batches is not None and not (learn and model.learns):
        raise OptionError("batches are for a head that learns, not for learn=False or a model that cannot")
    if batches is not None and not model.learning_gain.any():
        raise OptionError(f"model {model.name} has no learning curve to choose batches by")
    if batches is not None and plan.learning:
        plan.batch_ends = best_batches(int(order.sizes().max()), model.learning_gain, batches).ends
    with Predictor(model, backend, side, chunk) as predictor:
        walk(plan, predictor, coder, progress)
    return Container(
        width=width, height=height, channels=channels, phase=order.phase, model_id=model.id,
        side_info=b"" if side is None else side.tobytes(), calls=calls if steps is not None else None,
        learning=plan.learning, batch_ends=plan.batch_ends,
        segments=coder.encoder.finish(), pixel_crc=pixel_checksum(planes),
    )  # fmt: skip


def decode(container: Container, model: Model, backend: Backend, progress: Progress | None = None,
           chunk: int = CHUNK) -> np.ndarray:  # fmt: skip
    """The planes of a container; raises FormatError rather than return a wrong pixel."""
    order = container.order
    side = None
    if container.side_info:
        if len(container.side_info) != features.SIDE:
            raise FormatError(f"{len(container.side_info)} bytes of side information, the model needs {features.SIDE}")
        side = np.frombuffer(container.side_info, np.int8)
    if container.learning and not model.learns:
        raise FormatError(f"the file wants a learning head, which model {model.name} does not have")
    plan = Plan(order, container.call_starts, container.learning, container.batch_ends)
    coder = DecodingCoder(container.segments)
    with Predictor(model, backend, side, chunk) as predictor:
        planes = walk(plan, predictor, coder, progress)
    coder.decoder.finish()
    if pixel_checksum(planes) != container.pixel_crc:
        raise FormatError("the decoded pixels do not match the file's checksum")
    return planes
