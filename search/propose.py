"""The next candidate: Optuna proposes, and what was trained before or breaks a limit is asked for again."""

import warnings
from collections.abc import Iterable
from random import Random

import optuna
from optuna.trial import TrialState, create_trial

from .proxy import Job, Record
from .space import Candidate, Space

ASKS = 50
"""Proposals that are asked for before an untried point is drawn at random (assumption)."""


class Proposer:
    """Proposals for a space, as a pure function of its seed and of what was proposed and learnt before."""

    def __init__(self, space: Space) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space = space
        self.seen: set[str] = set()
        self.proposed = 0
        self.made: dict[tuple[str, ...], Candidate] = {}

    def count(self, job: Job) -> None:
        """A job that is trained: never propose its model again."""
        self.seen.add(job.model.model_dump_json())
        self.proposed += 1

    def propose(self, records: Iterable[Record], running: Iterable[Job]) -> Candidate | None:
        """The next candidate to train, or None when the space has no other."""
        study = self._study(records, running)
        for _ in range(ASKS):
            trial = study.ask(self.space.distributions)
            candidate = self._candidate({name: trial.params[name] for name in self.space.choices})
            if self._is_new(candidate):
                return candidate
            study.tell(trial, state=TrialState.FAIL)
        return self._untried()

    def _study(self, records: Iterable[Record], running: Iterable[Job]) -> optuna.Study:
        """What is known, in a study in memory: repeats that are refused never reach the storage."""
        study = optuna.create_study(directions=["minimize"] * len(self.space.objectives), sampler=self._sampler())
        trials = []
        for record in records:
            if record.params and record.status == "complete":
                values = record.values(self.space.objectives)
                trials.append(create_trial(params=record.params, distributions=self.space.distributions, values=values))
        for job in running:
            if job.params:
                trials.append(create_trial(params=job.params, distributions=self.space.distributions, state=TrialState.RUNNING))
        study.add_trials(trials)
        return study

    def _sampler(self) -> optuna.samplers.BaseSampler:
        seed = Random(f"{self.space.seed} {self.proposed}").getrandbits(32)
        if self.space.search.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(seed=seed, multivariate=True)

    def _untried(self) -> Candidate | None:
        """An untried feasible candidate, drawn evenly; in a large space among some random points of it."""
        random = Random(f"{self.space.seed} {self.proposed} untried")
        points = list(self.space.points(random))
        random.shuffle(points)
        return next((candidate for candidate in map(self._candidate, points) if self._is_new(candidate)), None)

    def _candidate(self, point: dict[str, str]) -> Candidate:
        """The space's candidate at a point, made once."""
        key = tuple(point.values())
        if key not in self.made:
            self.made[key] = self.space.candidate(point)
        return self.made[key]

    def _is_new(self, candidate: Candidate) -> bool:
        return candidate.feasible and candidate.proxy.model_dump_json() not in self.seen
