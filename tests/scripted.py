"""An executor whose runs cost nothing, and a study in memory."""

from hashlib import sha256

from lpanas.search.executor import Seat
from lpanas.search.ledger import NOISE, SEARCH, Ledger
from lpanas.search.record import Advanced, Job, Measured, Record
from lpanas.search.study import search
from making import tiny_space
from optuna.storages import InMemoryStorage

BANDS = "vary.bands=2"
END, RUNG = 640, 128
SPREAD = (BANDS, "search.trials=24")
"""Enough proposals that some are behind at the rung."""


def by_params(job, tokens):
    """The loss grows with the parameters that the target lacks, so much more than with the seed that runs differ clearly."""
    chance = int(sha256(f"{job.model.placement.text} {job.model.d_ff}".encode()).hexdigest(), 16) % 1000 / 1000
    return 3 + chance + 1e-3 * job.seed + 64 / tokens


class Scripted:
    """An executor without training: one run at a time, whose losses a function of the job and the tokens gives."""

    def __init__(self, loss=by_params, counts=(RUNG, 320, END)):
        self.loss, self.counts = loss, counts
        self.job, self.curve, self.asked, self.stopped = None, (), [], False
        self.before, self.checkpoints = 0, {}

    @property
    def idle(self):
        return int(self.job is None)

    @property
    def seats(self):
        return tuple(Seat("0", "none", job.run) for job in self.jobs)

    @property
    def jobs(self):
        return [] if self.job is None else [self.job]

    def submit(self, job):
        assert self.job is None
        self.job, self.curve, self.stopped = job, self.checkpoints.get(job.continues, ()), False
        self.before = self.curve[-1][0] if self.curve else 0

    def answer(self, run, go_on):
        assert run == self.job.run
        self.asked.append((run, go_on))
        self.stopped = not go_on

    def wait(self, seconds=None):
        done = len(self.curve)
        if self.stopped or done == len(self.counts):
            record, self.job = self._record(), None
            yield record
        else:
            tokens = self.counts[done]
            self.curve = (*self.curve, (tokens, self.loss(self.job, tokens)))
            yield Advanced(self.job.run, *self.curve[-1], at_rung=tokens in self.job.rungs)

    def _record(self):
        self.checkpoints[self.job.run] = self.curve
        fields = {name: getattr(self.job, name) for name in Job.model_fields}
        return Record(
            **fields,
            status="pruned" if self.stopped else "complete",
            reason="behind" if self.stopped else "",
            loss_nats=None if self.stopped else self.curve[-1][1],
            tokens=self.curve[-1][0],
            tokens_before=self.before,
            curve=self.curve,
            measured=Measured(device="none", started=0.0, seconds=0.0, train_seconds=0.0, peak_memory_bytes=0),
        )


class Crowd(Scripted):
    """Many runs at a time, which end without a word, one after the other."""

    def __init__(self, size):
        super().__init__()
        self.size, self.held = size, []

    @property
    def idle(self):
        return self.size - len(self.held)

    @property
    def seats(self):
        runs = [job.run for job in self.held]
        return tuple(Seat(str(n), "none", run) for n, run in enumerate([*runs, *[None] * (self.size - len(runs))]))

    def submit(self, job):
        assert self.idle
        self.held.append(job)

    def wait(self, seconds=None):
        if seconds:  # the driver has nothing else to do
            self.job, self.curve = self.held.pop(0), ((END, 3.0),)
            yield self._record()


class Rungs(Crowd):
    """The same, each of which asks at its rung; its loss there is that of its params."""

    def answer(self, run, go_on):
        assert run == self.held[0].run
        self.stopped = not go_on

    def wait(self, seconds=None):
        if not seconds:
            return
        self.job, self.stopped, self.before = self.held[0], False, self.held[0].continues_at
        self.curve = self.checkpoints.get(self.job.continues, ())
        for tokens in (at for at in (RUNG, END) if at > self.before and not self.stopped):
            self.curve = (*self.curve, (tokens, self.loss(self.job, tokens)))
            if tokens == RUNG:
                yield Advanced(self.job.run, *self.curve[-1], at_rung=True)
        self.held.pop(0)
        yield self._record()


class Kept:
    """A study in memory, its ledger opened anew for every search."""

    def __init__(self):
        self.storage, self.executor, self.checkpoints = InMemoryStorage(), Scripted(), {}

    def ledger(self, *settings):
        return Ledger(tiny_space(*settings), self.storage, "s")

    def search(self, *settings, executor=None, watch=lambda state: None):
        self.executor = executor or Scripted()
        self.executor.checkpoints = self.checkpoints
        return search(tiny_space(*settings), self.ledger(*settings), self.executor, watch)

    def records(self, *settings):
        ledger = self.ledger(*settings)
        return ledger.records(SEARCH) + ledger.records(NOISE)
