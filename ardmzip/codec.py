"""The codec: one walk over the network calls of a schedule, shared by encoder and decoder.

At every batch of pixels the walk computes the distributions from what is known so far and asks a *coder* for the
values: the encoder knows them and notes their intervals, the decoder pops them from the rANS words. Nothing else
differs, so the two cannot drift apart.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ardmzip import features, mixture, rans, sideinfo
from ardmzip.container import MAX_PIXELS, Container
from ardmzip.errors import BackendError, FormatError, ImageError
from ardmzip.features import CHANNELS, RADIUS, UNKNOWN
from ardmzip.image import interleaved
from ardmzip.model import Model
from ardmzip.network import Backend, exact_arithmetic, float32_exact
from ardmzip.order import Atom, LatticeOrder
from ardmzip.schedule import best_schedule, loss_for_order

Progress = Callable[[float], None]

#: Pixels coded together (part of the format: high nibbles of a batch precede its low nibbles in the stream).
BATCH = 1 << 16
#: Pixels the network evaluates at a time (not part of the format): int32 sums of 256 units then stay in the cache.
CHUNK = 1 << 13
#: Fewer pixels than this are not worth a second thread.
MIN_CHUNK = 512
#: Images with fewer pixels carry no side information: 24 bytes cost more than they save. Nor do images without a whole
#: block of sideinfo.BLOCK pixels a side: of strips the statistics are too few to tell anything.
SIDE_INFO_PIXELS = 96 * 96


@dataclass
class Distribution:
    """Distributions of a batch of sub-pixels: head outputs int32 [n, 3 K], mixture centre int32 [n], class uint8 [n].

    One piece for each part of the batch that a thread works on.
    """

    pieces: list[tuple[Tensor, Tensor, Tensor]]
    predictor: Predictor

    def __len__(self) -> int:
        return sum(len(outputs) for outputs, _, _ in self.pieces)

    def intervals(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(start, width), uint32 [2, n] each: high nibbles and low nibbles of values uint8 [n]."""
        start, width = np.empty((2, 2, len(values)), np.uint32)

        def fill(part: slice, piece: tuple[Tensor, Tensor, Tensor]) -> None:
            if self.predictor.backend.numba:
                from ardmzip import kernels

                p, centre, cls = (tensor.numpy() for tensor in piece)
                tables = self.predictor.table_arrays
                kernels.intervals(p, centre, cls, values[part], tables, start[:, part], width[:, part])
            else:
                m = mixture.mixture(*piece, self.predictor.tables)
                filled = mixture.intervals(m, torch.from_numpy(values[part]).to(self.predictor.backend.device))
                start[0, part], width[0, part], start[1, part], width[1, part] = (t.cpu().numpy() for t in filled)

        self._each(fill)
        return start, width

    def rows(self, high: np.ndarray | None) -> np.ndarray:
        """Frequencies less one, float32 [n, 16], of the high nibble, or of the low one given ``high`` int32 [n]."""
        out = np.empty((len(self), 16), np.float32)

        def fill(part: slice, piece: tuple[Tensor, Tensor, Tensor]) -> None:
            known = np.empty(0, np.int32) if high is None else high[part]
            if self.predictor.backend.numba:
                from ardmzip import kernels

                p, centre, cls = (tensor.numpy() for tensor in piece)
                kernels.rows(p, centre, cls, known, self.predictor.table_arrays, out[part])
            else:
                m = mixture.mixture(*piece, self.predictor.tables)
                if high is None:
                    out[part] = mixture.high_rows(m).cpu().numpy()
                else:
                    out[part] = mixture.low_rows(m, torch.from_numpy(known).to(self.predictor.backend.device)).cpu()

        self._each(fill)
        return out

    def _each(self, work: Callable[[slice, tuple[Tensor, Tensor, Tensor]], None]) -> None:
        ends = np.cumsum([len(outputs) for outputs, _, _ in self.pieces]).tolist()
        self.predictor.each(work, [slice(a, b) for a, b in pairwise([0, *ends])], self.pieces)


class Coder(Protocol):
    """What the walk asks for values: see EncodingCoder and DecodingCoder."""

    def base(self, channels: int) -> np.ndarray:
        """The base pixel: uint8 [channels]."""

    def batch(self, atom: Atom, first: int, distribution: Distribution) -> np.ndarray:
        """Values uint8 [n] of the pixels ``first`` .. of an atom."""


class EncodingCoder:
    """Looks the values up in the image and notes their intervals."""

    def __init__(self, planes: np.ndarray, order: LatticeOrder) -> None:
        self.planes, self.order = planes, order
        self.encoder = rans.Encoder()
        self._atom: Atom | None = None
        self._values = np.empty(0, np.uint8)

    def base(self, channels: int) -> np.ndarray:
        py, px = self.order.phase
        values = self.planes[:, py, px]
        nibbles = np.concatenate([values >> 4, values & 15]).astype(np.uint32)
        width = mixture.TOTAL // 16
        self.encoder.push(nibbles * np.uint32(width), np.full(2 * channels, width, np.uint32))
        return values

    def batch(self, atom: Atom, first: int, distribution: Distribution) -> np.ndarray:
        if atom != self._atom:
            self._atom = atom
            py, px = (0, 0) if atom.level == 0 else self.order.phase
            step = 1 << atom.level
            level = self.planes[atom.channel, py::step, px::step]
            self._values = level[self.order.lattice(atom.level, atom.kind)].ravel()
        values = self._values[first : first + len(distribution)]
        start, width = distribution.intervals(values)
        self.encoder.push(start.ravel(), width.ravel())
        return values


class DecodingCoder:
    """Decodes the values from the rANS words."""

    def __init__(self, segments: tuple[np.ndarray, ...]) -> None:
        self.decoder = rans.Decoder(segments)

    def base(self, channels: int) -> np.ndarray:
        nibbles = self.decoder.pop(np.tile(rans.FLAT_ROW, (2 * channels, 1)))
        self.decoder.end_batch(2 * channels)
        return (nibbles[:channels] << 4 | nibbles[channels:]).astype(np.uint8)

    def batch(self, atom: Atom, first: int, distribution: Distribution) -> np.ndarray:
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

    def offsets(self, atom: Atom, first: int, last: int) -> tuple[np.ndarray, int]:
        """Flat offsets int64 of the pixels ``first`` .. ``last`` of an atom in its level array, and its stride."""
        slices = self.order.lattice(atom.level, atom.kind)
        _, columns = self.order.lattice_shape(atom.level, atom.kind)
        row, column = np.divmod(np.arange(first, last), columns)
        stride = self.order.level_shape(atom.level)[1] + 2 * RADIUS
        row = 2 * row + slices[0].start + RADIUS
        return (row * stride + 2 * column + slices[1].start + RADIUS) * CHANNELS, stride

    def planes(self, channels: int) -> np.ndarray:
        """The complete image: uint8 [channels, height, width]."""
        self.array(0)
        return np.ascontiguousarray(self._inner(0)[:, :, :channels].transpose(2, 0, 1)).astype(np.uint8)


class Predictor:
    """Features, trunk and head of one image on one back end; a context in which torch runs single-threaded and
    exactly.

    On the CPU each thread takes a chunk of pixels through all stages, so that a chunk stays in its core's cache and no
    thread waits for another within a stage (torch's and numba's own thread pools would spin against each other).
    """

    def __init__(self, model: Model, backend: Backend, side: np.ndarray | None, chunk: int = CHUNK) -> None:
        self.backend, self.chunk = backend, chunk
        self.experts, self.tables = model.on(backend.device)
        if backend.product == "float32" and not all(map(float32_exact, self.experts)):
            raise BackendError(f"the layers of model {model.name} are too wide for back end float32; use float64")
        self.table_arrays = model.tables
        self.side = sideinfo.inputs(side)
        self._threads = 1
        self._pool: ThreadPoolExecutor | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Predictor:
        threads = self._stack.enter_context(exact_arithmetic(self.backend.device.type))
        if self.backend.device.type == "cpu" and threads > 1:
            self._threads = threads
            self._pool = self._stack.enter_context(ThreadPoolExecutor(threads, "ardmzip"))
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

        def evaluate(part: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
            x, centre, cls = self._features(array, part, stride, layout, atom.level)
            return self.backend.head(expert, self.backend.trunk(expert, x)), centre, cls

        size = min(self.chunk, max(MIN_CHUNK, -(-len(at) // self._threads)))
        parts = [at[first : first + size] for first in range(0, len(at), size)]
        return Distribution(self.each(evaluate, parts), self)

    def _features(
        self, array: Any, at: np.ndarray, stride: int, layout: features.Layout, level: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        device = self.backend.device
        if not self.backend.numba:
            where = torch.from_numpy(at).to(device)
            side = torch.from_numpy(self.side).to(device)
            return features.window_features(array, where, stride, layout, level, side, self.tables)
        from ardmzip import kernels

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


def walk(order: LatticeOrder, calls: tuple[int, ...], predictor: Predictor, coder: Coder,
         progress: Progress | None = None) -> np.ndarray:  # fmt: skip
    """Code an image, call by call; returns its planes uint8 [channels, height, width].

    All atoms of a call are predicted from what is known before the call; their values become known after it.
    """
    pyramid = Pyramid(order, coder.base(order.channels))
    sizes = order.sizes()
    done, total = 0, max(1, int(sizes.sum()))
    for start, end in pairwise((*calls, len(order.atoms))):
        values: list[np.ndarray] = []
        for index in range(start, end):
            atom, size = order.atoms[index], int(sizes[index])
            array = predictor.array(pyramid.array(atom.level))
            decoded = [np.empty(0, np.uint8)]
            for first in range(0, size, BATCH):
                at, stride = pyramid.offsets(atom, first, min(first + BATCH, size))
                decoded.append(coder.batch(atom, first, predictor.distribution(atom, array, at, stride)))
                done += len(at)
                if progress:
                    progress(done / total)
            values.append(np.concatenate(decoded))
        for index, value in zip(range(start, end), values, strict=True):
            if len(value):
                pyramid.fill(order.atoms[index], value)
    return pyramid.planes(order.channels)


def pixel_checksum(planes: np.ndarray) -> int:
    """CRC-32 of the raster, as in the file."""
    return zlib.crc32(interleaved(planes).tobytes())


def encode(planes: np.ndarray, model: Model, backend: Backend, steps: int | None = None,
           progress: Progress | None = None, chunk: int = CHUNK) -> Container:  # fmt: skip
    """Code an image.

    planes: uint8 [channels, height, width] in coding order (image.to_planes). steps: budget of network calls; None:
    every atom is a call of its own, which no cut beats, as knowing more never costs bits. chunk: pixels the network
    evaluates at a time; the file does not depend on it.
    """
    channels, height, width = planes.shape
    if height * width > MAX_PIXELS:
        raise ImageError(f"an image of {width} x {height} pixels is over the limit of {MAX_PIXELS} pixels")
    side, phase = None, (0, 0)
    if height * width >= SIDE_INFO_PIXELS and min(height, width) >= sideinfo.BLOCK:
        stats = sideinfo.measure(planes)
        phase = sideinfo.lattice_phase(stats)
        if phase != (0, 0):
            stats = sideinfo.measure(planes[:, phase[0] :, phase[1] :])
        side = sideinfo.quantise(stats, model.side_mean, model.side_std)
    order = LatticeOrder(height, width, channels, phase)
    calls: tuple[int, ...] = tuple(range(len(order.atoms)))
    if steps is not None and order.atoms:
        calls = best_schedule(order.sizes(), loss_for_order(model.loss[channels], order), steps).calls
    coder = EncodingCoder(planes, order)
    with Predictor(model, backend, side, chunk) as predictor:
        walk(order, calls, predictor, coder, progress)
    return Container(
        width=width, height=height, channels=channels, phase=order.phase, model_id=model.id,
        side_info=b"" if side is None else side.tobytes(), calls=calls if steps is not None else None,
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
    coder = DecodingCoder(container.segments)
    with Predictor(model, backend, side, chunk) as predictor:
        planes = walk(order, container.call_starts, predictor, coder, progress)
    coder.decoder.finish()
    if pixel_checksum(planes) != container.pixel_crc:
        raise FormatError("the decoded pixels do not match the file's checksum")
    return planes
