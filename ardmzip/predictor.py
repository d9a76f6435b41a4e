"""What the network says of pixels: features, trunk and head on one back end, chunk by chunk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ardmzip import features, kernels, learning, mixture, network, sideinfo
from ardmzip.contexts import TABLES, context_inputs
from ardmzip.features import CHANNELS, RADIUS
from ardmzip.learning import Head
from ardmzip.model import Model
from ardmzip.network import Backend, exact_arithmetic
from ardmzip.order import Atom, LatticeOrder

#: Pixels the network evaluates at a time (not part of the format): int32 sums of 256 units then stay in the cache.
CHUNK = 1 << 12
#: Fewer pixels than this are not worth a second thread.
MIN_CHUNK = 512
#: Chunks that helpers may work ahead of a learning head.
_AHEAD = 4

#: Mixtures of n pixels: int32 [4, K, n] as kernels.mixtures gives them, or mixture.Mixture where there is no numba.
Mixtures = np.ndarray | mixture.Mixture
Tables = dict[str, np.ndarray]
#: For frozen heads, in place of contexts and of offsets.
_NO_CONTEXTS = _NO_OFFSETS = np.empty((0, TABLES), np.int32)
#: In place of known high nibbles, where it is those that are asked for.
_HIGH = np.empty(0, np.int32)


def _mixtures(
    backend: Backend, inputs: Tensor, weight: Tensor, bias: np.ndarray, centre: np.ndarray, cls: np.ndarray,
    tables: Tables, contexts: np.ndarray = _NO_CONTEXTS, offsets: np.ndarray = _NO_OFFSETS,
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

    def rows(self, high: np.ndarray = _HIGH) -> np.ndarray:
        """Frequencies less one, float32 [n, 16], of the high nibble, or of the low one given ``high`` int32 [n]."""
        return np.concatenate(self._each(_rows, high))

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

    def _mix(
        self, weight: Tensor, contexts: np.ndarray = _NO_CONTEXTS, offsets: np.ndarray = _NO_OFFSETS
    ) -> np.ndarray:
        a, bias = self._activations, self._head.start.bias
        return _mixtures(self._backend, a.inputs, weight, bias, a.centre, a.cls, self._tables, contexts, offsets)

    def intervals(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As Distribution.intervals."""
        return _intervals(self._mixtures, values, self._tables)

    def rows(self, high: np.ndarray = _HIGH) -> np.ndarray:
        """As Distribution.rows."""
        return _rows(self._mixtures, high, self._tables)

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


def window_offsets(order: LatticeOrder, atom: Atom, pixels: np.ndarray) -> tuple[np.ndarray, int]:
    """Flat offsets int64 [n] of pixels of an atom (numbers in raster order) in its level array, and its stride."""
    slices = order.lattice(atom.level, atom.kind)
    _, columns = order.lattice_shape(atom.level, atom.kind)
    row, column = np.divmod(pixels, columns)
    stride = order.level_shape(atom.level)[1] + 2 * RADIUS
    row = 2 * row + slices[0].start + RADIUS
    return (row * stride + 2 * column + slices[1].start + RADIUS) * CHANNELS, stride


def stacked_offsets(order: LatticeOrder, atom: Atom, pixels: np.ndarray, images: int) -> tuple[np.ndarray, int]:
    """The same in a stack of level arrays, for so many images: int64 [images * n], image after image."""
    at, stride = window_offsets(order, atom, pixels)
    one = (order.level_shape(atom.level)[0] + 2 * RADIUS) * stride * CHANNELS
    return (at + one * np.arange(images, dtype=np.int64)[:, None]).ravel(), stride


class _Task:
    """``work(row)``, which a helper computes, or who takes it before one begins."""

    def __init__(self, helpers: ThreadPoolExecutor, work: Callable[[Any], Any], row: Any) -> None:
        self._work, self._row = work, row
        self.future: Future[Any] = helpers.submit(work, row)

    def take(self) -> None:
        """Compute it here, unless it has been begun."""
        if self.future.cancel():
            self.future = Future()
            self.future.set_result(self._work(self._row))


class Predictor:
    """Features, trunk and head of one image on one back end; a context in which torch runs single-threaded and
    exactly.

    On the CPU each thread takes a chunk of pixels through all stages, so that a chunk stays in its core's cache and no
    thread waits for another within a stage (torch's and numba's own thread pools would spin against each other).
    """

    def __init__(
        self, model: Model, backend: Backend, side: np.ndarray | None, chunk: int = CHUNK, threads: int | None = None
    ) -> None:
        """side: side information int8 [SIDE], None for none; or of each image of a stack, as the network takes it
        (sideinfo.inputs), int8 [images, SIDE + 1]."""
        self.model, self.backend, self.chunk = model, backend, chunk
        self.experts, self.tables = model.on(backend.device)
        self.table_arrays = model.tables
        self.side = sideinfo.inputs(side)[None] if side is None or side.ndim == 1 else side
        self.threads = threads or 0  # 0: as many as torch is set to
        self._pool: ThreadPoolExecutor | None = None
        self._helpers: ThreadPoolExecutor | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Predictor:
        available = self._stack.enter_context(exact_arithmetic(self.backend.device.type))
        self.threads = self.threads or available
        if self.backend.device.type == "cpu" and self.threads > 1:
            self._pool = self._stack.enter_context(ThreadPoolExecutor(self.threads, "ardmzip"))
            self._helpers = self._stack.enter_context(ThreadPoolExecutor(self.threads - 1, "ardmzip"))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @cached_property
    def head_backend(self) -> Backend:
        """Learning heads are evaluated on the CPU, whatever the trunk runs on."""
        return self.backend if self.backend.device.type == "cpu" else network.backend("cpu")

    def each(self, work: Callable[..., Any], *columns: Sequence[Any]) -> list[Any]:
        """``work`` on each row of the columns, on all threads; results in order."""
        if self._pool is None or len(columns[0]) < 2:
            return [work(*row) for row in zip(*columns, strict=True)]
        return list(self._pool.map(work, *columns))

    def distribution(self, atom: Atom, array: Any, at: np.ndarray, stride: int) -> Distribution:
        """Distributions of the pixels at flat offsets ``at`` of an atom's level array, as ``array`` gives it."""
        index = atom.expert
        expert, layout = self.experts[index], features.expert_layout(index)

        def evaluate(part: np.ndarray) -> Mixtures:
            x, centre, cls = self.features(array, part, stride, layout, atom.level)
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
        index = atom.expert
        expert, layout = self.experts[index], features.expert_layout(index)
        width, skip = expert.halves.shape[1], learning.skip_inputs(index)
        inputs = torch.empty(len(at), learning.padded_inputs(width, index), dtype=torch.int8)
        centre, cls = np.empty(len(at), np.int32), np.empty(len(at), np.uint8)
        parts = max(1, round(len(at) / self.chunk))  # of equal size: a small rest would be slow
        for a, b in pairwise(len(at) * i // parts for i in range(parts + 1)):
            part = slice(a, b)
            x, *place = self.features(array, at[part], stride, layout, atom.level)
            self.backend.trunk(expert, x, inputs[part, :width])
            inputs[part, width : width + skip] = x[:, :skip]
            centre[part], cls[part] = (t.cpu().numpy() for t in place)
        numbers = inputs.numpy()
        numbers[:, width + skip] = learning.BIAS_INPUT
        numbers[:, width + skip + 1 :] = 0
        contexts = np.empty((len(at), TABLES), np.int32)
        kernels.find_contexts(
            numbers, width + context_inputs(index), centre, cls, at, stride, RADIUS, atom.level, blocks,
            contexts,
        )  # fmt: skip
        return Activations(inputs, centre, cls, contexts)

    def ahead(self, work: Callable[[Any], Any], rows: Sequence[Any]) -> Iterator[Any]:
        """``work`` on each row, in order, computed by helpers while the caller is busy with earlier results.

        The caller computes what no helper has begun too, rather than wait.
        """
        if self._helpers is None or len(rows) == 1:
            yield from map(work, rows)
            return
        tasks: deque[_Task] = deque()
        for index in range(len(rows)):
            tasks.extend(_Task(self._helpers, work, row) for row in rows[index + len(tasks) : index + _AHEAD])
            wanted = tasks.popleft()
            for task in (wanted, *tasks):
                if wanted.future.done():
                    break
                task.take()
            yield wanted.future.result()

    def features(
        self, array: Any, at: np.ndarray, stride: int, layout: features.Layout, level: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs int8 [n, inputs], mixture centre int32 [n] and activity class uint8 [n] of the pixels at ``at``."""
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
