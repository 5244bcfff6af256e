"""The learning rate of an arm from its sweep, held against closed forms and simulated sweeps."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lpanas.search.sweep import Bowl, Rate, Sweep

FACTORS = (0.5, 1.0, 2.0)


def sweep(means, factors=FACTORS, wanted=()):
    return Sweep(tuple(Rate(factor, (mean,)) for factor, mean in zip(factors, means, strict=True)), wanted)


def bowl(x, lowest, bend):
    return bend * np.log2(np.asarray(x) / lowest) ** 2 + 3.0


@given(st.floats(-0.49, 0.49), st.floats(1e-3, 1.0))
def test_of_a_parabola_the_lowest_point_is_found_wherever_it_lies(octaves, bend):
    lowest = 2.0**octaves
    assert sweep(bowl(FACTORS, lowest, bend)).factor == pytest.approx(lowest, rel=6e-3)  # three digits


@given(st.lists(st.floats(2.0, 4.0), min_size=3, max_size=6), st.floats(1.2, 4.0))
def test_it_lies_between_the_neighbours_of_the_lowest_mean(means, step):
    factors = tuple(step**power for power in range(len(means)))
    found = sweep(means, factors)
    low = int(np.argmin(means))
    around = factors[max(0, low - 1)], factors[min(len(means) - 1, low + 1)]
    assert around[0] <= found.factor * 1.005
    assert found.factor <= around[1] * 1.005


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ((2.0, 2.1, 2.2), 0.5),
        ((2.2, 2.1, 2.0), 2.0),
        ((2.2, 2.0, math.inf), 1.0),
        ((2.0, 2.0, 2.0), 0.5),
        ((math.inf,) * 3, None),
    ],
)
def test_without_two_neighbours_that_train_it_is_the_lowest_that_was_tried(means, expected):
    found = sweep(means)
    assert found.bowl is None
    assert found.factor == expected


def test_as_long_as_runs_are_wanted_there_is_no_rate():
    assert sweep((2.2, 2.0, 2.1), wanted=("a run",)).factor is None


def test_the_same_rate_follows_wherever_the_loss_lies():
    means = np.array([2.31, 2.2, 2.27])
    found = sweep(means).factor
    for shift, scale in ((5.0, 1.0), (0.0, 0.01)):
        assert sweep(means * scale + shift).factor == pytest.approx(found, rel=1e-2)


def test_what_it_foretells_is_the_parabolas_value():
    means = (2.3, 2.2, 2.25)
    its = Bowl(tuple(map(math.log, FACTORS)), means)
    for factor, mean in zip(FACTORS, means, strict=True):
        assert its.at(factor) == pytest.approx(mean)
    assert its.at(math.exp(its.lowest)) == pytest.approx(min(its.at(factor) for factor in np.geomspace(0.5, 2, 2001)))


def test_more_rates_than_three_are_fitted_by_least_squares():
    factors = (0.25, 0.5, 1.0, 2.0)
    means = (2.9, 2.21, 2.2, 2.3)
    curve = np.polyfit(np.log(factors), means, 2)
    assert math.log(sweep(means, factors).factor) == pytest.approx(-curve[1] / curve[0] / 2, abs=5e-3)
    assert sweep(means, factors).bowl.at(0.7) == pytest.approx(np.polyval(curve, math.log(0.7)))


def test_a_rate_far_off_that_does_not_train_is_left_out():
    means = (2.3, 2.2, 2.25, math.inf)
    assert sweep(means, (*FACTORS, 4.0)).factor == sweep(means[:3]).factor


def extended(random, bend, error, best):
    """A sweep as the protocol makes it: further rates beyond an end at which the lowest mean lies."""
    octaves, means = [-1, 0, 1], {}
    for _ in range(6):
        for one in octaves:
            means.setdefault(one, bend * (one - best) ** 2 + error * random.normal())
        low = min(octaves, key=means.get)
        if low not in (octaves[0], octaves[-1]):
            break
        octaves = [low - 1, *octaves] if low == octaves[0] else [*octaves, low + 1]
    return [2.0**one for one in octaves], [means[one] for one in octaves], 2.0**low


@pytest.mark.parametrize(("bend", "best"), [(0.5, 0.25), (1.0, 0.0), (1.0, 0.5), (2.0, 0.25)])
def test_under_noise_it_costs_much_less_than_the_lowest_mean_does(bend, best):
    random, costs = np.random.default_rng(0), []
    for _ in range(1000):
        factors, means, lowest = extended(random, bend, 0.7, best)
        costs.append([bend * (math.log2(factor) - best) ** 2 for factor in (sweep(means, factors).factor, lowest)])
    ours, theirs = np.array(costs).T
    assert ours.mean() < 0.7 * theirs.mean()
    assert np.quantile(ours, 0.95) < np.quantile(theirs, 0.95)


@pytest.mark.parametrize("factors", [FACTORS, (0.25, 0.5, 1.0, 2.0), (0.3, 1.0, 1.5)])
def test_what_noise_costs_on_average_is_what_simulated_sweeps_cost(factors):
    random, error, truth = np.random.default_rng(0), 0.02, bowl(factors, 1.0, 1.0)
    its = Bowl(tuple(map(math.log, factors)), tuple(truth))
    drawn = [Bowl(its.logs, tuple(truth + error * random.normal(size=len(factors)))).lowest for _ in range(4000)]
    cost = np.mean((np.array(drawn) / math.log(2)) ** 2)
    assert its.missed_nats(error) == pytest.approx(cost, rel=0.1)


def test_for_rates_at_equal_steps_about_the_best_what_noise_costs_is_known_by_hand():
    its = Bowl(tuple(map(math.log, FACTORS)), tuple(bowl(FACTORS, 1.0, 0.7)))
    assert its.missed_nats(0.1) == pytest.approx(0.1**2 / (8 * 0.7))
