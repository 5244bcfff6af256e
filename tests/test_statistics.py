import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lpanas.search.statistics import bca_interval, deviation, holm, ppl_percent, sign_flip_p, t_interval, t_p, t_power
from scipy import stats

STUDIES = 2000
DIFFERENCES = st.lists(st.floats(-1, 1, allow_subnormal=False).map(lambda x: round(x, 6)), min_size=2, max_size=8)
SPREAD = DIFFERENCES.filter(lambda x: np.std(x) > 1e-4).map(np.array)
WHOLE = st.lists(st.integers(-4, 4), min_size=1, max_size=9).map(lambda x: np.array(x, float))
SIDES = st.sampled_from(["less", "greater"])


def margin(rate, studies=STUDIES):
    return 3.5 * math.sqrt(rate * (1 - rate) / studies)  # of a binomial share: one in 4,000 lies further


def draws(seed, mean, n, studies=STUDIES):
    return np.random.default_rng(seed).normal(mean, 0.02, (studies, n))


# Student's t


@given(SPREAD, SIDES, st.floats(-0.5, 0.5))
def test_t_is_that_of_scipy(x, side, bound):
    assert t_p(x, bound, side) == pytest.approx(stats.ttest_1samp(x, bound, alternative=side).pvalue, rel=1e-6, abs=1e-12)


@given(SPREAD, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_t_interval_is_that_of_scipy(x, coverage):
    expected = stats.ttest_1samp(x, 0).confidence_interval(coverage)
    found = t_interval(x, coverage)
    assert (found.low, found.high, found.coverage) == pytest.approx((*expected, coverage), abs=1e-9)


def test_the_test_of_differences_is_the_paired_test_of_the_losses():
    a, b = np.array([2.01, 1.98, 2.05, 2.02, 1.99]), np.array([2.03, 2.01, 2.04, 2.05, 2.00])
    assert t_p(a - b) == pytest.approx(stats.ttest_rel(a, b, alternative="less").pvalue)
    # statsmodels 0.15.0: DescrStatsW(a - b).tconfint_mean(0.05), ttost_paired(a, b, -0.05, 0.05)
    found = t_interval(a - b)
    assert (found.low, found.high) == pytest.approx((-0.03677701267367112, 0.004777012673671182))
    assert t_p(a - b, 0.05, "less") == pytest.approx(0.00045602384699664254)
    assert t_p(a - b, -0.05, "greater") == pytest.approx(0.005234834644807419)


@given(SPREAD, st.floats(-0.5, 0.5), SIDES)
def test_p_turns_with_the_sign_moves_with_the_bound_and_forgets_the_order(x, bound, side):
    other = "greater" if side == "less" else "less"
    for p in (t_p, sign_flip_p):
        assert p(x, bound, side) == pytest.approx(p(-x, -bound, other), abs=1e-9)
        assert p(x, bound, side) == pytest.approx(p(x[::-1], bound, side), abs=1e-9)
        assert p(np.round(x + 0.25, 6), 0.25, side) == pytest.approx(p(x, 0, side), abs=1e-9)
    assert t_p(x, bound, side) + t_p(x, bound, other) == pytest.approx(1)


@pytest.mark.parametrize("x", [[0.0, 0.0], [-0.1, -0.1, -0.1], [3.1 - 3.0, 2.1 - 2.0, 1.1 - 1.0]])
def test_differences_that_are_alike_have_no_t_and_no_intervals(x):
    x = np.array(x)
    assert t_p(x) is t_interval(x) is bca_interval(x) is None
    assert deviation(x) == 0


@pytest.mark.parametrize("x", [[], [0.1], [0.1, math.nan], [0.1, math.inf]])
def test_one_difference_or_one_that_is_not_finite_is_refused(x):
    for found in (deviation, t_p, t_interval, bca_interval):
        with pytest.raises(ValueError, match="two finite differences"):
            found(np.array(x))


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_t_errs_as_often_as_it_says_and_its_interval_covers(n):
    x = draws(n, 0.01, n)
    p = np.array([t_p(row, 0.01, "less") for row in x])
    intervals = [t_interval(row) for row in x]
    assert np.mean(p <= 0.05) == pytest.approx(0.05, abs=margin(0.05))
    assert np.mean([one.low <= 0.01 <= one.high for one in intervals]) == pytest.approx(0.95, abs=margin(0.05))


# power


def test_the_power_is_that_of_statsmodels():
    # statsmodels 0.15.0: TTestPower().power(effect, n, alpha, alternative="larger")
    for effect, n, alpha, power in ((0.8, 10, 0.05, 0.7544247592493483), (0.5, 20, 0.025, 0.5644828966786231)):
        assert t_power(effect * 0.02, 0.02, n, alpha) == pytest.approx(power)
    assert t_power(1.5, 1.0, 4, 0.05) == pytest.approx(0.7352986917762161)


@given(st.integers(2, 30), st.floats(1e-6, 0.5))
def test_without_an_effect_the_power_is_the_level(n, level):
    assert t_power(0.0, 1.0, n, level) == pytest.approx(level, rel=1e-4)


@pytest.mark.parametrize(("effect", "n"), [(0.02, 4), (0.02, 10), (0.01, 20), (-0.005, 6)])
def test_as_many_studies_reject_as_the_power_says(effect, n):
    share = np.mean([t_p(row) <= 0.05 for row in draws(n, -effect, n)])
    assert share == pytest.approx(t_power(effect, 0.02, n, 0.05), abs=margin(0.25))


# sign flips


@given(WHOLE, SIDES, st.integers(-2, 2))
def test_the_sign_flip_p_is_the_share_of_all_flips_one_by_one(x, side, bound):
    sums = [
        sum(sign * (one - bound) for sign, one in zip(signs, x, strict=True))
        for signs in itertools.product([1, -1], repeat=len(x))
    ]
    seen = sum(x - bound)
    extreme = [one <= seen if side == "less" else one >= seen for one in sums]
    assert sign_flip_p(x, bound, side) == sum(extreme) / len(sums)


def test_the_sign_flip_p_is_that_of_scipys_exact_permutation_test():
    x = np.random.default_rng(3).normal(-0.01, 0.02, 11)
    found = stats.permutation_test((x,), np.mean, permutation_type="samples", alternative="less", n_resamples=np.inf)
    assert sign_flip_p(x) == found.pvalue


@pytest.mark.parametrize("n", [1, 2, 5, 12, 40])
def test_the_smallest_sign_flip_p_is_two_to_the_minus_n(n):
    x = -np.random.default_rng(n).random(n)
    assert sign_flip_p(x) == 2.0**-n


def test_equal_sums_count_as_equal_however_they_were_added():
    assert sign_flip_p(np.array([-0.1, -0.2, 0.3])) == 5 / 8  # 0.1 + 0.2 is not 0.3 in floating point
    with pytest.raises(ValueError, match="1 to 40"):
        sign_flip_p(np.ones(41))


def test_sign_flips_err_at_most_as_often_as_they_say_where_the_tails_are_heavy():
    x = np.random.default_rng(1).standard_t(2, (STUDIES, 8))
    p = np.array([sign_flip_p(row) for row in x])
    for level in (0.01, 0.05, 0.25):
        assert np.mean(p <= level) == pytest.approx(math.floor(level * 2**8) / 2**8, abs=margin(level))


# bootstrap


@pytest.mark.parametrize(
    "x", [[0.01, -0.02, 0.053, 0.02, 0.034], [-0.03, -0.01, -0.02, -0.06, 0.01], [0.0, 0.1, 0.0, 0.3, 0.02, -0.04]]
)
def test_bca_is_efrons_formula_over_all_resamples(x):
    n, mean, normal = len(x), statistics.fmean(x), statistics.NormalDist()
    means = np.sort([statistics.fmean(one) for one in itertools.product(x, repeat=n)])
    bias = normal.inv_cdf((np.mean(means < mean - 1e-12) + np.mean(means <= mean + 1e-12)) / 2)
    left = np.array([statistics.fmean(x[:i] + x[i + 1 :]) for i in range(n)])
    pull = left.mean() - left
    skew = (pull**3).sum() / (6 * (pull**2).sum() ** 1.5)
    ends = []
    for share in (0.05, 0.95):
        z = bias + normal.inv_cdf(share)
        ends.append(np.quantile(means, normal.cdf(bias + z / (1 - skew * z))))
    found = bca_interval(np.array(x), 0.9, resamples=40_000)
    assert (found.low, found.high) == pytest.approx(ends, abs=0.03 * np.std(x))


@given(SPREAD)
def test_bca_lies_within_the_differences_or_is_not_defined(x):
    found = bca_interval(x, resamples=199)
    if len(x) < 3:
        assert found is None
    if found is not None:
        assert min(x) - 1e-9 <= found.low <= found.high <= max(x) + 1e-9


def test_bca_repeats_with_its_seed():
    x = np.array([0.01, -0.02, 0.05, 0.02])
    assert bca_interval(x, seed=1) == bca_interval(x, seed=1) != bca_interval(x, seed=2)


@pytest.mark.parametrize(("n", "least", "most"), [(3, 0.65, 0.85), (5, 0.75, 0.9), (20, 0.9, 0.96)])
def test_bca_covers_too_little_with_few_seeds(n, least, most):
    found = [bca_interval(row, resamples=499) for row in draws(n, 0.01, n, 500)]
    covered = np.mean([one is not None and one.low <= 0.01 <= one.high for one in found])
    assert least < covered < most


# several, and perplexity


def test_holms_p_are_those_of_statsmodels():
    # statsmodels 0.15.0: multipletests(p, method="holm")[1]
    assert holm([0.01, 0.04, 0.03, 0.005, 0.6]) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.6])
    assert holm([0.02, 0.02, 0.02]) == pytest.approx([0.06, 0.06, 0.06])
    assert holm([0.5, 0.9, 0.001, 0.012]) == pytest.approx([1.0, 1.0, 0.004, 0.036])


@given(st.lists(st.integers(1, 1000).map(lambda p: p / 1000), max_size=5))
def test_holm_is_the_closed_test_of_bonferronis(p):
    subsets = [rest for size in range(1, len(p) + 1) for rest in itertools.combinations(range(len(p)), size)]
    closed = [max(min(1, len(rest) * min(p[j] for j in rest)) for rest in subsets if i in rest) for i in range(len(p))]
    assert holm(p) == pytest.approx(closed)


def test_a_difference_in_nats_is_a_ratio_of_perplexities():
    assert ppl_percent(math.log(17.89 / 18.29)) == pytest.approx(100 * (17.89 / 18.29 - 1))
    found = t_interval(np.array([0.01, 0.03]))
    assert found.ppl_percent == (ppl_percent(found.low), ppl_percent(found.high))
