"""The study's storage is the truth: jobs go in before they are trained, records when they have ended."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, TypeVar

from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from ..lpa.config import UserError
from . import lease
from .protocol import BUDGET_KEYS
from .record import Job, Record
from .space import Space
from .storage import FAILURES, attributes, failed, has_tables, open_storage, patiently, shown, write_params

T = TypeVar("T")

SEARCH, NOISE, CONFIRM = "trial", "noise", "confirm"
"""The kinds of run, each an Optuna study of its own: candidates and further seeds of the dense arm, of a search; and the runs
of a confirmation."""
MEASURED = "measured "
"""What the key of a study's attribute begins with that holds what was measured for it (see measured.py)."""
MAY_CHANGE: dict[str, tuple[str, ...]] = {SEARCH: ("search", "confirm"), CONFIRM: ("search", *BUDGET_KEYS)}
"""The keys of a space that may change between two calls on one study."""


@dataclass
class _Run:
    """A run as the storage holds it."""

    trial_id: int
    job: Job
    """Its record, once it has one."""
    ended: bool
    """Whether its trial was told."""


class Ledger:
    """Jobs and records in an Optuna storage, read once and then kept in memory: there is one driver, which holds the lease.

    A job is written as a RUNNING trial in one transaction, its record before the trial is told; so a driver that dies at any
    instant leaves either a job to train again or a record to tell. (Its parameters, which only other readers of the study look
    at, follow in a second one.)
    """

    def __init__(
        self, space: Space, storage: BaseStorage, name: str, url: str = "in memory", *, of: str = SEARCH, create: bool = True
    ) -> None:
        """of: a search's, or a confirmation's."""
        self.space, self.storage, self.name, self.url, self.main = space, storage, name, url, of
        self.objectives: dict[str, tuple[str, ...]] = {of: space.objectives if of == SEARCH else ("loss_nats",)}
        self.objectives |= {NOISE: ("loss_nats",)} if of == SEARCH else {}
        self.studies = {kind: self._study(f"{name} {kind}", len(its), create) for kind, its in self.objectives.items()}
        self._runs: dict[str, dict[str, _Run]] = {}
        self._strays: list[int] = []

    def _study(self, name: str, objectives: int, create: bool) -> int:
        for make in (create, False):
            try:
                return self.storage.get_study_id_from_name(name)
            except KeyError:
                if not make:
                    break
            with suppress(DuplicatedStudyError):  # another search was faster
                return self.storage.create_new_study([StudyDirection.MINIMIZE] * objectives, name)
        raise no_study(self.name, self.url)

    @contextmanager
    def held(self) -> Generator[None]:
        """The study, driven by this process alone. Raises UserError when another process drives it, and also later, before
        anything is written, when another has taken it over."""
        if not isinstance(self.storage, RDBStorage):  # one in memory has no other process
            yield
            return
        with lease.held(self.storage, self.studies[self.main], self.name):
            yield

    def check(self, content: str) -> None:
        """Raises UserError when the storage holds another space's study, or one on other data; else writes down ours."""
        study = self.studies[self.main]
        ours = self.space.model_dump(mode="json")
        held = self._patiently(lambda: self.storage.get_study_user_attrs(study)).get("made_from")
        if held is not None:  # it is None when a driver died right after making the study
            key = _first_difference(_filled(held["space"]), ours, MAY_CHANGE[self.main])
            if key:
                raise UserError(f"the study there was made with another space: {key} differs; give another --out")
            if held["data"] != content:
                raise UserError("the study there was made on other data than what is there now; give another --out")
        self._patiently(lambda: self.storage.set_study_user_attr(study, "made_from", {"space": ours, "data": content}))

    @property
    def content(self) -> str | None:
        """The hash of the data that the study was made on; None for one whose driver died right after making it."""
        held = self._patiently(lambda: self.storage.get_study_user_attrs(self.studies[self.main])).get("made_from")
        return None if held is None else str(held["data"])

    @property
    def measured(self) -> dict[str, str]:
        """What was measured before the first run: texts, by the names of their files."""
        return _measured(self._patiently(lambda: self.storage.get_study_user_attrs(self.studies[self.main])))

    def keep_measured(self, file: str, text: str) -> None:
        """Write down what was measured."""
        study = self.studies[self.main]
        self._patiently(lambda: self.storage.set_study_user_attr(study, MEASURED + file, text))

    def add(self, kind: str, job: Job) -> None:
        """Write a job down, before it is trained."""
        trial = create_trial(state=TrialState.RUNNING, user_attrs={"job": job.model_dump_json()})
        runs = self._of(kind)  # where an answer is lost, the job is written twice: _of() finds that, recover() ends it
        trial_id = self._patiently(lambda: self.storage.create_new_trial(self.studies[kind], trial))
        if job.params and kind == SEARCH:  # for others that read the study; ours are in the job
            self._patiently(lambda: write_params(self.storage, trial_id, job.params, self.space.distributions))
        runs[job.run] = _Run(trial_id, job, ended=False)

    def tell(self, record: Record) -> None:
        """Write a record down and end its trial."""
        run = self._of(_kind(record.run))[record.run]
        attempts = count()

        def write() -> None:
            again = next(attempts) > 0
            try:
                self.storage.set_trial_user_attr(run.trial_id, "record", record.model_dump_json())
            except UpdateFinishedTrialError:  # an earlier attempt has done all, and its answer was lost
                if not again:
                    raise

        self._patiently(write)
        run.job = record
        self._end(run)

    def recover(self) -> list[Job]:
        """The jobs that a driver has left unfinished, in order; a record that it wrote but did not tell is told now."""
        jobs = []
        for kind in self.studies:
            for run in self._of(kind).values():
                if run.ended:
                    continue
                if isinstance(run.job, Record):
                    self._end(run)
                else:
                    jobs.append(run.job)
        for trial_id in self._strays:
            self._patiently(partial(self._finish, trial_id, TrialState.FAIL))
        self._strays.clear()
        return jobs

    def records(self, kind: str) -> list[Record]:
        """The ended runs of a kind, by number."""
        return [run.job for run in self._of(kind).values() if run.ended and isinstance(run.job, Record)]

    def count(self, kind: str) -> int:
        """Runs of a kind that were ever written down."""
        return len(self._of(kind))

    def close(self) -> None:
        """Close the connections; what was read stays."""
        if isinstance(self.storage, RDBStorage):
            self.storage.engine.dispose()

    def _of(self, kind: str) -> dict[str, _Run]:
        """The runs of a kind by name, in the order of their jobs."""
        if kind not in self._runs:
            study, runs = self.studies[kind], dict[str, _Run]()
            for trial in self._patiently(lambda: list(attributes(self.storage, study))):
                found = _run(*trial)
                if found is None:
                    continue
                known = runs.setdefault(found.job.run, found)
                if known is not found:  # written twice: the one with the record counts
                    stray = known if isinstance(found.job, Record) else found
                    runs[found.job.run] = found if stray is known else known
                    self._strays += [] if stray.ended else [stray.trial_id]
            self._runs[kind] = runs
        return self._runs[kind]

    def _end(self, run: _Run) -> None:
        """End the trial of a run that has its record."""
        record = run.job
        assert isinstance(record, Record)
        if record.status == "complete":
            values = record.values(self.objectives[_kind(record.run)])
            self._patiently(partial(self._finish, run.trial_id, TrialState.COMPLETE, values))
        else:
            state = TrialState.PRUNED if record.status == "pruned" else TrialState.FAIL
            self._patiently(partial(self._finish, run.trial_id, state))
        run.ended = True

    def _finish(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> None:
        with suppress(UpdateFinishedTrialError):  # an earlier attempt has done it, and its answer was lost
            self.storage.set_trial_state_values(trial_id, state, values)

    def _patiently(self, do: Callable[[], T]) -> T:
        return patiently(self.url, do)


def open_ledger(space: Space, url: str, name: str, *, of: str = SEARCH, create: bool = True) -> Ledger:
    """The ledger of a search, or of a confirmation, in a storage by its URL. Raises UserError when the storage cannot be
    opened, or holds no such study and none is to be made."""
    if not create and not has_tables(url):  # they would be made
        raise no_study(name, url)
    storage = open_storage(url)
    try:
        return Ledger(space, storage, name, url, of=of, create=create)
    except FAILURES as error:
        raise failed(url, error) from None


def measured_in(url: str, name: str, of: str) -> dict[str, str]:
    """What a study's storage says was measured before its first run; nothing where there is no such study. Makes none. Raises
    UserError."""
    if not has_tables(url):
        return {}
    storage = open_storage(url)
    try:
        study = storage.get_study_id_from_name(f"{name} {of}")
        return _measured(patiently(url, lambda: storage.get_study_user_attrs(study)))
    except KeyError:
        return {}
    except FAILURES as error:
        raise failed(url, error) from None
    finally:
        storage.engine.dispose()


def _measured(attributes: dict[str, Any]) -> dict[str, str]:
    return {key.removeprefix(MEASURED): str(text) for key, text in attributes.items() if key.startswith(MEASURED)}


def no_study(name: str, url: str) -> UserError:
    """There is nothing to be read."""
    return UserError(f"{shown(url)}: there is no study '{name}' in it")


def _run(trial_id: int, state: str, texts: dict[str, Any]) -> _Run | None:
    """A trial's run; None for a trial that is not ours."""
    where = f"trial {trial_id}"
    if "record" in texts:
        job: Job = Record.parse_json(texts["record"], where)
    elif "job" in texts:
        job = Job.parse_json(texts["job"], where)
    else:
        return None
    return _Run(trial_id, job, TrialState[state].is_finished())


def _kind(run: str) -> str:
    return run.partition("-")[0]


def _filled(held: dict[str, Any]) -> dict[str, Any]:
    """A space as it was written, with what has come to spaces since then at its default."""
    try:
        return Space.parse(held, "").model_dump(mode="json")
    except UserError:  # of another version
        return held


def _first_difference(held: dict[str, Any], ours: dict[str, Any], but: Sequence[str], path: str = "") -> str:
    """The dotted key of the first difference between two spaces, `but` for those; empty when there is none."""
    for key in [*held, *(key for key in ours if key not in held)]:
        if path + key in but:
            continue
        a, b = held.get(key), ours.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            inner = _first_difference(a, b, but, f"{path}{key}.")
            if inner:
                return inner
        elif a != b:
            return f"{path}{key} ({a} there, {b} here)"
    return ""
