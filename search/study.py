"""The driver: ask, run, tell; within a budget, and on from where an earlier call stopped."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from . import noise
from .budget import ARMS
from .candidate import Candidate
from .drive import Runs, drive
from .executor import Executor
from .ledger import NOISE, SEARCH, Ledger
from .propose import Proposer
from .record import Advanced, Job, Known, Record
from .rungs import goes_on
from .space import Space

WORKERS_A_JOB = 16
"""Workers for each job that is made before one of them asks for it, so that it need not wait for a proposal: what the runs that
end meanwhile would have taught is little where so many others are still under way (assumption)."""


class Watcher(Protocol):
    """Somebody who is shown how the search goes."""

    def __call__(self, state: "State", /) -> None:
        """Called whenever anything has changed, and about once a second."""


@dataclass
class State(Runs):
    """A search as it goes; its records are of candidates."""

    noise: list[Record]
    """Of further seeds of the dense arm."""
    answers: dict[tuple[str, int], bool] = field(default_factory=dict)
    """What each run was told at each rung, its tokens: one that comes there again is told the same."""

    @property
    def ended(self) -> Sequence[Record]:
        """All runs that have ended, noise seeds included."""
        return (*self.records, *self.noise)

    def end(self, record: Record) -> None:
        """Count a run that has ended."""
        super().end(record)
        if record.run.startswith(NOISE):
            self.noise.append(self.records.pop())

    @property
    def known(self) -> list[Known]:
        """What candidates have shown, those under way included; each once: a run that was taken up again is the later one."""
        under_way = [job for job in (*self.running.values(), *self.ready) if job.run.startswith(SEARCH)]
        taken_up = {job.continues for job in (*self.records, *under_way)}
        ended = [Known(record, dict(record.curve), ended=True) for record in self.records if record.run not in taken_up]
        before = {record.run: dict(record.curve) for record in self.records if record.run in taken_up}
        losses = {job.run: self.curves.get(job.run) or before.get(job.continues or "", {}) for job in under_way}
        return ended + [Known(job, losses[job.run], ended=False) for job in under_way]

    @property
    def planned(self) -> int:
        """Runs that the search will have when it ends."""
        return self.space.search.planned

    def ahead(self) -> tuple[int, int]:
        """Of the runs that are not begun yet: how many, and their tokens, as those that have ended foretell."""
        budget, begun = self.space.search, self.done + len(self.running)
        count = len(self.ready) if self.exhausted else 0 if self.stopping else max(0, self.planned - begun)
        tokens = round(count * self.tokens / max(1, self.done))
        if budget.tokens is not None:
            tokens = min(tokens, max(0, budget.tokens - self.tokens - sum(map(self.whole, self.running.values()))))
        return count, tokens

    @property
    def minutes(self) -> float | None:
        """After which no new run starts."""
        return self.space.search.minutes


def search(space: Space, ledger: Ledger, executor: Executor, watch: Watcher, checkpoints: Path | None = None) -> State:
    """Train the four arms, the noise seeds, what the user lists and as many proposals as the budget has; see drive."""
    recovered = ledger.recover()  # first: it may tell a record
    state = State(space, ledger.records(SEARCH), ledger.records(NOISE), recovered=recovered)
    jobs = _Supply(state, _jobs(space, ledger, state, recovered), ahead=len(executor.seats) // WORKERS_A_JOB)
    drive(state, ledger, executor, jobs, lambda: watch(state), lambda at: _answer(state, at), checkpoints)
    return state


def _answer(state: State, at: Advanced) -> bool:
    """The word for a run that has come to a rung."""
    key = (at.run, at.tokens)
    if key not in state.answers:
        state.answers[key] = _goes_on(state, state.running[at.run], at.tokens)
    return state.answers[key]


def _goes_on(state: State, job: Job, tokens: int) -> bool:
    """Whether a run that has come to a rung is trained on: arms, noise seeds and listed placements always, a proposal unless it
    is clearly behind all that ever came there, or was taken up again in spite of it."""
    if job.arm is not None or job.listed is not None or job.run.startswith(NOISE) or tokens <= job.continues_at:
        return True
    dense = [record for record in state.records if record.arm == "dense"]
    doubt = noise.at([*dense, *state.noise], tokens)
    if doubt is None:
        return True
    there = [run for run in state.known if tokens in run.losses]
    points = np.array([run.values(state.space.objectives, tokens) for run in there])
    feasible = np.array([run.job.feasible for run in there])
    newcomer = next(place for place, run in enumerate(there) if run.job.run == job.run)
    return goes_on(points, feasible, newcomer, state.space.search.eta, doubt.resolvable_nats)


def _jobs(space: Space, ledger: Ledger, state: State, recovered: list[Job]) -> Iterator[Job | None]:
    """What is to be trained, in order; a new job is in the ledger before it is handed out. None: nothing as long as no other
    run has ended, as one that is stopped may be taken up again."""
    proposer = Proposer(space)
    for job in [*state.records, *(job for job in recovered if job.run.startswith(SEARCH))]:
        proposer.count(job)

    def written(kind: str, candidate: Candidate, **of: object) -> Job:
        job = _job(space, f"{kind}-{ledger.count(kind)}", candidate).change(**of)
        ledger.add(kind, job)
        if kind == SEARCH:
            proposer.count(job)
        return job

    yield from recovered
    for arm in ARMS[ledger.count(SEARCH) :]:
        yield written(SEARCH, space.arm(arm), arm=arm)
    while ledger.count(NOISE) < space.search.noise_seeds - 1:
        yield written(NOISE, space.arm("dense"), seed=space.seed + ledger.count(NOISE) + 1)
    for listed in space.search.placements:
        wanted = proposer.wanted(space.listed(listed), state.known)
        if wanted is not None and ledger.count(SEARCH) < space.search.trials:
            yield written(SEARCH, wanted.candidate, listed=listed, **wanted.again)
    while ledger.count(SEARCH) < space.search.trials:
        proposal = proposer.propose(state.known)
        if proposal is None and (state.running or state.ready):
            yield None
            continue
        if proposal is None:
            state.exhausted = True
            return
        yield written(SEARCH, proposal.candidate, refused=proposal.refused, **proposal.again)


def _job(space: Space, run: str, candidate: Candidate) -> Job:
    return Job(
        run=run,
        params=candidate.params,
        seed=space.seed,
        model=candidate.proxy,
        target=candidate.target,
        costs=candidate.costs,
        feasible=candidate.feasible,
        rungs=space.rungs,
    )


class _Supply:
    """What is to be trained, within the budget, some of it made ahead."""

    def __init__(self, state: State, jobs: Iterator[Job | None], ahead: int) -> None:
        self.state, self.jobs, self.ahead = state, jobs, ahead
        self.in_vain = -1
        """Runs that had ended when there was no next job."""

    def take(self) -> Job | None:
        """The next job; None when no run may start, for now or any more."""
        if self.state.is_late:
            return None
        return self.state.ready.popleft() if self.state.ready else self._made()

    def make(self) -> bool:
        """Make a job ahead, one at a time, as a rung may ask meanwhile; whether one was made."""
        late = self.state.is_late
        if len(self.state.ready) >= self.ahead or late or (job := self._made()) is None:
            return False
        self.state.ready.append(job)
        return True

    def _made(self) -> Job | None:
        """The next job, unless it could exceed the tokens."""
        proxy = self.state.space.proxy
        if not self.state.affords(proxy.steps * proxy.batch_tokens, self.state.space.search.tokens):
            return None
        if self.in_vain == self.state.done:
            return None
        job = next(self.jobs, None)
        self.in_vain = self.state.done if job is None else -1
        return job
