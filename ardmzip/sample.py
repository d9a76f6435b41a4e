"""Pictures drawn from a model: the walk of its decoder, with random numbers in place of a file."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ardmzip.image import interleaved
from ardmzip.mixture import TOTAL

if TYPE_CHECKING:
    from ardmzip.model import Model
    from ardmzip.network import Backend
    from ardmzip.order import Atom, LatticeOrder
    from ardmzip.predictor import Distribution, LearnedDistribution

Progress = Callable[[float], None]
#: Pixels between the pictures of a grid, and their gray.
GAP, _GAP_GRAY = 2, 96
#: Frames of an animation, about, and how long one is shown, and the last one, in milliseconds.
FRAMES, _FRAME_TIME, _LAST_TIME = 60, 80, 3000


def drawn(edges: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random digits int64 [...] by their intervals: edges int64 [..., base + 1], from 0 to TOTAL.

    >>> drawn(np.array([[0, 2**24, 2**24], [0, 0, 2**24]]), np.random.default_rng(1)).tolist()
    [0, 1]
    """
    number = rng.integers(TOTAL, size=edges.shape[:-1])
    return (edges[..., 1:-1] <= number[..., None]).sum(-1)


def samples(
    model: Model, backend: Backend, count: int, side: int, steps: int | None, seed: int,
    progress: Progress | None = None, frames: bool = False,
) -> list[np.ndarray]:  # fmt: skip
    """Planes uint8 [count, 3, side, side] of random pictures; and before them, with ``frames``, how they appear.

    steps: budget of network calls, as for compress.
    """
    if model.random_order:
        return _in_random_order(model, backend, count, side, steps, seed, progress, frames)
    each = []
    for index in range(count):
        report = None if progress is None else lambda done, index=index: progress((index + done) / count)
        each.append(_in_lattice_order(model, backend, side, steps, seed + index, report, frames))
    return [np.stack(frame) for frame in zip(*each, strict=True)]


def _in_random_order(
    model: Model, backend: Backend, count: int, side: int, steps: int | None, seed: int, progress: Progress | None,
    frames: bool,
) -> list[np.ndarray]:  # fmt: skip
    from ardmzip.ardm import codec
    from ardmzip.ardm.model import require

    rng = np.random.default_rng(seed)
    own = require(model)
    order = codec.choose_order(side, side, own, steps)
    kept: list[np.ndarray] = []
    done = 0

    def watch(planes: np.ndarray) -> None:
        nonlocal done
        if done * FRAMES // order.calls != (done - 1) * FRAMES // order.calls:
            kept.append(planes)
        done += 1

    def choose(edges: list[np.ndarray]) -> list[np.ndarray]:
        return [drawn(group, rng) for group in edges]

    last = codec.generate(
        side, side, count, own, backend, order, choose, progress, watch=watch if frames else None
    )  # fmt: skip
    return [*kept, last]


class _DrawingCoder:
    """Draws the values (see codec.Coder), and keeps the picture as it appears: every known pixel fills the square that
    it has to itself."""

    def __init__(self, order: LatticeOrder, rng: np.random.Generator, frames: bool) -> None:
        self.order, self.rng, self._frames = order, rng, frames
        self._canvas = np.empty((order.channels, order.height, order.width), np.uint8)
        self.kept: list[np.ndarray] = []

    def base(self, channels: int) -> np.ndarray:
        # a file spends 8 bits on each of them; most of such pictures would be of a garish tint
        values = np.full(channels, self.rng.integers(48, 208), np.uint8)
        self._canvas[:] = values[:, None, None]
        return values

    def known(self, atom: Atom) -> None:
        return None

    def batch(self, atom: Atom, pixels: np.ndarray, distribution: Distribution | LearnedDistribution) -> np.ndarray:
        high = self._digits(distribution.rows())
        low = self._digits(distribution.rows(high))
        values = (high << 4 | low).astype(np.uint8)
        if self._frames:
            self._paint(atom, pixels, values)
        return values

    def _paint(self, atom: Atom, pixels: np.ndarray, values: np.ndarray) -> None:
        step = 1 << atom.level
        rows, columns = self.order.lattice(atom.level, atom.kind)
        shape = self.order.lattice_shape(atom.level, atom.kind)
        for pixel, value in zip(pixels.tolist(), values.tolist(), strict=True):
            y = step * (rows.start + rows.step * (pixel // shape[1]))
            x = step * (columns.start + columns.step * (pixel % shape[1]))
            self._canvas[atom.channel, y : y + step, x : x + step] = value

    def _digits(self, rows: np.ndarray) -> np.ndarray:
        edges = np.pad(rows.astype(np.int64) + 1, ((0, 0), (1, 0))).cumsum(1)
        return drawn(edges, self.rng).astype(np.int32)

    def flush(self, atom: Atom, ended: bool) -> None:
        if ended and self._frames:
            self.kept.append(self._canvas.copy())


def _in_lattice_order(
    model: Model, backend: Backend, side: int, steps: int | None, seed: int, progress: Progress | None, frames: bool
) -> list[np.ndarray]:  # fmt: skip
    from ardmzip import codec
    from ardmzip.network import exact_arithmetic
    from ardmzip.order import LatticeOrder
    from ardmzip.predictor import Predictor
    from ardmzip.schedule import best_schedule, loss_for_order

    order = LatticeOrder(side, side, 3)
    calls = tuple(range(len(order.atoms)))
    if steps is not None and order.atoms:
        calls = best_schedule(order.sizes(), loss_for_order(model.loss[3], order), steps).calls
    coder = _DrawingCoder(order, np.random.default_rng(seed), frames)
    with exact_arithmetic(backend.device.type), Predictor(model, backend, None) as predictor:
        planes = codec.walk(codec.Plan(order, calls), predictor, coder, progress)
    return [*coder.kept, planes]


def grid(planes: np.ndarray) -> np.ndarray:
    """uint8 [height, width, 3]: pictures, planes uint8 [n, 3, height, width], in rows of about as many as there are.

    >>> grid(np.zeros((3, 3, 8, 8), np.uint8)).shape
    (18, 18, 3)
    """
    count, _, height, width = planes.shape
    across = int(np.ceil(np.sqrt(count)))
    down = -(-count // across)
    out = np.full((down * (height + GAP) - GAP, across * (width + GAP) - GAP, 3), _GAP_GRAY, np.uint8)
    for i, picture in enumerate(planes):
        top, left = i // across * (height + GAP), i % across * (width + GAP)
        out[top : top + height, left : left + width] = interleaved(picture)
    return out


def to_png(frames: Sequence[np.ndarray]) -> bytes:
    """The grid of the last of ``frames``, as for grid, as a PNG file; an animated one if there are several."""
    pictures = [Image.fromarray(grid(planes)) for planes in frames]
    buffer = io.BytesIO()
    if len(pictures) == 1:
        pictures[0].save(buffer, "PNG")
    else:
        times = [_FRAME_TIME] * (len(pictures) - 1) + [_LAST_TIME]
        pictures[0].save(buffer, "PNG", save_all=True, append_images=pictures[1:], duration=times, loop=0)
    return buffer.getvalue()
