"""Features: the numba kernels against the torch reference, and what the inputs may and may not depend on."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ardmzip import features, kernels, sideinfo, tables
from ardmzip.order import Atom, LatticeOrder

TABLES = tables.build()
TORCH_TABLES = {name: torch.from_numpy(table) for name, table in TABLES.items()}
LAYOUTS = [(kind, channel) for kind in range(features.KINDS) for channel in range(features.CHANNELS)]
seeds = st.integers(0, 2**32 - 1)


def by_numba(array, at, lay, level, side):
    x, centre = np.empty((len(at), lay.inputs), np.int8), np.empty(len(at), np.int32)
    cls = np.empty(len(at), np.uint8)
    kernels.window_features(array.reshape(-1), at, array.shape[1], lay, level, side[None], TABLES, x, centre, cls)
    return x, centre, cls


def by_torch(array, at, lay, level, side):
    parts = features.window_features(
        torch.from_numpy(array.reshape(-1)), torch.from_numpy(at), array.shape[1], lay, level,
        torch.from_numpy(side[None]), TORCH_TABLES,
    )  # fmt: skip
    assert [part.dtype for part in parts] == [torch.int8, torch.int32, torch.uint8]
    return tuple(part.numpy() for part in parts)


def by_training(array, row, col, lay, level, gap, side):
    """All samples from one array, as the trainer sees them."""
    n, stride = len(row), array.shape[1]
    at = ((row + 3) * stride + col + 3) * 3
    x, centre = np.empty((n, lay.inputs), np.int8), np.empty(n, np.int32)
    cls, target = np.empty(n, np.uint8), np.empty(n, np.int16)
    many = [np.full(n, value, np.int64) for value in (stride, level, gap, 0)]
    kernels.training_features(
        array.reshape(-1), at, many[0], row, col, many[1], many[2], lay.offsets[:, 0], lay.offsets[:, 1], lay.weights,
        lay.known, lay.channel, lay.kind, side[None], many[3], TABLES["class_of"], TABLES["compand"],
        x, centre, cls, target,
    )  # fmt: skip
    return x, centre, cls, target


def assert_same(one, two):
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def side_information(rng):
    return sideinfo.inputs(rng.integers(-127, 128, features.SIDE).astype(np.int8) if rng.random() < 0.8 else None)


def positions(rows, columns):
    row, column = np.divmod(np.arange(rows * columns), columns)
    return ((row + 3) * (columns + 6) + column + 3) * 3


@pytest.mark.parametrize(("kind", "channel"), LAYOUTS)
@settings(max_examples=25)
@given(
    seeds,
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    st.sampled_from([(0, 256), (0, 2), (100, 104), (255, 256)]),
    st.booleans(),
)
def test_numba_equals_torch(kind, channel, seed, rows, columns, unknown, span, gray):
    rng = np.random.default_rng(seed)
    array = np.full((rows + 6, columns + 6, 3), -1, np.int16)
    inner = array[3:-3, 3:-3]
    inner[:] = rng.integers(*span, inner.shape)
    inner[rng.random(inner.shape) < unknown] = -1  # also R and B without G, which the codec never makes
    if gray:
        inner[:, :, 1:] = -1
    side, lay = side_information(rng), features.layout(kind, channel)
    at = positions(rows, columns)
    for level in range(8):
        assert_same(by_numba(array, at, lay, level, side), by_torch(array, at, lay, level, side))


@settings(max_examples=10)
@given(seeds)
def test_numba_equals_torch_on_many_pixels(seed):
    rng = np.random.default_rng(seed)
    array = rng.integers(-1, 256, (46, 66, 3)).astype(np.int16)
    array[:3] = array[-3:] = array[:, :3] = array[:, -3:] = -1
    at = positions(40, 60)  # several blocks of the kernel
    lay, side = features.layout(2, 2), side_information(rng)
    assert_same(by_numba(array, at, lay, 1, side), by_torch(array, at, lay, 1, side))


@st.composite
def steps(draw):
    """An image, its order and one of its atoms that is not empty."""
    order = LatticeOrder(draw(st.integers(1, 24)), draw(st.integers(2, 24)), 3)
    rng = np.random.default_rng(draw(seeds))
    top = draw(st.sampled_from([2, 256]))
    planes = rng.integers(0, top, (3, order.height, order.width), dtype=np.uint8)
    atom = draw(st.sampled_from(np.flatnonzero(order.sizes()).tolist()))
    return planes, order, atom, rng


def atom_pixels(order, atom):
    y, x = order.lattice(atom.level, atom.kind)
    height, width = order.level_shape(atom.level)
    row, col = np.meshgrid(np.arange(height)[y], np.arange(width)[x], indexing="ij")
    return row.ravel(), col.ravel()


@settings(max_examples=60)
@given(steps(), st.integers(0, 40))
def test_training_and_coding_see_the_same(level_array, step, gap):
    """A trainer sees complete crops, the codec only what is known: their inputs must be equal, in merged calls too."""
    planes, order, index, rng = step
    atom, side = order.atoms[index], side_information(rng)
    row, col = atom_pixels(order, atom)
    lay = features.layout(atom.kind, atom.channel)
    complete = level_array(planes, order, atom.level, len(order.atoms))
    known = level_array(planes, order, atom.level, max(0, index - gap))
    at = ((row + 3) * complete.shape[1] + col + 3) * 3
    *inputs, target = by_training(complete, row, col, lay, atom.level, gap, side)
    assert_same(inputs, by_numba(known, at, lay, atom.level, side))
    np.testing.assert_array_equal(target, complete.reshape(-1)[at + atom.channel])


@settings(max_examples=60)
@given(steps())
def test_later_atoms_do_not_matter(level_array, step):
    planes, order, index, rng = step
    atom, side = order.atoms[index], side_information(rng)
    row, col = atom_pixels(order, atom)
    lay = features.layout(atom.kind, atom.channel)
    complete = level_array(planes, order, atom.level, len(order.atoms))
    later = level_array(planes, order, atom.level, index) != complete
    changed = np.where(later, rng.integers(0, 256, complete.shape), complete).astype(np.int16)
    *one, _ = by_training(complete, row, col, lay, atom.level, 0, side)
    *two, _ = by_training(changed, row, col, lay, atom.level, 0, side)
    assert_same(one, two)


@settings(max_examples=60)
@given(steps(), st.integers(0, 40))
def test_ranges(level_array, step, gap):
    planes, order, index, rng = step
    atom, side = order.atoms[index], side_information(rng)
    row, col = atom_pixels(order, atom)
    lay = features.layout(atom.kind, atom.channel)
    known = level_array(planes, order, atom.level, max(0, index - gap))
    x, centre, cls = by_numba(known, ((row + 3) * known.shape[1] + col + 3) * 3, lay, atom.level, side)
    used = sum(lay.taps(plane) for plane in range(3)) + features.SCALARS
    assert x.min() >= -127
    assert not x[:, used:].any()
    assert centre.min() >= 0
    assert centre.max() <= 255 * 64
    assert cls.max() < tables.CLASSES
    scalars = x[:, used - features.SCALARS : used]
    assert (scalars[:, 3] >= -64).all()
    assert ((scalars[:, 6:9] >= 0) & (scalars[:, 6:9] <= 32)).all()
    assert (scalars[:, 11:17] == 32 * (atom.level >= np.arange(1, 7))).all()
    np.testing.assert_array_equal(scalars[:, 17:], np.broadcast_to(side, (len(x), len(side))))


def test_nothing_known():
    lay, side = features.layout(0, 0), sideinfo.inputs(None)
    x, centre, cls = by_numba(np.full((7, 7, 3), -1, np.int16), positions(1, 1), lay, 0, side)
    assert centre.tolist() == [128 * 64]
    assert cls.tolist() == [tables.CLASS_UNKNOWN]
    assert not x[0, :48].any()


def test_layouts_are_those_of_the_format():
    weights = {1: 64, 2: 32, 4: 16, 5: 16, 8: 4, 9: 4, 10: 4, 13: 2, 18: 1}
    parities = [{(1, 1)}, {(0, 1), (1, 0)}, {(1, 0), (0, 1), (1, 1)}]
    for kind, channel in LAYOUTS:
        lay = features.layout(kind, channel)
        assert lay.known == (16, 24, 40)[kind]
        assert len(lay.offsets) == lay.known + 8
        assert {tuple(parity) for parity in (lay.offsets[: lay.known] % 2).tolist()} == parities[kind]
        assert (lay.offsets[lay.known :] % 2 == 0).all()
        for part in (lay.offsets[: lay.known].tolist(), lay.offsets[lay.known :].tolist()):
            assert part == sorted(part)
        assert lay.weights.tolist() == [weights[distance] for distance in (lay.offsets**2).sum(1).tolist()]
        assert lay.inputs == -(-(3 * lay.known + 8 * channel + 40) // 16) * 16
    indices = [Atom(level, *layout).expert for level in (0, 1) for layout in LAYOUTS]
    assert indices == list(range(features.EXPERTS))
    assert [Atom(level, 1, 2).expert for level in range(4)] == [5, 14, 14, 14]
    assert all(features.expert_layout(e) == features.layout(e // 3 % 3, e % 3) for e in range(features.EXPERTS))
