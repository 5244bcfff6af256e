"""The loop of every driver: hand jobs to an executor, hear from its workers, write down what has ended."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..lpa.config import UserError
from ..lpa.train_config import TrainConfig
from . import checkpoints as kept
from .executor import Executor, Seat
from .ledger import Ledger
from .proxy import as_trained
from .record import Advanced, Fault, Job, Record, Trained
from .space import Space

MOST_LOST = 3
"""Times that each worker may die before any run has ended, until the driver gives up (assumption). A node that is lost takes
many workers with it, once."""


@dataclass
class Runs:
    """The runs of a study as its driver sees them."""

    space: Space
    records: list[Record]
    """By the order of their end."""
    running: dict[str, Job] = field(default_factory=dict, kw_only=True)
    ready: deque[Job] = field(default_factory=deque, kw_only=True)
    """Jobs that are written down and wait for a worker."""
    recovered: list[Job] = field(default_factory=list, kw_only=True)
    """Jobs that an earlier driver has left unfinished."""
    seats: Callable[[], tuple[Seat, ...]] = field(default=tuple, kw_only=True)
    """The workers and what each of them trains, right now."""
    curves: dict[str, dict[int, float]] = field(default_factory=dict, kw_only=True)
    """The validation losses of each running job so far, nats, by tokens."""
    started: float = field(default_factory=time.monotonic, kw_only=True)
    done_before: int = field(default=0, kw_only=True)
    """Runs that earlier calls had ended."""
    progress: dict[str, Trained] = field(default_factory=dict, kw_only=True)
    """How far each running job has come, as far as it has said."""
    lost: int = field(default=0, kw_only=True)
    """Workers that have died or were given up."""
    exhausted: bool = field(default=False, kw_only=True)
    """There is nothing else to be trained."""
    stopping: bool = field(default=False, kw_only=True)
    """The user has asked for the end: what has ended by now is recorded, and nothing else is begun."""

    @property
    def ended(self) -> Sequence[Record]:
        """All runs that have ended."""
        return self.records

    @property
    def done(self) -> int:
        """How many."""
        return len(self.ended)

    @property
    def tokens(self) -> int:
        """Trained on in all runs that have ended; what failed attempts at them have cost does not count."""
        return sum(record.tokens - record.tokens_before for record in self.ended)

    @property
    def planned(self) -> int:
        """Runs that there will be at the end, as far as is known."""
        count, _ = self.ahead()
        return self.done + len(self.running) + count

    def ahead(self) -> tuple[int, int]:
        """Of the runs that are not begun yet, as far as is known: how many, and their training tokens."""
        return 0, 0

    @property
    def minutes(self) -> float | None:
        """After which no new run starts."""
        return None

    def end(self, record: Record) -> None:
        """Count a run that has ended."""
        for running in (self.running, self.curves, self.progress):
            running.pop(record.run, None)
        self.records.append(record)

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
            half = None if halved else half_microbatch(as_trained(job, self.space.proxy))
            return None if half is None else job.change(attempts=(*job.attempts, reason), microbatch=half)
        return None if len(job.attempts) > halved else job.change(attempts=(*job.attempts, reason))

    def whole(self, job: Job) -> int:
        """Training tokens of a job that is trained to its end."""
        if job.recipe is None:
            return self.space.proxy.steps * self.space.proxy.batch_tokens
        config = as_trained(job, self.space.proxy)
        return config.steps * config.batch_tokens

    def affords(self, tokens: int, most: int | None) -> bool:
        """Whether another run of so many tokens keeps to the most of all together, should all that are begun be whole."""
        begun = sum(map(self.whole, (*self.running.values(), *self.ready)))
        return most is None or self.tokens + begun + tokens <= most

    @property
    def is_late(self) -> bool:
        """Whether so long has passed that no new run starts."""
        return self.minutes is not None and time.monotonic() - self.started > self.minutes * 60


class Supply(Protocol):
    """What is to be trained."""

    def take(self) -> Job | None:
        """The next job, written down; None when no run may start, for now or any more."""
        ...

    def make(self) -> bool:
        """Make a job ahead, one at a time; whether one was made."""
        ...


def drive(
    runs: Runs,
    ledger: Ledger,
    executor: Executor,
    supply: Supply,
    watch: Callable[[], None],
    answer: Callable[[Advanced], bool] = lambda at: True,
    checkpoints: Path | None = None,
) -> None:
    """Train all that the supply has. watch: called whenever anything has changed, and about once a second. answer: whether a
    run that has come to a rung goes on. checkpoints: the folder in which the executor's runs have theirs; those of runs that
    have ended are removed, but for stopped ones, which may be taken up again.

    Raises KeyboardInterrupt as it comes, or when the runs are `stopping`: what has ended by then is in the ledger, what has
    not is gone on with by the next call.
    """
    for record in runs.ended:  # an earlier driver may have died right after telling
        kept.clear(checkpoints, record)
    runs.done_before, runs.seats = runs.done, lambda: executor.seats
    places = dict[str, str]()
    while True:
        job = supply.take() if executor.idle and not runs.stopping else None
        if job is not None:
            runs.running[job.run] = job
            executor.submit(job)
        if not runs.running:
            return
        made = job is None and not runs.stopping and supply.make()
        watch()
        places |= {seat.run: f"{seat.worker}, {seat.device}" for seat in executor.seats if seat.run is not None}
        for message in executor.wait(0.0 if runs.stopping or job is not None or made else 1.0):
            if isinstance(message, Trained):
                runs.progress[message.run] = message
            elif isinstance(message, Advanced):
                runs.curves.setdefault(message.run, {})[message.tokens] = message.loss_nats
                if message.at_rung:
                    executor.answer(message.run, answer(message))
            elif isinstance(message, Fault) and (again := runs.again(message)) is not None:
                runs.running[again.run] = again
                executor.submit(again)
            else:
                record = _placed(message.record if isinstance(message, Fault) else message, places)
                ledger.tell(record)
                runs.end(record)
                kept.clear(checkpoints, record)
                kept.trim(checkpoints, [*runs.running.values(), *runs.ready, *runs.recovered])
        if runs.stopping:
            raise KeyboardInterrupt


def _placed(record: Record, places: dict[str, str]) -> Record:
    """The record with its worker, which does not hold the run any more when its record comes. places: the worker of each run
    under way; it loses this one's."""
    place = places.pop(record.run, "")
    return record if record.measured is None else record.change(measured=record.measured.change(worker=place))


def half_microbatch(config: TrainConfig) -> int | None:
    """The largest microbatch of at most half the size that divides the batch; None when it is one sequence already."""
    size = config.microbatch or config.batch_size
    return next((half for half in range(size // 2, 0, -1) if config.batch_size % half == 0), None)
