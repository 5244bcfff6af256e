"""The expected gain of a candidate when its costs are known and only its loss is not.

The dominated hypervolume is an integral over the costs of how far the lowest loss at no more than that cost lies below the
reference. So a candidate's expected gain is the integral, over the costs that it would be allowed at, of its expected
improvement on the lowest loss there; for a Gaussian process that has a closed form (Jones et al. 1998, doi
10.1023/A:1008306431147).
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.special import ndtr

LENGTHS = (0.5, 1.0, 2.0)
"""Of the kernel, a choice's whole range being 1 (assumption; the likelihood decides among them)."""
NOISES = (0.003, 0.01, 0.03, 0.1)
"""Variance of a run's noise as a share of the losses' (assumption, likewise)."""
FITTED = 128
"""Rows on which length and noise are chosen: the time of a fit grows with their cube."""
CELLS = 256
"""Costs at which the integral is summed."""


@dataclass(frozen=True)
class Surrogate:
    """A Gaussian process fitted to losses."""

    x: np.ndarray
    """(n, d)"""
    length: float
    factor: np.ndarray
    """(n, n): the lower Cholesky factor of the kernel matrix with its noise."""
    weights: np.ndarray
    """(n,): the kernel matrix's inverse times the standardised losses."""
    mean: float
    scale: float
    amplitude: float
    noise_nats: float
    """Standard deviation of a measured loss about the noiseless one."""

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The mean and the standard deviation of the noiseless loss, nats. (m, d) -> (m,), (m,)."""
        across = _kernel(x, self.x, self.length)  # (m, n)
        explained = solve_triangular(self.factor, across.T, lower=True)  # (n, m)
        variance = self.amplitude * np.maximum(1 - (explained**2).sum(axis=0), 1e-9)
        return self.mean + self.scale * (across @ self.weights), self.scale * np.sqrt(variance)


def fit(x: np.ndarray, losses_nats: np.ndarray, doubt_nats: np.ndarray | None = None) -> Surrogate:
    """A process whose kernel's length and noise are the likeliest of LENGTHS and NOISES. x: (n, d) in [0, 1]; losses: (n,);
    doubt: (n,), the standard deviation of a loss that is foretold, 0 for one that was measured; all of them, when left out."""
    scale = float(losses_nats.std()) or 1.0
    doubt = np.zeros(len(x)) if doubt_nats is None else (doubt_nats / scale) ** 2
    some = np.unique(np.linspace(0, len(x) - 1, min(len(x), FITTED)).round().astype(int))
    mean, z = float(losses_nats.mean()), (losses_nats - losses_nats.mean()) / scale
    kernels = {length: _kernel(x[some], x[some], length) for length in LENGTHS}
    length, noise = max(
        product(LENGTHS, NOISES), key=lambda pair: _likelihood(kernels[pair[0]], z[some], pair[1] + doubt[some])
    )
    factor, weights = _solve(_kernel(x, x, length), z, noise + doubt)
    amplitude = max(float(z @ weights) / len(z), 1e-9)
    return Surrogate(x, length, factor, weights, mean, scale, amplitude, scale * float(np.sqrt(amplitude * noise)))


def foretell(early: np.ndarray, late: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Later losses from earlier ones by the least-squares line, and the standard deviation of each such prediction (that of a
    new observation). early, late: (n,) of runs that have both, n of 3 or more; new: (m,) early ones -> (m,), (m,)."""
    x, around = early - early.mean(), new - early.mean()
    spread = float(x @ x)
    slope = float(x @ late) / spread if spread else 0.0
    rest = late - late.mean() - slope * x
    variance = float(rest @ rest) / (len(x) - 2)
    leverage = 1 + 1 / len(x) + (around**2 / spread if spread else 0.0)
    return late.mean() + slope * around, np.sqrt(variance * leverage)


def expected_gain(
    mean: np.ndarray, deviation: np.ndarray, costs: np.ndarray, front: np.ndarray, reference: np.ndarray, seed: int
) -> np.ndarray:
    """The hypervolume that each candidate is expected to add, up to a common factor. (n,).

    mean, deviation: (n,) of the loss; costs: (n, m - 1); front: (f, m), what is known, the loss first; reference: (m,), worse
    than all of it. The integral is a mean over CELLS costs, drawn evenly between the lowest cost and the reference.
    """
    low = costs.min(axis=0, initial=np.inf) if costs.size else np.zeros(0)
    cells = low + (reference[1:] - low) * _even(CELLS, costs.shape[1], seed)  # (cells, m - 1)
    affords = _affords(cells, front[:, 1:])  # (cells, f)
    best = np.minimum(np.where(affords, front[None, :, 0], np.inf).min(axis=1, initial=np.inf), reference[0])  # (cells,)
    z = (best[None, :] - mean[:, None]) / deviation[:, None]  # (n, cells)
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    improvement = deviation[:, None] * (z * ndtr(z) + density)
    return (improvement * _affords(cells, costs).T).mean(axis=1)


def _affords(cells: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Whether what costs so much is allowed at a cell. (cells, m), (n, m) -> (cells, n) bool."""
    found = np.ones((len(cells), len(costs)), bool)
    for limit, cost in zip(cells.T, costs.T, strict=True):
        found &= cost[None, :] <= limit[:, None]
    return found


def _even(count: int, dimensions: int, seed: int) -> np.ndarray:
    """(count, dimensions) points spread over the unit cube: a grid for one dimension, else a Latin hypercube."""
    random = np.random.default_rng(seed)
    strata = (np.arange(count) + 0.5) / count
    columns = [strata if dimensions == 1 else random.permutation(strata) for _ in range(dimensions)]
    return np.stack(columns, axis=1) if columns else np.zeros((1, 0))


def _kernel(a: np.ndarray, b: np.ndarray, length: float) -> np.ndarray:
    """(n, d), (m, d) -> (n, m): mostly a sum over the choices, as each adds to the loss by itself."""
    left, right = list[np.ndarray](), list[np.ndarray]()
    for column_a, column_b in zip(a.T, b.T, strict=True):
        few = np.unique(np.concatenate([column_a, column_b]))  # a choice has few values: look their nearness up
        near = np.exp(-0.5 * ((few[:, None] - few[None, :]) / length) ** 2)
        left.append(near[np.searchsorted(few, column_a)])  # (n, few)
        right.append(np.eye(len(few))[np.searchsorted(few, column_b)])  # (m, few)
    total = np.concatenate(left, axis=1) @ np.concatenate(right, axis=1).T if left else np.zeros((len(a), len(b)))
    nearness = (a @ b.T - 0.5 * (a**2).sum(axis=1)[:, None] - 0.5 * (b**2).sum(axis=1)[None, :]) / length**2
    np.exp(np.minimum(nearness, 0.0, out=nearness), out=nearness)  # in place: fresh megabytes take longer than the sums
    total *= 0.8 / a.shape[1]
    nearness *= 0.2
    total += nearness
    return total


def _solve(kernel: np.ndarray, z: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The Cholesky factor of a kernel matrix with each row's noise, and its inverse times z. (n, n); (n,); (n,)"""
    factor = cholesky(kernel + np.diag(noise), lower=True)
    return factor, cho_solve((factor, True), z)


def _likelihood(kernel: np.ndarray, z: np.ndarray, noise: np.ndarray) -> float:
    """The logarithm of the marginal likelihood, up to a constant, with the amplitude at its best. (n, n); (n,); (n,)"""
    factor, weights = _solve(kernel, z - z.mean(), noise)
    return float(-0.5 * len(z) * np.log(max((z - z.mean()) @ weights / len(z), 1e-9)) - np.log(np.diag(factor)).sum())
