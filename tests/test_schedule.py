import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ardmzip.order import LatticeOrder
from ardmzip.schedule import best_schedule, expected_bits, loss_for_order


def cost_of(calls, sizes, loss) -> float:
    """The definition, written out."""
    total = 0.0
    for start, end in itertools.pairwise([*calls, len(sizes)]):
        total += sum(sizes[r] * loss[start][r] for r in range(start, end) if sizes[r])
    return total


def all_cuts(atoms: int):
    for count in range(atoms):
        for rest in itertools.combinations(range(1, atoms), count):
            yield (0, *rest)


def paper_schedule(losses: list[float], steps: int) -> tuple[list[int], float]:
    """The dynamic programme of the paper (after Watson et al. 2021) in plain Python, on L_t sorted descending.

    Paths of exactly ``steps`` calls from 0 to D variables, where the edge from t to t + k costs k * L_t.
    """
    count = len(losses)
    infinity = float("inf")
    cost = [[infinity] * (count + 1) for _ in range(steps + 1)]
    came_from = [[-1] * (count + 1) for _ in range(steps + 1)]
    cost[0][0] = 0.0
    for budget in range(1, steps + 1):
        for end in range(1, count + 1):
            for start in range(end):
                candidate = cost[budget - 1][start] + (end - start) * losses[start]
                if candidate < cost[budget][end]:
                    cost[budget][end] = candidate
                    came_from[budget][end] = start
    path, end = [], count
    for budget in range(steps, 0, -1):
        end = came_from[budget][end]
        path.append(end)
    return path[::-1], cost[steps][count]


@st.composite
def cases(draw, *, integers: bool):
    """Sizes with zeros among them and losses; below the diagonal NaN, which must not matter."""
    atoms = draw(st.integers(1, 8))
    sizes = np.array(draw(st.lists(st.integers(0, 3), min_size=atoms, max_size=atoms)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    loss = rng.integers(0, 4, (atoms, atoms)).astype(float) if integers else rng.gamma(2.0, 2.0, (atoms, atoms))
    loss[np.tril_indices(atoms, -1)] = np.nan
    return sizes, loss


@given(cases(integers=False))
def test_against_all_cuts(case):
    sizes, loss = case
    costs = {calls: cost_of(calls, sizes, loss) for calls in all_cuts(len(sizes))}
    for steps in range(1, len(sizes) + 1):
        found = best_schedule(sizes, loss, steps)
        assert len(found.calls) <= steps
        assert found.bits == pytest.approx(min(cost for calls, cost in costs.items() if len(calls) <= steps))
        assert found.bits == pytest.approx(costs[found.calls])
        assert found.bits == pytest.approx(expected_bits(found.calls, sizes, loss))
    unlimited = best_schedule(sizes, loss)
    assert unlimited.bits == pytest.approx(min(costs.values()))
    assert unlimited == best_schedule(sizes, loss, len(sizes)) == best_schedule(sizes, loss, 1000)


@given(cases(integers=True))
def test_ties_take_the_fewest_calls(case):
    """Small integer losses tie often and add up exactly."""
    sizes, loss = case
    costs = {calls: cost_of(calls, sizes, loss) for calls in all_cuts(len(sizes))}
    for steps in range(1, len(sizes) + 1):
        allowed = {calls: cost for calls, cost in costs.items() if len(calls) <= steps}
        lowest = min(allowed.values())
        found = best_schedule(sizes, loss, steps)
        assert found.bits == lowest == expected_bits(found.calls, sizes, loss)
        assert len(found.calls) == min(len(calls) for calls, cost in allowed.items() if cost == lowest)


@given(st.lists(st.floats(0.01, 8.0), min_size=1, max_size=40), st.data())
def test_the_special_case_of_the_paper(losses, data):
    losses = sorted(losses, reverse=True)
    steps = data.draw(st.integers(1, len(losses)))
    loss = np.repeat(np.array(losses)[:, None], len(losses), axis=1)
    found = best_schedule(np.ones(len(losses)), loss, steps)
    path, bits = paper_schedule(losses, steps)
    # With descending losses another call never hurts: exactly `steps` calls are as good as at most `steps`.
    assert found.bits == pytest.approx(bits)
    assert expected_bits(path, np.ones(len(losses)), loss) == pytest.approx(bits)


def test_the_path_of_the_paper():
    """No ties here, so the very same calls must come out."""
    losses = [8.0, 5.1, 3.7, 2.9, 2.3, 1.9, 1.65, 1.45, 1.3, 1.22]
    loss = np.repeat(np.array(losses)[:, None], 10, axis=1)
    for steps in range(1, 11):
        assert list(best_schedule(np.ones(10), loss, steps).calls) == paper_schedule(losses, steps)[0]


def realistic(height: int, width: int, channels: int = 3):
    """An order and a loss matrix that falls with what is known."""
    order = LatticeOrder(height, width, channels)
    atoms = len(order.atoms)
    rng = np.random.default_rng(0)
    at_best = rng.uniform(2.5, 4.0, atoms)
    distance = np.maximum(np.arange(atoms)[None, :] - np.arange(atoms)[:, None], 0)
    return order.sizes(), at_best[None, :] + 0.15 * distance


def test_more_steps_are_never_worse():
    sizes, loss = realistic(512, 768)
    found = [best_schedule(sizes, loss, steps) for steps in range(1, len(sizes) + 2)]
    assert all(later.bits <= earlier.bits for earlier, later in itertools.pairwise(found))
    assert best_schedule(sizes, loss) == found[-1]
    assert found[-1].bits == min(schedule.bits for schedule in found)
    assert all(len(schedule.calls) <= steps for steps, schedule in enumerate(found, 1))


def test_an_image_of_one_column_calls_only_for_its_own_atoms():
    sizes, loss = realistic(100, 1, channels=1)
    calls = best_schedule(sizes, loss).calls
    # All but kind 2 are empty. This matrix makes row 0 dearer than row 2, though as much is known before atom 0 as
    # before atom 2, so the first call is wasted; the matrix of loss_for_order gives both atoms the same row.
    assert calls == (0, *range(2, len(sizes), 3))
    table = np.triu(np.ones((3, 3))) + np.triu(np.ones((3, 3)), 1)
    merged = best_schedule(sizes, loss_for_order(table, LatticeOrder(100, 1, 1))).calls
    assert len(merged) == np.count_nonzero(sizes)


def test_it_is_fast():
    sizes, loss = realistic(4000, 3000)
    assert len(sizes) == 108
    best_schedule(sizes, loss)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        best_schedule(sizes, loss)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05


def test_no_atoms():
    empty = best_schedule(np.zeros(0, np.int64), np.zeros((0, 0)))
    assert empty.calls == ()
    assert empty.bits == 0
    assert expected_bits((), np.zeros(0), np.zeros((0, 0))) == 0


def test_only_empty_atoms():
    assert best_schedule(np.zeros(4, np.int64), np.full((4, 4), np.inf)).calls == (0,)


@pytest.mark.parametrize("steps", [0, -1])
def test_steps_below_one_are_refused(steps):
    for atoms in (0, 3):
        with pytest.raises(ValueError, match="at least one step"):
            best_schedule(np.ones(atoms), np.ones((atoms, atoms)), steps)


def test_bad_matrices_are_refused():
    with pytest.raises(ValueError, match="shape"):
        best_schedule(np.ones(3), np.ones((3, 4)))
    with pytest.raises(ValueError, match="NaN"):
        best_schedule(np.ones(3), np.full((3, 3), np.nan))


@pytest.mark.parametrize("calls", [(), (1,), (0, 2, 2), (0, 2, 1), (0, 3), (-1, 0)])
def test_bad_calls_are_refused(calls):
    with pytest.raises(ValueError, match="calls must"):
        expected_bits(calls, np.ones(3), np.ones((3, 3)))


def table_of(levels: int, channels: int) -> np.ndarray:
    """Every entry names its pair: 1000 * row + column."""
    indices = np.arange(3 * channels * levels)
    return np.triu(1000.0 * indices[:, None] + indices[None, :])


@pytest.mark.parametrize("channels", [1, 3])
def test_loss_for_a_smaller_order_is_the_end_of_the_table(channels):
    table = table_of(6, channels)
    for levels in range(1, 7):
        atoms = 3 * channels * levels
        np.testing.assert_array_equal(
            loss_for_order(table, LatticeOrder(2**levels, 2**levels, channels)), table[-atoms:, -atoms:]
        )


@pytest.mark.parametrize("channels", [1, 3])
def test_loss_for_a_larger_order(channels):
    """Pair by pair, from the atoms' levels, kinds and channels."""
    shipped, period = 2, 3 * channels
    table = table_of(shipped, channels)
    order = LatticeOrder(64, 64, channels)
    loss = loss_for_order(table, order)

    def index(level: int, kind: int, channel: int) -> int:
        return (shipped - 1 - level) * period + kind * channels + channel

    for t, early in enumerate(order.atoms):
        for r, late in enumerate(order.atoms[t:], t):
            if early.level < shipped:
                row, column = (index(atom.level, atom.kind, atom.channel) for atom in (early, late))
            elif late.level < shipped:
                row, column = 0, index(late.level, late.kind, late.channel)
            elif early.level - late.level < shipped:
                row = index(shipped - 1, early.kind, early.channel)
                column = index(shipped - 1 - (early.level - late.level), late.kind, late.channel)
            else:
                row, column = 0, index(0, late.kind, late.channel)
            assert loss[t, r] == table[row, column]
    assert not np.tril(loss, -1).any()
    assert (np.diag(loss)[: 4 * period] == np.tile(np.diag(table)[:period], 4)).all()


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 3]))
def test_rows_of_empty_atoms_are_those_of_their_successors(height, width, channels):
    order = LatticeOrder(height, width, channels)
    sizes, loss = order.sizes(), loss_for_order(table_of(3, channels), order)
    assert loss.shape == (len(sizes), len(sizes))
    for t in range(len(sizes) - 1):
        if sizes[t] == 0:
            np.testing.assert_array_equal(loss[t, t + 1 :], loss[t + 1, t + 1 :])


def test_a_table_without_whole_levels_is_refused():
    for table in (np.ones((0, 0)), np.ones((4, 4)), np.ones((3, 6)), np.ones((3, 3))):
        with pytest.raises(ValueError, match="loss table"):
            loss_for_order(table, LatticeOrder(8, 8, 3))


def test_loss_for_a_single_pixel():
    assert loss_for_order(np.ones((9, 9)), LatticeOrder(1, 1, 3)).shape == (0, 0)
