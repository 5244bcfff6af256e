"""One sample of differences, loss(A) - loss(B) in nats, one a seed: its intervals and p; and Holm's correction of several p.

Paired t decides and the exact sign flips stand beside it, as with few seeds these cannot reach a small p: of n seeds 2^-n at
best, so that 5 never come below 0.031. BCa covers too little then (tests/test_statistics.py), so it only stands beside, too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import nctdtr, stdtr, stdtrit
from scipy.stats import bootstrap

Side = Literal["less", "greater"]
"""What is to be shown of the mean against a bound."""
Test = Literal["t", "sign flip"]

ALIKE_NATS = 1e-12
"""A standard deviation up to this is rounding (losses of a few nats round at 1e-15): the seeds did not differ, so they say
nothing of chance, and there is no t (assumption)."""
FLIPS_MOST = 40
"""Seeds: their 2^40 signs are two lists of a million sums."""
BCA_LEAST = 3
"""Seeds; two have but three means to draw."""


@dataclass(frozen=True)
class Interval:
    """Of a mean difference, nats."""

    low: float
    high: float
    coverage: float
    """As intended, such as 0.95."""

    @property
    def ppl_percent(self) -> tuple[float, float]:
        """The same ends as a change of perplexity, per cent."""
        return ppl_percent(self.low), ppl_percent(self.high)


def ppl_percent(difference_nats: float) -> float:
    """The change of perplexity that a difference in loss is: 100 (exp(difference) - 1)."""
    return 100 * math.expm1(difference_nats)


def deviation(differences: np.ndarray) -> np.ndarray:
    """Standard deviation with n - 1, 0 for what is alike but for rounding. (..., n) -> (...). Raises ValueError for fewer than
    two differences and for what is not finite."""
    if differences.shape[-1] < 2 or not np.all(np.isfinite(differences)):
        raise ValueError(f"expected two finite differences or more, got {differences}")
    std = np.std(differences, axis=-1, ddof=1)
    return np.where(std > ALIKE_NATS, std, 0.0)


def t_interval(differences: np.ndarray, coverage: float = 0.95) -> Interval | None:
    """Student's, of the mean, for a number of seeds that was fixed beforehand. (n,) nats; None when all are alike."""
    std, n, mean = float(deviation(differences)), len(differences), float(np.mean(differences))
    if not std:
        return None
    half = float(stdtrit(n - 1, (1 + coverage) / 2)) * std / math.sqrt(n)
    return Interval(mean - half, mean + half, coverage)


def bca_interval(differences: np.ndarray, coverage: float = 0.95, seed: int = 0, resamples: int = 9999) -> Interval | None:
    """Bias-corrected and accelerated bootstrap, of the mean (Efron 1987, JASA 82:171). (n,) nats; None, as it is not
    defined, when all are alike or fewer than BCA_LEAST."""
    if not float(deviation(differences)) or len(differences) < BCA_LEAST:
        return None
    rng = np.random.default_rng(seed)
    found = bootstrap((differences,), np.mean, confidence_level=coverage, n_resamples=resamples, method="BCa", rng=rng)
    low, high = map(float, found.confidence_interval)
    return Interval(low, high, coverage) if math.isfinite(low) and math.isfinite(high) else None


def t_p(differences: np.ndarray, bound: float = 0.0, side: Side = "less") -> float | None:
    """One-sided p of Student's t test that the mean is on the bound; None when all are alike. (n,), bound: nats."""
    std = float(deviation(differences))
    if not std:
        return None
    t = (float(np.mean(differences)) - bound) / std * math.sqrt(len(differences))
    return float(stdtr(len(differences) - 1, t if side == "less" else -t))


def sign_flip_p(differences: np.ndarray, bound: float = 0.0, side: Side = "less") -> float:
    """One-sided p, exact: the share of all 2^n signs that make the sum of differences - bound as small (as large) as it is.

    Valid for differences that are symmetric about the bound. (n,), bound: nats. Two halves of the signs are counted
    against each other; more than FLIPS_MOST seeds raise ValueError.
    """
    x = np.asarray(differences, float) - bound if side == "less" else bound - np.asarray(differences, float)
    if not 1 <= len(x) <= FLIPS_MOST:
        raise ValueError(f"expected 1 to {FLIPS_MOST} differences, got {len(x)}")
    one, other = (_sums(half) for half in (x[: len(x) // 2], x[len(x) // 2 :]))
    most = x.sum() + 1e-12 * np.abs(x).sum()  # equal sums that were added up in another order are equal
    return float(np.searchsorted(np.sort(other), most - one, side="right").sum() / 2.0 ** len(x))


def _sums(x: np.ndarray) -> np.ndarray:
    """(n,) -> (2^n,): the sums with all signs."""
    sums = np.zeros(1)
    for one in x:
        sums = np.concatenate([sums + one, sums - one])
    return sums


def holm(p: Sequence[float]) -> list[float]:
    """p adjusted for there being several (Holm 1979, Scand. J. Stat. 6:65), in their order: those at most alpha are rejected,
    and the chance of any false rejection is at most alpha, however they depend on each other."""
    adjusted, lowest = [1.0] * len(p), 0.0
    for left, place in zip(range(len(p), 0, -1), sorted(range(len(p)), key=p.__getitem__), strict=True):
        lowest = max(lowest, min(1.0, left * p[place]))
        adjusted[place] = lowest
    return adjusted


def t_power(effect_nats: float, std_nats: float, n: int, level: float) -> float:
    """The chance that n seeds reject at a one-sided level, when the mean is beyond its bound by an effect (below 0: on the
    wrong side of it). Noncentral t."""
    if not level:
        return 0.0
    return 1 - float(nctdtr(n - 1, effect_nats / std_nats * math.sqrt(n), -float(stdtrit(n - 1, level))))
