"""How the arms' order and the claim's effects move from a size to the next: what a proxy's finding is worth further up."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from scipy.stats import ttest_ind

from . import ranking
from .confirmation import ComparisonResult, Ends, LadderStep, Moved
from .course import Course
from .protocol import Match
from .statistics import deviation
from .variants import Variant


def ladder(course: Course, comparisons: Sequence[ComparisonResult]) -> Iterator[LadderStep]:
    """A step from each size to the next at every match; matches at which all arms are the same models at both are one."""
    for small, large in pairwise(course.sizes):
        found = dict[tuple[str, ...], list[Match]]()
        for match in course.protocol.matches:
            arms = [one for size in (small, large) for (_, its), one in course.arms(size).items() if its == match]
            found.setdefault(tuple(one.trained(1.0) for one in arms), []).append(match)
        for matches in found.values():
            yield _step(course, comparisons, small, large, matches)


def _step(
    course: Course, comparisons: Sequence[ComparisonResult], small: str, large: str, matches: Sequence[Match]
) -> LadderStep:
    """Of the arms that have losses at both sizes, over the seeds that all of them share at each."""
    here, there = (
        {arm: one for (arm, its), one in course.arms(size).items() if its == matches[0] and course.ended(one)}
        for size in (small, large)
    )
    arms = list({(here[arm].trained(1.0), there[arm].trained(1.0)): arm for arm in reversed(here) if arm in there}.values())[
        ::-1
    ]
    low, high = (_shared(course, [at[arm] for arm in arms]) for at in (here, there))
    seeds = (low.shape[1], high.shape[1])
    correlation, sure = None, ranking.Pairs(0, 0, math.comb(len(arms), 2), 0.95)
    if min(seeds) > 1 and len(arms) > 1:
        correlation, sure = ranking.rank_correlation(low, high), ranking.pairs(low, high)
    return LadderStep(
        matches=tuple(matches),
        small=small,
        large=large,
        arms=tuple(arms),
        seeds=seeds,
        spearman=correlation.value if correlation else None,
        spearman_interval=correlation.interval if correlation else None,
        same=sure.same,
        reversed=sure.reversed,
        undecided=sure.undecided,
        moved=tuple(_moved(comparisons, small, large, matches[0])),
    )


def _moved(comparisons: Sequence[ComparisonResult], small: str, large: str, match: Match) -> Iterator[Moved]:
    """The claim's comparisons at a match, from a size to the next."""
    at = {(one.size, one.text): one for one in comparisons if match in one.matches and one.family == "claim"}
    for text in (text for size, text in at if size == small and (large, text) in at):
        one, other = at[small, text], at[large, text]
        change, interval = _change(*(np.array(its.differences_nats) for its in (one, other)))
        yield Moved(text, one.mean_nats, other.mean_nats, one.verdict, other.verdict, change, interval)


def _change(small: np.ndarray, large: np.ndarray) -> tuple[float | None, Ends | None]:
    """Mean of (m,) differences at the larger size less that of (n,) at the smaller, nats, and its interval of 95 % (Welch 1947,
    Biometrika 34:28); None for fewer than two seeds or where none differ."""
    if min(len(small), len(large)) < 2:
        return None, None
    change = float(large.mean() - small.mean())
    if not (deviation(small) or deviation(large)):
        return change, None
    found = ttest_ind(large, small, equal_var=False).confidence_interval(0.95)
    return change, (float(found.low), float(found.high))


def _shared(course: Course, arms: Sequence[Variant]) -> np.ndarray:
    """(arms, seeds) test losses, nats, of the seeds that all have."""
    each = [{cell.seed: course.test_nats(cell) for cell in course.ended(one)} for one in arms]
    seeds = [seed for seed in (each[0] if each else {}) if all(math.isfinite(its.get(seed, math.nan)) for its in each)]
    return np.array([[its[seed] for seed in seeds] for its in each]).reshape(len(arms), len(seeds))
