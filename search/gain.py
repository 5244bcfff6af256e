"""gp: the untried candidates by the hypervolume that they are expected to add, their costs being known."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from random import Random

import numpy as np

from ..lpa.placement import parse_rank
from .pareto import non_dominated
from .proxy import Known
from .space import Candidate, Space
from .surrogate import expected_gain, fit

POOL = 1024
"""Points that are looked at: a space up to this size whole, of a larger one half as many random points and the front's
neighbours (assumption)."""
SHARE = 0.5
"""Of the candidates, drawn anew for every proposal, those that come before all others: so a model that is wrong about a part of
the space does not keep the search in it, and two searches differ (assumption; what it costs stands in tests/benchmarks)."""
NEIGHBOURS = 64
"""Of the front, at most so many."""


def pool(space: Space, known: Sequence[Known], level: int) -> Iterator[dict[str, str]]:
    """The points to choose from."""
    if space.size <= POOL:
        yield from space.points(Random(0))
        return
    yield from islice(space.points(Random(f"{space.seed} pool")), POOL // 2)
    judged = [run for run in known if level in run.losses]
    chosen = non_dominated(np.array([run.values(space.objectives, level) for run in judged]).reshape(-1, len(space.objectives)))
    front = [run.job.params for run, on_front in zip(judged, chosen, strict=True) if on_front]
    near = [
        point | {name: choice}
        for point in front
        for name, choices in space.choices.items()
        for choice in choices
        if choice != point[name]
    ]
    yield from sorted(near, key=lambda point: hashlib.sha256(str(point).encode()).digest())[:NEIGHBOURS]


def by_gain(
    space: Space, new: Sequence[Candidate], known: Sequence[Known], level: int, seed: int, *, share: float = SHARE
) -> Iterator[Candidate]:
    """The new candidates, that of the largest expected gain first, in two parts: a random share, and the rest. None when no
    run in the space has come to the rung."""
    judged = [run for run in known if level in run.losses]
    if not judged or not new:
        return
    model = fit(features(space, [run.job.params for run in judged]), np.array([run.losses[level] for run in judged]))
    rows = [run.values(space.objectives, level) for run in judged]
    ahead = [run for run in known if level not in run.losses and not run.ended]
    if ahead:  # what is under way is believed to end as foreseen
        foreseen, _ = model.predict(features(space, [run.job.params for run in ahead]))
        rows += [[loss, *_costs(space, run.job.costs)] for loss, run in zip(foreseen, ahead, strict=True)]
    front, costs = np.array(rows), np.array([_costs(space, candidate.costs) for candidate in new]).reshape(len(new), -1)
    reference = _beyond(front[:, :1]).tolist() + _beyond(np.concatenate([front[:, 1:], costs])).tolist()
    mean, deviation = model.predict(features(space, [candidate.params for candidate in new]))
    gains = expected_gain(mean, deviation, costs, front, np.array(reference), seed)
    shown = np.random.default_rng(seed).random(len(new)) < share
    yield from (new[place] for place in np.lexsort((-gains, ~shown)))


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


def _costs(space: Space, costs: Mapping[str, int]) -> list[float]:
    return [float(costs[name]) for name in space.objectives if name != "loss_nats"]
