"""The driver: ask, run, tell; within a budget, and on from where an earlier call stopped."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from ..lpa.config import UserError
from ..lpa.train import TrainConfig
from . import checkpoints as kept
from . import noise
from .budget import ARMS
from .executor import Executor, Seat
from .ledger import NOISE, SEARCH, Ledger
from .propose import Proposer
from .proxy import Advanced, Fault, Job, Known, Record, Trained
from .rungs import goes_on
from .space import Candidate, Space

WORKERS_A_JOB = 16
"""Workers for each job that is made before one of them asks for it, so that it need not wait for a proposal: what the runs that
end meanwhile would have taught is little where so many others are still under way (assumption)."""
MOST_LOST = 3
"""Times that each worker may die before any run has ended, until the search gives up (assumption). A node that is lost takes
many workers with it, once."""


class Watcher(Protocol):
    """Somebody who is shown how the search goes."""

    def __call__(self, state: "State") -> None:
        """Called whenever anything has changed, and about once a second."""


@dataclass
class State:
    """A search as it goes."""

    space: Space
    records: list[Record]
    """Of candidates, by the order of their end."""
    noise: list[Record]
    """Of further seeds of the dense arm."""
    running: dict[str, Job] = field(default_factory=dict)
    ready: deque[Job] = field(default_factory=deque)
    """Jobs that are written down and wait for a worker."""
    seats: Callable[[], tuple[Seat, ...]] = tuple
    """The workers and what each of them trains, right now."""
    curves: dict[str, dict[int, float]] = field(default_factory=dict)
    """The validation losses of each running job so far, nats, by tokens."""
    started: float = field(default_factory=time.monotonic)
    done_before: int = 0
    """Runs that earlier calls had ended."""
    progress: dict[str, Trained] = field(default_factory=dict)
    """How far each running job has come, as far as it has said."""
    answers: dict[tuple[str, int], bool] = field(default_factory=dict)
    """What each run was told at each rung, its tokens: one that comes there again is told the same."""
    lost: int = 0
    """Workers that have died or were given up."""
    exhausted: bool = False
    """The space has no other candidate."""
    stopping: bool = False
    """The user has asked for the end: what has ended by now is recorded, and nothing else is begun."""

    def again(self, fault: Fault) -> Job | None:
        """The job of a run's other attempt, which it has once after running out of memory, with half the microbatch, and once
        after any other fault; None when it has had it, or the microbatch is one sequence. Raises UserError when workers die
        and nothing else happens."""
        run, reason = fault.record.run, fault.record.reason
        job = self.running[run]
        self.progress.pop(run, None)  # of this attempt; its losses are those of the next
        self.lost += fault.record.measured is None
        if self.done == self.done_before and self.lost > MOST_LOST * max(1, len(self.seats())):
            raise UserError(f"no run has ended and {self.lost} workers have died, the last one of {run}: {reason}")
        halved = job.microbatch is not None
        if fault.out_of_memory:
            half = None if halved else half_microbatch(self.space.proxy)
            return None if half is None else job.change(attempts=(*job.attempts, reason), microbatch=half)
        return None if len(job.attempts) > halved else job.change(attempts=(*job.attempts, reason))

    def end(self, record: Record) -> None:
        """Count a run that has ended."""
        for running in (self.running, self.curves, self.progress):
            running.pop(record.run, None)
        (self.noise if record.run.startswith(NOISE) else self.records).append(record)

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
    def tokens(self) -> int:
        """Trained on in all runs that have ended; what failed attempts at them have cost does not count."""
        return sum(record.tokens - record.tokens_before for record in (*self.records, *self.noise))

    @property
    def planned(self) -> int:
        """Runs that the search will have when it ends."""
        return self.space.search.planned

    @property
    def done(self) -> int:
        """Runs that have ended."""
        return len(self.records) + len(self.noise)


def search(space: Space, ledger: Ledger, executor: Executor, watch: Watcher, checkpoints: Path | None = None) -> State:
    """Train the four arms, the noise seeds, what the user lists and as many proposals as the budget has.

    checkpoints: the folder in which the executor's runs have theirs; those of runs that have ended are removed,
    but for stopped ones, which may be taken up again.

    Raises KeyboardInterrupt as it comes, or when the state is `stopping`: what has ended by then is in the ledger, what has
    not is gone on with by the next call.
    """
    recovered = ledger.recover()  # first: it may tell a record
    state = State(space, ledger.records(SEARCH), ledger.records(NOISE))
    for record in (*state.records, *state.noise):  # an earlier driver may have died right after telling
        kept.clear(checkpoints, record)
    state.done_before, state.seats = state.done, lambda: executor.seats
    jobs = _Supply(state, _jobs(space, ledger, state, recovered), ahead=len(executor.seats) // WORKERS_A_JOB)
    while True:
        job = jobs.take() if executor.idle and not state.stopping else None
        if job is not None:
            state.running[job.run] = job
            executor.submit(job)
        if not state.running:
            return state
        made = job is None and not state.stopping and jobs.make()
        watch(state)
        for message in executor.wait(0.0 if state.stopping or job is not None or made else 1.0):
            if isinstance(message, Trained):
                state.progress[message.run] = message
            elif isinstance(message, Advanced):
                state.curves.setdefault(message.run, {})[message.tokens] = message.loss_nats
                if message.at_rung:
                    executor.answer(message.run, _answer(state, message))
            elif isinstance(message, Fault) and (again := state.again(message)) is not None:
                state.running[again.run] = again
                executor.submit(again)
            else:
                record = message.record if isinstance(message, Fault) else message
                ledger.tell(record)
                state.end(record)
                kept.clear(checkpoints, record)
                kept.trim(checkpoints, [*state.running.values(), *state.ready, *recovered])
        if state.stopping:
            raise KeyboardInterrupt


def half_microbatch(config: TrainConfig) -> int | None:
    """The largest microbatch of at most half the size that divides the batch; None when it is one sequence already."""
    size = config.microbatch or config.batch_size
    return next((half for half in range(size // 2, 0, -1) if config.batch_size % half == 0), None)


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
        if self._is_late():
            return None
        return self.state.ready.popleft() if self.state.ready else self._made()

    def make(self) -> bool:
        """Make a job ahead, one at a time, as a rung may ask meanwhile; whether one was made."""
        if len(self.state.ready) >= self.ahead or self._is_late() or (job := self._made()) is None:
            return False
        self.state.ready.append(job)
        return True

    def _made(self) -> Job | None:
        """The next job, unless it could exceed the tokens."""
        space, most = self.state.space, self.state.space.search.tokens
        begun = len(self.state.running) + len(self.state.ready) + 1
        if most is not None and self.state.tokens + begun * space.proxy.steps * space.proxy.batch_tokens > most:
            return None
        if self.in_vain == self.state.done:
            return None
        job = next(self.jobs, None)
        self.in_vain = self.state.done if job is None else -1
        return job

    def _is_late(self) -> bool:
        minutes = self.state.space.search.minutes
        return minutes is not None and time.monotonic() - self.state.started > minutes * 60
