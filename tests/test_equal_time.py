"""Equal step times: how sure a ratio of times is, and the way to a width, on times that are made up."""

import math
import random
from statistics import NormalDist, median

import pytest
from lpanas.lpa.config import UserError
from lpanas.search import equal_time
from lpanas.search.equal_time import Grid, Ratio, equal_width, measure, median_interval, pairs_needed
from lpanas.search.protocol import WITHIN
from scipy.stats import binom, norm


def exact(value):
    return Ratio(value, value, value)


def silent(heard):
    pass


# how sure a ratio is


@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("n", [1, 7, 8, 9, 40, 301])
def test_the_medians_interval_is_the_narrowest_that_the_sign_test_allows(n, coverage):
    low, high = median_interval(list(range(n)), coverage)
    if math.isinf(low):
        assert 2 * binom.cdf(0, n, 0.5) > 1 - coverage
        return
    assert low + high == n - 1
    assert 2 * binom.cdf(low, n, 0.5) <= 1 - coverage + 1e-12
    assert 2 * binom.cdf(low + 1, n, 0.5) > 1 - coverage


def noisy(ratio, spread, seed):
    """Pairs of steps whose ratios have a known median, with a tail of long steps."""
    chance = random.Random(seed)

    def pair():
        drift = 1e-3 * math.exp(chance.gauss(0, 0.3))  # of the machine, the same for both
        return drift, drift * ratio * math.exp(chance.gauss(0, spread) + (chance.random() < 0.05) * chance.gauss(0, 1))

    return pair


@pytest.mark.parametrize("truth", [0.9, 0.996, 1.0, 1.003, 1.008, 1.2])
def test_a_settled_ratio_is_seldom_wrong_though_it_is_looked_at_again_and_again(truth):
    found = [measure(noisy(truth, 0.01, seed), silent) for seed in range(100)]
    assert sum(not one.low <= truth <= one.high for one in found) <= 10
    certain = [one for one in found if one.low > 1 - WITHIN and one.high < 1 + WITHIN]
    assert all(one.is_settled(WITHIN) for one in found)
    assert sum(one.is_equal(WITHIN) for one in certain) == len(certain)
    if abs(truth - 1) >= 1.5 * WITHIN:  # the middle of an interval of WITHIN / 2 decides
        assert sum(one.is_equal(WITHIN) for one in found) <= 10


def test_pairs_are_spent_where_they_are_needed():
    far, near = measure(noisy(1.3, 0.02, 1), silent), measure(noisy(1.0, 0.02, 1), silent)
    assert far.pairs == equal_time.FIRST
    assert near.pairs > 10 * far.pairs


def test_what_is_measured_are_medians_and_every_look_is_told():
    pairs, heard = [], []
    draw = noisy(1.001, 0.01, 5)

    def pair():
        pairs.append(draw())
        return pairs[-1]

    found = measure(pair, heard.append)
    assert found == heard[-1]
    assert [one.pairs for one in heard] == sorted({one.pairs for one in heard})
    assert found.value == median(b / a for a, b in pairs)
    assert (found.dense_seconds, found.seconds) == (median(a for a, _ in pairs), median(b for _, b in pairs))
    assert found.pairs == len(pairs)


@pytest.mark.parametrize("most", [equal_time.PAIRS, 100, 13, 1])
def test_a_machine_that_is_too_noisy_is_refused_with_the_figure_after_the_last_pair_that_is_allowed(most):
    draw, drawn = noisy(1.0, 0.5, 0), []

    def pair():
        drawn.append(draw())
        return drawn[-1]

    words = rf"too noisy: by {most:,} pairs of steps in \d+ s .* ± (\d\.\d+|inf), and ± 0.0025"
    with pytest.raises(UserError, match=words) as raised:
        measure(pair, silent, is_late=lambda: len(drawn) >= most)
    assert "\n" not in str(raised.value)
    assert len(drawn) == most


def test_the_pairs_that_are_foretold_are_those_of_the_closed_form_and_about_those_that_settle_it():
    for spread in (0.01, 0.02, 0.04):
        normal = NormalDist(1.0, spread)
        ratios = [normal.inv_cdf((place + 0.5) / 4000) for place in range(4000)]
        closed = math.pi / 2 * (norm.ppf(1 - (1 - equal_time.COVERAGE) / 2) * spread / (WITHIN / 2)) ** 2
        assert pairs_needed(ratios) == pytest.approx(closed, rel=1e-2)
        spent = [measure(noisy(1.0, spread, seed), silent).pairs for seed in range(15)]
        assert 0.4 * closed < median(spent) < 1.5 * closed
    assert pairs_needed([1.0, 1.0]) == equal_time.FIRST


# the way to a width


def searched(times, dense, step=1, guess=None, is_model=lambda d_ff: True):
    """The width that is found, and all that were measured; times: of a width, the dense arm's being 1."""
    tried = []

    def ratio(d_ff):
        assert d_ff > 0
        assert is_model(d_ff)
        assert d_ff % step == 0
        assert d_ff not in tried  # a measurement takes minutes
        tried.append(d_ff)
        return exact(times(d_ff))

    try:
        return equal_width(ratio, guess or dense, Grid(dense, step, is_model))[0], tried
    except ValueError as error:
        return str(error), tried


def ceil_to(d_ff, tile):
    return -(-d_ff // tile) * tile


@pytest.mark.parametrize("fixed", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("answer", [40, 700, 2048, 3000, 9000])
@pytest.mark.parametrize("guess", [100, 2048, 5000])
def test_on_a_straight_line_the_width_is_found_in_a_few_measurements(fixed, answer, guess):
    found, tried = searched(lambda d_ff: fixed + (1 - fixed) * d_ff / answer, 2048, guess=guess)
    assert isinstance(found, int)
    assert abs((1 - fixed) * (found / answer - 1)) <= WITHIN
    assert len(tried) <= 9


@pytest.mark.parametrize("tile", [1, 8, 64, 128])
@pytest.mark.parametrize("step", [1, 8, 64])
def test_where_times_have_steps_a_width_is_found_just_when_there_is_one(tile, step):
    chance = random.Random(tile * step)
    for _ in range(40):
        dense, fixed, answer = chance.randrange(64, 1500), chance.uniform(0, 0.9), chance.uniform(30, 3000)

        def times(d_ff, fixed=fixed, answer=answer):
            return fixed + (1 - fixed) * ceil_to(d_ff, tile) / answer

        every = range(step, max(step, equal_time.WIDEST * dense) + 1, step)
        there_is = any(abs(times(d_ff) - 1) <= WITHIN for d_ff in every)
        found, tried = searched(times, dense, step, guess=chance.choice(every))
        if there_is:
            assert isinstance(found, int)
            assert abs(times(found) - 1) <= WITHIN
        else:
            nearest = min(abs(times(d_ff) - 1) for d_ff in every)
            assert isinstance(found, str)
            assert min(abs(times(d_ff) - 1) for d_ff in tried) == nearest
        assert len(tried) <= 30


def test_what_cannot_be_reached_is_refused_with_the_nearest_width_in_the_words_of_the_other_matches():
    found, tried = searched(lambda d_ff: 1.3 + d_ff / 1e6, 96, step=8)
    assert tried[-1] == 8
    assert found.startswith("the nearest FFN, d_ff 8, has +30.00% of the dense arm's step_seconds, and 0.5% may be missing")
    found, tried = searched(lambda d_ff: 0.5, 96, step=8)
    assert max(tried) == 96 * equal_time.WIDEST
    assert "-50.00% of the dense arm's step_seconds" in found


@pytest.mark.parametrize(("first", "last"), [(1, 49), (1, 95), (60, 90), (90, 99), (97, 99), (160, 170), (100, 768)])
def test_widths_that_there_is_no_model_of_are_passed_over(first, last):
    def is_model(d_ff):
        return not first <= d_ff <= last

    for answer in (20, 50, 95, 96, 97, 130, 165, 300):
        found, tried = searched(lambda d_ff, answer=answer: d_ff / answer, 96, is_model=is_model)
        if is_model(answer):
            assert found == answer
        elif isinstance(found, str):
            every = filter(is_model, range(1, 96 * equal_time.WIDEST + 1))
            assert min(abs(d_ff / answer - 1) for d_ff in tried) == min(abs(d_ff / answer - 1) for d_ff in every)


def test_noisy_times_lead_to_a_width_that_takes_the_dense_time():
    for seed in range(20):
        found, its = equal_width(
            lambda d_ff, seed=seed: measure(noisy(0.4 + 0.6 * d_ff / 1700, 0.02, f"{seed} {d_ff}"), silent),
            2048,
            Grid(2048, 8, lambda d_ff: True),
        )
        assert abs(0.6 * (found / 1700 - 1)) <= 1.5 * WITHIN
        assert its.is_equal(WITHIN)
