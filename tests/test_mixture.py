"""Mixtures and frequencies: the numba kernels against torch, and what makes frequencies decodable."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ardmzip import kernels, mixture, tables

TABLES = tables.build()
TORCH_TABLES = {name: torch.from_numpy(table) for name, table in TABLES.items()}
# outputs are int32 sums divided by 128
WHOLE_RANGE = st.integers(-(2**24), 2**24 - 1)
EDGES = st.sampled_from([-(2**24), -(2**14), -1, 0, 1, 2**14, 2**24 - 1])
USUAL = st.integers(-2000, 2000)


@st.composite
def head_outputs(draw):
    """outputs int32 [n, 3 K], centre int32 [n], cls uint8 [n]: usual, extreme, and mixed."""
    n, components = draw(st.integers(1, 6)), draw(st.sampled_from([1, 2, 5, 8]))
    elements = draw(st.sampled_from([USUAL, WHOLE_RANGE, EDGES, st.one_of(USUAL, EDGES)]))
    outputs = draw(arrays(np.int32, (n, 3 * components), elements=elements))
    centre = draw(arrays(np.int32, n, elements=st.one_of(st.sampled_from([0, 255 * 64]), st.integers(0, 255 * 64))))
    cls = draw(arrays(np.uint8, n, elements=st.integers(0, tables.CLASSES - 1)))
    return outputs, centre, cls


def random_outputs(rng, n, components=5):
    outputs = rng.normal(0, [300, 300, 600], (n, components, 3)).transpose(0, 2, 1).reshape(n, -1)
    return outputs.astype(np.int32), rng.integers(0, 255 * 64 + 1, n, np.int32), rng.integers(0, 37, n, np.uint8)


def by_torch(outputs, centre, cls):
    return mixture.mixture(*map(torch.from_numpy, (outputs, centre, cls)), TORCH_TABLES)


def by_numba(outputs, centre, cls):
    """From sums whose high halves alone give these outputs."""
    n, count = outputs.shape
    padded = -(-count // 8) * 8
    sums = np.zeros((2 * padded, n), np.int32)
    sums[:count] = outputs.T
    mix = np.empty((4, count // 3, n), np.int32)
    none = np.empty((0, 4), np.int32)
    kernels.mixtures(sums, np.zeros(count, np.int32), none, none, centre, cls, TABLES, mix)
    return mix


def numba_intervals(head, values):
    """(start, width), uint32 [2 n]: high nibbles, then low nibbles."""
    start, width = np.empty((2, 2, len(values)), np.uint32)
    kernels.intervals(by_numba(*head), values, TABLES["logistic"], start, width)
    return start.ravel(), width.ravel()


def numba_rows(head, high):
    rows = np.empty((len(head[0]), 16), np.float32)
    kernels.rows(by_numba(*head), np.empty(0, np.int32) if high is None else high, TABLES["logistic"], rows)
    return rows


def all_cumulative(m):
    return mixture.cumulative(m, torch.arange(257).expand(len(m.mean), 257)).numpy()


@settings(max_examples=150)
@given(head_outputs())
def test_cumulative_rises_by_the_floor_at_least(head):
    m = by_torch(*head)
    assert (m.weight.sum(1) == 2**14).all()
    assert (m.weight >= 0).all()
    f = all_cumulative(m)
    assert (f[:, 0] == 0).all()
    assert (f[:, 256] == 2**24).all()
    assert np.diff(f).min() >= mixture.FLOOR


@settings(max_examples=100)
@given(head_outputs(), st.integers(0, 2**32 - 1))
def test_numba_equals_torch(head, seed):
    rng = np.random.default_rng(seed)
    n = len(head[0])
    m = by_torch(*head)
    for ours, theirs in zip(by_numba(*head), (m.weight, m.mean, m.mantissa, m.shift), strict=True):
        np.testing.assert_array_equal(ours.T, theirs.numpy())
    values, high = rng.integers(0, 256, n, np.uint8), rng.integers(0, 16, n, np.int32)
    start, width = numba_intervals(head, values)
    high_start, high_width, low_start, low_width = (part.numpy() for part in mixture.intervals(m, torch.tensor(values)))
    np.testing.assert_array_equal(start, np.concatenate([high_start, low_start]))
    np.testing.assert_array_equal(width, np.concatenate([high_width, low_width]))
    for ours, theirs in [
        (numba_rows(head, None), mixture.high_rows(m)),
        (numba_rows(head, high), mixture.low_rows(m, torch.tensor(high))),
    ]:
        assert theirs.is_contiguous()  # constriction misreads other rows silently
        assert theirs.dtype == torch.float32
        np.testing.assert_array_equal(ours, theirs.numpy())


@pytest.mark.parametrize("seed", range(3))
def test_numba_equals_torch_on_many(seed):
    rng = np.random.default_rng(seed)
    head = random_outputs(rng, 3000)
    values, high = rng.integers(0, 256, 3000, np.uint8), rng.integers(0, 16, 3000, np.int32)
    m = by_torch(*head)
    parts = [part.numpy() for part in mixture.intervals(m, torch.tensor(values))]
    start, width = numba_intervals(head, values)
    np.testing.assert_array_equal(start, np.concatenate([parts[0], parts[2]]))
    np.testing.assert_array_equal(width, np.concatenate([parts[1], parts[3]]))
    np.testing.assert_array_equal(numba_rows(head, None), mixture.high_rows(m).numpy())
    np.testing.assert_array_equal(numba_rows(head, high), mixture.low_rows(m, torch.tensor(high)).numpy())


@settings(max_examples=40)
@given(head_outputs())
def test_intervals_are_those_of_the_rows(head):
    """For each of the 256 values: what the encoder pushes is what the decoder's rows say."""
    one = tuple(np.repeat(part[:1], 256, 0) for part in head)
    values = np.arange(256, dtype=np.uint8)
    start, width = numba_intervals(one, values)
    high = (values >> 4).astype(np.int32)
    for part, rows, symbol in [
        (slice(0, 256), numba_rows(one, None), values >> 4),
        (slice(256, 512), numba_rows(one, high), values & 15),
    ]:
        frequency = rows.astype(np.int64) + 1  # constriction adds one unit a class
        np.testing.assert_array_equal(rows, (frequency - 1).astype(np.float32))
        assert frequency.min() >= 1
        assert (frequency.sum(1) == 2**24).all()
        above = frequency.cumsum(1)
        rank = np.arange(256), symbol
        np.testing.assert_array_equal(width[part], frequency[rank])
        np.testing.assert_array_equal(start[part], (above - frequency)[rank])


@settings(max_examples=40)
@given(head_outputs())
def test_two_nibbles_cost_what_the_value_costs(head):
    one = tuple(np.repeat(part[:1], 256, 0) for part in head)
    _, width = numba_intervals(one, np.arange(256, dtype=np.uint8))
    bits = 48 - np.log2(width[:256].astype(float)) - np.log2(width[256:].astype(float))
    frequency = np.diff(all_cumulative(by_torch(*(part[:1] for part in head)))[0])
    ideal = 24 - np.log2(frequency)
    # a low nibble of 16 units may gain two by rounding: 0.17 bits
    np.testing.assert_allclose(bits, ideal, atol=0.18)
    assert abs((frequency * (bits - ideal)).sum()) / 2**24 < 1e-4


@given(st.integers(1, 2**24), st.data())
def test_rescaling_in_double_precision_is_exact(whole, data):
    part = data.draw(st.one_of(st.integers(0, whole), st.just(whole), st.just(max(0, whole - 1))))
    assert kernels._rescale(part, whole) == part * (2**24 - 16) // whole
    assert mixture.rescale(torch.tensor([part]), torch.tensor([whole])).item() == part * (2**24 - 16) // whole


def test_tables():
    assert (np.diff(TABLES["logistic"]) >= 0).all()  # else frequencies could fall
    assert TABLES["logistic"][[0, -1]].tolist() == [0, 2**16]
    assert (np.diff(TABLES["class_of"].astype(int)) >= 0).all()
    assert TABLES["exp2"][0] == 2**16
    assert (np.diff(TABLES["exp2"]) <= 0).all()
    assert TABLES["exp2"].min() == 1
    scale = 2.0 ** (tables.SCALE_MIN + (np.arange(len(TABLES["inv_mantissa"])) + 0.5) / 64)
    reciprocal = TABLES["inv_mantissa"] / 2.0 ** TABLES["inv_shift"]
    np.testing.assert_allclose(reciprocal, 2 / scale, rtol=1e-4)
    compand = TABLES["compand"].reshape(tables.CLASSES, tables.DIFFERENCES)
    assert (compand[:, 0] == 0).all()
    assert (np.diff(compand.astype(int)) >= 0).all()


def test_shipped_tables_are_the_ones_tested_here(photo):
    assert set(photo.tables) == set(TABLES)
    for name, table in TABLES.items():
        assert photo.tables[name].dtype == table.dtype
        # a model keeps the tables it was exported with: other machines' libm may differ by one unit
        assert np.abs(photo.tables[name].astype(int) - table.astype(int)).max() <= 1
    assert (np.diff(photo.tables["logistic"]) >= 0).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_the_cpu():
    rng = np.random.default_rng(4)
    head = random_outputs(rng, 2000)
    values, high = rng.integers(0, 256, 2000, np.uint8), rng.integers(0, 16, 2000, np.int32)
    on_gpu = [torch.from_numpy(part).cuda() for part in head]
    m = mixture.mixture(*on_gpu, {name: table.cuda() for name, table in TORCH_TABLES.items()})
    parts = [part.cpu().numpy() for part in mixture.intervals(m, torch.tensor(values).cuda())]
    start, width = numba_intervals(head, values)
    np.testing.assert_array_equal(start, np.concatenate([parts[0], parts[2]]))
    np.testing.assert_array_equal(width, np.concatenate([parts[1], parts[3]]))
    np.testing.assert_array_equal(numba_rows(head, None), mixture.high_rows(m).cpu().numpy())
    np.testing.assert_array_equal(numba_rows(head, high), mixture.low_rows(m, torch.tensor(high).cuda()).cpu().numpy())
