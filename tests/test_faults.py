"""The driver with runs that cost nothing and fail: other attempts, the end that a user asks for, a driver that dies."""

import pytest
from lpanas.search.drive import half_microbatch
from lpanas.search.ledger import NOISE, Ledger
from lpanas.search.record import Advanced, Fault, Trained
from lpanas.search.study import search
from making import tiny_space
from scripted import BANDS, END, RUNG, SPREAD, Kept, Scripted

HALF = 2


class Faulty(Scripted):
    """Runs whose attempts fail at the rung, as each is told to: `error`, `lost` or `memory`; and then end well."""

    def __init__(self, **plans):
        super().__init__()
        self.plans = {run.replace("_", "-"): list(plan) for run, plan in plans.items()}
        self.submitted = []

    def submit(self, job):
        super().submit(job)
        self.submitted.append((job.run, job.microbatch))

    def wait(self, seconds=None):
        for message in super().wait(seconds):
            yield message
            if isinstance(message, Advanced) and message.at_rung and self.plans.get(message.run):
                what = self.plans[message.run].pop(0)
                failed = self._record().change(status="failed", reason=what, loss_nats=None)
                self.job = None
                yield Fault(failed.change(measured=None) if what == "lost" else failed, out_of_memory=what == "memory")


@pytest.mark.parametrize(
    ("plan", "status", "attempts", "microbatches"),
    [
        (["lost"], "complete", ("lost",), [None, None]),
        (["error"], "complete", ("error",), [None, None]),
        (["memory"], "complete", ("memory",), [None, HALF]),
        (["lost", "lost"], "failed", ("lost",), [None, None]),
        (["lost", "error"], "failed", ("lost",), [None, None]),
        (["memory", "memory"], "failed", ("memory",), [None, HALF]),
        (["lost", "memory"], "complete", ("lost", "memory"), [None, None, HALF]),
        (["memory", "error"], "complete", ("memory", "error"), [None, HALF, HALF]),
        (["memory", "error", "error"], "failed", ("memory", "error"), [None, HALF, HALF]),
    ],
)
def test_a_fault_has_one_other_attempt_and_out_of_memory_one_with_half_the_microbatch(plan, status, attempts, microbatches):
    study, executor = Kept(), Faulty(trial_2=plan)
    state = study.search(executor=executor)
    record = state.records[2]
    assert (record.status, record.attempts, record.microbatch) == (status, attempts, microbatches[-1])
    assert record.reason == (plan[-1] if status == "failed" else "")
    assert [microbatch for run, microbatch in executor.submitted if run == "trial-2"] == microbatches
    assert [run for run, _ in executor.submitted].count("trial-3") == 1
    assert study.records() == [*state.records, *state.noise]
    if status == "complete":
        assert record.change(attempts=(), microbatch=None) == Kept().search().records[2]


def test_one_sequence_at_a_time_is_not_halved():
    record = Kept().search("proxy.microbatch=1", executor=Faulty(trial_2=["memory"])).records[2]
    assert (record.status, record.attempts, record.microbatch) == ("failed", (), None)


@pytest.mark.parametrize(
    ("batch", "microbatch", "half"),
    [(8, None, 4), (8, 8, 4), (8, 2, 1), (8, 1, None), (1, None, None), (9, None, 3), (12, 6, 3), (12, 3, 1), (7, None, 1)],
)
def test_half_a_microbatch_divides_the_batch(batch, microbatch, half):
    proxy = tiny_space().proxy
    assert half_microbatch(proxy.change(batch_size=batch, microbatch=microbatch)) == half


def test_a_run_that_diverges_has_no_other_attempt():
    class Diverging(Scripted):
        def submit(self, job):
            super().submit(job)
            begun.append(job.run)

        def _record(self):
            record = super()._record()
            return record.change(status="diverged", loss_nats=None) if record.run == "trial-2" else record

    begun = []
    record = Kept().search(executor=Diverging()).records[2]
    assert (record.status, record.attempts, begun.count("trial-2")) == ("diverged", (), 1)


class Overtaken(Scripted):
    """Two runs at a time; the first proposal is lost at the rung, and comes there again when a better one has."""

    def __init__(self):
        super().__init__()
        self.held = []

    @property
    def idle(self):
        return 2 - len(self.held)

    def submit(self, job):
        self.held.append(job)

    def answer(self, run, go_on):
        self.asked.append((run, go_on))

    def wait(self, seconds=None):
        while self.held and (self.held[0].arm or self.held[0].run.startswith(NOISE)):
            yield self.ended(6.0 + 1e-3 * self.held[0].seed)
        if len(self.held) == 2:
            first, second = self.held
            yield Advanced(first.run, RUNG, 5.0, at_rung=True)
            yield Advanced(second.run, RUNG, 2.0, at_rung=True)
            yield Fault(self.ended(5.0).change(status="failed", loss_nats=None, measured=None))
            yield self.ended(2.0)
            yield Advanced(first.run, RUNG, 5.0, at_rung=True)
            yield self.ended(5.0)

    def ended(self, loss):
        self.job, self.curve = self.held.pop(0), ((RUNG, loss), (END, loss))
        return self._record()


def test_a_run_that_comes_to_a_rung_again_hears_the_same_word():
    executor = Overtaken()
    Kept().search(BANDS, "search.trials=6", "search.eta=6", "objectives=[loss_nats]", executor=executor)
    assert executor.asked == [("trial-4", True), ("trial-5", True), ("trial-4", True)]


def test_how_far_a_run_has_come_is_known_while_it_runs_and_no_longer():
    class Telling(Scripted):
        def wait(self, seconds=None):
            yield Trained(self.job.run, 64, 1e3)
            yield from super().wait(seconds)

    seen = []
    state = Kept().search(executor=Telling(), watch=lambda state: seen.append((set(state.running), set(state.progress))))
    assert all(told <= running for running, told in seen)
    assert set().union(*(told for _, told in seen)) == {record.run for record in [*state.records, *state.noise]}
    assert state.progress == {}


class Ready(Scripted):
    """Each run has ended by the time that the driver looks."""

    def __init__(self):
        super().__init__()
        self.given = []

    def submit(self, job):
        super().submit(job)
        self.given.append(job.run)

    def wait(self, seconds=None):
        while self.job is not None:
            yield from super().wait(seconds)


@pytest.mark.parametrize("call", range(0, 24, 3))
def test_a_search_that_is_asked_to_end_records_what_has_ended_and_begins_nothing(call):
    given, calls = [], iter(range(10**6))

    def watch(state):
        if next(calls) == call:
            state.stopping = True
            given.extend(executor.given)

    undisturbed, study, executor = Kept(), Kept(), Ready()
    with pytest.raises(KeyboardInterrupt):
        study.search(*SPREAD, executor=executor, watch=watch)
    assert sorted(record.run for record in study.records(*SPREAD)) == sorted(given) == sorted(executor.given)
    study.search(*SPREAD)
    undisturbed.search(*SPREAD)
    assert study.records(*SPREAD) == undisturbed.records(*SPREAD)


class Dying(Ledger):
    """Its driver dies when a record is written and its trial not yet told."""

    def _end(self, run):
        if run.job.run == self.victim:
            raise KeyboardInterrupt
        super()._end(run)


@pytest.mark.parametrize("victim", ["trial-2", "noise-0", "trial-7", "trial-23"])
def test_a_driver_that_dies_between_a_record_and_the_end_of_its_trial_loses_and_repeats_nothing(victim):
    undisturbed, study = Kept(), Kept()
    ledger = Dying(tiny_space(*SPREAD), study.storage, "s")
    ledger.victim = victim
    with pytest.raises(KeyboardInterrupt):
        search(tiny_space(*SPREAD), ledger, Scripted(), lambda state: None)
    state = study.search(*SPREAD)
    undisturbed.search(*SPREAD)
    assert (state.done, state.planned) == (25, 25)
    assert study.records(*SPREAD) == undisturbed.records(*SPREAD)
