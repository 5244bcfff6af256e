"""The driver: ask, run, tell; within a budget, and on from where an earlier call stopped."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from ..lpa.config import UserError
from .executor import LocalExecutor
from .ledger import NOISE, SEARCH, Ledger
from .propose import Proposer
from .proxy import Advanced, Job, Record
from .space import ARMS, Candidate, Space

MOST_LOST = 3
"""Workers that may die before any run has ended, until the search gives up (assumption)."""


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
    latest: dict[str, Advanced] = field(default_factory=dict)
    """The last evaluation of each running job."""
    started: float = field(default_factory=time.monotonic)
    done_before: int = 0
    """Runs that earlier calls had ended."""
    lost: dict[str, int] = field(default_factory=dict)
    """How often each run's worker has died."""
    exhausted: bool = False
    """The space has no other candidate."""

    def is_to_be_tried_again(self, lost: Record) -> bool:
        """Whether a run whose worker died is given to another: once. Raises UserError when nothing but that happens."""
        self.lost[lost.run] = self.lost.get(lost.run, 0) + 1
        if self.done == self.done_before and sum(self.lost.values()) > MOST_LOST:
            raise UserError(f"no run has ended and {MOST_LOST} workers have died, the last one of {lost.run}: {lost.reason}")
        return self.lost[lost.run] < 2

    @property
    def planned(self) -> int:
        """Runs that the search will have when it ends."""
        return self.space.search.trials + self.space.search.noise_seeds - 1

    @property
    def done(self) -> int:
        """Runs that have ended."""
        return len(self.records) + len(self.noise)


def search(space: Space, ledger: Ledger, executor: LocalExecutor, watch: Watcher) -> State:
    """Train the four arms, the noise seeds and as many proposals as the budget has. Raises KeyboardInterrupt as it comes:
    what has ended by then is in the ledger, what has not is trained again by the next call."""
    state = State(space, ledger.records(SEARCH), ledger.records(NOISE))
    state.done_before = state.done
    jobs = _jobs(space, ledger, state)
    more = True
    while True:
        while more and executor.idle and not _out_of_time(space, state):
            job = next(jobs, None)
            if job is None:
                more = False
                break
            state.running[job.run] = job
            executor.submit(job)
        if not state.running:
            return state
        watch(state)
        for message in executor.wait(1.0):
            if isinstance(message, Advanced):
                state.latest[message.run] = message
            elif message.measured is None and state.is_to_be_tried_again(message):
                executor.submit(state.running[message.run])
            else:
                ledger.tell(message)
                del state.running[message.run]
                state.latest.pop(message.run, None)
                (state.noise if message.run.startswith(NOISE) else state.records).append(message)


def _jobs(space: Space, ledger: Ledger, state: State) -> Iterator[Job]:
    """What is to be trained, in order; a new job is in the ledger before it is handed out."""
    proposer = Proposer(space)
    recovered = ledger.recover()
    for job in [*state.records, *(job for job in recovered if job.run.startswith(SEARCH))]:
        proposer.count(job)
    yield from recovered
    for arm in ARMS[ledger.count(SEARCH) :]:
        job = _job(space, f"{SEARCH}-{ledger.count(SEARCH)}", space.arm(arm), arm=arm)
        ledger.add(SEARCH, job)
        proposer.count(job)
        yield job
    while ledger.count(NOISE) < space.search.noise_seeds - 1:
        number = ledger.count(NOISE)
        job = _job(space, f"{NOISE}-{number}", space.arm("dense"), seed=space.seed + number + 1)
        ledger.add(NOISE, job)
        yield job
    while ledger.count(SEARCH) < space.search.trials:
        candidate = proposer.propose(state.records, state.running.values())
        if candidate is None:
            state.exhausted = True
            return
        job = _job(space, f"{SEARCH}-{ledger.count(SEARCH)}", candidate)
        ledger.add(SEARCH, job)
        proposer.count(job)
        yield job


def _job(space: Space, run: str, candidate: Candidate, arm: str | None = None, seed: int | None = None) -> Job:
    return Job(
        run=run,
        arm=arm,
        params=candidate.params,
        seed=space.seed if seed is None else seed,
        model=candidate.proxy,
        target=candidate.target,
        costs=candidate.costs,
        feasible=candidate.feasible,
    )


def _out_of_time(space: Space, state: State) -> bool:
    minutes = space.search.minutes
    return minutes is not None and time.monotonic() - state.started > minutes * 60
