"""Whether two sizes put the arms in the same order: rank correlation of their mean losses, with an interval from the seeds; and
of how many pairs of arms the order is sure at both sizes, which is what few seeds can vouch for."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import rankdata

from .statistics import t_p

Kind = Literal["spearman", "kendall"]
SEEDS_LEAST = 3
"""With two, intervals of 95 % held a true correlation of 1 in 86 % of 1,000 studies, with three in 98 % (measured)."""


@dataclass(frozen=True)
class RankCorrelation:
    """Of the arms' mean losses at two sizes."""

    kind: Kind
    value: float | None
    """None for fewer than two arms, or when all arms of a size are equal."""
    interval: tuple[float, float] | None
    """None with `value`, or with fewer than SEEDS_LEAST at a size: then nothing says how sure the order is."""
    coverage: float
    arms: int
    seeds: tuple[int, int]


def rank_correlation(
    small: np.ndarray,
    large: np.ndarray,
    kind: Kind = "spearman",
    coverage: float = 0.95,
    seed: int = 0,
    resamples: int = 5000,
) -> RankCorrelation:
    """The order of the arms at one size against that at another. small: (arms, seeds) nats; large: (arms, seeds there) nats.

    The interval: seeds are drawn with replacement, at either size by itself and the same ones for all arms (they are paired),
    and of the correlations of the means the middle ones are taken. It speaks of the seeds, not of other arms or sizes; what is
    drawn is spread about its mean by sqrt(n / (n - 1)), as few seeds drawn again vary too little.

    Noise lowers a rank correlation and drawing adds more of it, so arms that are nearly tied make the interval too low. Of five
    arms at steps of 1 (0.5) standard deviations, in truth in the same order at both sizes, intervals of 90 % held this in
    81 % (31 %) of 400 studies with 3 seeds, in 97 % (52 %) with 5 and 99 % (84 %) with 10. `pairs` has no such fault.
    """
    value = float(correlation(small.mean(axis=1), large.mean(axis=1), kind))
    seeds = (small.shape[1], large.shape[1])
    known = None if np.isnan(value) else value
    if known is None or min(seeds) < SEEDS_LEAST:
        return RankCorrelation(kind, known, None, coverage, len(small), seeds)
    rng = np.random.default_rng(seed)
    drawn = correlation(_redrawn(small, rng, resamples), _redrawn(large, rng, resamples), kind)
    low, high = np.quantile(np.nan_to_num(drawn), [(1 - coverage) / 2, (1 + coverage) / 2])  # all arms equal: no order, 0
    return RankCorrelation(kind, known, (float(low), float(high)), coverage, len(small), seeds)


@dataclass(frozen=True)
class Pairs:
    """Pairs of arms, by what is sure of their order at two sizes."""

    same: int
    reversed: int
    undecided: int
    """At one size or both."""
    coverage: float
    """The chance, at least, that every order which is called sure is true, at both sizes."""

    @property
    def tau(self) -> tuple[float, float]:
        """The interval of Kendall's tau of the true means that follows, the undecided being all reversed or all the same."""
        sure, count = self.same - self.reversed, self.same + self.reversed + self.undecided
        return (sure - self.undecided) / count, (sure + self.undecided) / count


def pairs(small: np.ndarray, large: np.ndarray, coverage: float = 0.95) -> Pairs:
    """small: (arms, seeds) nats; large: (arms, seeds there) nats; two arms and two seeds or more.

    An order is sure when a paired t test says so, one-sided, with Bonferroni's correction over all pairs, sizes and both
    sides. So it is for normal differences, however the arms are correlated and however near to each other they are.
    """
    found = [one * other for one, other in zip(_orders(small, coverage), _orders(large, coverage), strict=True)]
    return Pairs(found.count(1), found.count(-1), found.count(0), coverage)


def _orders(losses: np.ndarray, coverage: float) -> list[int]:
    """(arms, seeds) -> of each pair 1 when the later arm is surely worse, -1 when it is surely better, 0 otherwise."""
    both = np.column_stack(np.triu_indices(len(losses), 1))
    level = (1 - coverage) / (4 * len(both))
    p = [(t_p(losses[i] - losses[j], side="less"), t_p(losses[i] - losses[j], side="greater")) for i, j in both]
    return [int(up is not None and up <= level) - int(down is not None and down <= level) for up, down in p]


def _redrawn(losses: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """(arms, seeds) -> (resamples, arms): means over seeds drawn with replacement."""
    n, mean = losses.shape[1], losses.mean(axis=1)
    drawn = losses[:, rng.integers(n, size=(resamples, n))].mean(axis=2).T
    return mean + (drawn - mean) * np.sqrt(n / (n - 1))


def correlation(one: np.ndarray, other: np.ndarray, kind: Kind) -> np.ndarray:
    """Spearman's rho or Kendall's tau-b, NaN where all of a side are equal. (..., arms) twice -> (...)"""
    if kind == "spearman":
        a, b = (rankdata(side, axis=-1) for side in (one, other))
        a, b = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    else:
        later = np.triu_indices(one.shape[-1], 1)
        a, b = (np.sign(side[..., later[1]] - side[..., later[0]]) for side in (one, other))
    scale = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    return np.where(scale > 0, (a * b).sum(axis=-1) / np.where(scale > 0, scale, 1.0), np.nan)
