import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lpanas.search.ranking import correlation, pairs, rank_correlation
from scipy import stats

KINDS = pytest.mark.parametrize(("kind", "oracle"), [("spearman", stats.spearmanr), ("kendall", stats.kendalltau)])
MEANS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=7).map(lambda x: np.array(x, float).T)
ARMS = np.array([3.00, 3.02, 3.05, 3.09, 3.16])


def runs(means, seeds, seed, std=0.02):
    return np.asarray(means)[:, None] + np.random.default_rng(seed).normal(0, std, (len(means), seeds))


@KINDS
@given(MEANS)
def test_the_correlation_is_that_of_scipy_ties_and_all(kind, oracle, means):
    found = rank_correlation(means[:1].T, means[1:].T, kind).value
    if np.ptp(means, axis=1).min() == 0:
        assert found is None
    else:
        assert found == pytest.approx(oracle(*means).statistic)


@KINDS
def test_many_orders_at_once_are_each_by_itself(kind, oracle):
    one, other = np.random.default_rng(0).normal(size=(2, 20, 6))
    assert correlation(one, other, kind) == pytest.approx([oracle(a, b).statistic for a, b in zip(one, other, strict=True)])


@KINDS
def test_without_noise_the_interval_is_the_value(kind, oracle):
    small, large = np.repeat([[1.0], [2.0], [3.0], [4.0]], 3, axis=1), np.repeat([[2.0], [1.0], [3.0], [4.0]], 5, axis=1)
    found = rank_correlation(small, large, kind)
    assert found.interval == pytest.approx((found.value, found.value))
    assert found.value == pytest.approx(oracle([1, 2, 3, 4], [2, 1, 3, 4]).statistic)
    assert (found.arms, found.seeds) == (4, (3, 5))


@KINDS
def test_the_order_is_what_counts_not_the_level_nor_what_the_arms_share(kind, oracle):
    small, large = runs(ARMS, 5, 1), runs(ARMS, 4, 2)
    found = rank_correlation(small, large, kind)
    shared = np.random.default_rng(3).normal(size=5)  # batches that are harder for every arm
    assert rank_correlation(small + 1.0, large, kind) == found
    assert rank_correlation(small + shared, large, kind) == found
    turned = rank_correlation(-small, large, kind)
    assert turned.value == pytest.approx(-found.value)
    assert turned.interval == pytest.approx((-found.interval[1], -found.interval[0]))


def test_too_few_seeds_or_arms_say_nothing():
    for few in (1, 2):
        found = rank_correlation(runs(ARMS, few, 0), runs(ARMS, 5, 1))
        assert found.interval is None
        assert found.value is not None
    assert rank_correlation(runs(ARMS[:1], 5, 0), runs(ARMS[:1], 5, 1)).value is None


def test_more_seeds_narrow_the_interval():
    widths = []
    for seeds in (3, 12, 48):
        found = [rank_correlation(runs(ARMS, seeds, i), runs(ARMS, seeds, 99 + i), resamples=400).interval for i in range(20)]
        widths.append(np.mean([high - low for low, high in found]))
    assert widths[0] > widths[1] > widths[2]


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 2, 3, 1, 0]])
def test_the_interval_holds_the_correlation_of_the_true_means_at_least_as_often_as_it_says(seeds, order):
    studies, truth = 300, stats.spearmanr(ARMS, ARMS[order]).statistic
    held = 0
    for study in range(studies):
        found = rank_correlation(
            runs(ARMS, seeds, study), runs(ARMS[order], seeds, 10_000 + study), resamples=300, coverage=0.9
        )
        held += found.interval[0] - 1e-9 <= truth <= found.interval[1] + 1e-9
    assert held / studies >= 0.9 - 3.5 * math.sqrt(0.09 / studies)


def test_what_is_drawn_is_spread_as_widely_as_means_of_new_seeds_would_be():
    large, later = (
        np.repeat([[1.0], [2.0]], 3, axis=1),
        np.array([0.006, 0.05, 0.06]),
    )  # the second arm's loss beyond the first's
    assert rank_correlation(np.stack([np.zeros(3), later]), large).interval == (
        -1,
        1,
    )  # 3 draws of 0.006, spread by sqrt(3 / 2)
    assert rank_correlation(np.stack([np.zeros(3), later + 0.01]), large).interval == (1, 1)


def test_nearly_tied_arms_make_the_interval_too_low_but_the_pairs_hold():
    tied, studies, held, sure = ARMS[0] + 0.01 * np.arange(5), 300, [], []
    for study in range(studies):
        small, large = runs(tied, 3, study), runs(tied, 3, 10_000 + study)
        held.append(rank_correlation(small, large, "kendall", resamples=300).interval[1] == 1)
        sure.append(pairs(small, large).tau[1] == 1)
    assert np.mean(held) < 0.7  # a limit of it, that is said
    assert np.mean(sure) >= 0.95


@pytest.mark.parametrize("seeds", [2, 3, 10])
@pytest.mark.parametrize("step", [0.0, 0.01, 0.1])
def test_the_pairs_hold_the_tau_of_the_true_means_at_least_as_often_as_they_say(seeds, step):
    small = ARMS[0] + step * np.arange(4)
    large, studies, held = small[[1, 0, 2, 3]], 300, 0
    truth = stats.kendalltau(small, large).statistic if step else 0.0
    for study in range(studies):
        found = pairs(runs(small, seeds, study), runs(large, seeds, 10_000 + study), 0.8)
        held += found.tau[0] <= truth + 1e-9 and truth - 1e-9 <= found.tau[1] and (step > 0 or found.undecided == 6)
    assert held / studies >= 0.8


def test_pairs_that_are_sure_at_both_sizes_are_counted_by_whether_they_agree():
    small, large = runs([1.0, 2.0, 3.0, 3.0], 6, 0), runs([1.0, 3.0, 2.0, 2.0], 6, 1)
    found = pairs(small, large)
    assert (found.same, found.reversed, found.undecided) == (3, 2, 1)
    assert found.tau == (0.0, pytest.approx(1 / 3))
    turned = pairs(small, -large)
    assert (turned.same, turned.reversed, turned.undecided) == (2, 3, 1)
    swapped = pairs(small[::-1], large[::-1])
    assert swapped == found
    assert pairs(np.ones((3, 4)), np.ones((3, 4))).undecided == 3


def test_a_pair_is_sure_just_when_its_p_is_below_its_share():
    random = np.random.default_rng(3)
    seen = set()
    for shift in np.linspace(0, 0.12, 40):
        small = np.stack([random.normal(1.0, 0.02, 5), random.normal(1.0 + shift, 0.02, 5)])
        sure = stats.ttest_rel(small[0], small[1]).pvalue <= 0.05 / 2  # two-sided, two sizes
        assert pairs(small, runs([1.0, 2.0], 5, 0)).undecided == 1 - sure
        seen.add(bool(sure))
    assert seen == {True, False}
