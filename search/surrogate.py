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

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The mean and the standard deviation of the noiseless loss, nats. (m, d) -> (m,), (m,)."""
        across = _kernel(x, self.x, self.length)  # (m, n)
        explained = solve_triangular(self.factor, across.T, lower=True)  # (n, m)
        variance = self.amplitude * np.maximum(1 - (explained**2).sum(axis=0), 1e-9)
        return self.mean + self.scale * (across @ self.weights), self.scale * np.sqrt(variance)


def fit(x: np.ndarray, losses_nats: np.ndarray) -> Surrogate:
    """A process whose kernel's length and noise are the likeliest of LENGTHS and NOISES. x: (n, d) in [0, 1]; (n,)."""
    scale = float(losses_nats.std()) or 1.0
    some = np.unique(np.linspace(0, len(x) - 1, min(len(x), FITTED)).round().astype(int))
    mean, z = float(losses_nats.mean()), (losses_nats - losses_nats.mean()) / scale
    kernels = {length: _kernel(x[some], x[some], length) for length in LENGTHS}
    length, noise = max(product(LENGTHS, NOISES), key=lambda pair: _likelihood(kernels[pair[0]], z[some], pair[1]))
    factor, weights = _solve(_kernel(x, x, length), z, noise)
    return Surrogate(x, length, factor, weights, mean, scale, max(float(z @ weights) / len(z), 1e-9))


def expected_gain(
    mean: np.ndarray, deviation: np.ndarray, costs: np.ndarray, front: np.ndarray, reference: np.ndarray, seed: int
) -> np.ndarray:
    """The hypervolume that each candidate is expected to add, up to a common factor. (n,).

    mean, deviation: (n,) of the loss; costs: (n, m - 1); front: (f, m), what is known, the loss first; reference: (m,), worse
    than all of it. The integral is a mean over CELLS costs, drawn evenly between the lowest cost and the reference.
    """
    low = costs.min(axis=0, initial=np.inf) if costs.size else np.zeros(0)
    cells = low + (reference[1:] - low) * _even(CELLS, costs.shape[1], seed)  # (cells, m - 1)
    affords = np.all(front[None, :, 1:] <= cells[:, None, :], axis=2)  # (cells, f)
    best = np.minimum(np.where(affords, front[None, :, 0], np.inf).min(axis=1, initial=np.inf), reference[0])  # (cells,)
    z = (best[None, :] - mean[:, None]) / deviation[:, None]  # (n, cells)
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    improvement = deviation[:, None] * (z * ndtr(z) + density)
    allowed = np.all(costs[:, None, :] <= cells[None, :, :], axis=2)
    return (improvement * allowed).mean(axis=1)


def _even(count: int, dimensions: int, seed: int) -> np.ndarray:
    """(count, dimensions) points spread over the unit cube: a grid for one dimension, else a Latin hypercube."""
    random = np.random.default_rng(seed)
    strata = (np.arange(count) + 0.5) / count
    columns = [strata if dimensions == 1 else random.permutation(strata) for _ in range(dimensions)]
    return np.stack(columns, axis=1) if columns else np.zeros((1, 0))


def _kernel(a: np.ndarray, b: np.ndarray, length: float) -> np.ndarray:
    """(n, d), (m, d) -> (n, m): mostly a sum over the choices, as each adds to the loss by itself."""
    total, product_of_all = np.zeros((len(a), len(b))), np.ones((len(a), len(b)))
    for column_a, column_b in zip(a.T, b.T, strict=True):
        (few_a, where_a), (few_b, where_b) = (np.unique(column, return_inverse=True) for column in (column_a, column_b))
        few = np.exp(-0.5 * ((few_a[:, None] - few_b[None, :]) / length) ** 2)  # a choice has few values: look them up
        each = few[where_a][:, where_b]
        total += each
        product_of_all *= each
    return 0.8 * total / a.shape[1] + 0.2 * product_of_all


def _solve(kernel: np.ndarray, z: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """The Cholesky factor of a kernel matrix with its noise, and its inverse times z."""
    factor = cholesky(kernel + noise * np.eye(len(z)), lower=True)
    return factor, cho_solve((factor, True), z)


def _likelihood(kernel: np.ndarray, z: np.ndarray, noise: float) -> float:
    """The logarithm of the marginal likelihood, up to a constant, with the amplitude at its best. (n, n); (n,)"""
    factor, weights = _solve(kernel, z - z.mean(), noise)
    return float(-0.5 * len(z) * np.log(max((z - z.mean()) @ weights / len(z), 1e-9)) - np.log(np.diag(factor)).sum())
