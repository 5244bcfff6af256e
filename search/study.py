"""The driver: ask, run, tell; within a budget, and on from where an earlier call stopped."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ..lpa.config import UserError
from . import noise
from .budget import ARMS
from .executor import Executor
from .ledger import NOISE, SEARCH, Ledger
from .propose import Proposer
from .proxy import Advanced, Job, Known, Record
from .rungs import goes_on
from .space import Candidate, Space

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
    curves: dict[str, dict[int, float]] = field(default_factory=dict)
    """The validation losses of each running job so far, nats, by tokens."""
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
    def known(self) -> list[Known]:
        """What candidates have shown, those under way included."""
        ended = [Known(record, dict(record.curve), ended=True) for record in self.records]
        under_way = [job for job in self.running.values() if job.run.startswith(SEARCH)]
        return ended + [Known(job, self.curves.get(job.run, {}), ended=False) for job in under_way]

    @property
    def tokens(self) -> int:
        """Trained on in all runs that have ended."""
        return sum(record.tokens - record.tokens_before for record in (*self.records, *self.noise))

    @property
    def planned(self) -> int:
        """Runs that the search will have when it ends."""
        return self.space.search.trials + self.space.search.noise_seeds - 1

    @property
    def done(self) -> int:
        """Runs that have ended."""
        return len(self.records) + len(self.noise)


def search(space: Space, ledger: Ledger, executor: Executor, watch: Watcher) -> State:
    """Train the four arms, the noise seeds, what the user lists and as many proposals as the budget has. Raises
    KeyboardInterrupt as it comes: what has ended by then is in the ledger, what has not is trained again by the next call."""
    state = State(space, ledger.records(SEARCH), ledger.records(NOISE))
    state.done_before = state.done
    jobs = _jobs(space, ledger, state)
    more = True
    while True:
        while more and executor.idle and not _is_spent(space, state):
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
                state.curves.setdefault(message.run, {})[message.tokens] = message.loss_nats
                if message.at_rung:
                    executor.answer(message.run, _goes_on(state, state.running[message.run], message.tokens))
            elif message.measured is None and state.is_to_be_tried_again(message):
                state.curves.pop(message.run, None)
                executor.submit(state.running[message.run])
            else:
                ledger.tell(message)
                del state.running[message.run]
                state.curves.pop(message.run, None)
                (state.noise if message.run.startswith(NOISE) else state.records).append(message)


def _goes_on(state: State, job: Job, tokens: int) -> bool:
    """Whether a run that has come to a rung is trained on: arms, noise seeds and listed placements always, a proposal unless it
    is clearly behind all that ever came there, or was taken up again in spite of it."""
    if job.arm is not None or job.listed is not None or job.run.startswith(NOISE):
        return True
    if any(record.run == job.continues and tokens <= record.tokens for record in state.records):
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


def _jobs(space: Space, ledger: Ledger, state: State) -> Iterator[Job]:
    """What is to be trained, in order; a new job is in the ledger before it is handed out."""
    proposer = Proposer(space)
    recovered = ledger.recover()
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
        candidate = space.listed(listed)
        if proposer.is_new(candidate) and ledger.count(SEARCH) < space.search.trials:
            yield written(SEARCH, candidate, listed=listed)
    while ledger.count(SEARCH) < space.search.trials:
        proposal = proposer.propose(state.known)
        if proposal is None:
            state.exhausted = True
            return
        yield written(SEARCH, proposal.candidate, continues=proposal.continues, refused=proposal.refused)


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


def _is_spent(space: Space, state: State) -> bool:
    """Whether no new run may start: the time is up, or one more could exceed the tokens."""
    budget = space.search
    late = budget.minutes is not None and time.monotonic() - state.started > budget.minutes * 60
    a_run = space.proxy.steps * space.proxy.batch_tokens
    return late or (budget.tokens is not None and state.tokens + (len(state.running) + 1) * a_run > budget.tokens)
