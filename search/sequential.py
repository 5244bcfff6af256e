"""Looking again after every few seeds: how small a p must be at each look, so that all looks together err with alpha at most.

The total error that may be spent by a look follows Lan and DeMets (1983, Biometrika 70:659) with their function like O'Brien
and Fleming's; what that leaves for the p of this look is found exactly for Student's t, at any number of seeds, not by the
normal limit: with 3 to 20 seeds that one errs too often (tests/test_sequential.py). For differences that are normal
the error is alpha at a mean on the bound, and below alpha beyond it, as a shift moves every t the same way. For heavy tails it
is below alpha, too, but not for skew ones: paired differences of arms with one kind of noise are symmetric.

Why one dimension is enough: while the mean is on the bound, the sum of squares Q of n differences is complete and sufficient
for the deviation, so by Basu's theorem it is independent of all the t so far, and they are a Markov chain. With S the sum, its
state is an angle, sin(angle) = S / sqrt(n Q) and t = sqrt(n - 1) tan(angle), and n differences of known S and Q lie
evenly on a sphere. So the chain is followed backwards: from an angle now to the one before the last difference came.
(Exact boundaries by another way: Rom and McTague 2020, J. Biopharm. Stat. 30:752.)
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import gammaln, ndtr, ndtri, stdtr, stdtrit

from .statistics import Interval, Side, Test, deviation, sign_flip_p

END = math.pi / 2 - 1e-9
ANGLES = np.concatenate([np.linspace(-END, 0, 128, endpoint=False), END * (1 - np.linspace(1, 0, 385) ** 1.5)])
"""Where the chain is followed, closer together at its upper end, which is rejected first: of up to 40 seeds eight times as many
change no level by more than 0.3 % (measured, tests/test_sequential.py)."""
NODES, WEIGHTS = np.polynomial.legendre.leggauss(32)
LOWEST, HIGHEST = 1e-6, 0.3
"""Where a sequential p is looked for: a higher alpha does not raise every level any more, and nobody asks for one."""


def spent(alpha: float, fraction: float) -> float:
    """The error that may be spent once a fraction of the most seeds is there: 2 - 2 Phi(z(1 - alpha / 2) / sqrt(fraction))."""
    return float(2 * ndtr(ndtri(alpha / 2) / math.sqrt(fraction)))


@cache
def t_levels(looks: tuple[int, ...], alpha: float) -> tuple[float, ...]:
    """The largest one-sided p of a paired t test that rejects at each look. Exact for normal differences.

    looks: the seeds at each, 2 or more and increasing; the last is the most that the plan allows. alpha: at most 0.5.
    """
    going, before, boundary = np.ones(len(ANGLES)), 0.0, math.pi / 2
    found = list[float]()
    for n in range(looks[0], looks[-1] + 1):
        if n > looks[0]:
            going = _with_one_more(n - 1, going, boundary)
        boundary = math.pi / 2
        if n in looks:
            total = spent(alpha, n / looks[-1])
            found.append(min(_level(n, going, total - before), total))  # a level of 1e-15 is lost in the grid's rounding
            boundary = math.atan(-float(stdtrit(n - 1, found[-1])) / math.sqrt(n - 1))
            before = total
    return tuple(found)


def _with_one_more(n: int, going: np.ndarray, boundary: float) -> np.ndarray:
    """The probability of not having been stopped, given the angle of n + 1 seeds. going: the same for n, before they were
    looked at; boundary: the angle that stops there. (angles,) -> (angles,)

    Of n + 1 differences with squares that add up to 1 and the sum S, the last is x = S / (n + 1) + cos(angle) sqrt(n / (n + 1))
    sin(turn), where turn has a density in proportion to cos(turn)^(n - 2). The n others have S - x and 1 - x^2.
    """
    middle, width = np.sin(ANGLES) / math.sqrt(n + 1), np.cos(ANGLES) * math.sqrt(n / (n + 1))
    total = math.sqrt(n + 1) * np.sin(ANGLES)
    slope = math.sqrt(n) * math.sin(boundary)  # not stopped: S - x < slope sqrt(1 - x^2), an interval of asin(x)
    edge, shift = np.arcsin(np.clip(total / math.hypot(1, slope), -1, 1)), math.atan(slope)
    reach = min(math.pi / 2, 8.5 / math.sqrt(n))  # beyond it lies less than 1e-14 of the weight
    low, high = (
        np.clip(np.arcsin(np.clip((np.sin(np.clip(x, -math.pi / 2, math.pi / 2)) - middle) / width, -1, 1)), -reach, reach)
        for x in (edge - shift, math.pi - edge - shift)
    )
    half = (high - low)[:, None] / 2
    turn = (high + low)[:, None] / 2 + half * NODES  # (angles, nodes)
    last = middle[:, None] + width[:, None] * np.sin(turn)
    earlier = np.arcsin(np.clip((total[:, None] - last) / np.sqrt(n * (1 - last**2)), -1, 1))
    density = np.cos(turn) ** (n - 2) * math.exp(gammaln(n / 2) - gammaln((n - 1) / 2)) / math.sqrt(math.pi)
    return (half * WEIGHTS * density * np.interp(earlier, ANGLES, going)).sum(axis=1)


def _level(n: int, going: np.ndarray, spend: float) -> float:
    """The p of n seeds below which those who were not stopped before have the probability `spend`. going: (angles,)"""
    p = np.concatenate([[0.0], stdtr(n - 1, -math.sqrt(n - 1) * np.tan(ANGLES[::-1])), [1.0]])  # rising
    here = np.concatenate([going[-1:], going[::-1], going[:1]])
    below = np.append(0.0, np.cumsum(np.diff(p) * (here[1:] + here[:-1]) / 2))
    at = min(int(np.searchsorted(below, spend, side="right")) - 1, len(p) - 2)
    bend, rest = (here[at + 1] - here[at]) / (p[at + 1] - p[at]), max(spend - below[at], 0.0)
    root = here[at] + math.sqrt(max(here[at] ** 2 + 2 * bend * rest, 0.0))
    return float(p[at] + (2 * rest / root if root else 0.0))


def split_levels(looks: tuple[int, ...], alpha: float) -> tuple[float, ...]:
    """What each look adds to the error spent: levels that hold for every valid p, however the looks depend on each other."""
    total = [0.0, *(spent(alpha, n / looks[-1]) for n in looks)]
    return tuple(np.diff(total).tolist())


LEVELS: dict[Test, Callable[[tuple[int, ...], float], tuple[float, ...]]] = {"t": t_levels, "sign flip": split_levels}


def p_at_looks(differences: np.ndarray, bound: float, side: Side, looks: tuple[int, ...], test: Test = "t") -> np.ndarray:
    """One-sided p at each look that the seeds reach, 1 where all are alike. (..., n) nats -> (..., looks reached)"""
    x = np.asarray(differences, float) - bound
    found = [_p(x[..., :n], side, test) for n in looks if n <= x.shape[-1]]
    return np.stack(found, axis=-1) if found else np.ones((*x.shape[:-1], 0))


def _p(x: np.ndarray, side: Side, test: Test) -> np.ndarray:
    """(..., n) -> (...)"""
    n, std = x.shape[-1], deviation(x)
    if test == "sign flip":
        return np.where(std > 0, np.apply_along_axis(sign_flip_p, -1, x, 0.0, side), 1.0)
    t = x.mean(axis=-1) / np.where(std > 0, std, 1.0) * math.sqrt(n)
    return np.where(std > 0, stdtr(n - 1, t if side == "less" else -t), 1.0)


def crossed(p: np.ndarray, looks: tuple[int, ...], alpha: float, test: Test = "t") -> np.ndarray:
    """Whether a look so far has rejected: what was rejected once stays so. p: (..., looks reached) -> (...)"""
    return np.any(p <= np.array(LEVELS[test](looks, alpha)[: p.shape[-1]]), axis=-1)


def sequential_p(p: np.ndarray, looks: tuple[int, ...], test: Test = "t") -> float:
    """The smallest alpha at which some look so far rejects, so a p that the looks are accounted for in; 1 when that is
    above HIGHEST, LOWEST when it is below.

    p: (looks reached,). Valid whenever one stops, as a later look can only lower it.
    """

    def excess(log_alpha: float) -> float:
        levels = np.array(LEVELS[test](looks, math.exp(log_alpha))[: len(p)])
        return float(np.max(np.log(np.maximum(levels, 1e-300)) - np.log(np.maximum(p, 1e-300))))

    lowest, highest = math.log(LOWEST), math.log(HIGHEST)
    if not len(p) or excess(highest) < 0:
        return 1.0
    return LOWEST if excess(lowest) >= 0 else math.exp(brentq(excess, lowest, highest, xtol=1e-4))


def repeated_interval(differences: np.ndarray, looks: tuple[int, ...], alpha: float) -> Interval | None:
    """The interval of the mean at the last look reached, from the levels of that look: all looks' intervals hold the true mean
    together with the coverage 1 - 2 alpha at least. (n,) nats; None before the first look or when all differences are alike.

    It lies below a bound just when this look rejects at one-sided alpha that the mean is there or above.
    """
    reached = [n for n in looks if n <= len(differences)]
    if not reached:
        return None
    x = np.asarray(differences, float)[: reached[-1]]
    std = float(deviation(x))
    if not std:
        return None
    level = t_levels(looks, alpha)[len(reached) - 1]
    half = -float(stdtrit(len(x) - 1, level)) * std / math.sqrt(len(x))
    return Interval(float(x.mean()) - half, float(x.mean()) + half, 1 - 2 * alpha)
