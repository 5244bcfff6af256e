"""gp: candidates by the hypervolume that they are expected to add for their tokens, their costs being known."""

import hashlib
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import cache
from random import Random

import numpy as np

from ..lpa.placement import parse_rank
from .candidate import Candidate, Costs
from .pareto import non_dominated
from .record import Known
from .space import Space
from .surrogate import expected_gain, fit, foretell

POOL = 1024
"""A space up to this size is looked at whole (assumption)."""
DRAWN = 256
"""Of a larger one, so many random points that were not tried, and the front's neighbours (assumption, as are the next two)."""
SHARE = 0.5
"""Of the candidates, drawn anew for every proposal, those that come before all others: so a model that is wrong about a part of
the space does not keep the search in it, and two searches differ (assumption; what it costs stands in tests/benchmarks)."""
FAR = 3.0
"""Interquartile ranges (assumption; of a normal distribution one in two million lies farther)."""
AGAIN = 64
"""Stopped runs, likewise."""
MOST = 320
"""Runs that the model is fitted to, the front among them: its time grows with their cube (assumption)."""
PAIRS = 6
"""Runs that must have come to both a rung and a level, until losses at the one foretell those at the other (assumption)."""
NEIGHBOURS = 64
"""Of the front, at most so many that were not tried."""


def pool(space: Space) -> list[dict[str, str]]:
    """The points to choose from, whatever is known: of a large space the first DRAWN that were not tried count."""
    return list(space.points(Random(0)) if space.size <= POOL else space.drawn(Random(f"{space.seed} pool")))


def near(space: Space, known: Sequence[Known], level: int) -> list[dict[str, str]]:
    """Points that differ from one on the front in a single choice, in an order of chance; none in a space that is looked at
    whole."""
    if space.size <= POOL:
        return []
    judged = _within_limits([run for run in known if level in run.losses])
    chosen = non_dominated(np.array([run.values(space.objectives, level) for run in judged]).reshape(-1, len(space.objectives)))
    front = [run.job.params for run, on_front in zip(judged, chosen, strict=True) if on_front]
    found = {
        str(beside): beside
        for point in front
        for name, choices in space.choices.items()
        for choice in choices
        if choice != point[name]
        for beside in [point | {name: choice}]
    }
    return [found[text] for text in sorted(found, key=lambda text: hashlib.sha256(text.encode()).digest())]


def by_gain(
    space: Space,
    new: Sequence[Candidate],
    known: Sequence[Known],
    level: int,
    seed: int,
    left: Mapping[str, float] | None = None,
    *,
    share: float = SHARE,
) -> Iterator[Candidate]:
    """The candidates, that of the largest expected gain first, in two parts: a random share, and the rest; nothing when no run
    in the space has come to the rung. left: the share of its tokens that a stopped run still has to go, by what is trained."""
    judged = [run for run in known if level in run.losses]
    if not judged or not new:
        return
    within = _within_limits(judged)
    front = np.array([run.values(space.objectives, level) for run in within])
    spared = {run.job.run for run, on_front in zip(within, non_dominated(front), strict=True) if on_front}
    told = [*((run, run.losses[level], 0.0) for run in judged), *foretold(known, level)]
    runs, losses, doubts = zip(*_some(told, spared), strict=True)
    model = fit(features(space, [run.job.params for run in runs]), _tame(np.array(losses)), np.array(doubts))
    ahead = [run for run in known if level not in run.losses and not run.ended and run.job.feasible]
    if ahead:  # what is under way is believed to end as foreseen
        foreseen, _ = model.predict(features(space, [run.job.params for run in ahead]))
        rows = [[loss, *_costs(space, run.job.costs)] for loss, run in zip(foreseen, ahead, strict=True)]
        front = np.concatenate([front, rows])
    costs = np.array([_costs(space, candidate.costs) for candidate in new]).reshape(len(new), -1)
    reference = [*_beyond(_tame(front[:, :1])), *_beyond(np.concatenate([front[:, 1:], costs]))]
    mean, deviation = model.predict(features(space, [candidate.params for candidate in new]))
    deviation = np.hypot(deviation, model.noise_nats)  # what counts on the front is what a run will measure
    gains = expected_gain(mean, deviation, costs, front, np.array(reference), seed)
    gains /= [(left or {}).get(candidate.trained, 1.0) for candidate in new]
    shown = np.random.default_rng(seed).random(len(new)) < share
    yield from (new[place] for place in np.lexsort((-gains, ~shown)))


def _within_limits(runs: list[Known]) -> list[Known]:
    """Those that keep to the space's limits, which alone can be on its front; all of them, when none does."""
    return [run for run in runs if run.job.feasible] or runs


def _tame(losses: np.ndarray) -> np.ndarray:
    """Losses no higher than FAR interquartile ranges above the upper quartile: a run that has blown up says that it is bad,
    and no more. (n, ...), of the first axis."""
    low, high = np.quantile(losses, [0.25, 0.75], axis=0)
    return np.where(high > low, np.minimum(losses, high + FAR * (high - low)), losses)


def _some(told: list[tuple[Known, float, float]], spared: Container[str]) -> list[tuple[Known, float, float]]:
    """All of them, or as many as MOST allows, evenly, besides those that are to be spared."""
    others = [place for place, (run, *_) in enumerate(told) if run.job.run not in spared]
    room = max(MOST - (len(told) - len(others)), 0)
    if len(others) <= room:
        return told
    kept = {others[place] for place in np.linspace(0, len(others) - 1, room).round().astype(int)}
    return [one for place, one in enumerate(told) if one[0].job.run in spared or place in kept]


def foretold(known: Sequence[Known], level: int) -> list[tuple[Known, float, float]]:
    """The runs that were stopped below a level, their losses there as far as others tell, and the doubt of these, nats."""
    found = list[tuple[Known, float, float]]()
    for rung in sorted({run.reached for run in known if run.stopped and 0 < run.reached < level}):
        both = [run for run in known if rung in run.losses and level in run.losses]
        there = [run for run in known if run.stopped and run.reached == rung]
        if len(both) >= PAIRS:
            early, late, new = (
                np.array([run.losses[at] for run in runs]) for runs, at in ((both, rung), (both, level), (there, rung))
            )
            losses, doubts = foretell(early, late, new)
            found += zip(there, losses.tolist(), doubts.tolist(), strict=True)
    return found


def _beyond(points: np.ndarray) -> np.ndarray:
    """A hundredth of each column's range beyond its worst value, so that the ends of a front count, too. (n, m) -> (m,)"""
    low, high = points.min(axis=0), points.max(axis=0)
    return high + 0.01 * (high - low)


def features(space: Space, points: Sequence[Mapping[str, str]]) -> np.ndarray:
    """(points, features) in [0, 1]: a rank by its logarithm, dense being 0; of any other choice an indicator each."""
    columns = [
        column
        for name, choices in space.choices.items()
        if len(choices) > 1
        for column in (_rank_columns if name.startswith("rank ") else _indicators)([point[name] for point in points], choices)
    ]
    return np.array(columns, dtype=float).T.reshape(len(points), len(columns))


def _rank_columns(values: Sequence[str], choices: Sequence[str]) -> list[list[float]]:
    lowest = max(map(_halvings, choices))
    return [[_halvings(value) / lowest for value in values]]


def _indicators(values: Sequence[str], choices: Sequence[str]) -> list[list[float]]:
    return [[float(value == choice) for value in values] for choice in choices]


@cache
def _halvings(choice: str) -> float:
    """How often full rank was halved; dense counts as not at all."""
    rank = parse_rank(choice)
    return 0.0 if rank is None else -float(np.log2(float(rank)))


def _costs(space: Space, costs: Costs) -> list[float]:
    return [float(costs[name]) for name in space.objectives if name != "loss_nats"]
