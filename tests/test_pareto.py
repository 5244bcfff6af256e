import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from lpanas.search import pareto
from lpanas.search.pareto import hypervolume, hypervolume_history, knee, non_dominated
from optuna._hypervolume import compute_hypervolume

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 4))
GRIDS = SHAPES.flatmap(lambda shape: arrays(float, shape, elements=st.integers(0, 4)))
GAPPY = SHAPES.flatmap(lambda shape: arrays(float, shape, elements=st.sampled_from([0.0, 1.0, 2.0, 3.0, np.nan, np.inf])))


def dominates(a, b):
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def brute_force(rows):
    whole = [not any(x != x for x in row) for row in rows]
    rivals = [row for row, known in zip(rows, whole, strict=True) if known]
    return [known and not any(dominates(rival, row) for rival in rivals) for row, known in zip(rows, whole, strict=True)]


@given(GRIDS)
def test_the_front_is_that_of_brute_force(points):
    assert non_dominated(points).tolist() == brute_force(points.tolist())


@given(GAPPY)
def test_a_row_with_a_nan_is_not_on_the_front_and_keeps_no_other_from_it(points):
    assert non_dominated(points).tolist() == brute_force(points.tolist())


@pytest.mark.parametrize("some", [0, 5])
def test_the_front_of_many_rows_is_that_of_brute_force(monkeypatch, some):
    monkeypatch.setattr(pareto, "SOME", some)
    random = np.random.default_rng(some)
    for columns in (1, 3, 4):
        for values in ([0.0, 1.0, 2.0, 3.0, np.nan, np.inf], random.random(40)):
            points = random.choice(values, size=(40, columns))
            assert non_dominated(points).tolist() == brute_force(points.tolist())


@given(GRIDS)
def test_duplicates_are_on_the_front_together_or_not_at_all(points):
    once = non_dominated(points)
    assert non_dominated(np.concatenate([points, points])).tolist() == [*once, *once]


@given(GRIDS)
def test_the_order_of_the_rows_does_not_change_who_is_on_the_front(points):
    assert non_dominated(points[::-1])[::-1].tolist() == non_dominated(points).tolist()


@given(GRIDS, st.integers(-20, 20), st.integers(0, 3))
def test_the_knee_is_on_the_front_and_does_not_depend_on_a_columns_scale(points, power, column):
    chosen = knee(points)
    assert non_dominated(points)[chosen]
    scaled = points.copy()
    scaled[:, column % points.shape[1]] *= 2.0**power
    assert knee(scaled) == chosen


@given(GRIDS)
def test_the_knee_has_the_smallest_sum_of_scaled_columns(points):
    front = points[non_dominated(points)]
    sums = np.zeros(len(front))
    for column in front.T:
        sums += (column - min(column)) / (max(column) - min(column) or 1)
    assert sums[knee(front)] <= min(sums) + 1e-12


def test_the_knee_is_the_point_farthest_below_the_line_between_the_extremes():
    front = np.array([[0.0, 400.0], [1.0, 90.0], [2.0, 50.0], [4.0, 0.0]])
    below = [1 - x / 4 - y / 400 for x, y in front]  # in units of the scaled line x + y = 1
    assert knee(front) == int(np.argmax(below)) == 1


def test_of_two_equal_knees_the_earlier_one_is_taken():
    assert knee(np.array([[0.0, 4.0], [1.0, 1.0], [1.0, 1.0], [4.0, 0.0]])) == 1


@given(GRIDS)
def test_the_hypervolume_of_small_whole_numbers_is_the_count_of_unit_cells_that_are_dominated(points):
    corners = np.stack(np.meshgrid(*[np.arange(4)] * points.shape[1]), axis=-1).reshape(-1, points.shape[1])
    dominated = [any(all(x <= y for x, y in zip(row, cell, strict=True)) for row in points) for cell in corners]
    assert hypervolume(points, np.full(points.shape[1], 4.0)) == sum(dominated)


@given(SHAPES, st.integers(0, 2**32 - 1))
def test_the_hypervolume_is_that_of_optuna(shape, seed):
    random = np.random.default_rng(seed)
    points, reference = random.normal(size=shape), random.uniform(2.5, 4.0, size=shape[1])
    inside = points[(points < reference).all(axis=1)]
    expected = compute_hypervolume(inside, reference) if len(inside) else 0
    assert hypervolume(points, reference) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_the_hypervolume_is_the_share_of_random_points_that_are_dominated(columns):
    random = np.random.default_rng(columns)
    points, draws = random.random((9, columns)) ** 0.5, random.random((20_000, columns))
    dominated = (points[None] <= draws[:, None]).all(axis=2).any(axis=1)
    assert hypervolume(points, np.ones(columns)) == pytest.approx(dominated.mean(), abs=4 * dominated.std() / len(draws) ** 0.5)


@given(GAPPY)
def test_rows_with_a_nan_and_rows_outside_of_the_reference_add_no_hypervolume(points):
    reference = np.full(points.shape[1], 2.5)
    inside = points[[all(x < 2.5 for x in row) for row in points.tolist()]]
    assert hypervolume(points, reference) == hypervolume(inside, reference)


@given(GRIDS)
def test_duplicates_and_the_order_of_the_rows_do_not_change_the_hypervolume(points):
    reference = np.full(points.shape[1], 3.5)
    once = hypervolume(points, reference)
    assert hypervolume(np.concatenate([points, points]), reference) == hypervolume(points[::-1], reference) == once


@given(GRIDS)
def test_another_row_never_lowers_the_hypervolume_and_raises_it_just_when_nobody_is_as_good(points):
    reference = np.full(points.shape[1], 5.0)
    rest, last = points[:-1], points[-1]
    grows = not any(all(x <= y for x, y in zip(row, last, strict=True)) for row in rest)
    assert bool(hypervolume(points, reference) > hypervolume(rest, reference)) == grows
    assert grows or hypervolume(points, reference) == hypervolume(rest, reference)


def test_a_row_on_the_edge_of_the_reference_adds_no_hypervolume_and_no_rows_have_none():
    assert hypervolume(np.array([[1.0, 2.0], [3.0, 0.0]]), np.array([3.0, 2.0])) == 0
    assert hypervolume(np.zeros((0, 3)), np.ones(3)) == 0


@given(GAPPY)
def test_the_history_is_the_hypervolume_of_every_beginning(points):
    reference = np.full(points.shape[1], 2.5)
    expected = [hypervolume(points[: n + 1], reference) for n in range(len(points))]
    assert hypervolume_history(points, reference).tolist() == expected


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_the_history_of_random_rows_is_that_of_optuna(columns):
    random = np.random.default_rng(columns)
    points, reference = random.random((60, columns)), np.full(columns, 0.9)
    points[random.random((60, columns)) < 0.05] = np.nan
    points[30:40] = points[:10]
    history = hypervolume_history(points, reference)
    for n, volume in enumerate(history, 1):
        inside = points[:n][(points[:n] < reference).all(axis=1)]
        assert volume == pytest.approx(compute_hypervolume(inside, reference) if len(inside) else 0.0, rel=1e-9)


def test_no_rows_have_no_history():
    assert hypervolume_history(np.zeros((0, 3)), np.ones(3)).tolist() == []
