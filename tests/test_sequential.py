import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lpanas.search import sequential
from lpanas.search.sequential import crossed, p_at_looks, repeated_interval, sequential_p, spent, split_levels, t_levels
from lpanas.search.statistics import sign_flip_p, t_power
from scipy import stats

STUDIES = 2000
EVERY_SEED, EVERY_OTHER, FEW = tuple(range(3, 21)), tuple(range(4, 21, 2)), (3, 5, 7)
SCHEDULES = [EVERY_SEED, EVERY_OTHER, FEW, (2, 3, 4), (3, 4, 5, 6), (5, 10, 20)]


def margin(rate, studies=STUDIES):
    return 3.5 * math.sqrt(rate * (1 - rate) / studies)


def draws(seed, mean, n, studies=STUDIES):
    return np.random.default_rng(seed).normal(mean, 0.02, (studies, n))


def share_that_ever_falls(p, levels):
    return np.mean(np.any(p <= np.array(levels), axis=1))


# spending


@pytest.mark.parametrize("alpha", [0.025, 0.05, 0.2])
def test_what_may_be_spent_rises_from_nothing_to_alpha(alpha):
    steps = [spent(alpha, fraction) for fraction in np.linspace(0.01, 1, 100)]
    assert steps[0] < 1e-9
    assert np.all(np.diff(steps) > 0)
    assert steps[-1] == pytest.approx(alpha)


def test_the_boundaries_approach_the_published_ones_of_the_normal_limit():
    # O'Brien-Fleming-like Lan-DeMets spending, 5 equal looks, one-sided 0.025 (Reboussin, DeMets, Kim, Lan 2000, Controlled
    # Clinical Trials 21:190). With more seeds a look t comes nearer to the normal distribution.
    published = [4.877, 3.357, 2.680, 2.290, 2.031]
    for seeds, off in ((4, 0.03), (16, 0.01)):
        found = stats.norm.isf(t_levels(tuple(seeds * look for look in range(1, 6)), 0.025))
        assert found == pytest.approx(published, abs=off)


@pytest.mark.parametrize("n", [2, 5, 30])
def test_a_single_look_may_use_all_of_alpha(n):
    assert t_levels((n,), 0.05) == pytest.approx((0.05,))
    assert split_levels((n,), 0.05) == pytest.approx((0.05,))


@pytest.mark.parametrize("looks", SCHEDULES)
def test_levels_rise_with_the_looks_and_with_alpha_and_lie_between_their_share_and_the_total(looks):
    previous = np.zeros(len(looks))
    for alpha in np.geomspace(1e-5, sequential.HIGHEST, 12):
        found, shares = np.array(t_levels(looks, float(alpha))), np.array(split_levels(looks, float(alpha)))
        assert np.all(np.diff(found) > 0)
        assert np.all(found > previous)
        assert np.all(found >= shares * (1 - 1e-9))
        assert np.all(found <= np.cumsum(shares) * (1 + 1e-9))
        previous = found


def test_a_finer_grid_changes_no_level_by_more_than_a_third_of_a_percent(monkeypatch):
    schedules = [EVERY_SEED, (2, 4, 8, 16), tuple(range(4, 41, 4))]
    coarse = [t_levels(looks, alpha) for looks in schedules for alpha in (0.05, 0.0125)]
    end = sequential.END
    steps = 1 - np.linspace(1, 0, 1537) ** 1.5
    monkeypatch.setattr(sequential, "ANGLES", np.concatenate([np.linspace(-end, 0, 512, endpoint=False), end * steps]))
    fine = [t_levels.__wrapped__(looks, alpha) for looks in schedules for alpha in (0.05, 0.0125)]
    for one, other in zip(coarse, fine, strict=True):
        assert one == pytest.approx(other, rel=0.0033)


@pytest.mark.parametrize("looks", [(2, 3, 4, 5), (3, 5, 8, 12)])
def test_the_share_of_random_studies_that_is_stopped_by_each_look_is_what_may_be_spent(looks):
    x = np.random.default_rng(0).normal(size=(200_000, looks[-1]))
    sums, squares, n = x.cumsum(axis=1), (x**2).cumsum(axis=1), np.arange(1, looks[-1] + 1)
    columns = np.array(looks) - 1
    variance = ((squares - sums**2 / n) / np.maximum(n - 1, 1))[:, columns]
    t = (sums / np.sqrt(n))[:, columns] / np.sqrt(variance)
    boundaries = stats.t.isf(t_levels(looks, 0.2), columns)
    stopped = np.logical_or.accumulate(t >= boundaries, axis=1).mean(axis=0)
    for share, look in zip(stopped, looks, strict=True):
        total = spent(0.2, look / looks[-1])
        assert share == pytest.approx(total, abs=margin(total, len(x)))


# errors


@pytest.mark.parametrize("looks", SCHEDULES)
@pytest.mark.parametrize("side", ["less", "greater"])
def test_two_equal_arms_are_told_apart_with_at_most_alpha_however_often_one_looks(looks, side):
    p = p_at_looks(draws(len(looks), 0.0, looks[-1]), 0.0, side, looks)
    assert np.mean(crossed(p, looks, 0.05)) == pytest.approx(0.05, abs=margin(0.05))
    assert share_that_ever_falls(p, [0.05] * len(looks)) > 0.05 + 2 * margin(0.05)  # what looking costs uncorrected


@pytest.mark.parametrize("most", range(3, 21))
def test_up_to_any_number_of_seeds_false_confirmations_are_at_most_alpha(most):
    looks = tuple(range(2, most + 1))
    p = p_at_looks(draws(most, 0.0, most), 0.0, "less", looks)
    assert np.mean(crossed(p, looks, 0.05)) <= 0.05 + margin(0.05)


def test_levels_of_the_normal_limit_err_too_often_with_few_seeds():
    looks = (3, 4, 5, 6)
    p = p_at_looks(draws(0, 0.0, 6, 40_000), 0.0, "less", looks)
    limit = t_levels(tuple(20 * n for n in looks), 0.05)  # the significance-level approach: normal levels used on p of t
    assert share_that_ever_falls(p, limit) > 0.05 + margin(0.05, 40_000)
    assert share_that_ever_falls(p, t_levels(looks, 0.05)) == pytest.approx(0.05, abs=margin(0.05, 40_000))


def test_on_the_wrong_side_of_the_bound_errors_are_rarer():
    p = p_at_looks(draws(7, 0.005, 10), 0.0, "less", tuple(range(3, 11)))
    assert np.mean(crossed(p, tuple(range(3, 11)), 0.05)) < 0.05 - margin(0.05)


def test_t_bears_heavy_tails_but_not_skew_ones():
    looks, random = tuple(range(3, 13)), np.random.default_rng(6)
    for heavy in (random.standard_t(3, (STUDIES, 12)), random.laplace(size=(STUDIES, 12))):
        assert np.mean(crossed(p_at_looks(heavy, 0.0, "less", looks), looks, 0.05)) <= 0.05
    skew = random.exponential(size=(STUDIES, 12)) - 1
    assert np.mean(crossed(p_at_looks(skew, 0.0, "less", looks), looks, 0.05)) > 0.1  # a limit of it, that is said


@pytest.mark.parametrize("looks", [(3, 5, 8), tuple(range(4, 11, 2))])
def test_sign_flips_err_with_at_most_alpha_even_if_the_tails_are_heavy(looks):
    x = np.random.default_rng(2).standard_t(2, (STUDIES, looks[-1]))
    p = p_at_looks(x, 0.0, "less", looks, "sign flip")
    assert np.mean(crossed(p, looks, 0.05, "sign flip")) <= 0.05
    assert p[0].tolist() == [sign_flip_p(x[0, :n]) for n in looks]


def test_the_repeated_intervals_hold_the_mean_at_all_looks_together():
    looks = (3, 5, 7, 9)
    held = [
        all(one.low <= 0.01 <= one.high for n in looks if (one := repeated_interval(row[:n], looks, 0.05)))
        for row in draws(5, 0.01, 9)
    ]
    assert np.mean(held) == pytest.approx(0.9, abs=margin(0.1))  # 0.05 on either side, hardly ever both


# power


@pytest.mark.parametrize(("effect", "looks"), [(0.02, (12,)), (0.02, tuple(range(3, 13))), (0.03, (3, 5, 7))])
def test_the_power_is_at_least_that_of_the_last_look_alone(effect, looks):
    p = p_at_looks(draws(11, -effect, looks[-1]), 0.0, "less", looks)
    last = t_power(effect, 0.02, looks[-1], t_levels(looks, 0.05)[-1])
    found = np.mean(crossed(p, looks, 0.05))
    assert np.mean(p[:, -1] <= t_levels(looks, 0.05)[-1]) == pytest.approx(last, abs=margin(last))
    assert last - margin(last) <= found <= last + 0.1


# p and intervals of one study


def studies(n):
    return st.lists(st.floats(-1, 1).map(lambda x: round(x, 6)), min_size=n, max_size=n).map(np.array)


@given(studies(8), st.sampled_from(["less", "greater"]), st.sampled_from([0.0, 0.1, -0.3]))
def test_the_p_of_a_look_is_that_of_scipy_on_the_seeds_so_far(x, side, bound):
    found = p_at_looks(x, bound, side, (2, 5, 8, 11))
    assert found.shape == (3,)
    for n, p in zip((2, 5, 8), found, strict=True):
        alike = len(set(x[:n])) == 1
        expected = 1.0 if alike else stats.ttest_1samp(x[:n], bound, alternative=side).pvalue
        assert p == pytest.approx(expected, rel=1e-6, abs=1e-12)


@given(studies(6))
def test_many_studies_at_once_are_each_by_itself(x):
    both = np.stack([x, -x])
    for test in ("t", "sign flip"):
        rows = p_at_looks(both, 0.1, "less", FEW, test)
        assert rows.tolist() == [p_at_looks(row, 0.1, "less", FEW, test).tolist() for row in both]


@given(st.lists(st.floats(-12, 0).map(math.exp), min_size=1, max_size=3), st.sampled_from(["t", "sign flip"]))
@settings(max_examples=20)
def test_the_sequential_p_is_the_smallest_alpha_at_which_some_look_rejects(p, test):
    found = sequential_p(np.array(p), FEW, test)
    if found > sequential.HIGHEST:
        assert found == 1
        assert not crossed(np.array(p), FEW, sequential.HIGHEST, test)
    else:
        assert crossed(np.array(p), FEW, found * 1.001, test)
    if found > sequential.LOWEST:
        assert not crossed(np.array(p), FEW, min(found, sequential.HIGHEST) * 0.999, test)


def test_the_sequential_p_of_a_single_look_is_its_p_and_before_any_look_it_is_one():
    assert sequential_p(np.array([0.03]), (5,)) == pytest.approx(0.03, rel=1e-3)
    assert sequential_p(np.array([]), (5,)) == 1
    assert sequential_p(np.array([1e-30]), (5,)) == sequential.LOWEST
    assert not crossed(np.array([]), (5,), 0.05)


def test_a_later_look_does_not_take_back_what_was_rejected():
    p = np.array([1e-6, 0.9, 0.9])
    assert crossed(p, FEW, 0.05)
    assert sequential_p(p, FEW) == pytest.approx(sequential_p(p[:1], FEW), rel=1e-3)


@given(studies(7), st.integers(0, 7), st.floats(-0.5, 0.5))
def test_the_repeated_interval_excludes_a_bound_just_when_the_look_rejects_it(x, n, bound):
    found = repeated_interval(x[:n], FEW, 0.05)
    look = sum(one <= n for one in FEW)
    if look == 0 or len(set(x[: FEW[look - 1]])) == 1:
        assert found is None
        return
    level = t_levels(FEW, 0.05)[look - 1]
    for side, beyond in (("less", found.high < bound), ("greater", found.low > bound)):
        assert bool(p_at_looks(x[:n], bound, side, FEW)[-1] < level) == beyond
    assert found.coverage == pytest.approx(0.9)
