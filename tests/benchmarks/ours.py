"""Our own searches on a table: the driver as it is, with an executor that looks runs up."""

from collections.abc import Iterator
from functools import partial

from lpanas.search.executor import Seat
from lpanas.search.ledger import NOISE, Ledger
from lpanas.search.record import Advanced, Job, Record
from lpanas.search.study import search
from optuna.storages import InMemoryStorage
from replay import Replay, Run, Searcher


class LookupExecutor:
    """One worker that trains by looking up, from rung to rung."""

    def __init__(self, replay: Replay) -> None:
        self.replay = replay
        self.job: Job | None = None
        self.run: Run | None = None
        self.stopped = dict[str, Run]()
        self.goes_on = True
        self.before = 0

    @property
    def idle(self) -> int:
        """See Executor."""
        return int(self.job is None)

    @property
    def seats(self) -> tuple[Seat, ...]:
        """See Executor."""
        return (Seat("0", "none", self.job.run if self.job else None),)

    def submit(self, job: Job) -> None:
        """See Executor."""
        self.job, self.goes_on = job, True
        if job.continues is not None:
            self.run = self.stopped.pop(job.continues)
        elif job.run.startswith(NOISE):
            self.run = self.replay.start_seed(int(job.run.partition("-")[2]))
        else:
            self.run = self.replay.start(job.params)
        self.before = self.run.tokens

    def answer(self, run: str, go_on: bool) -> None:
        """See Executor."""
        self.goes_on = go_on

    def wait(self, seconds: float | None = None) -> Iterator[Advanced | Record]:
        """See Executor."""
        assert self.job is not None
        assert self.run is not None
        ahead = [rung for rung in self.job.rungs if rung > self.run.tokens]
        if self.goes_on and ahead:
            loss, *_ = self.run.train(ahead[0])
            yield Advanced(self.job.run, ahead[0], loss, at_rung=True)
            return
        if self.goes_on:
            self.run.train()
        job, self.job = self.job, None
        yield self._record(job, self.run)

    def _record(self, job: Job, run: Run) -> Record:
        curve = tuple((tokens, loss) for tokens, loss in run.record.curve if tokens <= run.tokens)
        fields = {name: getattr(job, name) for name in Job.model_fields}
        ended = {"status": "complete", "loss_nats": curve[-1][1]} if self.goes_on else {"status": "pruned"}
        if not self.goes_on:
            self.stopped[job.run] = run
        spent = {"tokens": run.tokens, "tokens_before": self.before}
        return Record(**fields, **ended, **spent, curve=curve, measured=run.record.measured)


def ours(replay: Replay, seed: int, **budget: object) -> None:
    """A search by the driver until the budget is spent or the space has no other candidate."""
    space = replay.table.space
    settings = {"trials": 2 * space.size, "tokens": replay.budget, "sampler": "gp", "rungs": 1, "minutes": None} | budget
    space = space.change(seed=seed, search=space.search.change(**settings))
    search(space, Ledger(space, InMemoryStorage(), "replay"), LookupExecutor(replay), lambda state: None)


OURS: dict[str, Searcher] = {
    "ours": ours,
    "ours unhalved": partial(ours, rungs=0),
    "ours tpe": partial(ours, sampler="tpe"),
    "ours nsga2": partial(ours, sampler="nsga2"),
}
"""The driver with its defaults; without rungs; with other samplers."""
