"""The next candidate: a sampler proposes, and what was trained before or breaks a limit is refused and asked for again; what
was stopped may be taken up again."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from random import Random

import numpy as np

from .candidate import Candidate
from .gain import AGAIN, DRAWN, NEIGHBOURS, POOL, by_gain, near, pool
from .record import Job, Known, Refusal
from .rungs import order
from .sampling import RungStudies
from .space import Space

ASKS = 10
"""Proposals that are asked for before an untried point is drawn at random (assumption)."""
ENOUGH = {"gp": 4, "tpe": 10, "nsga2": 10}
"""Runs that a rung must have seen before proposals are drawn from it (assumption; 10 is Optuna's n_startup_trials)."""


@dataclass(frozen=True)
class Proposal:
    """What is to be trained."""

    candidate: Candidate
    continues: str | None = None
    """The stopped run of the same model that it takes up again."""
    continues_at: int = 0
    """Tokens at which that one was stopped."""
    refused: tuple[Refusal, ...] = ()
    """What was proposed before and is not trained."""

    @property
    def again(self) -> dict[str, object]:
        """What a job says of the run that it takes up again."""
        return {"continues": self.continues, "continues_at": self.continues_at}


class Proposer:
    """Proposals for a space, as a pure function of its seed and of what was proposed and learnt before."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.levels = (space.proxy.steps * space.proxy.batch_tokens, *reversed(space.rungs))
        """Tokens at which losses are compared, the end first."""
        self.seen, self.models, self.proposed = dict[str, str](), dict[str, str](), 0
        self.rungs = RungStudies(space)
        self.made: dict[tuple[str, ...], Candidate] = {}

    @cached_property
    def pool(self) -> list[dict[str, str]]:
        """Points that gp chooses from, besides the front's neighbours."""
        return pool(self.space)

    def count(self, job: Job) -> None:
        """A job that is trained: never propose its model again, unless it is stopped."""
        self.models[job.run] = job.model.model_dump_json()
        self.seen.setdefault(self.models[job.run], job.run)
        self.proposed += 1

    def wanted(self, candidate: Candidate, known: Sequence[Known]) -> Proposal | None:
        """A candidate that the user asks for; nothing when its model is trained already."""
        stopped = self._stopped(known)
        is_open = candidate.trained in stopped or candidate.trained not in self.seen
        return self._proposal(candidate, stopped, ()) if is_open else None

    def propose(self, known: Sequence[Known]) -> Proposal | None:
        """What is trained next; nothing when neither a new candidate nor a stopped run is left."""
        refused, stopped = list[Refusal](), self._stopped(known)
        for candidate in islice(self._proposals(known, stopped), ASKS):
            why = self._why_not(candidate)
            if why is None or (self.space.search.sampler == "gp" and candidate.trained in stopped):
                return self._proposal(candidate, stopped, refused)
            refused.append(Refusal(params=candidate.params, why=why))
        candidate = self._untried() or self._best(stopped)
        return None if candidate is None else self._proposal(candidate, stopped, refused)

    def _proposal(self, candidate: Candidate, stopped: Mapping[str, Known], refused: Sequence[Refusal]) -> Proposal:
        if (run := stopped.get(candidate.trained)) is None:
            return Proposal(candidate, refused=tuple(refused))
        return Proposal(candidate, run.job.run, run.reached, tuple(refused))

    def _stopped(self, known: Sequence[Known]) -> dict[str, Known]:
        """The stopped runs by what they train."""
        return {self.models[run.job.run]: run for run in known if run.stopped}

    def _proposals(self, known: Sequence[Known], stopped: Mapping[str, Known]) -> Iterator[Candidate]:
        """What the sampler would train next; nothing where it leaves the choice to chance."""
        sampler, seed = self.space.search.sampler, Random(f"{self.space.seed} {self.proposed}").getrandbits(32)
        level = self._level(known)
        inside = [run for run in known if run.job.params]
        if sampler in ("tpe", "nsga2", "random"):
            yield from map(self._candidate, self.rungs.asked(inside, level, seed))
        elif sampler == "gp" and level is not None:
            beside = self._open(near(self.space, inside, level))
            drawn = DRAWN if self.space.size > POOL else POOL
            new = [*islice(self._open(self.pool), drawn), *islice(beside, NEIGHBOURS)]
            left = {model: 1 - run.reached / level for model, run in stopped.items() if run.reached < level}
            if len(left) > AGAIN:
                left = {model: left[model] for model in Random(seed).sample(list(left), AGAIN)}
            again = [self._candidate(run.job.params) for model, run in stopped.items() if model in left]
            yield from by_gain(self.space, [*new, *again], inside, level, seed, left)

    def _open(self, points: Iterable[Mapping[str, str]]) -> Iterator[Candidate]:
        """The candidates at points that may be trained."""
        return (candidate for candidate in map(self._candidate, points) if self._why_not(candidate) is None)

    def _best(self, stopped: Mapping[str, Known]) -> Candidate | None:
        """Of the stopped runs that came farthest, the first in order."""
        most = max((run.reached for run in stopped.values()), default=0)
        there = [run for run in stopped.values() if run.reached == most]
        if not there:
            return None
        points = np.array([run.values(self.space.objectives, most) for run in there])
        return self._candidate(there[order(points, np.ones(len(there), bool))[0]].job.params)

    def _level(self, known: Sequence[Known]) -> int | None:
        """The highest rung that enough runs have come to; none when there is no such rung."""
        enough = ENOUGH.get(self.space.search.sampler, 1)
        return next((level for level in self.levels if sum(level in run.losses for run in known) >= enough), None)

    def _untried(self) -> Candidate | None:
        """An untried feasible candidate, drawn evenly; in a large space among some random points of it."""
        points = self.space.drawn(Random(f"{self.space.seed} {self.proposed} untried"))
        return next(self._open(points), None)

    def _candidate(self, point: Mapping[str, str]) -> Candidate:
        """The space's candidate at a point, made once."""
        key = tuple(point.values())
        if key not in self.made:
            self.made[key] = self.space.candidate(point)
        return self.made[key]

    def _why_not(self, candidate: Candidate) -> str | None:
        """Why a candidate is refused; None for one that may be trained."""
        if not candidate.feasible:
            return f"above the limit of {', '.join(self.space.broken(candidate.costs))}"
        run = self.seen.get(candidate.trained)
        return None if run is None else f"the model of {run}"
