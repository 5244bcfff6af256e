"""The study's storage is the truth: jobs go in before they are trained, records when they have ended."""

import json
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from ..lpa.config import UserError
from .proxy import Job, Record
from .space import Space

SEARCH, NOISE = "trial", "noise"
"""The two kinds of run, each an Optuna study of its own: candidates, and further seeds of the dense arm."""

BUDGET_KEYS = ("search",)
"""What may change between two calls on one study."""


class Ledger:
    """Jobs and records in an Optuna storage.

    A job is written as a RUNNING trial in one transaction, its record before the trial is told; so a driver that dies at any
    instant leaves either a job to train again or a record to tell.
    """

    def __init__(self, space: Space, storage: optuna.storages.BaseStorage, name: str, *, create: bool = True) -> None:
        self.space, self.storage = space, storage
        self.objectives: dict[str, tuple[str, ...]] = {SEARCH: space.objectives, NOISE: ("loss_nats",)}
        self.studies = {kind: self._study(f"{name} {kind}", len(self.objectives[kind]), create) for kind in (SEARCH, NOISE)}

    def _study(self, name: str, objectives: int, create: bool) -> optuna.Study:
        sampler = optuna.samplers.RandomSampler()  # proposals come from propose.py
        try:
            return optuna.load_study(storage=self.storage, study_name=name, sampler=sampler)
        except KeyError:
            if not create:
                raise UserError(f"there is no study '{name}' in the storage") from None
            directions = [StudyDirection.MINIMIZE] * objectives
            return optuna.create_study(storage=self.storage, study_name=name, directions=directions, sampler=sampler)

    def check(self, content: str) -> None:
        """Raises UserError when the storage holds another space's study, or one on other data; else writes down ours."""
        study = self.studies[SEARCH]
        ours = self.space.model_dump(mode="json")
        held = study.user_attrs.get("made_from")  # absent when a driver died right after making the study
        if held is not None:
            key = _first_difference(held["space"], ours)
            if key:
                raise UserError(f"the study there was made with another space: {key} differs; give another --out")
            if held["data"] != content:
                raise UserError("the study there was made on other data than what is there now; give another --out")
        study.set_user_attr("made_from", {"space": ours, "data": content})

    def add(self, kind: str, job: Job) -> None:
        """Write a job down, before it is trained."""
        distributions: dict[str, BaseDistribution] = self.space.distributions if job.params and kind == SEARCH else {}
        trial = create_trial(
            state=TrialState.RUNNING,
            params=job.params if distributions else {},
            distributions=distributions,
            user_attrs={"job": job.model_dump_json()},
        )
        self.studies[kind].add_trial(trial)

    def tell(self, record: Record) -> None:
        """Write a record down and end its trial."""
        kind, number = _place(record.run)
        study = self.studies[kind]
        trial = study.get_trials(deepcopy=False)[number]
        self.storage.set_trial_user_attr(trial._trial_id, "record", record.model_dump_json())
        self._end(kind, number, record)

    def recover(self) -> list[Job]:
        """The jobs that a driver has left unfinished, in order; a record that it wrote but did not tell is told now."""
        jobs = []
        for kind, study in self.studies.items():
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                record = _record(trial)
                if record is not None:
                    self._end(kind, trial.number, record)
                else:
                    jobs.append(Job.parse(json.loads(trial.user_attrs["job"]), f"trial {trial.number}"))
        return jobs

    def records(self, kind: str) -> list[Record]:
        """The ended runs of a kind, by number."""
        found = [_record(trial) for trial in self.studies[kind].get_trials(deepcopy=False) if trial.state.is_finished()]
        return [record for record in found if record is not None]

    def count(self, kind: str) -> int:
        """Runs of a kind that were ever written down."""
        return len(self.studies[kind].get_trials(deepcopy=False))

    def _end(self, kind: str, number: int, record: Record) -> None:
        if record.status == "complete":
            self.studies[kind].tell(number, record.values(self.objectives[kind]))
        else:
            self.studies[kind].tell(number, state=TrialState.PRUNED if record.status == "pruned" else TrialState.FAIL)


def open_ledger(space: Space, url: str, name: str, *, create: bool = True) -> Ledger:
    """The ledger in a storage by its URL. Raises UserError when the storage cannot be opened, or holds no such study and none
    is to be made."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # A dashboard that polls the file must not crash the driver: wait for its lock.
    options = {"connect_args": {"timeout": 100}} if url.startswith("sqlite") else {}
    try:
        return Ledger(space, optuna.storages.RDBStorage(url, engine_kwargs=options), name, create=create)
    except (ImportError, OSError, ValueError, SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise UserError(f"--storage {url}: {' '.join(str(error).split())[:200]}") from None


def _record(trial: FrozenTrial) -> Record | None:
    text = trial.user_attrs.get("record")
    return None if text is None else Record.parse(json.loads(text), f"trial {trial.number}")


def _place(run: str) -> tuple[str, int]:
    kind, _, number = run.partition("-")
    return kind, int(number)


def _first_difference(held: dict[str, Any], ours: dict[str, Any], path: str = "") -> str:
    """The dotted key of the first difference between two spaces, budgets left aside; empty when there is none."""
    for key in [*held, *(key for key in ours if key not in held)]:
        if not path and key in BUDGET_KEYS:
            continue
        a, b = held.get(key), ours.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            inner = _first_difference(a, b, f"{path}{key}.")
            if inner:
                return inner
        elif a != b:
            return f"{path}{key} ({a} there, {b} here)"
    return ""
