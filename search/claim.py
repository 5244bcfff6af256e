"""A claim that was written down before the runs, judged: each comparison, and all of them together.

A comparison is about the mean of loss(A) - loss(B), nats, over seeds. Two things may be shown of it, each by one-sided tests:
what confirms it and what refutes it; neither is inconclusive. Never is a claim refuted for want of evidence.

- `better`: confirmed when the mean is shown to be below -by; refuted when it is shown to be above -matters, the smallest effect
  that matters. A true mean between these may show either, or both: then it is confirmed, and its Finding says that the effect
  is less than matters. To ask for as much as matters, set by = matters.
- `no worse`: confirmed below +matters, refuted above it. `equivalent`: confirmed when both below +matters and above -matters
  (two one-sided tests, Schuirmann 1987), each at alpha; refuted when beyond either, at alpha / 2 each, as there are two ways
  to err.

Errors. Confirmations, refutations and what is said of the effect are three families; in each, of several comparisons that are
reported one by one, any false one has a chance of at most alpha: Holm's steps, over sequential p (sequential.py), which stay
valid whenever one stops. A claim that several comparisons hold is confirmed when each of them is, and refuted when any is: so
of several claims, one a match, any false confirmation has a chance of at most alpha, too. (For a single claim this asks for
more than it must: uncorrected p would do, as one certain comparison would have to err.)
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from .sequential import crossed, p_at_looks
from .statistics import FLIPS_MOST, Side, Test

Direction = Literal["better", "no worse", "equivalent"]
Verdict = Literal["confirmed", "refuted", "inconclusive"]
Family = Literal["confirms", "refutes", "matters"]


@dataclass(frozen=True)
class Plan:
    """When to look and how often to be wrong; fixed before the runs. Raises ValueError for what cannot be followed."""

    first: int = 3
    """Seeds at the first look, 2 or more."""
    every: int = 1
    """Seeds from a look to the next."""
    most: int = 12
    """Seeds at the last look: the error is spread over all up to it, so ending earlier spends less than alpha, and raising it
    after a look is not allowed. With 12, an effect of 1 standard deviation is seen with power 0.92, after 8.5 seeds in the
    mean, and one of 2 nearly always, after 6 (one comparison, 20,000 studies). With sign flips 40 at most."""
    alpha: float = 0.05
    """One-sided: of false confirmations, and as much of false refutations."""
    test: Test = "t"
    """What decides: `t` (normal differences) or `sign flip` (symmetric ones; needs many more seeds)."""
    power: float = 0.8
    """The chance of settling a comparison for which more seeds are advised."""

    def __post_init__(self) -> None:
        if not (2 <= self.first <= self.most and self.every >= 1 and 0 < self.alpha <= 0.25 and 0 < self.power < 1):
            raise ValueError(f"expected 2 <= first <= most, every >= 1, 0 < alpha <= 0.25 and 0 < power < 1, got {self}")
        if self.test == "sign flip" and self.most > FLIPS_MOST:
            raise ValueError(f"expected at most {FLIPS_MOST} seeds for sign flips, got {self.most}")

    @cached_property
    def looks(self) -> tuple[int, ...]:
        """Seeds at each look."""
        return (*range(self.first, self.most, self.every), self.most)


@dataclass(frozen=True)
class Shown:
    """That the mean lies below (`less`) or above (`greater`) a bound."""

    bound_nats: float
    side: Side


@dataclass(frozen=True)
class Comparison:
    """Arm A against arm B at one match."""

    name: str
    direction: Direction
    matters_nats: float
    """The smallest effect that matters; of `no worse` and `equivalent`, the margin: above 0."""
    by_nats: float = 0.0
    """`better`: by how much at least; up to matters_nats."""

    def __post_init__(self) -> None:
        if self.direction == "better" and not 0 <= self.by_nats <= self.matters_nats:
            raise ValueError(f"{self.name}: expected 0 <= by_nats <= matters_nats, got {self.by_nats} and {self.matters_nats}")
        if self.direction != "better" and not (self.by_nats == 0 and self.matters_nats > 0):
            raise ValueError(f"{self.name}: expected a margin matters_nats above 0 and no by_nats, got {self}")

    @property
    def confirms(self) -> tuple[Shown, ...]:
        """What must be shown, all of it."""
        if self.direction == "better":
            return (Shown(-self.by_nats, "less"),)
        return (Shown(self.matters_nats, "less"), Shown(-self.matters_nats, "greater"))[: 1 + (self.direction == "equivalent")]

    @property
    def refutes(self) -> tuple[Shown, ...]:
        """Of what one must be shown."""
        if self.direction == "better":
            return (Shown(-self.matters_nats, "greater"),)
        return (Shown(self.matters_nats, "greater"), Shown(-self.matters_nats, "less"))[: 1 + (self.direction == "equivalent")]


@dataclass(frozen=True)
class Evidence:
    """p at every look so far of all that may be shown of one comparison."""

    confirms: list[np.ndarray]
    refutes: list[np.ndarray]
    matters: list[np.ndarray]
    """Of `better` alone: that the mean is below -matters."""

    def until(self, looks: int) -> "Evidence":
        """What the first so many looks have shown."""
        return Evidence(*([p[..., :looks] for p in part] for part in (self.confirms, self.refutes, self.matters)))


def gather(comparison: Comparison, differences: np.ndarray, plan: Plan) -> Evidence:
    """differences: (n,) nats, in the order of the seeds. Raises ValueError for what is not finite: a run that diverged has no
    difference."""

    def p(shown: Sequence[Shown]) -> list[np.ndarray]:
        return [p_at_looks(differences, one.bound_nats, one.side, plan.looks, plan.test) for one in shown]

    matters = [Shown(-comparison.matters_nats, "less")] if comparison.direction == "better" else []
    return Evidence(p(comparison.confirms), p(comparison.refutes), p(matters))


def _holds(evidence: Evidence, family: Family, plan: Plan, alpha: float) -> bool:
    """Whether it is shown at one-sided alpha, by this look or an earlier one."""
    if family == "refutes":
        share = alpha / len(evidence.refutes)
        return any(bool(crossed(p, plan.looks, share, plan.test)) for p in evidence.refutes)
    asked = evidence.confirms if family == "confirms" else evidence.matters
    return bool(asked) and all(bool(crossed(p, plan.looks, alpha, plan.test)) for p in asked)


def step_down(count: int, holds: Callable[[int, float], bool], alpha: float) -> set[int]:
    """Holm's steps: which of so many hold, when one that is still open may err with alpha / (those still open)."""
    found = set[int]()
    while len(found) < count:
        level = alpha / (count - len(found))
        new = {place for place in range(count) if place not in found and holds(place, level)}
        if not new:
            break
        found |= new
    return found


def family_of(evidence: Sequence[Evidence], family: Family, plan: Plan) -> set[int]:
    """The comparisons of which it is shown, with Holm's correction over all of them."""
    return step_down(len(evidence), lambda place, alpha: _holds(evidence[place], family, plan, alpha), plan.alpha)


def verdicts(evidence: Sequence[Evidence], plan: Plan) -> list[Verdict]:
    """Of each comparison by itself, with Holm's correction over all of them."""
    confirmed, refuted = family_of(evidence, "confirms", plan), family_of(evidence, "refutes", plan)
    return [verdict_of(place in confirmed, place in refuted) for place in range(len(evidence))]


def together(verdicts: Iterable[Verdict]) -> Verdict:
    """Of the claim that all comparisons of such verdicts hold."""
    found = set(verdicts)
    return "refuted" if "refuted" in found else "confirmed" if found == {"confirmed"} else "inconclusive"


def verdict_of(confirmed: bool, refuted: bool) -> Verdict:
    """What is shown of one: to be confirmed comes first."""
    return "confirmed" if confirmed else "refuted" if refuted else "inconclusive"
