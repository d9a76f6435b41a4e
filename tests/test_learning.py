"""The head that learns while coding: bit for bit what docs/FORMAT.md says, on every back end, and worth it."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import plain_decoder
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_codec import fails

from ardmzip import codec, contexts, features, kernels, learning, network, schedule, streams, tables
from ardmzip.container import Container, pack, unpack
from ardmzip.errors import FormatError, OptionError
from ardmzip.model import Model, check, model_id
from ardmzip.predictor import CHUNK, Activations, LearnedDistribution, Predictor

BACKENDS = [(product, numba) for product in network.PRODUCTS for numba in (True, False)]
BUILT = tables.build()


def picture(channels: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 [channels, height, width]: waves in few grey levels, unlike photographs, so that there is much to learn."""
    rng = np.random.default_rng([seed, channels])
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(y / (5 + 2 * c) + c) + np.cos(x / (7 + c) - c) for c in range(channels)])
    return (9 * np.rint(13 + 6 * waves + rng.normal(0, 0.4, waves.shape))).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def taught(photo):
    """The shipped model with a learning curve for which many batches pay, whatever the shipped one says."""
    return replace(photo, learning_gain=np.sqrt(schedule.learning_grid(24)).astype(np.float32) / 1000)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# Order and batches


@given(st.integers(1, 700) | st.integers(1, 1 << 22))
def test_the_order_is_a_permutation(n):
    step = learning.spread(n)
    assert np.array_equal(np.sort(np.arange(n) * step % n), np.arange(n))
    if n < 5000:
        assert (np.arange(n) * step % n).tolist() == plain_decoder.order(n)


def test_steps_of_all_small_and_some_large_atoms():
    for n in [*range(1, 2000), *(2**k + d for k in range(11, 31) for d in (-1, 0, 1)), 2**28 * 3, 30030 * 30030]:
        step, least = learning.spread(n), max(1, n * 40503 // 65536)
        assert math.gcd(step, n) == 1
        assert least <= step <= max(1, n - 1)
        assert all(math.gcd(lower, n) > 1 for lower in range(least, step))


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.none() | st.lists(st.integers(1, 10**5), min_size=1))
def test_batches(seen, n, sizes):
    ends = None if sizes is None else tuple(itertools.accumulate(sizes))
    found = list(streams.batches(seen, n, ends))
    assert found == list(plain_decoder.batches(n, seen, ends))
    assert sum(found) == n
    assert all(1 <= size <= streams.LIMIT for size in found)
    borders = set(itertools.accumulate(found, initial=seen))
    assert {end for end in ends or () if seen < end < seen + n} <= borders


def test_batches_by_the_rule():
    assert list(streams.batches(0, 4096 + 200)) == [128] * 33 + [72]
    assert list(streams.batches(6400, 600)) == [200, 206, 194]
    assert set(streams.batches(1 << 20, 10 * 4096)) == {4096}
    assert list(streams.batches(5, 140000, (100,))) == [95, 65536, 65536, 8833]
    assert list(streams.batches(0, 140000, (139000, 10**10))) == [65536, 65536, 7928, 1000]


def test_batches_of_the_format():
    """The examples of docs/FORMAT.md."""
    assert list(streams.batches(0, 300)) == [128, 128, 44]
    assert list(streams.batches(0, 300, (100, 280, 1000))) == [100, 180, 20]
    assert list(streams.batches(300, 2000, (100, 280, 1000))) == [700, 1300]
    assert [i * learning.spread(10) % 10 for i in range(10)] == [0, 7, 4, 1, 8, 5, 2, 9, 6, 3]


# One head


def hostile_tables(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Tables that a model may have but ours does not: everything at random within its limits."""
    out = {name: rng.integers(low, high + 1, n).astype(kind) for name, (kind, n, low, high) in tables.LIMITS.items()}
    out["logistic"].sort()
    return out


def head_tensors(rng: np.random.Generator, e: int, hidden: int, k: int, directions: int, extreme: bool) -> dict:
    """Head and learning arrays of one expert, at random."""
    inputs = learning.head_inputs(hidden, e)

    def choose(low: int, high: int, shape: tuple[int, ...]) -> np.ndarray:
        return rng.choice([low, 0, high], shape) if extreme else rng.integers(low, high + 1, shape)

    scale = 1 if extreme else 16
    return {
        f"expert.{e}.head.weight": choose(-(2**14) // scale, (2**14 - 1) // scale, (3 * k, hidden)).astype(np.int16),
        f"expert.{e}.head.bias": choose(-(2**16), 2**16, (3 * k,)).astype(np.int32),
        f"learning.{e}.basis": choose(-127, 127, (directions, inputs)).astype(np.int8),
        f"learning.{e}.mix": choose(-learning.MIX_ONE, learning.MIX_ONE, (3 * k, 3 * k)).astype(np.int32),
        f"learning.{e}.rate": choose(0, 2**31 - 1 if extreme else 2**24, (directions,)).astype(np.int32),
    }


def joined(halves: np.ndarray, outputs: int) -> np.ndarray:
    padded = len(halves) // 2
    assert not halves[outputs:padded].any()
    assert not halves[padded + outputs :].any()
    assert halves[padded:].min() >= 0
    return (halves[:padded].astype(int) * 128 + halves[padded:])[:outputs]


class Twins:
    """A head of ardmzip and one of the plain decoder, side by side."""

    def __init__(self, tensors: dict[str, np.ndarray], e: int, tabs: dict[str, np.ndarray], product: str) -> None:
        self.contexts = int(contexts.block_tables(300, 200)[-1, 2])
        self.head = learning.Head(learning.start(tensors, e), self.contexts)
        self.plain = plain_decoder.Head(tensors, e, 300, 200)
        self.tables, self.lists = tabs, {name: array.tolist() for name, array in tabs.items()}
        self.backend = network.backend("cpu", product)
        self.outputs, self.inputs = self.plain.fine.shape

    def batch(self, u: np.ndarray, centre: np.ndarray, cls: np.ndarray, values: np.ndarray) -> None:
        """u: int [n, inputs]; compare frequencies, gradients and the state after the step."""
        n = len(u)
        places = self.some_contexts(n)
        activations = Activations(self.pad(u), centre.astype(np.int32), cls.astype(np.uint8), places)
        predictor = SimpleNamespace(table_arrays=self.tables, head_backend=self.backend)
        distribution = LearnedDistribution(self.head, activations, predictor)
        start, width = distribution.intervals(values)
        high_rows, low_rows = distribution.rows(), distribution.rows((values >> 4).astype(np.int32))

        gradients = []
        for i in range(n):
            y = self.plain.outputs(u[i].tolist(), list(enumerate(places[i].tolist())))
            m = plain_decoder.mixture(y, int(centre[i]), int(cls[i]), self.lists)
            v = int(values[i])
            gradients.append(plain_decoder.gradient(m, v, int(cls[i]), self.lists))
            f = plain_decoder.cumulative(m, self.lists)
            high, low = [f(16 * h) for h in range(17)], plain_decoder.low_bounds(f, v >> 4)
            assert (high_rows[i] + 1).tolist() == np.diff(high).tolist()
            assert (low_rows[i] + 1).tolist() == np.diff(low).tolist()
            assert start[:, i].tolist() == [high[v >> 4], low[v & 15]]
            assert width[:, i].tolist() == [high[(v >> 4) + 1] - high[v >> 4], low[(v & 15) + 1] - low[v & 15]]
        np.testing.assert_array_equal(joined(distribution.gradient(values).numpy(), self.outputs).T, gradients)
        distribution.learn(values)
        self.plain.step(u.tolist(), gradients, [list(enumerate(row)) for row in places.tolist()])
        self.compare()
        self.compare_offsets()

    def some_contexts(self, n: int) -> np.ndarray:
        """A context of each table for n pixels, int32 [n, TABLES], the same ones again and again."""
        firsts = [*contexts.FIRSTS[:-1], *contexts.block_tables(300, 200)[:, 2].tolist()]
        rng = np.random.default_rng(self.plain.seen)
        columns = [rng.integers(low, min(low + 4, high), n) for low, high in itertools.pairwise(firsts)]
        return np.stack(columns, 1).astype(np.int32)

    def pad(self, u: np.ndarray) -> torch.Tensor:
        padded = torch.zeros(len(u), self.head.weight.shape[1], dtype=torch.int8)
        padded[:, : self.inputs] = torch.from_numpy(u.astype(np.int8))
        return padded

    def compare(self) -> None:
        assert self.head.seen == self.plain.seen
        np.testing.assert_array_equal(self.head.square, self.plain.square)
        np.testing.assert_array_equal(self.head.exact[:, : self.inputs], self.plain.fine)
        assert not self.head.exact[:, self.inputs :].any()
        weight = joined(self.head.weight.numpy(), self.outputs)
        np.testing.assert_array_equal(weight[:, : self.inputs], self.plain.weight)

    def compare_offsets(self) -> None:
        values, pixels = np.zeros((self.contexts, self.outputs), int), np.zeros(self.contexts, int)
        for (_, context), row in self.plain.offsets.items():
            values[context] = row
        for (_, context), count in self.plain.pixels.items():
            pixels[context] = count
        np.testing.assert_array_equal(self.head.offsets.values[:, : self.outputs], values)
        assert not self.head.offsets.values[:, self.outputs :].any()
        np.testing.assert_array_equal(self.head.offsets.pixels, pixels)
        assert self.head.offsets.squares[: self.outputs].tolist() == self.plain.squares


def some_inputs(rng: np.random.Generator, n: int, hidden: int, inputs: int, extreme: bool) -> np.ndarray:
    u = rng.integers(-128, 128, (n, inputs))
    if extreme:
        u = np.where(u < 0, -128, 127)
    u[:, :hidden] = abs(u[:, :hidden]).clip(max=127) * (rng.random((n, hidden)) < 0.6)
    u[:, -1] = 16
    return u


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1), e=st.integers(0, features.EXPERTS - 1), hidden=st.integers(1, 40),
    k=st.integers(1, 5), directions=st.integers(1, 9), sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    extreme=st.booleans(), hostile=st.booleans(), product=st.sampled_from(network.PRODUCTS),
)  # fmt: skip
def test_heads_against_the_format(seed, e, hidden, k, directions, sizes, extreme, hostile, product):
    rng = np.random.default_rng(seed)
    tabs = hostile_tables(rng) if hostile else BUILT
    twins = Twins(head_tensors(rng, e, hidden, k, directions, extreme), e, tabs, product)
    twins.compare()
    for n in sizes:
        u = some_inputs(rng, n, hidden, twins.inputs, extreme)
        centre = rng.choice([0, 16320], n) if extreme else rng.integers(0, 16321, n)
        near = (centre / 64 + rng.normal(0, 8, n)).clip(0, 255).astype(np.uint8)
        values = rng.choice([0, 255], n).astype(np.uint8) if extreme else near
        twins.batch(u, centre, rng.integers(0, 37, n), values)


@pytest.mark.parametrize("product", network.PRODUCTS)
def test_the_shipped_heads_against_the_format(photo, product):
    """Over batches of all sizes; from 1,024 pixels on float32 products of a batch would not be exact."""
    rng = np.random.default_rng(3)
    for e in (0, 17):
        hidden = photo.tensors[f"expert.{e}.head.weight"].shape[1]
        twins = Twins(photo.tensors, e, photo.tables, product)
        for n in (1, 2, 17, 128, 300) if e else (5, 1100):
            u = some_inputs(rng, n, hidden, twins.inputs, False)
            centre, cls = rng.integers(0, 16321, n), rng.integers(4, 30, n)
            twins.batch(u, centre, cls, (centre / 64 + rng.normal(0, 9, n)).clip(0, 255).astype(np.uint8))
    assert (twins.head.weight != twins.head.start.halves).any()


def test_the_largest_sums():
    """65,536 pixels, all numbers at their ends: sums of 2**30 by halves, and just below 2**53 in a direction."""
    rng, n, hidden, e = np.random.default_rng(4), 1 << 16, 369, 8  # 512 inputs, the most there may be
    tensors = head_tensors(rng, e, hidden, 1, 6, True)
    signs = rng.choice([-1, 1], learning.head_inputs(hidden, e))
    tensors[f"learning.{e}.basis"][:3] = 127 * signs
    pairs = [Twins(tensors, e, BUILT, product) for product in network.PRODUCTS]
    assert pairs[0].inputs == 512
    u = np.tile(np.where(signs > 0, 127, -128), (n, 1))
    u[rng.integers(0, n, 1000), rng.integers(0, 512, 1000)] //= 2
    g = np.where(rng.random((n, 3)) < 1e-4, rng.integers(-16383, 16384, (n, 3)), [16383, -16383, 16383])
    halves = torch.from_numpy(network.split_head(np.ascontiguousarray(g.T)))
    pairs[0].plain.step_of_weights(u, g)
    for twins in pairs:
        sums = twins.backend.matmul(halves, twins.pad(u).t())
        twins.head.learn(sums, n)
        twins.plain = pairs[0].plain
        twins.compare()
    projected = g.T @ u @ pairs[0].plain.basis.T
    assert 0.98 * 2**53 < abs(projected).max() < 2**53


def test_the_largest_offsets():
    """65,536 pixels of one context, all gradients at their ends: sums of 2**30; and offsets that are at theirs."""
    n, tensors = 1 << 16, head_tensors(np.random.default_rng(8), 0, 4, 1, 2, True)
    places = [5, 70, 91, 350, 400, 460, 521, 530]
    twins = Twins(tensors, 0, BUILT, "int8")
    for sign, size in [(1, n), (-1, 40), (-1, 600)]:
        g = np.tile(sign * np.array([16383, -16383, 100]), (size, 1))
        twins.head.seen = twins.plain.seen = twins.head.seen + size
        halves = network.split_head(np.ascontiguousarray(g.T))
        twins.head.offsets.learn(halves, np.tile(np.array(places, np.int32), (size, 1)), twins.head.seen)
        twins.plain.step_of_offsets(g.tolist(), [list(enumerate(places))] * size)
        twins.compare_offsets()
        for key, row in twins.plain.offsets.items():
            row[:] = [contexts.OFFSET_MAX - 3, 3 - contexts.OFFSET_MAX, contexts.OFFSET_MAX - 3]
            twins.head.offsets.values[key[1], :3] = row
    assert (twins.head.offsets._sums == 0).all()


@pytest.mark.parametrize(("height", "width"), [(300, 500), (1, 3000), (9, 5)])
def test_contexts_against_the_format(photo, height, width):
    """Of some pixels of all atoms: numbers of one context or another, all within the tables."""
    rng, tensors = np.random.default_rng(9), photo.tensors
    order = codec.LatticeOrder(height, width, 3, (min(1, height - 1), 1))
    blocks = contexts.block_tables(height, width)
    firsts = [*contexts.FIRSTS[:-1], *blocks[:, 2].tolist()]
    seen = set()
    for atom in order.atoms:
        rows, columns = order.lattice_shape(atom.level, atom.kind)
        if rows * columns == 0:
            continue
        e = atom.expert
        head = plain_decoder.Head(tensors, e, height, width)
        n = 20
        x = rng.integers(-64, 81, (n, features.expert_layout(e).inputs)).astype(np.int8)
        centre, cls = rng.integers(0, 16321, n).astype(np.int32), rng.integers(0, 37, n).astype(np.uint8)
        row, column = rng.integers(0, rows, n), rng.integers(0, columns, n)
        slices = order.lattice(atom.level, atom.kind)
        y, x_place = 2 * row + slices[0].start, 2 * column + slices[1].start
        stride = order.level_shape(atom.level)[1] + 2 * features.RADIUS
        at = ((y + features.RADIUS) * stride + x_place + features.RADIUS) * 3
        found = np.empty((n, contexts.TABLES), np.int32)
        kernels.find_contexts(
            x, contexts.context_inputs(e), centre, cls, at, stride, features.RADIUS, atom.level, blocks, found
        )  # fmt: skip
        for i in range(n):
            place = (int(y[i]), int(x_place[i]), atom.level)
            wanted = head.contexts(x[i].tolist(), int(centre[i]), int(cls[i]), *place)
            assert [first + context for first, (_, context) in zip(firsts, wanted, strict=False)] == found[i].tolist()
            assert all(low <= c < high for c, (low, high) in zip(found[i], itertools.pairwise(firsts), strict=True))
            seen.update(found[i].tolist())
    if height > 128:
        for table in (1, 3, 6):  # slopes, bends and coarse blocks
            assert seen >= set(range(firsts[table], firsts[table + 1]))
        assert all(len(seen & set(range(firsts[table], firsts[table + 1]))) > 40 for table in (0, 2, 4, 5))


def test_blocks_grow_with_the_image():
    for height, width in [(1, 1), (128, 129), (9000, 9000), (1, 2**30), (2**15, 2**15)]:
        table = contexts.block_tables(height, width)
        assert (np.diff(table[:, 2]) <= contexts.MAX_BLOCKS).all()
        assert table[0, 2] == contexts.FIRSTS[-1]
        for (bits, columns, _), least in zip(table[:2].tolist(), contexts.BLOCK_BITS, strict=True):
            assert columns == -(-width // 2**bits)
            half = 2 ** (bits - 1)  # the side would be this without the limit
            assert bits == least or -(-width // half) * -(-height // half) > contexts.MAX_BLOCKS


def test_steps_and_weights_stop_at_their_ends():
    """Rates of nearly 2**31 in 1,024 equal directions: steps reach 2**36, weights 16383."""
    rng, hidden, e = np.random.default_rng(5), 4, 0
    tensors = head_tensors(rng, e, hidden, 1, 1024, True)
    tensors[f"learning.{e}.basis"][:] = 127
    tensors[f"learning.{e}.rate"][:] = 2**31 - 1
    tensors[f"learning.{e}.mix"][:] = learning.MIX_ONE
    twins = Twins(tensors, e, BUILT, "int8")
    for sign in (1, -1, 1, 1):
        u = np.full((9, twins.inputs), 16)
        g = np.full((9, 3), sign * 16383)
        twins.head.learn(torch.from_numpy(network.split_head(g.T)).int() @ twins.pad(u).int(), 9)
        twins.plain.step_of_weights(u.tolist(), g.tolist())
        twins.compare()
        assert (abs(twins.plain.weight) == 16383).all()


def test_subnormal_squares_do_not_matter():
    """A mean square decays to nothing over long flat areas; processors that flush such numbers get the same head."""
    heads = []
    for flush in (False, True):
        rng = np.random.default_rng(6)
        head = learning.Head(learning.start(head_tensors(rng, 0, 5, 1, 3, False), 0), 0)
        sums = torch.from_numpy(rng.integers(-1000, 1000, head.weight.shape).astype(np.int32))
        head.learn(sums, 128)
        head.square[:] = 1e-306
        torch.set_flush_denormal(flush)
        try:
            for _ in range(500):
                head.learn(torch.zeros_like(sums), 128)
            flat = head.square.copy()
            head.learn(sums, 128)
        finally:
            torch.set_flush_denormal(False)
        assert flat.max() < 1e-307
        heads.append(head)
    np.testing.assert_array_equal(heads[0].exact, heads[1].exact)
    np.testing.assert_array_equal(heads[0].square, heads[1].square)


def code_length(y: np.ndarray, centre: int, a: int, v: int) -> float:
    """Bits of a value under the mixture in real numbers, with the floor of the frequencies."""
    logits, means, scales = y.reshape(3, -1) / 256
    w = 2.0 ** (logits - logits.max())
    mu = centre / 64 + means * BUILT["class_scale"][a] / 64
    sigma = 2.0 ** (scales + a / 4 - 1)
    below = 0.0 if v == 0 else 1 / (1 + np.exp(-(v - 0.5 - mu) / sigma))
    above = 1.0 if v == 255 else 1 / (1 + np.exp(-(v + 0.5 - mu) / sigma))
    return -math.log2((w * (above - below)).sum() / w.sum() + 2.0**-20)


def test_the_gradient_is_that_of_the_code_length():
    """Against finite differences, at scales at which the tables' steps are fine beside the slope."""
    rng, k, lists = np.random.default_rng(7), 3, {name: array.tolist() for name, array in BUILT.items()}
    found, wanted = [], []
    for _ in range(400):
        a, centre = int(rng.integers(6, 15)), int(rng.integers(0, 16321))  # scales of about 1 to 10 grey levels
        y = np.concatenate([rng.integers(-500, 500, k), rng.integers(-300, 300, k), rng.integers(-200, 200, k)])
        v = int(np.clip(round(centre / 64 + rng.normal(0, BUILT["class_scale"][a] / 64)), 0, 255))
        g = plain_decoder.gradient(plain_decoder.mixture(y.tolist(), centre, a, lists), v, a, lists)
        found.append(np.array(g) / 1024)
        steps = 0.1 * np.eye(3 * k)
        slopes = [code_length(y + s, centre, a, v) - code_length(y - s, centre, a, v) for s in steps]
        wanted.append(np.array(slopes) / 0.2 * 256)
    for part in range(3):  # weights, means, scales
        one, two = (np.array(rows)[:, part * k : (part + 1) * k] for rows in (found, wanted))
        assert np.linalg.norm(one - two) < 0.05 * np.linalg.norm(two)


# Files


def smooth_pictures() -> list[np.ndarray]:
    """Ramps, a single colour, waves and a chessboard: gradients of almost nothing, far from any photograph."""
    y, x = np.mgrid[:80, :96]
    return [
        np.stack([(x + y) // 2, x // 2 + 60, y // 3 + 20]).astype(np.uint8),
        np.stack([np.full(x.shape, 7), np.full(x.shape, 9), np.full(x.shape, 200)]).astype(np.uint8),
        np.stack([127 + 100 * np.sin(x / 20) * np.cos(y / 15)] * 3).astype(np.uint8),
        np.stack([(x // 8 + y // 8) % 2 * 255] * 3).astype(np.uint8),
    ]


@pytest.mark.parametrize("planes", smooth_pictures(), ids=["ramps", "flat", "waves", "chess"])
def test_learning_does_not_hurt_where_there_is_no_noise(planes, photo, cpu):
    assert len(coded(planes, photo, cpu)) < len(coded(planes, photo, cpu, learn=False)) + 8


@pytest.mark.parametrize("count", [2, 8])
def test_errors_while_atoms_are_coded_side_by_side(photo, cpu, count, monkeypatch):
    """The first error comes out, whichever thread it is in, and the work in hand ends."""
    monkeypatch.setattr(codec, "LANES_FROM", 0)
    planes = picture(3, 70, 90)

    def refuse(*_):
        raise KeyboardInterrupt

    with threads(count):
        with pytest.raises(KeyboardInterrupt):
            codec.encode(planes, photo, cpu, progress=refuse)
        monkeypatch.setattr(LearnedDistribution, "learn", refuse)
        with pytest.raises(KeyboardInterrupt):
            codec.encode(planes, photo, cpu)


def coded(planes: np.ndarray, model: Model, backend: network.Backend, **options) -> bytes:
    return pack(codec.encode(planes, model, backend, **options))


def decoded(file: bytes, model: Model, backend: network.Backend, chunk: int = CHUNK) -> np.ndarray:
    return codec.decode(unpack(file), model, backend, chunk=chunk)


@pytest.fixture(scope="module")
def files(taught) -> list[tuple[np.ndarray, dict, bytes]]:
    """(planes, options, file) as the slow reference makes them: float64 products and torch operations."""
    reference = network.backend("cpu", "float64", False)
    cases: list[tuple[np.ndarray, dict]] = [
        (picture(3, 42, 45), {}),
        (picture(1, 64, 90), {"batches": 7, "steps": 8}),
        (picture(3, 31, 20), {"batches": 3}),
    ]
    return [(planes, options, coded(planes, taught, reference, **options)) for planes, options in cases]


@pytest.fixture
def small_lanes(monkeypatch):
    """Lanes for the small images of tests too."""
    monkeypatch.setattr(codec, "LANES_FROM", 0)


@pytest.mark.usefixtures("small_lanes")
@pytest.mark.parametrize(("product", "numba"), BACKENDS)
def test_back_ends_threads_and_chunks(files, taught, product, numba):
    backend = network.backend("cpu", product, numba)
    for (planes, options, file), (count, chunk) in itertools.product(files, [(1, 8192), (2, 100), (1, 1)]):
        with threads(count):
            assert coded(planes, taught, backend, chunk=chunk, **options) == file
    for planes, _, file in files:
        with threads(2):
            np.testing.assert_array_equal(decoded(file, taught, backend, chunk=77), planes)
        np.testing.assert_array_equal(decoded(file, taught, backend), planes)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("product", network.PRODUCTS)
def test_cuda(files, taught, product):
    backend = network.backend("cuda", product)
    for (planes, options, file), chunk in itertools.product(files, (8192, 100)):
        assert coded(planes, taught, backend, chunk=chunk, **options) == file
        np.testing.assert_array_equal(decoded(file, taught, backend, chunk=chunk), planes)


@pytest.mark.parametrize(
    ("channels", "height", "width", "steps", "ends"),
    [(1, 40, 44, None, None), (3, 24, 20, None, (7, 20, 50, 51, 90, 115)), (3, 17, 16, 4, (1, 2, 3, 30))],
)
def test_a_decoder_written_from_the_format(taught, cpu, channels, height, width, steps, ends):
    """Several batches an atom, by the rule and by lists; test_exactness.py has more sizes with one batch an atom."""
    planes = picture(channels, height, width)
    container = walked(planes, taught, cpu, steps, ends)
    np.testing.assert_array_equal(codec.decode(container, taught, cpu), planes)
    np.testing.assert_array_equal(plain_decoder.decode(container, taught.tensors), planes)


def walked(planes, model, backend, steps, ends) -> Container:
    """A learning file with any list of batches."""
    plain = codec.encode(planes, model, backend, steps, learn=False)
    coder = codec.EncodingCoder(planes, plain.order)
    plan = codec.Plan(plain.order, plain.call_starts, True, ends)
    with Predictor(model, backend, None) as predictor:
        codec.walk(plan, predictor, coder)
    container = replace(plain, learning=True, batch_ends=ends, segments=coder.encoder.finish())
    return unpack(pack(container))


@settings(max_examples=25)
@given(
    st.sampled_from([1, 3]), st.integers(1, 26), st.integers(1, 26), st.none() | st.integers(1, 8),
    st.lists(st.integers(1, 90), min_size=1, max_size=12), st.integers(0, 99),
)  # fmt: skip
def test_any_list_of_batches(photo, cpu, channels, height, width, steps, sizes, seed):
    planes = picture(channels, height, width, seed)
    ends = tuple(itertools.accumulate(sizes))
    container = walked(planes, photo, cpu, steps, ends)
    assert container.batch_ends == ends
    np.testing.assert_array_equal(codec.decode(container, photo, cpu), planes)


@pytest.mark.parametrize("channels", [1, 3])
def test_small_images(check_codec, taught, cpu, channels):
    for height, width in itertools.product((1, 2, 3, 5), (1, 2, 4, 9)):
        for options in ({}, {"batches": 2}):
            container = unpack(
                check_codec(
                    lambda planes, options=options: coded(planes, taught, cpu, **options),
                    lambda file: decoded(file, taught, cpu),
                    picture(channels, height, width),
                )
            )
            assert not container.learning  # there is too little to learn from
            assert container.batch_ends is None
            said = replace(container, learning=True)
            np.testing.assert_array_equal(codec.decode(said, taught, cpu), codec.decode(container, taught, cpu))


def test_small_atoms_teach_nothing(taught, cpu):
    """Atoms of fewer than 64 pixels, the largest of these images being of 63 and 64, are coded as without learning."""
    for width, differs in ((14, False), (15, True)):
        planes = picture(1, 17, width)
        words = [codec.encode(planes, taught, cpu, learn=learn).segments[0].tolist() for learn in (True, False)]
        assert (words[0] != words[1]) == differs


@pytest.mark.parametrize("budget", [1, 2, 5, 40])
def test_batch_budgets(taught, cpu, budget):
    for planes in (picture(3, 70, 66), picture(1, 40, 64)):
        file = coded(planes, taught, cpu, batches=budget)
        container = unpack(file)
        largest = int(container.order.sizes().max())
        assert container.batch_ends == schedule.best_batches(largest, taught.learning_gain, budget).ends
        assert 1 <= len(container.batch_ends) <= budget
        assert container.batch_ends[-1] == largest
        assert b"\x87" in file
        np.testing.assert_array_equal(decoded(file, taught, cpu), planes)
    assert len(container.batch_ends) == min(budget, 5)  # 640 pixels in batches of at least 128


def test_frozen_files(photo, cpu):
    planes = picture(3, 34, 37)
    file = coded(planes, photo, cpu, learn=False)
    assert not unpack(file).learning
    np.testing.assert_array_equal(decoded(file, photo, cpu), planes)
    with pytest.raises(OptionError, match="batches are for a head that learns"):
        coded(planes, photo, cpu, learn=False, batches=3)
    with pytest.raises(OptionError, match="no learning curve to choose batches by"):
        coded(planes, replace(photo, learning_gain=np.zeros(9, np.float32)), cpu, batches=3)
    learned = coded(planes, photo, cpu)
    assert unpack(learned).learning
    assert unpack(learned).batch_ends is None


def without_learning(model: Model) -> Model:
    tensors = {name: array for name, array in model.tensors.items() if not name.startswith("learning.")}
    return replace(model, id=model_id(tensors), tensors=tensors)


def test_a_model_that_does_not_tell_how_to_learn(photo, cpu):
    planes = picture(3, 20, 21)
    frozen = without_learning(photo)
    check(frozen.tensors)
    assert not frozen.learns
    with pytest.raises(OptionError, match="batches are for a head that learns"):
        coded(planes, frozen, cpu, batches=4)
    file = coded(planes, frozen, cpu)
    assert not unpack(file).learning
    assert file[12:-4] == coded(planes, photo, cpu, learn=False)[12:-4]  # but for the model's id and the checksum
    np.testing.assert_array_equal(decoded(file, frozen, cpu), planes)
    with pytest.raises(FormatError, match="wants a learning head, which model photo does not have"):
        codec.decode(codec.encode(planes, photo, cpu), frozen, cpu)


def test_coding_leaves_the_model_alone(photo, cpu):
    before = {name: array.copy() for name, array in photo.tensors.items()}
    coded(picture(3, 40, 40), photo, cpu)
    for name, array in before.items():
        np.testing.assert_array_equal(photo.tensors[name], array)
    start = learning.start(photo.tensors, 0)
    for one, two in zip(photo.untaught(0), start, strict=True):
        np.testing.assert_array_equal(one, two)


def changed(model: Model, name: str, index: int, units: int) -> Model:
    """The model with one integer changed."""
    tensor = model.tensors[name].copy()
    flat = tensor.reshape(-1)
    flat[index % flat.size] += units if flat[index % flat.size] < 127 or tensor.itemsize > 1 else -units
    return replace(model, tensors={**model.tensors, name: tensor})


@pytest.fixture(scope="module")
def example(taught, cpu) -> tuple[np.ndarray, Container]:
    planes = picture(3, 32, 30)
    return planes, walked(planes, taught, cpu, None, tuple(range(16, 1000, 16)))


@pytest.mark.parametrize(
    ("part", "units"),
    [("learning.basis", 1), ("learning.mix", 1), ("learning.rate", 1 << 16), ("expert.head.weight", 1),
     ("expert.head.bias", 1)],
)  # fmt: skip
def test_one_unit_of_one_number_is_noticed(example, taught, cpu, part, units):
    """A decoder whose model differs fails; it never returns other pixels. One unit need not matter to 960 pixels."""
    planes, container = example
    rng, noticed = np.random.default_rng(9), 0
    kind, rest = part.split(".", 1)
    for attempt in range(90):
        other = changed(taught, f"{kind}.{attempt % 9}.{rest}", int(rng.integers(1 << 20)), units)  # experts of level 0
        assert model_id(other.tensors) != taught.id
        noticed += fails(container, planes, other, cpu)
        if noticed >= 2:
            break
    assert noticed


def test_a_file_read_otherwise_is_noticed(example, taught, cpu):
    planes, container = example
    assert fails(replace(container, learning=False, batch_ends=None), planes, taught, cpu)
    assert fails(replace(container, batch_ends=None), planes, taught, cpu)
    ends = container.batch_ends
    for other in (ends[1:], (ends[0] + 1, *ends[1:]), (5, *ends), ends[:3]):
        assert fails(replace(container, batch_ends=other), planes, taught, cpu)
    frozen = codec.encode(planes, taught, cpu, learn=False)
    assert fails(replace(frozen, learning=True), planes, taught, cpu)


@settings(max_examples=40)
@given(data=st.data())
def test_damaged_words(example, taught, cpu, data):
    """As if the file's checksum had missed it; with threads that work ahead."""
    planes, container = example
    damaged = container.segments[0].copy()
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= np.uint32(1 << data.draw(st.integers(0, 31)))
    with threads(data.draw(st.sampled_from([1, 2]))):
        assert fails(replace(container, segments=(damaged,)), planes, taught, cpu)


# What it is good for


def test_gains(photo, cpu):
    """What is reported is what the files take; and there is a gain where there is much to learn."""
    planes, gains = picture(3, 90, 90), []
    learned = codec.encode(planes, photo, cpu, gains=gains)
    assert learned.segments[0].tolist() == codec.encode(planes, photo, cpu).segments[0].tolist()
    frozen = codec.encode(planes, photo, cpu, learn=False)
    assert sum(gain.pixels for gain in gains) == planes.size - 3
    assert {gain.level for gain in gains} == set(range(learned.order.levels))
    assert all(one.seen >= 0 for one in gains)
    bits = sum(gain.learned for gain in gains), sum(gain.frozen for gain in gains)
    for container, expected in zip((learned, frozen), bits, strict=True):
        assert 0 <= 32 * len(container.segments[0]) - expected - 24 <= 65
    first = [gain for gain in gains if gain.level == 0 and gain.seen == 0]
    assert len(first) == 9
    assert all(gain.frozen == gain.learned for gain in first)
    assert bits[0] < 0.98 * bits[1]
    alone: list = []  # with frozen heads there are code lengths, too
    codec.encode(planes, photo, cpu, learn=False, gains=alone)
    assert all(gain.seen == 0 and gain.frozen == gain.learned for gain in alone)
    assert sum(gain.pixels for gain in alone) == planes.size - 3
    assert sum(gain.learned for gain in alone) == pytest.approx(bits[1])


@given(st.integers(1, 1200), st.lists(st.floats(-0.1, 1.0), min_size=2, max_size=14), st.integers(1, 10))
def test_best_batches_against_all_cuts(pixels, gain, steps):
    gain = np.array(gain)
    grid = schedule.learning_grid(len(gain))
    assert grid[:4].tolist() == [0, 64, 64 * math.sqrt(2), 128][: len(gain)]

    def mean_gain(ends) -> float:
        return (
            sum((end - start) * np.interp(start, grid, gain) for start, end in itertools.pairwise((0, *ends))) / pixels
        )

    places = range(128, pixels, 128)
    cuts = [
        (*cut, pixels) for count in range(min(steps, len(places) + 1)) for cut in itertools.combinations(places, count)
    ]
    found = schedule.best_batches(pixels, gain, steps)
    assert found.ends in cuts
    assert found.gain == pytest.approx(mean_gain(found.ends), abs=1e-9)
    assert found.gain == pytest.approx(max(map(mean_gain, cuts)), abs=2e-6)  # the programme adds whole 2**-20
    assert sum(streams.batches(0, pixels, found.ends)) == pixels
    assert list(itertools.accumulate(streams.batches(0, pixels, found.ends))) == list(found.ends)


def test_best_batches_of_large_atoms():
    """Batches may end at a 32nd of what was seen before; more of them never gain less."""
    gain = np.sqrt(schedule.learning_grid(30)) / 1000
    places = [0]
    while places[-1] < 100_000:
        places.append(min(places[-1] + max(128, places[-1] // 32), 100_000))
    best = [schedule.best_batches(100_000, gain, steps) for steps in range(1, 30)]
    assert all(set(b.ends) <= set(places) and len(b.ends) == steps for steps, b in enumerate(best, 1))
    assert all(one.gain < two.gain for one, two in itertools.pairwise(best))
    grid = schedule.learning_grid(30)
    two = max((100_000 - place) * np.interp(place, grid, gain) for place in places) / 100_000
    assert best[1].gain == pytest.approx(two, abs=2e-6)
    assert schedule.best_batches(100_000, np.zeros(2), 10).ends == (100_000,)


def test_no_learning_where_it_does_not_pay(photo, cpu):
    ramp = np.mgrid[:32, :32].sum(0).astype(np.uint8) * 4
    planes = ramp[None]
    learned, frozen = (pack(codec.encode(planes, photo, cpu, learn=learn)) for learn in (True, False))
    assert len(frozen) < len(learned)
    import ardmzip

    compress = partial(ardmzip.compress, model="photo")  # not a general coder
    gains: list[learning.Gain] = []
    assert compress(ramp) == compress(ramp, gains=gains) == frozen
    assert gains
    assert all(gain.learned == gain.frozen for gain in gains)
    earlier = learning.Gain(0, 0, 1, 1e9, 0.0)  # of another image: it has no say
    gains[:] = [earlier]
    assert compress(ramp, gains=gains) == frozen
    assert gains[0] == earlier
    assert all(gain.learned == gain.frozen for gain in gains[1:])
    pixels = picture(1, 64, 64)[0]
    assert compress(pixels) == compress(pixels, gains=gains) != compress(pixels, learn=False)
    assert gains


def test_the_library(photo):
    import ardmzip

    compress = partial(ardmzip.compress, model="photo")
    pixels = np.ascontiguousarray(picture(3, 24, 30)[[1, 0, 2]].transpose(1, 2, 0))
    gains: list[learning.Gain] = []
    file = compress(pixels, gains=gains)
    assert gains
    assert unpack(file).learning
    frozen = compress(pixels, learn=False, gains=gains)
    assert not unpack(frozen).learning
    for data in (file, frozen, compress(pixels, batches=2)):
        np.testing.assert_array_equal(np.asarray(ardmzip.decompress(data)), pixels)
    for batches in (0, -1):
        with pytest.raises(OptionError, match=f"batches must be at least 1, not {batches}"):
            compress(pixels, batches=batches)
