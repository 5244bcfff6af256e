"""All that is to be said of each comparison of a claim: estimate, intervals, p, verdict, and how many more seeds it needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .claim import Comparison, Evidence, Plan, Shown, Verdict, family_of, gather, verdict_of
from .sequential import LEVELS, repeated_interval, sequential_p
from .statistics import (
    FLIPS_MOST,
    Interval,
    bca_interval,
    deviation,
    holm,
    ppl_percent,
    sign_flip_p,
    t_interval,
    t_p,
    t_power,
)

Effect = Literal["as much as matters", "less than matters", "unknown"]
SEEDS_AT_MOST = 200
"""More are not offered as a way to settle a comparison (assumption)."""


@dataclass(frozen=True)
class Estimate:
    """Of one comparison, as if its seeds had been fixed beforehand and there were no other."""

    n: int
    """Seeds."""
    mean_nats: float
    std_nats: float
    t: Interval | None
    bca: Interval | None
    """Both of 95 %; None where they are not defined."""
    t_p: float | None
    sign_flip_p: float | None
    """Both one-sided, of what confirms; of two tests the larger. None where all are alike, or of too many seeds to flip."""

    @property
    def ppl_percent(self) -> float:
        """The mean difference as a change of perplexity."""
        return ppl_percent(self.mean_nats)


@dataclass(frozen=True)
class Finding:
    """What the seeds so far say of a comparison."""

    comparison: Comparison
    verdict: Verdict
    effect: Effect
    """Against matters_nats: of `better` how much better, of `no worse` how much worse, of `equivalent` how much other."""
    estimate: Estimate | None
    """None for fewer than two seeds."""
    repeated: Interval | None
    """With the looks accounted for, at the plan's one-sided alpha on either side; of this comparison alone."""
    confirm_p: float
    refute_p: float
    """With the looks accounted for."""
    confirm_p_holm: float
    refute_p_holm: float
    """With the other comparisons accounted for, too: the verdict is whether they are at most alpha."""
    more_seeds: int | None
    """Of an inconclusive one: how many would settle it with the plan's power, were mean and deviation as they are; None when no
    number up to SEEDS_AT_MOST in all would, or it is settled."""


def findings(comparisons: Sequence[Comparison], differences: Sequence[np.ndarray], plan: Plan, seed: int = 0) -> list[Finding]:
    """differences: (n,) nats each, in the order of the seeds. seed: of the bootstrap. Raises ValueError for what is not
    finite."""
    evidence = [gather(one, x, plan) for one, x in zip(comparisons, differences, strict=True)]
    confirmed, refuted, much = (family_of(evidence, family, plan) for family in ("confirms", "refutes", "matters"))
    levels = [plan.alpha / max(len(evidence) - len(held), 1) for held in (confirmed, refuted)]
    p = [_sequential(one, plan) for one in evidence]
    adjusted = zip(holm([one for one, _ in p]), holm([other for _, other in p]), strict=True)
    return [
        Finding(
            comparison=comparison,
            verdict=(verdict := verdict_of(place in confirmed, place in refuted)),
            effect=_effect(comparison, place in confirmed, place in refuted, place in much),
            estimate=estimate(comparison, x, seed) if len(x) > 1 else None,
            repeated=repeated_interval(x, plan.looks, plan.alpha),
            confirm_p=p[place][0],
            refute_p=p[place][1],
            confirm_p_holm=confirm_p,
            refute_p_holm=refute_p,
            more_seeds=more_seeds(comparison, x, plan, *levels) if verdict == "inconclusive" and len(x) > 1 else None,
        )
        for place, (comparison, x, (confirm_p, refute_p)) in enumerate(zip(comparisons, differences, adjusted, strict=True))
    ]


def estimate(comparison: Comparison, differences: np.ndarray, seed: int = 0) -> Estimate:
    """differences: (n,) nats, n >= 2."""
    single = [t_p(differences, one.bound_nats, one.side) for one in comparison.confirms]
    flippable = comparison.confirms if deviation(differences) and len(differences) <= FLIPS_MOST else ()
    return Estimate(
        n=len(differences),
        mean_nats=float(np.mean(differences)),
        std_nats=float(deviation(differences)),
        t=t_interval(differences),
        bca=bca_interval(differences, seed=seed),
        t_p=max((p for p in single if p is not None), default=None),
        sign_flip_p=max((sign_flip_p(differences, one.bound_nats, one.side) for one in flippable), default=None),
    )


def _sequential(evidence: Evidence, plan: Plan) -> tuple[float, float]:
    """p that confirms, p that refutes."""
    confirms, refutes = (
        [sequential_p(p, plan.looks, plan.test) for p in shown] for shown in (evidence.confirms, evidence.refutes)
    )
    return max(confirms), min(1.0, len(refutes) * min(refutes))


def _effect(comparison: Comparison, confirmed: bool, refuted: bool, much: bool) -> Effect:
    more, less = (much, refuted) if comparison.direction == "better" else (refuted, confirmed)
    return "as much as matters" if more else "less than matters" if less else "unknown"


def more_seeds(
    comparison: Comparison, differences: np.ndarray, plan: Plan, confirm_alpha: float, refute_alpha: float
) -> int | None:
    """The fewest further seeds after which the comparison is settled with the plan's power, or None. (n,) nats, n >= 2.

    Assumes normal differences of the mean and deviation estimated; counts the chance at that one look, so it is
    rather too many. Beyond the plan's last look the level is that of the last one: a new plan with as many looks. With sign
    flips the power is that of t, but for the seeds below which no flips reach the level.
    """
    mean, std, n = float(np.mean(differences)), float(deviation(differences)), len(differences)
    if not std:
        return None
    for total in (*(look for look in plan.looks if look > n), *range(max(plan.most, n) + 1, SEEDS_AT_MOST + 1)):
        confirm = [_power(one, mean, std, total, plan, confirm_alpha) for one in comparison.confirms]
        refute = [_power(one, mean, std, total, plan, refute_alpha / len(comparison.refutes)) for one in comparison.refutes]
        both = max(0.0, sum(confirm) - len(confirm) + 1)  # of two tests that must both reject, at least
        if max(both, *refute) >= plan.power:
            return total - n
    return None


def _power(shown: Shown, mean: float, std: float, n: int, plan: Plan, alpha: float) -> float:
    levels = dict(zip(plan.looks, LEVELS[plan.test](plan.looks, alpha), strict=True))
    level = levels.get(n, levels[plan.most])
    if plan.test == "sign flip" and level < 2.0**-n:
        return 0.0
    effect = shown.bound_nats - mean if shown.side == "less" else mean - shown.bound_nats
    return t_power(effect, std, n, level)
