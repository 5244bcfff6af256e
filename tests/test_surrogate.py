import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lpanas.search.pareto import hypervolume
from lpanas.search.surrogate import LENGTHS, NOISES, expected_gain, fit, foretell
from scipy import stats

SEEDS = st.integers(0, 2**32 - 1)


def kernel(a, b, length):
    """0.8 of the mean over the features and 0.2 of the product, each squared exponential."""
    found = np.zeros((len(a), len(b)))
    for row, x in enumerate(a):
        for column, y in enumerate(b):
            each = [np.exp(-((s - t) ** 2) / (2 * length**2)) for s, t in zip(x, y, strict=True)]
            found[row, column] = 0.8 * sum(each) / len(each) + 0.2 * np.prod(each)
    return found


def posterior(x, losses, new, length, noise):
    """Mean and deviation of a process in units of the losses' deviation, its amplitude the likeliest."""
    z = (losses - losses.mean()) / losses.std()
    inverse = np.linalg.inv(kernel(x, x, length) + noise * np.eye(len(x)))
    amplitude = z @ inverse @ z / len(z)
    across = kernel(new, x, length)
    covariance = kernel(new, new, length) - across @ inverse @ across.T
    return losses.mean() + losses.std() * across @ inverse @ z, losses.std() * np.sqrt(amplitude * np.diag(covariance))


def log_likelihood(x, losses, length, noise):
    """Of the losses as one draw of a normal distribution of many dimensions, its amplitude the likeliest."""
    z = (losses - losses.mean()) / losses.std()
    matrix = kernel(x, x, length) + noise * np.eye(len(x))
    amplitude = z @ np.linalg.inv(matrix) @ z / len(z)
    return stats.multivariate_normal(np.zeros(len(z)), amplitude * matrix).logpdf(z)


def sample(seed, n=20, features=3, noise=0.0):
    """Points and a smooth loss at each, in nats, with as much noise as is asked for."""
    random = np.random.default_rng(seed)
    x = random.random((n, features))
    return x, 3 + x @ np.arange(1, features + 1) / 5 + 0.1 * x[:, 0] ** 2 + noise * random.normal(size=n)


def likeliest(x, losses):
    return max(((length, noise) for length in LENGTHS for noise in NOISES), key=lambda pair: log_likelihood(x, losses, *pair))


@pytest.mark.parametrize(("seed", "noise"), [(0, 0.0), (1, 0.05), (2, 0.5)])
def test_the_posterior_is_that_of_the_dense_formula_at_the_likeliest_length_and_noise(seed, noise):
    x, losses = sample(seed, noise=noise)
    new = np.random.default_rng(seed + 10).random((7, 3))
    length, variance = likeliest(x, losses)
    mean, deviation = fit(x, losses).predict(new)
    expected_mean, expected_deviation = posterior(x, losses, new, length, variance)
    assert fit(x, losses).length == length
    assert mean == pytest.approx(expected_mean, rel=1e-6)
    assert deviation == pytest.approx(expected_deviation, rel=1e-4)


def test_losses_without_noise_are_met_at_the_points_that_are_known():
    x, losses = sample(3, n=40)
    mean, deviation = fit(x, losses).predict(x)
    assert np.abs(mean - losses).max() < 0.1 * losses.std()
    assert deviation.max() < 0.15 * losses.std()


def test_a_smooth_loss_is_foreseen_where_nothing_is_known():
    x, losses = sample(4, n=40)
    new, truth = sample(5, n=40)
    mean, deviation = fit(x, losses).predict(new)
    assert np.abs(mean - truth).max() < 0.4 * losses.std()
    assert np.mean(np.abs(mean - truth) < 3 * deviation) > 0.9


def test_the_deviation_is_smaller_near_what_is_known_than_far_from_it():
    x, losses = sample(6, n=12)
    near, far = fit(x / 4, losses).predict(np.array([[0.1, 0.1, 0.1], [1.0, 1.0, 1.0]]))[1]
    assert near < far


def noise_share(surrogate):
    """What stands on the kernel matrix's diagonal besides the kernel's 1."""
    return (surrogate.factor @ surrogate.factor.T)[0, 0] - 1


def test_the_likelihood_chooses_more_noise_for_noisier_losses():
    shares = [noise_share(fit(*sample(7, n=60, noise=noise))) for noise in (0.0, 0.4)]
    assert shares == pytest.approx([min(NOISES), max(NOISES)])


def test_the_noise_in_nats_is_about_that_of_the_losses():
    """As far as the few noises to choose from allow: 0.1 of the variance here, of which half the deviation to twice is left."""
    x, losses = sample(11, n=100, noise=0.1)
    assert 0.05 < fit(x, losses).noise_nats < 0.2
    assert fit(x, losses[0] + np.zeros(100)).noise_nats < 1e-4


@given(st.floats(-5, 5), st.floats(0.01, 100), SEEDS)
def test_the_units_of_the_loss_change_nothing_but_the_units_of_what_is_foreseen(shift, scale, seed):
    x, losses = sample(seed, n=8, noise=0.1)
    mean, deviation = fit(x, losses).predict(x[:3] / 2)
    other_mean, other_deviation = fit(x, shift + scale * losses).predict(x[:3] / 2)
    assert other_mean == pytest.approx(shift + scale * mean, rel=1e-5, abs=1e-5)
    assert other_deviation == pytest.approx(scale * deviation, rel=1e-4)


@pytest.mark.parametrize("losses", [[3.0], [3.0, 3.0, 3.0]])
def test_one_run_or_equal_losses_are_foreseen_everywhere_as_they_are(losses):
    x = np.linspace(0, 1, len(losses))[:, None]
    mean, deviation = fit(x, np.array(losses)).predict(np.array([[0.3], [0.9]]))
    assert mean == pytest.approx([3.0, 3.0])
    assert np.isfinite(deviation).all()


def test_points_that_are_known_twice_and_a_thousand_of_them_are_fitted():
    x, losses = sample(8, n=1000, noise=0.1)
    x[500:] = x[:500]
    losses[500:] = losses[:500] + 0.01
    mean, _ = fit(x, losses).predict(x)
    assert np.corrcoef(mean, losses)[0, 1] > 0.8


def drawn(mean, deviation, costs, front, reference, draws):
    """The mean hypervolume that a candidate adds, over draws of its loss."""
    before = hypervolume(front, reference)
    losses = mean + deviation * stats.norm.ppf((np.arange(draws) + 0.5) / draws)
    return np.mean([hypervolume(np.array([*front, [loss, *costs]]), reference) - before for loss in losses])


def setting(seed, objectives, candidates):
    """A front, a reference beyond it, and candidates about as good."""
    random = np.random.default_rng(seed)
    front = random.random((6, objectives))
    front[:, 0] = 3 + 0.5 * (1 - front[:, 1:].sum(axis=1) / objectives) + 0.1 * front[:, 0]
    costs = random.random((candidates, objectives - 1))
    mean, deviation = 3.1 + 0.3 * random.random(candidates), 0.02 + 0.2 * random.random(candidates)
    return mean, deviation, costs, front, np.array([3.7, *[1.05] * (objectives - 1)])


@pytest.mark.parametrize("seed", [0, 1])
def test_with_one_cost_the_gain_is_the_hypervolume_that_draws_add(seed):
    mean, deviation, costs, front, reference = setting(seed, 2, 4)
    gains = expected_gain(mean, deviation, costs, front, reference, 0)
    expected = [drawn(*one, front, reference, draws=200) for one in zip(mean, deviation, costs, strict=True)]
    width = reference[1] - costs.min()
    assert gains * width == pytest.approx(expected, rel=0.03, abs=0.002)


def test_with_two_costs_the_gain_is_roughly_the_hypervolume_that_draws_add():
    mean, deviation, costs, front, reference = setting(3, 3, 6)
    gains = np.mean([expected_gain(mean, deviation, costs, front, reference, seed) for seed in range(20)], axis=0)
    expected = np.array([drawn(*one, front, reference, draws=30) for one in zip(mean, deviation, costs, strict=True)])
    ratios = gains / expected
    assert ratios == pytest.approx([1 / np.prod(reference[1:] - costs.min(axis=0))] * 6, rel=0.15)


def test_without_costs_the_gain_is_the_expected_improvement_on_the_lowest_loss():
    mean, deviation = np.array([3.0, 3.2, 3.4, 2.5]), np.array([0.1, 0.3, 0.2, 0.01])
    front = np.array([[3.3], [3.1], [3.6]])
    z = (3.1 - mean) / deviation
    expected = (3.1 - mean) * stats.norm.cdf(z) + deviation * stats.norm.pdf(z)
    assert expected_gain(mean, deviation, np.zeros((4, 0)), front, np.array([3.6]), 0) == pytest.approx(expected, abs=1e-12)


def test_without_a_deviation_the_gain_is_the_hypervolume_that_the_mean_adds():
    mean, _, costs, front, reference = setting(4, 2, 30)
    gains = expected_gain(mean, np.full(30, 1e-9), costs, front, reference, 0) * (reference[1] - costs.min())
    before = hypervolume(front, reference)
    added = [hypervolume(np.array([*front, [loss, *cost]]), reference) - before for loss, cost in zip(mean, costs, strict=True)]
    assert gains == pytest.approx(added, abs=0.005)
    assert np.isfinite(gains).all()


@given(SEEDS, st.integers(1, 3))
def test_a_candidate_that_is_dominated_for_sure_gains_nothing_and_every_gain_is_finite(seed, objectives):
    mean, deviation, costs, front, reference = setting(seed, objectives, 6)
    best = front[front[:, 0].argmin()]
    mean[0], deviation[0], costs[0] = best[0] + 0.2, 0.01, best[1:]
    gains = expected_gain(mean, deviation, costs, front, reference, seed)
    assert gains[0] < 1e-12
    assert np.isfinite(gains).all()
    assert (gains >= 0).all()


@given(SEEDS, st.integers(1, 3))
def test_of_equal_candidates_the_one_of_lower_loss_or_lower_cost_gains_no_less(seed, objectives):
    mean, deviation, costs, front, reference = setting(seed, objectives, 3)
    mean[:], deviation[:], costs[:] = mean[0], deviation[0], costs[0]
    mean[1] -= 0.1
    costs[2] *= 0.7
    gains = expected_gain(mean, deviation, costs, front, reference, seed)
    assert gains[1] >= gains[0] - 1e-15
    assert gains[2] >= gains[0] - 1e-15


def test_candidates_of_one_cost_are_told_apart_by_their_losses():
    front = np.array([[3.3, 5.0], [3.1, 9.0]])
    gains = expected_gain(np.array([3.0, 2.9]), np.array([0.1, 0.1]), np.array([[9.0], [9.0]]), front, np.array([3.3, 9.0]), 0)
    assert 0 < gains[0] < gains[1]


@given(SEEDS, st.integers(3, 20))
def test_later_losses_are_foretold_by_the_least_squares_line_with_its_prediction_intervals(seed, n):
    """Against the normal equations."""
    random = np.random.default_rng(seed)
    early, new = random.normal(5, 1, n), random.normal(5, 2, 4)
    late = 1 + 0.7 * early + random.normal(0, 0.3, n)
    design, at = (np.stack([np.ones_like(x), x], axis=1) for x in (early, new))
    weights, *_ = np.linalg.lstsq(design, late)
    variance = ((late - design @ weights) ** 2).sum() / (n - 2)
    spread = variance * (1 + np.einsum("ni,ij,nj->n", at, np.linalg.inv(design.T @ design), at))
    mean, deviation = foretell(early, late, new)
    assert mean == pytest.approx(at @ weights, rel=1e-6)
    assert deviation == pytest.approx(np.sqrt(spread), rel=1e-5)


def test_equal_early_losses_foretell_the_mean_of_the_later_ones():
    mean, deviation = foretell(np.full(4, 2.0), np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 9.0]))
    assert mean.tolist() == [2.5, 2.5]
    assert (deviation > np.std([1, 2, 3, 4], ddof=1)).all()


def test_a_loss_that_is_only_foretold_with_great_doubt_says_next_to_nothing():
    x, losses = sample(9, n=12, noise=0.0)
    told = np.append(losses, losses.max() + 5)
    beside = fit(np.concatenate([x, x[:1] * 0.9]), told, np.append(np.zeros(12), 1e3)).predict(x)[0]
    alone = fit(np.concatenate([x, x[:1] * 0.9]), told).predict(x)[0]
    assert abs(beside - losses).max() < 0.25 * abs(alone - losses).max()


def test_no_doubt_is_the_doubt_that_is_left_out():
    x, losses = sample(10, n=20, noise=0.1)
    assert np.array_equal(fit(x, losses).predict(x)[0], fit(x, losses, np.zeros(20)).predict(x)[0])
