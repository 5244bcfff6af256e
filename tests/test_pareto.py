import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from lpanas.search.pareto import knee, non_dominated

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
