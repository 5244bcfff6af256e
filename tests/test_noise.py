import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lpanas.search.noise import measure
from scipy import stats

T_975 = {1: 12.7062, 2: 4.30265, 4: 2.77645, 9: 2.26216}  # a printed table of Student's t
LOSSES = st.lists(st.floats(0.5, 8.0), min_size=2, max_size=8)


@given(LOSSES)
def test_the_figures_are_the_closed_forms(losses):
    found = measure(losses)
    n = len(losses)
    assert found.n == n
    assert found.mean_nats == pytest.approx(statistics.fmean(losses))
    assert found.std_nats == pytest.approx(statistics.stdev(losses), abs=1e-9)
    half_width = stats.t(df=n - 1, scale=math.sqrt(2) * found.std_nats or 1e-300).interval(0.95)[1]
    assert found.resolvable_nats == pytest.approx(half_width, abs=1e-9)


@pytest.mark.parametrize("df", T_975)
def test_the_resolvable_difference_follows_the_printed_table(df):
    losses = [3.0, 3.5] * ((df + 1) // 2) + [3.2] * ((df + 1) % 2)
    found = measure(losses)
    assert found.resolvable_nats == pytest.approx(T_975[df] * math.sqrt(2 * statistics.variance(losses)), rel=1e-5)


@given(LOSSES)
def test_the_noise_does_not_depend_on_the_order_of_the_seeds_nor_on_the_level_of_the_loss(losses):
    found, other = measure(losses), measure([loss + 4 for loss in reversed(losses)])
    assert other.resolvable_nats == pytest.approx(found.resolvable_nats, abs=1e-9)
    assert other.mean_nats == pytest.approx(found.mean_nats + 4)


@pytest.mark.parametrize("losses", [[], [3.0]])
def test_fewer_than_two_seeds_measure_nothing(losses):
    assert measure(losses) is None


@pytest.mark.parametrize("seeds", [2, 5])
def test_two_equal_arms_differ_by_more_than_is_resolvable_in_five_percent_of_studies(seeds):
    studies = 4000
    runs = np.random.default_rng(0).normal(3.0, 0.02, (studies, seeds + 2))
    resolvable = np.array([measure(row).resolvable_nats for row in runs[:, :seeds]])
    share = np.mean(np.abs(runs[:, -1] - runs[:, -2]) > resolvable)
    assert share == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / studies))
