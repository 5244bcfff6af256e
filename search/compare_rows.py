"""Studies side by side in numbers: their fronts, their winners, what separates the winners, hypervolumes."""

import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from . import pareto
from .compare import Comparison, Study

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, object]
"""Of a table, units in the keys; None for what is not known."""


def front_rows(compared: Comparison, cost: str) -> "pd.DataFrame":
    """What a figure of the fronts draws: a row a candidate on a front, and one for each dense arm that is on none.

    is_step says which of a study's rows no other one on its front has as low a cost and a loss as: its line in this picture."""
    import pandas as pd  # the terminal needs the other tables alone

    columns = ["study", "run", "what", "placement", "share", "loss_nats", "delta_nats", "value", "is_step"]
    rows = [row for study in compared.studies for row in _front(compared, study, cost)]
    return pd.DataFrame(rows, columns=columns).astype({"is_step": bool})


def _front(compared: Comparison, study: Study, cost: str) -> list[tuple[object, ...]]:
    found, front = study.found, study.found.front
    dense, runs = found.arms.get("dense"), {record.run for record in front}
    records = [*front, *([dense] if dense is not None and dense.run not in runs else [])]
    known = [record for record in records if compared.value(study, record) is not None]
    places = [(found.relative(record, cost), compared.value(study, record) or 0.0) for record in known]
    of_front = [place for place, record in zip(places, known, strict=True) if record.run in runs]
    steps = iter(pareto.non_dominated(np.array(of_front, float).reshape(-1, 2)))
    rows: list[tuple[object, ...]] = []
    for record, (share, value) in zip(known, places, strict=True):
        won, is_on = found.winner is not None and record.run == found.winner.run, record.run in runs
        what = "winner" if won else "front" if is_on else "dense"
        losses = record.loss_nats, found.delta(record)
        rows.append((study.label, record.run, what, record.placement, share, *losses, value, is_on and bool(next(steps))))
    return rows


def study_rows(compared: Comparison) -> list[Row]:
    """A row a study: what it is and how far it came."""
    return [
        _study(study) | {"hypervolume": volume} for study, volume in zip(compared.studies, hypervolumes(compared), strict=True)
    ]


def _study(study: Study) -> Row:
    found, dense = study.found, study.found.arms.get("dense")
    losses = [record.loss_nats for record in found.complete if record.feasible and record.loss_nats is not None]
    return {
        "study": study.label,
        "folder": str(study.folder),
        "space": found.space.name,
        "complete": len(found.complete),
        "planned": found.space.search.trials,
        "tokens": found.tokens,
        "resolvable_nats": found.noise.resolvable_nats if found.noise else None,
        "seeds": found.noise.n if found.noise else 0,
        "dense_loss_nats": dense.loss_nats if dense is not None else None,
        "best_loss_nats": min(losses, default=None),
        "front": len(found.front),
    }


def winner_rows(compared: Comparison) -> list[Row]:
    """A row a study: its winner, costs as shares of its own dense target's; None of everything where there is no winner."""
    return [_winner(compared, study) for study in compared.studies]


def _winner(compared: Comparison, study: Study) -> Row:
    found, winner = study.found, study.found.winner
    return {
        "study": study.label,
        "run": winner.run if winner else None,
        "placement": winner.placement if winner else None,
        "loss_nats": winner.loss_nats if winner else None,
        "delta_nats": found.delta(winner) if winner else None,
        "against_dense": (found.against_dense(winner) or "dense itself") if winner else None,
        **{f"{cost}_share": found.relative(winner, cost) if winner else None for cost in compared.costs},
    }


@dataclass(frozen=True)
class Pair:
    """The winners of two studies."""

    a: str
    b: str
    """The studies' labels."""
    difference_nats: float | None
    """The loss (or the delta) of a's winner less that of b's."""
    resolvable_nats: float | None
    """The larger one of the two studies; of deltas, which hold four runs instead of two, that times sqrt(2)."""
    told: str
    """tied, unknown, or which one is lower."""


def pairs(compared: Comparison) -> list[Pair]:
    """Every two winners."""
    return [_pair(compared, *two) for two in combinations(compared.studies, 2)]


def _pair(compared: Comparison, one: Study, other: Study) -> Pair:
    a, b = compared.value(one, one.found.winner), compared.value(other, other.found.winner)
    noises = [study.found.noise.resolvable_nats for study in (one, other) if study.found.noise is not None]
    resolvable = max(noises) * (1.0 if compared.comparable else math.sqrt(2)) if len(noises) == 2 else None
    difference = None if a is None or b is None else a - b
    told = "unknown"
    if difference is not None and resolvable is not None:
        told = "tied" if abs(difference) <= resolvable else f"{(one if difference < 0 else other).label} is lower"
    return Pair(one.label, other.label, difference, resolvable, told)


def reference(compared: Comparison) -> dict[str, float] | None:
    """What hypervolumes are taken to, by objective: the worst on any of the fronts and a tenth of the range more, but no loss
    above that of guessing. None where the volumes would not be of one thing."""
    objectives = {frozenset(study.found.space.objectives) for study in compared.studies}
    points = np.concatenate([_volume_points(compared, study) for study in compared.studies])
    if not compared.comparable or compared.targets or len(objectives) > 1 or not len(points):
        return None
    low, high = points.min(axis=0), points.max(axis=0)
    ends = high + 0.1 * np.where(high > low, high - low, np.abs(high))
    ends[0] = min(ends[0], math.log(compared.studies[0].found.space.proxy.model.vocab_size))
    return dict(zip(compared.studies[0].found.space.objectives, ends.tolist(), strict=True))


def hypervolumes(compared: Comparison) -> list[float | None]:
    """Of each study's front, in nats times shares, to the common reference; None where there is none."""
    ends = reference(compared)
    if ends is None:
        return [None] * len(compared.studies)
    at = np.array(list(ends.values()))
    return [pareto.hypervolume(_volume_points(compared, study), at) for study in compared.studies]


def _volume_points(compared: Comparison, study: Study) -> np.ndarray:
    """A front in the order of the first study's objectives, costs as shares. (n, objectives)."""
    objectives = compared.studies[0].found.space.objectives
    rows = [
        [record.values(["loss_nats"])[0] if name == "loss_nats" else study.found.relative(record, name) for name in objectives]
        for record in study.found.front
    ]
    return np.array(rows, float).reshape(len(rows), len(objectives))
