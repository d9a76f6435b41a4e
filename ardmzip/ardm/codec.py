"""Coding in a random order: one walk over stages and network calls, shared by encoder and decoder.

The encoder knows all values, so it evaluates the states of many calls together and only then writes their intervals in
the order of the file; the decoder takes one call after the other, for all blocks of one image or several at once. A
state is evaluated by the same function (``_digits``) for both, and integers do not depend on what else is evaluated
beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from ardmzip import rans
from ardmzip.ardm import network, schedule
from ardmzip.ardm.inputs import inputs, inputs_by_kernels
from ardmzip.ardm.model import RandomModel
from ardmzip.ardm.network import Digits
from ardmzip.ardm.order import CHANNELS, Block, RandomOrder, blocks, digits, permutation, spans
from ardmzip.codec import pixel_checksum
from ardmzip.container import Container
from ardmzip.errors import FormatError, ImageError, OptionError
from ardmzip.network import Backend, exact_arithmetic

Progress = Callable[[float], None]

#: States that the network evaluates at a time in one thread (not part of the format).
CHUNK = 6


@dataclass(frozen=True)
class Group:
    """The blocks of one size in an image, and how each of them is coded."""

    blocks: tuple[Block, ...]
    #: By stage: sub-pixels in coding order int64 [size], and where the calls begin and end.
    orders: tuple[np.ndarray, ...]
    ends: tuple[tuple[int, ...], ...]

    @property
    def shape(self) -> tuple[int, int]:
        return self.blocks[0].height, self.blocks[0].width

    @property
    def size(self) -> int:
        return self.blocks[0].size


def groups(height: int, width: int, model: RandomModel, order: RandomOrder) -> tuple[Group, ...]:
    """Blocks by size, sizes in the order of their first block."""
    by_shape: dict[tuple[int, int], list[Block]] = {}
    for block in blocks(height, width):
        by_shape.setdefault((block.height, block.width), []).append(block)
    found = []
    for same in by_shape.values():
        size = same[0].size
        starts = model.calls(size, order.calls, order.kind)
        orders = tuple(permutation(order.seed, stage, size) for stage in range(model.stages))
        found.append(Group(tuple(same), orders, tuple((*own, size) for own in starts)))
    return tuple(found)


def most_calls(height: int, width: int, stages: int) -> int:
    """The most network calls that a block of an image can be given: one for each sub-pixel and stage."""
    return stages * min(block.size for block in blocks(height, width))


def choose_order(
    height: int, width: int, model: RandomModel, steps: int | None = None, kind: int = schedule.BEST,
    seed: int | None = None,
) -> RandomOrder:  # fmt: skip
    """The order for an image: the model's seed unless there is another, and at most ``steps`` calls."""
    wanted = schedule.DEFAULT_CALLS if steps is None else steps
    if wanted < model.stages:
        raise OptionError(f"model {model.name} needs at least {model.stages} steps, one for each stage")
    most = most_calls(height, width, model.stages)
    return RandomOrder(model.seed if seed is None else seed, min(wanted, most), kind)


def check_order(height: int, width: int, model: RandomModel, order: RandomOrder) -> None:
    """Raise FormatError for an order that no writer chooses."""
    most = most_calls(height, width, model.stages)
    if not model.stages <= order.calls <= most:
        raise FormatError(f"{order.calls} network calls where {model.stages} to {most} are possible")


class Walk:
    """What the calls share: a model on a back end, with its threads."""

    def __init__(self, model: RandomModel, backend: Backend, pool: ThreadPoolExecutor) -> None:
        self.backend, self.pool = backend, pool
        self.network = model.network(backend)
        self.spans = spans(model.branching)
        self.digits = digits(model.branching)

    def evaluate(
        self, stage: int, low: np.ndarray, start: np.ndarray, rank: np.ndarray, places: Sequence[np.ndarray]
    ) -> Digits:  # fmt: skip
        """Distributions of the sub-pixels ``places[i]`` of every state i, one state after the other.

        low: uint8 [n, 3, height, width], the least possible values; start: int64 [n], how many sub-pixels are known in
        each state; rank: int64 [size], the place of every sub-pixel in the order.
        """
        device = self.backend.device
        span, finer = self.spans[stage], self.spans[stage + 1]
        mask = (rank < start[:, None]).reshape(low.shape)
        tensor, times = torch.from_numpy(low).to(device), self.network.times
        make = inputs_by_kernels if self.backend.numba else inputs
        found = make(tensor, torch.from_numpy(mask).to(device), span, finer, self.network.tables)
        row = torch.from_numpy(times * stage + times * start // rank.size).to(device)
        state = np.repeat(np.arange(len(low)), [len(own) for own in places])
        at = torch.from_numpy(np.concatenate(places)).to(device)
        return network.digits(
            self.network, self.backend, found, row, torch.from_numpy(state).to(device), at, tensor, span
        )

    def middles(self, stage: int, known: int, rank: np.ndarray) -> np.ndarray:
        """What to add to the least possible values for the middle ones, when so many digits of a stage are known: uint8
        [size]."""
        return np.where(rank < known, self.spans[stage + 1] // 2, self.spans[stage] // 2).astype(np.uint8)


@contextmanager
def walking(model: RandomModel, backend: Backend, threads: int | None = None) -> Iterator[Walk]:
    """What is needed to evaluate states of blocks."""
    with exact_arithmetic(backend.device.type) as found, ThreadPoolExecutor(threads or found) as pool:
        yield Walk(model, backend, pool)


def ideal_bits(walk: Walk, values: np.ndarray, stage: int, order: np.ndarray, start: int) -> float:
    """The mean bits of the digits of a stage in images of one block each, if all are predicted when the first ``start``
    in the order int64 [size] are known; values uint8 [n, 3, height, width]."""
    rank = np.empty(order.size, np.int64)
    rank[order] = np.arange(order.size)

    def work(part: slice) -> float:
        widths, _ = _coded(walk, values[part], stage, rank, np.full(len(values[part]), start), [order[start:]])
        return float((24 - np.log2(widths[1])).sum())

    return sum(walk.pool.map(work, _chunks(len(values)))) / len(values)


def _chunks(count: int) -> Iterator[slice]:
    for first in range(0, count, CHUNK):
        yield slice(first, min(first + CHUNK, count))


def encode(
    planes: np.ndarray, model: RandomModel, backend: Backend, order: RandomOrder, progress: Progress | None = None,
    threads: int | None = None, phase: tuple[int, int] = (0, 0),
) -> Container:  # fmt: skip
    """Code an RGB image, planes uint8 [3, height, width] in coding order, in a random order."""
    channels, height, width = planes.shape
    if channels != CHANNELS:
        raise ImageError(f"model {model.name} codes RGB images, not gray ones")
    check_order(height, width, model, order)
    parts = groups(height, width, model, order)
    encoder = rans.Encoder()
    with walking(model, backend, threads) as walk:
        for stage in range(model.stages):
            coded = []
            for number, group in enumerate(parts):
                share = (stage + number / len(parts)) / model.stages, 1 / len(parts) / model.stages
                report = None if progress is None else lambda done, share=share: progress(share[0] + share[1] * done)
                coded.append(_intervals(planes, group, walk, stage, report))
            for call in range(len(parts[0].ends[stage]) - 1):
                for d in range(len(walk.digits[stage])):
                    pieces = [
                        found[:, d, :, group.ends[stage][call] : group.ends[stage][call + 1]].reshape(2, -1)
                        for group, found in zip(parts, coded, strict=True)
                    ]  # fmt: skip
                    start, width_ = np.concatenate(pieces, 1)
                    encoder.push(start, width_)
    return Container(
        width, height, channels, phase, model.id, b"", None, encoder.finish(), pixel_checksum(planes), random=order
    )


def _intervals(
    planes: np.ndarray, group: Group, walk: Walk, stage: int, progress: Progress | None
) -> np.ndarray:  # fmt: skip
    """Start and width of the intervals of a stage: uint32 [2, digits, blocks, size] in the order of coding."""
    values = np.stack([planes[:, block.rows, block.columns] for block in group.blocks])
    order, ends, size = group.orders[stage], group.ends[stage], group.size
    rank = np.empty(size, np.int64)
    rank[order] = np.arange(size)
    out = np.empty((2, len(walk.digits[stage]), len(values), size), np.uint32)
    states = [(block, call) for block in range(len(values)) for call in range(len(ends) - 1)]

    def work(part: slice) -> None:
        own = states[part]
        block, call = np.array(own).T
        start = np.array(ends)[call]
        places = [order[ends[c] : ends[c + 1]] for c in call]
        found, counts = _coded(walk, values[block], stage, rank, start, places)
        first = 0
        for (b, c), count in zip(own, counts, strict=True):
            out[:, :, b, ends[c] : ends[c + 1]] = found[:, :, first : first + count]
            first += count

    parts = list(_chunks(len(states)))
    for done, _ in enumerate(walk.pool.map(work, parts)):
        if progress:
            progress((done + 1) / len(parts))
    return out


def _coded(
    walk: Walk, values: np.ndarray, stage: int, rank: np.ndarray, start: np.ndarray, places: Sequence[np.ndarray]
) -> tuple[np.ndarray, list[int]]:  # fmt: skip
    """Start and width of the intervals of sub-pixels, uint32 [2, digits, m], one state after the other, and how many
    there are of each state; arguments as for Walk.evaluate, but values uint8 [n, 3, height, width]. The last of
    ``places`` stands for all states that lack theirs."""
    places = [*places, *[places[-1]] * (len(values) - len(places))]
    span, finer = walk.spans[stage], walk.spans[stage + 1]
    known = (rank < start[:, None]).reshape(values.shape)
    low = np.where(known, values - values % finer if finer > 1 else values, values - values % span if span < 256 else 0)
    digits = walk.evaluate(stage, low.astype(np.uint8), start, rank, places)
    counts = [len(own) for own in places]
    state = np.repeat(np.arange(len(values)), counts)
    left = values.reshape(len(values), -1)[state, np.concatenate(places)].astype(np.int64) % span
    found = np.empty((2, len(walk.digits[stage]), len(left)), np.uint32)
    line = np.arange(len(left))
    for d, base in enumerate(walk.digits[stage]):
        span //= base
        digit, left = left // span, left % span
        edges = digits.boundaries(base).cpu().numpy()
        found[0, d] = edges[line, digit]
        found[1, d] = edges[line, digit + 1] - edges[line, digit]
        digits.fix(torch.from_numpy(digit).to(digits.low.device), base)
    return found, counts


def decode(
    c: Container, model: RandomModel, backend: Backend, progress: Progress | None = None, threads: int | None = None
) -> np.ndarray:
    """The planes uint8 [3, height, width] of an image; raises FormatError for damage."""
    return decode_many([c], model, backend, progress, threads)[0]


def decode_many(
    containers: Sequence[Container], model: RandomModel, backend: Backend, progress: Progress | None = None,
    threads: int | None = None,
) -> np.ndarray:  # fmt: skip
    """The planes uint8 [n, 3, height, width] of images of one size and order, decoded in lock-step."""
    first = containers[0]
    order = first.random
    if order is None:
        raise FormatError(f"the image is not in the order of model {model.name}")
    if any((c.height, c.width, c.random) != (first.height, first.width, order) for c in containers):
        raise ValueError("images of different sizes or orders cannot be decoded together")
    check_order(first.height, first.width, model, order)
    decoders = [rans.Decoder(c.segments) for c in containers]
    planes = generate(
        first.height, first.width, len(containers), model, backend, order, _Popping(decoders), progress, threads
    )
    for c, decoder, found in zip(containers, decoders, planes, strict=True):
        decoder.finish()
        if not c.agrees(pixel_checksum(found)):
            raise FormatError("the decoded pixels do not match the file's checksum")
    return planes


class _Popping:
    """Takes digits from the rANS words of images."""

    def __init__(self, decoders: Sequence[rans.Decoder]) -> None:
        self._decoders = decoders

    def __call__(self, edges: list[np.ndarray]) -> list[np.ndarray]:
        """edges: for every group int64 [images, m, base + 1], where the intervals of m digits of each image begin and
        end; gives the digits int64 [images, m] of every group."""
        rows = [(np.diff(group, axis=2) - 1).astype(np.float32) for group in edges]
        cuts = np.cumsum([group.shape[1] for group in edges])[:-1]
        found = []
        for image, decoder in enumerate(self._decoders):
            own = np.ascontiguousarray(np.concatenate([group[image] for group in rows]))
            symbols = decoder.pop(own)
            decoder.end_batch(len(symbols))
            found.append(np.split(symbols.astype(np.int64), cuts))
        return [np.stack(group) for group in zip(*found, strict=True)]


#: What is called after each network call with the planes uint8 [n, 3, height, width], in which the middle of the
#: possible values stands for what is not known.
Watch = Callable[[np.ndarray], None]


def generate(
    height: int, width: int, count: int, model: RandomModel, backend: Backend, order: RandomOrder,
    choose: Callable[[list[np.ndarray]], list[np.ndarray]], progress: Progress | None = None,
    threads: int | None = None, watch: Watch | None = None,
) -> np.ndarray:  # fmt: skip
    """``count`` images of one size, call by call; ``choose`` gives the digits (see _Popping).

    Planes uint8 [count, 3, height, width].
    """
    parts = groups(height, width, model, order)
    low = [np.zeros((count * len(g.blocks), CHANNELS, *g.shape), np.uint8) for g in parts]
    with walking(model, backend, threads) as walk:
        done = 0
        for stage, bases in enumerate(walk.digits):
            ranks = []
            for group in parts:
                ranks.append(np.empty(group.size, np.int64))
                ranks[-1][group.orders[stage]] = np.arange(group.size)
            for call in range(len(parts[0].ends[stage]) - 1):
                _call(walk, stage, call, parts, low, ranks, bases, count, choose)
                done += 1
                if progress:
                    progress(done / order.calls)
                if watch:
                    shown = [
                        own + walk.middles(stage, group.ends[stage][call + 1], rank).reshape(own.shape[1:])
                        for group, own, rank in zip(parts, low, ranks, strict=True)
                    ]  # fmt: skip
                    watch(_joined(parts, shown, count, height, width))
    return _joined(parts, low, count, height, width)


def _call(
    walk: Walk, stage: int, call: int, parts: Sequence[Group], low: list[np.ndarray], ranks: list[np.ndarray],
    bases: Sequence[int], count: int, choose: Callable[[list[np.ndarray]], list[np.ndarray]],
) -> None:  # fmt: skip
    """One network call: makes its sub-pixels known in ``low``."""
    jobs: list[tuple[int, slice]] = [(g, part) for g in range(len(parts)) for part in _chunks(len(low[g]))]
    places = [group.orders[stage][slice(*group.ends[stage][call : call + 2])] for group in parts]

    def work(job: tuple[int, slice]) -> Digits:
        g, part = job
        states = low[g][part]
        start = np.full(len(states), parts[g].ends[stage][call])
        return walk.evaluate(stage, states, start, ranks[g], [places[g]] * len(states))

    found = list(walk.pool.map(work, jobs))
    span = walk.spans[stage]
    for base in bases:
        edges: list[list[np.ndarray]] = [[] for _ in parts]
        for (g, _), own in zip(jobs, found, strict=True):
            edges[g].append(own.boundaries(base).cpu().numpy())
        chosen = choose([np.concatenate(group).reshape(count, -1, base + 1) for group in edges])
        span //= base
        flat = [group.reshape(-1) for group in chosen]
        for g, digit in enumerate(flat):
            low[g].reshape(len(low[g]), -1)[:, places[g]] += (digit * span).astype(np.uint8).reshape(len(low[g]), -1)
        first = [0] * len(parts)
        for (g, part), own in zip(jobs, found, strict=True):
            end = first[g] + (part.stop - part.start) * len(places[g])
            own.fix(torch.from_numpy(flat[g][first[g] : end]).to(own.low.device), base)
            first[g] = end


def _joined(parts: Sequence[Group], low: list[np.ndarray], count: int, height: int, width: int) -> np.ndarray:
    """Planes of images from those of their blocks."""
    planes = np.empty((count, CHANNELS, height, width), np.uint8)
    for group, own in zip(parts, low, strict=True):
        by_image = own.reshape(count, len(group.blocks), *own.shape[1:])
        for i, block in enumerate(group.blocks):
            planes[:, :, block.rows, block.columns] = by_image[:, i]
    return planes
