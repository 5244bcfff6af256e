"""The course of a confirmation: which runs its protocol asks for next, given what has come of those that have ended.

Nothing else decides it, so a confirmation goes on from its records wherever it was stopped, and no run is trained twice. For
every arm at every match and size: first the learning rates, each by the sweep's seeds; then, at the rate of the lowest
validation loss, seeds that decide, up to the first look; then, for the arms of comparisons that are not settled, more of them
from look to look.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, product

import numpy as np

from .claim import Comparison, Family, family_of, gather
from .protocol import Match, Versus, VersusFamily
from .record import Record
from .space import Space
from .sweep import Cell, Rate, Sweep
from .variants import Variant


@dataclass(frozen=True)
class Pairs:
    """The seeds that decide of one comparison, so far: those before the first one that has not ended."""

    seeds: tuple[int, ...]
    differences: np.ndarray
    """(seeds,) test loss of A less that of B, nats."""
    left_out: tuple[int, ...]
    """Seeds of which a run failed."""

    def until(self, look: int) -> "Pairs":
        """The first so many pairs; all of them for 0."""
        return self if not look else Pairs(self.seeds[:look], self.differences[:look], self.left_out)


@dataclass(frozen=True, eq=False)
class Contest:
    """A comparison of two arms at a size."""

    versus: Versus
    matches: tuple[Match, ...]
    """At which these two models are compared: what is equal in params is mostly equal in flops, too."""
    a: Variant
    b: Variant

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.versus.text} at equal {' and '.join(self.matches)}"


SETTLE: tuple[Family, ...] = ("confirms", "refutes")


class Course:
    """A protocol, all its arms and the runs that have ended."""

    def __init__(self, space: Space, variants: Sequence[Variant], records: Iterable[Record]) -> None:
        self.space, self.protocol, self.variants = space, space.confirm, list(variants)
        self.records = {record.trained: record for record in records}
        self.sizes = list(dict.fromkeys(one.size for one in self.variants))
        self._sweeps, self._pairs = dict[Variant, Sweep](), dict[tuple[Variant, Variant], Pairs]()

    def __contains__(self, cell: Cell) -> bool:
        return cell.key in self.records

    def valid_nats(self, cell: Cell) -> float:
        """Validation loss; infinite when it diverged, NaN when it failed."""
        record = self.records[cell.key]
        return _loss(record, record.loss_nats, math.inf)

    def test_nats(self, cell: Cell) -> float:
        """Test loss; of a run that diverged that of guessing, ln(vocab_size), and NaN when it failed."""
        record = self.records[cell.key]
        return _loss(record, record.test_loss_nats, math.log(record.model.vocab_size))

    def arms(self, size: str) -> dict[tuple[str, Match], Variant]:
        """The arms of a size by name and match, controls left out."""
        return {(one.arm, one.match): one for one in self.variants if one.size == size and one.control is None}

    def contests(self, size: str, family: VersusFamily) -> list[Contest]:
        """The comparisons of a size, match by match; of `beside` those whose arms are there and are two models. One of the same
        two models at another match is the same comparison, and counts once among those that are corrected for."""
        arms, found = self.arms(size), dict[tuple[Versus, str, str], Contest]()
        for match, one in product(self.protocol.matches, self.protocol.versus(family)):
            if (one.a, match) in arms and (one.b, match) in arms:
                a, b = arms[one.a, match], arms[one.b, match]
                key = (one, a.trained(1.0), b.trained(1.0))
                if key[1] != key[2]:
                    found[key] = Contest(one, (*(found[key].matches if key in found else ()), match), a, b)
        return list(found.values())

    @cached_property
    def models(self) -> list[Variant]:
        """One for each model that is trained."""
        return list({one.trained(1.0): one for one in self.variants}.values())

    @property
    def runs_each(self) -> int:
        """Of a model, up to the first look, no rate being added to its sweep."""
        return len(self.protocol.lr_factors) * self.protocol.seeds.sweep + self.protocol.seeds.first

    @property
    def least(self) -> int:
        """Training tokens of all runs up to the first look at everything, no rate being added to any sweep."""
        return sum(self.runs_each * one.tokens for one in self.models)

    def wanted(self) -> list[Cell]:
        """The runs that are asked for next, first things first; none when all is settled or nothing more is allowed. All sizes
        come to their first look before any goes on, so that a budget which reaches it is not spent on one of them."""
        found = dict[str, Cell]()
        for cell in chain(*map(self._to_first_look, self.sizes), *map(self._further, self.sizes)):
            found.setdefault(cell.key, cell)
        return list(found.values())

    def _to_first_look(self, size: str) -> Iterator[Cell]:
        """Of a size, its controls included."""
        here = [one for one in self.variants if one.size == size]
        for its in ([one for one in here if not one.control], [one for one in here if one.control]):
            untried = self._untried(its)
            yield from untried or self._first(its)

    def _untried(self, variants: Iterable[Variant]) -> list[Cell]:
        """What is missing for their learning rates."""
        return [cell for one in variants for cell in self.sweep(one).wanted]

    def sweep(self, variant: Variant) -> Sweep:
        """The learning rates of an arm: extended for as long as the best one lies at an end and that is allowed."""
        if variant not in self._sweeps:
            self._sweeps[variant] = self._swept(variant)
        return self._sweeps[variant]

    def _swept(self, variant: Variant) -> Sweep:
        factors = list(self.protocol.lr_factors)
        steps = {"low": factors[0] / factors[1], "high": factors[-1] / factors[-2]}
        left = dict.fromkeys(steps, self.protocol.lr_extend)
        while True:
            found = self._tried(variant, factors)
            if found.wanted or not found.rates:
                return found
            means = [rate.mean_nats for rate in found.rates]
            lowest = means.index(min(means))
            end = "low" if lowest == 0 else "high" if lowest == len(means) - 1 else None
            if end is None or not left[end]:
                return found
            left[end] -= 1
            at = factors[0] if end == "low" else factors[-1]
            factors = sorted([*factors, at * steps[end]])

    def _tried(self, variant: Variant, factors: Sequence[float]) -> Sweep:
        rates, wanted = list[Rate](), list[Cell]()
        for factor in factors:
            cells = [Cell(variant, factor, seed) for seed in self.protocol.sweep_seeds(self.space.seed)]
            missing = [cell for cell in cells if cell not in self]
            wanted += missing
            if not missing:
                rates.append(Rate(factor, tuple(map(self.valid_nats, cells))))
        return Sweep(tuple(rates), tuple(wanted))

    def deciding(self, variant: Variant, count: int) -> list[Cell]:
        """The first `count` seeds that decide, at the arm's rate; none when there is none."""
        factor = self.sweep(variant).factor
        if factor is None:
            return []
        return [Cell(variant, factor, self.protocol.seed(self.space.seed, number)) for number in range(count)]

    def ended(self, variant: Variant) -> list[Cell]:
        """The deciding runs of an arm that have ended, in the order of their seeds."""
        return [cell for cell in self.deciding(variant, self.most) if cell in self]

    def _first(self, variants: Iterable[Variant]) -> list[Cell]:
        """What is missing for the first look."""
        first = self.protocol.seeds.first
        cells = [cell for one in variants for cell in self.deciding(one, first)]
        return sorted((cell for cell in cells if cell not in self), key=lambda cell: cell.seed)

    def _further(self, size: str) -> list[Cell]:
        """What is missing for the next look at the comparisons of the claim that are open, once all are at the first."""
        arms = [one for one in self.variants if one.size == size and not one.control]
        if self._untried(arms) or self._first(arms):
            return []
        contests = self.contests(size, "claim")
        cells = [cell for one, look in self.looks(contests)[1].items() for cell in self._missing(one, look)]
        return sorted(cells, key=lambda cell: cell.seed)

    def looks(self, contests: Sequence[Contest]) -> tuple[list[int], dict[Contest, int]]:
        """Of a family of comparisons: the looks that each has been at, and the look in seeds that those which go on come to
        next. All that are open come to a look before any goes on. One that is settled stays as it is: seeds that its arms are
        given later, for others, do not count for it."""
        evidence = [gather(self.comparison(one), self.pairs(one).differences, self.protocol.plan) for one in contests]
        seen = [0] * len(contests)
        going = [number for number, one in enumerate(contests) if self._can(one)]
        for count, look in enumerate(self.protocol.plan.looks, 1):
            missing = [contests[number] for number in going if len(self.pairs(contests[number]).seeds) < look]
            if missing:
                return seen, dict.fromkeys(missing, look)
            for number in going:
                seen[number] = count
            so_far = [one.until(looks) for one, looks in zip(evidence, seen, strict=True)]
            settled = set[int]().union(*(family_of(so_far, family, self.protocol.plan) for family in SETTLE))
            going = [number for number in going if number not in settled]
        return seen, {}

    def judged(self, contests: Sequence[Contest]) -> list[Pairs]:
        """The pairs of seeds by which each comparison of a family is judged: up to the last look that it has been at; all that
        there are while it has been at none."""
        looks = (0, *self.protocol.plan.looks)
        return [self.pairs(one).until(looks[seen]) for one, seen in zip(contests, self.looks(contests)[0], strict=True)]

    def comparison(self, contest: Contest) -> Comparison:
        """What is to be shown of it."""
        return Comparison(contest.name, contest.versus.direction, self.protocol.matters_nats)

    def _can(self, contest: Contest) -> bool:
        """Whether both arms have a rate at which they train, and do not fail again and again."""
        trains = all(self.sweep(one).best is not None for one in (contest.a, contest.b))
        return trains and len(self.pairs(contest).left_out) <= self.protocol.seeds.most

    def _missing(self, contest: Contest, look: int) -> list[Cell]:
        """The runs that it lacks to have so many pairs; a seed that failed is replaced by another."""
        count = look + len(self.pairs(contest).left_out)
        cells = [cell for one in (contest.a, contest.b) for cell in self.deciding(one, count)]
        return [cell for cell in cells if cell not in self]

    def pairs(self, contest: Contest) -> Pairs:
        """The seeds of a comparison that have ended, as pairs."""
        return self.paired(contest.a, contest.b)

    @property
    def most(self) -> int:
        """Seeds of an arm that decide, at most: as many may fail as are asked for."""
        return 2 * self.protocol.seeds.most + 1

    def paired(self, one: Variant, other: Variant) -> Pairs:
        """The seeds at which both have ended."""
        if (one, other) not in self._pairs:
            self._pairs[one, other] = self._paired(one, other)
        return self._pairs[one, other]

    def _paired(self, one: Variant, other: Variant) -> Pairs:
        sides = [self.deciding(variant, self.most) for variant in (one, other)]
        seeds, differences, left_out = list[int](), list[float](), list[int]()
        for a, b in zip(*sides, strict=False):
            if a not in self or b not in self:
                break
            difference = self.test_nats(a) - self.test_nats(b)
            if math.isnan(difference):
                left_out.append(a.seed)
            else:
                seeds.append(a.seed)
                differences.append(difference)
        return Pairs(tuple(seeds), np.array(differences), tuple(left_out))


def _loss(record: Record, loss: float | None, diverged: float) -> float:
    if record.status == "diverged":
        return diverged
    return math.nan if loss is None else loss
