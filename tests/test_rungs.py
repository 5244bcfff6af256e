import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lpanas.search.rungs import goes_on, order, rung_steps

SEEDS = st.integers(0, 2**32 - 1)
SHAPES = st.tuples(st.integers(1, 10), st.integers(1, 3))
ETAS = st.integers(2, 5)


def scattered(shape, seed):
    """Rows without ties, in no order; and which of them keep to the limits."""
    random = np.random.default_rng(seed)
    return random.random(shape), random.random(shape[0]) < 0.7


def gappy(shape, seed):
    """The same with values that are not finite."""
    points, feasible = scattered(shape, seed)
    random = np.random.default_rng(seed + 1)
    gaps = random.choice([np.nan, np.inf, -np.inf], size=shape)
    return np.where(random.random(shape) < 0.1, gaps, points), feasible


def grid(shape, seed):
    """Rows with many ties, and with equal rows."""
    random = np.random.default_rng(seed)
    return random.integers(0, 4, size=shape).astype(float), random.random(shape[0]) < 0.7


def dominates(a, b):
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


def fronts(rows, feasible):
    """Sets of rows, the best first: within the limits before outside of them, front by front; without what is not finite."""
    whole = {row for row, values in enumerate(rows) if all(map(math.isfinite, values))}
    for rest in ({row for row in whole if feasible[row]}, {row for row in whole if not feasible[row]}):
        while rest:
            front = {row for row in rest if not any(dominates(rows[other], rows[row]) for other in rest)}
            yield front
            rest = rest - front


def scaled(rows):
    """Rows of fractions in which every column goes from 0 to 1."""
    columns = [[Fraction(value) for value in column] for column in zip(*rows, strict=True)]
    return list(zip(*([(x - min(c)) / ((max(c) - min(c)) or 1) for x in c] for c in columns), strict=True))


def apart(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def may_be_in_this_order(rows):
    """Whether the rows of a front begin with the lowest loss and go on with one of the farthest from all before it."""
    places = scaled(rows)
    nearest = [[min(apart(later, taken) for taken in places[:n]) for later in places[n:]] for n in range(1, len(rows))]
    return rows[0][0] == min(loss for loss, *_ in rows) and all(
        those[0] >= max(those) - Fraction(1, 10**12) for those in nearest
    )


def brute_force(points, feasible):
    """The order, where there are no ties."""
    rows, found = points.tolist(), []
    for front in fronts(rows, feasible):
        rest = sorted(front, key=lambda row: rows[row][0])
        places = dict(zip(rest, scaled([rows[row] for row in rest]), strict=True))
        taken = [rest.pop(0)]
        while rest:
            farthest = max(rest, key=lambda row: min(apart(places[row], places[one]) for one in taken))
            rest.remove(farthest)
            taken.append(farthest)
        found += taken
    return found + [row for row in range(len(rows)) if row not in found]


def going_on(points, feasible, eta, doubt=0.0):
    return {row for row in range(len(points)) if goes_on(points, feasible, row, eta, doubt)}


@given(SHAPES, SEEDS)
def test_the_order_is_that_of_brute_force(shape, seed):
    points, feasible = scattered(shape, seed)
    assert order(points, feasible).tolist() == brute_force(points, feasible)


@given(SHAPES, SEEDS)
def test_rows_that_are_not_finite_come_last_and_change_nothing_among_the_others(shape, seed):
    points, feasible = gappy(shape, seed)
    whole = np.flatnonzero(np.isfinite(points).all(axis=1))
    found = order(points, feasible)
    assert found.tolist() == brute_force(points, feasible)
    assert found[: len(whole)].tolist() == whole[order(points[whole], feasible[whole])].tolist()


@given(SHAPES, SEEDS)
def test_with_ties_every_row_comes_once_front_by_front_and_one_of_the_farthest_next(shape, seed):
    points, feasible = grid(shape, seed)
    found = order(points, feasible).tolist()
    for front in fronts(points.tolist(), feasible):
        taken, found = found[: len(front)], found[len(front) :]
        assert set(taken) == front
        assert may_be_in_this_order(points[taken].tolist())
    assert found == []


@given(SHAPES, SEEDS, ETAS)
def test_a_newcomer_that_dominates_all_goes_on(shape, seed, eta):
    points, feasible = gappy(shape, seed)
    newcomer = seed % shape[0]
    points[newcomer], feasible[newcomer] = -1.0, True
    points[points == -np.inf] = np.inf
    assert goes_on(points, feasible, newcomer, eta)


@given(SHAPES, SEEDS, ETAS, st.floats(0, 0.5))
def test_the_order_of_the_rows_does_not_change_who_goes_on(shape, seed, eta, doubt):
    points, feasible = scattered(shape, seed)
    shuffled = np.random.default_rng(seed).permutation(shape[0])
    there = {int(shuffled[row]) for row in going_on(points[shuffled], feasible[shuffled], eta, doubt)}
    assert there == going_on(points, feasible, eta, doubt)


@given(SEEDS, st.integers(2, 9))
def test_with_fewer_than_eta_rows_everybody_goes_on(seed, eta):
    points, feasible = gappy((eta - 1, 2), seed)
    assert going_on(points, feasible, eta) == set(range(eta - 1))


@given(st.permutations(range(13)), st.integers(1, 13), st.integers(1, 3), ETAS)
def test_of_a_chain_exactly_those_placed_below_n_by_eta_go_on(places, n, columns, eta):
    places = [place for place in places if place < n]
    points = np.array([[place**power for power in range(1, columns + 1)] for place in places], dtype=float)
    expected = {row for row, place in enumerate(places) if place * eta < n or n < eta}
    assert going_on(points, np.full(n, True), eta) == expected


@given(SHAPES, SEEDS, ETAS)
def test_without_ties_and_doubt_n_by_eta_rows_go_on(shape, seed, eta):
    points, feasible = scattered(shape, seed)
    count = shape[0] if shape[0] < eta else math.ceil(shape[0] / eta)
    assert going_on(points, feasible, eta) == set(brute_force(points, feasible)[:count])


@given(st.permutations(range(9)), ETAS, st.integers(0, 8))
def test_of_a_chain_those_within_the_doubt_of_a_row_that_goes_on_go_on_too(places, eta, doubt):
    points = np.array([[place, 0.0] for place in places], dtype=float)
    expected = {row for row, place in enumerate(places) if (place - doubt) * eta < 9}
    assert going_on(points, np.full(9, True), eta, doubt + 0.5) == expected


def test_a_doubt_does_not_help_a_row_that_is_beaten_by_more_or_is_outside_of_the_limits_or_without_a_loss():
    points = np.array([[1.0, 1.0], [1.3, 2.0], [1.1, 1.0], [np.nan, 1.0]])
    assert going_on(points, np.full(4, True), 4, 0.2) == {0, 2}
    assert going_on(points, np.array([True, True, False, True]), 4, 0.2) == {0}


@given(SHAPES, SEEDS, ETAS, st.floats(0, 5))
def test_a_doubt_stops_nobody_who_goes_on_without_it(shape, seed, eta, doubt):
    points, feasible = scattered(shape, seed)
    assert going_on(points, feasible, eta) <= going_on(points, feasible, eta, doubt)


def test_the_judged_rows_are_left_as_they_were():
    points, feasible = scattered((8, 2), 0)
    copy = points.copy()
    goes_on(points, feasible, 3, 4, 0.5)
    assert np.array_equal(points, copy)


@pytest.mark.parametrize(
    ("steps", "eta", "count", "expected"),
    [(64, 4, 1, (16,)), (64, 4, 2, (4, 16)), (100, 3, 3, (4, 11, 33)), (10, 2, 0, ()), (8, 2, 3, (1, 2, 4)), (2, 2, 1, (1,))],
)
def test_rungs_lie_at_the_rounded_parts_of_the_run(steps, eta, count, expected):
    assert rung_steps(steps, eta, count) == expected


@pytest.mark.parametrize(("steps", "eta", "count"), [(1, 2, 1), (8, 2, 4), (64, 4, 4), (3, 4, 2), (2, 9, 1)])
def test_rungs_that_fall_together_or_on_an_end_are_refused(steps, eta, count):
    with pytest.raises(ValueError, match=f"{count} rungs of eta {eta} in {steps} steps"):
        rung_steps(steps, eta, count)


@given(st.integers(1, 10**6), ETAS, st.integers(0, 8))
def test_rungs_that_are_given_ascend_between_the_ends(steps, eta, count):
    try:
        found = rung_steps(steps, eta, count)
    except ValueError:
        assert steps < 2 * eta**count  # else the lowest two, steps / eta^count and eta times that, are apart
    else:
        assert [0, *found, steps] == sorted({0, *found, steps})
        assert (
            found == tuple(int(Fraction(steps, eta**power) + Fraction(1, 2)) for power in range(count, 0, -1)) or eta % 2 == 0
        )
