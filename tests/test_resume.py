"""Runs that are hit and go on: what a worker's death, a hang, a full disk or a small memory leaves of a search's records."""

import os
import resource
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lpanas.lpa.train import train
from lpanas.search.checkpoints import trim
from lpanas.search.executor import LocalExecutor, Setup
from lpanas.search.ledger import NOISE, SEARCH, Ledger
from lpanas.search.proxy import run_proxy
from lpanas.search.record import Advanced
from lpanas.search.study import search
from making import job, same, tiny_space
from optuna.storages import InMemoryStorage

SPACE = tiny_space("search.rungs=2", "search.eta=2", "vary.bands=2")
RUNGS = SPACE.rungs
LARGE = tiny_space("proxy.model.d_model=768", "proxy.model.d_ff=2048", "search.trials=4")
BATCH = SPACE.proxy.batch_tokens
JOB = job(SPACE.arm("attention"), "trial-1", "attention").change(rungs=RUNGS)
KILLED, HUNG = "the worker process ended (SIGKILL)", "no progress for 0.1 minutes"


class Hit(LocalExecutor):
    """One worker, which is hit while it holds a run: when it is given it (0 tokens), or while it waits at a rung for the
    driver's word. hits: (run, tokens, what happens)."""

    def __init__(self, setup, folder, *hits):
        self.hits, self.asked = list(hits), []
        patience = 0.1 if any(what is stop for *_, what in hits) else 10.0  # a busy machine makes no worker look hung
        super().__init__(Setup(setup.config, setup.shards, folder), 1, hung_minutes=patience)

    @property
    def pid(self):
        return self.workers[0].process.pid

    def submit(self, its):
        super().submit(its)
        self.hit(its.run, 0)

    def wait(self, seconds=None):
        for message in super().wait(seconds):
            if isinstance(message, Advanced) and message.at_rung:
                self.asked.append((message.run, message.tokens))
                self.hit(message.run, message.tokens)
            yield message

    def hit(self, run, tokens):
        for place, (whom, when, what) in enumerate(self.hits):
            if (whom, when) == (run, tokens):
                del self.hits[place]
                return what(self, run)


class Stopping(Hit):
    """Its driver's word for one run is another."""

    def answer(self, run, go_on):
        super().answer(run, go_on and run != "trial-4")


def kill(executor, run):
    os.kill(executor.pid, signal.SIGKILL)


def stop(executor, run):
    os.kill(executor.pid, signal.SIGSTOP)


def kill_and_tear(executor, run):
    kill(executor, run)
    path = executor.setup.checkpoints / run / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])


def full_disk(executor, run):
    """No file of the worker's may have more than a thousand bytes."""
    resource.prlimit(executor.pid, resource.RLIMIT_FSIZE, (1000, 1000))


def small_memory(executor, run):
    """The worker may have 32 MiB more than it has."""
    most = int(Path(f"/proc/{executor.pid}/statm").read_text().split()[0]) * resource.getpagesize() + 2**25
    resource.prlimit(executor.pid, resource.RLIMIT_AS, (most, most))


def searched(executor):
    ledger = Ledger(SPACE, InMemoryStorage(), "s")
    search(SPACE, ledger, executor, lambda state: None, executor.setup.checkpoints)
    return {record.run: record for record in ledger.records(SEARCH) + ledger.records(NOISE)}


def without_attempts(found):
    return {run: same(record.change(attempts=())) for run, record in found.items()}


@pytest.fixture(scope="module")
def undisturbed(setup):
    with LocalExecutor(setup, 1) as executor:
        found = searched(executor)
    assert len(found) == 7
    return without_attempts(found)


@pytest.mark.parametrize(
    ("tokens", "what", "reason", "asked"),
    [
        (0, kill, KILLED, RUNGS),
        (RUNGS[0], kill, KILLED, (RUNGS[0], *RUNGS)),
        (RUNGS[1], kill, KILLED, (*RUNGS, RUNGS[1])),
        (RUNGS[1], kill_and_tear, KILLED, (*RUNGS, *RUNGS)),
        (RUNGS[0], stop, HUNG, (RUNGS[0], *RUNGS)),
    ],
    ids=["before a rung", "first rung", "second rung", "torn checkpoint", "hung"],
)
def test_a_search_whose_worker_is_hit_has_the_records_of_an_undisturbed_one(
    tokens, what, reason, asked, setup, undisturbed, tmp_path
):
    with Hit(setup, tmp_path / "runs", ("trial-2", tokens, what)) as executor:
        found = searched(executor)
    assert executor.hits == []
    assert {run: record.attempts for run, record in found.items() if record.attempts} == {"trial-2": (reason,)}
    assert without_attempts(found) == undisturbed
    assert tuple(tokens for run, tokens in executor.asked if run == "trial-2") == asked


def test_a_run_that_is_hit_twice_is_a_failed_record_and_the_search_goes_on(setup, undisturbed, tmp_path):
    with Hit(setup, tmp_path / "runs", ("trial-3", 0, kill), ("trial-3", RUNGS[0], kill)) as executor:
        found = searched(executor)
    lost = found["trial-3"]
    assert (lost.status, lost.reason, lost.attempts, lost.loss_nats) == ("failed", KILLED, (KILLED,), None)
    assert len(found) == 7
    assert {record.status for run, record in found.items() if run != "trial-3"} <= {"complete", "pruned"}
    before = ("trial-0", "trial-1", "trial-2", "noise-0")
    assert [same(found[run]) for run in before] == [undisturbed[run] for run in before]
    assert not (tmp_path / "runs" / "trial-3").exists()


def test_a_full_disk_costs_a_run_its_checkpoint_and_nothing_else(setup, undisturbed, tmp_path):
    with Hit(setup, tmp_path / "runs", ("trial-0", 0, full_disk)) as executor:
        found = searched(executor)
    assert without_attempts(found) == undisturbed
    assert not any(record.attempts for record in found.values())
    assert list(tmp_path.glob("runs/*")) == []


def test_only_runs_that_were_stopped_at_a_rung_keep_a_checkpoint(setup, tmp_path):
    (tmp_path / "runs" / "trial-0").mkdir(parents=True)
    with Stopping(setup, tmp_path / "runs") as executor:
        found = searched(executor)
    stopped = {run: record for run, record in found.items() if record.status == "pruned"}
    assert set(stopped) == {"trial-4"}
    assert {path.parent.name for path in tmp_path.glob("runs/*/checkpoint.pt")} == set(stopped)
    assert {path.name for path in tmp_path.glob("runs/*/*")} == {"checkpoint.pt"}
    for run, record in stopped.items():
        state = torch.load(tmp_path / "runs" / run / "checkpoint.pt", weights_only=True)
        assert (state["step"] * BATCH, state["curve"]) == (record.tokens, record.curve)


def test_a_run_that_needs_too_much_memory_has_another_attempt_with_half_of_the_batch_at_a_time(setup, shards, tmp_path):
    """The limit is the first worker's alone, so that the second attempt has what it needs."""
    with Hit(setup, tmp_path / "runs", ("trial-0", 0, small_memory)) as executor:
        ledger = Ledger(LARGE, InMemoryStorage(), "s")
        search(LARGE, ledger, executor, lambda state: None, tmp_path / "runs")
    first, *others = ledger.records(SEARCH)
    (attempt,) = first.attempts
    assert attempt.startswith("out of memory: ")
    assert first.microbatch == 2 == LARGE.proxy.batch_size // 2
    assert first.status == "complete"
    assert {(record.microbatch, record.attempts) for record in others} == {(None, ())}
    config = setup.config.change(model=first.model, seed=first.seed, eval_steps=tuple(rung // BATCH for rung in first.rungs))
    whole, halves = (list(train(config.change(microbatch=microbatch), shards))[-1].curve for microbatch in (None, 2))
    assert first.curve == halves != whole
    assert [loss for _, loss in halves] == pytest.approx([loss for _, loss in whole], rel=0.01)


def follow(steps, stop_at=None):
    """All that a run tells, which is told to go on at every rung but one."""
    told, word = [], None
    while True:
        try:
            told.append(steps.send(word))
        except StopIteration:
            return told
        word = told[-1].tokens != stop_at if isinstance(told[-1], Advanced) and told[-1].at_rung else None


@pytest.fixture
def left(setup, shards, tmp_path):
    """The folder of a run whose worker died while it waited at its second rung."""
    steps = run_proxy(JOB, setup.config, shards, tmp_path / "run")
    message = next(steps)
    while message.tokens != RUNGS[1]:
        message = steps.send(True if message.at_rung else None)
    shutil.copytree(tmp_path / "run", tmp_path / "left")
    steps.close()
    return tmp_path / "left"


def test_a_run_goes_on_after_the_step_of_its_checkpoint_and_tells_its_curve_again(left, setup, shards):
    whole = follow(run_proxy(JOB, setup.config, shards))
    before = (left / "checkpoint.pt").stat().st_mtime_ns
    told = follow(run_proxy(JOB, setup.config, shards, left))
    assert same(told[-1]) == same(whole[-1])
    points = [message for message in told[:-1] if isinstance(message, Advanced)]
    assert [(point.tokens, point.loss_nats) for point in points] == list(whole[-1].curve)
    assert [point.tokens for point in points if point.at_rung] == [RUNGS[1]]
    assert (left / "checkpoint.pt").stat().st_mtime_ns == before  # a run from the start would have written both rungs' anew


def test_what_stands_in_the_checkpoint_is_what_is_trained_on(left, setup, shards):
    whole = follow(run_proxy(JOB, setup.config, shards))[-1]
    state = torch.load(left / "checkpoint.pt", weights_only=True)
    state["model"]["head.weight"].zero_()
    torch.save(state, left / "checkpoint.pt")
    changed = follow(run_proxy(JOB, setup.config, shards, left))[-1]
    places = [tokens <= RUNGS[1] for tokens, _ in whole.curve]
    assert [one == other for one, other in zip(whole.curve, changed.curve, strict=True)] == places
    assert {True, False} == set(places)


def test_a_run_that_is_stopped_at_the_rung_of_its_checkpoint_is_not_trained_again(left, setup, shards):
    expected = follow(run_proxy(JOB, setup.config, shards), RUNGS[1])[-1]
    told = follow(run_proxy(JOB, setup.config, shards, left), RUNGS[1])[-1]
    assert (told.status, told.tokens) == ("pruned", RUNGS[1])
    assert same(told) == same(expected)
    assert told.measured.train_seconds == 0


@pytest.mark.parametrize("other", ["seed", "model", "data", "learning rate"])
def test_a_checkpoint_of_something_else_is_not_gone_on_from(other, left, setup, shards):
    its, config, data = JOB, setup.config, shards
    if other == "seed":
        its = JOB.change(seed=3)
    elif other == "model":
        its = JOB.change(model=JOB.model.change(rope_theta=100.0))
    elif other == "data":
        data = replace(shards, content="other")
    else:
        config = config.change(optim=config.optim.change(lr=1e-3))
    expected = follow(run_proxy(its, config, data))[-1]
    assert same(follow(run_proxy(its, config, data, left))[-1]) == same(expected)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil(path):
    """Bytes in the middle are others, as on a failing disk."""
    whole = bytearray(path.read_bytes())
    for place in range(len(whole) // 2, len(whole) // 2 + 512):
        whole[place] ^= 255
    path.write_bytes(whole)


def only_a_draft(path):
    path.rename(path.with_suffix(".draft"))


@pytest.mark.parametrize("damage", [cut, spoil, only_a_draft])
def test_a_damaged_checkpoint_is_not_gone_on_from(damage, left, setup, shards):
    expected = follow(run_proxy(JOB, setup.config, shards))[-1]
    damage(left / "checkpoint.pt")
    assert same(follow(run_proxy(JOB, setup.config, shards, left))[-1]) == same(expected)


@pytest.mark.parametrize("is_there", [True, False], ids=["checkpoint", "no checkpoint"])
def test_a_stopped_run_that_is_taken_up_again_comes_to_where_it_would_have_come_and_trains_only_the_rest(
    is_there, setup, shards, tmp_path
):
    whole = follow(run_proxy(JOB, setup.config, shards))[-1]
    stopped = follow(run_proxy(JOB, setup.config, shards, tmp_path / JOB.run), RUNGS[0])[-1]
    assert stopped.status == "pruned"
    if not is_there:
        shutil.rmtree(tmp_path / JOB.run)
    again = JOB.change(run="trial-9", continues=JOB.run, continues_at=RUNGS[0])
    told = follow(run_proxy(again, setup.config, shards, tmp_path / "trial-9"))
    record = told[-1]
    assert (record.continues, record.continues_at) == (JOB.run, RUNGS[0])
    assert record.tokens_before == RUNGS[0] * is_there
    assert told[0].tokens == (RUNGS[0] if is_there else whole.curve[0][0])
    assert same(record.change(run=JOB.run, continues=None, continues_at=0, tokens_before=0)) == same(whole)
    assert not (tmp_path / JOB.run).exists()


def test_checkpoints_of_stopped_runs_are_bounded_the_oldest_going_first_and_those_in_use_staying(tmp_path):
    for number in range(5):
        path = tmp_path / f"trial-{number}" / "checkpoint.pt"
        path.parent.mkdir()
        path.write_bytes(bytes(100))
        os.utime(path, (number, number))
    used = [JOB.change(run="trial-0"), JOB.change(run="trial-9", continues="trial-1")]
    trim(tmp_path, used, 200)
    assert {path.name for path in tmp_path.iterdir()} == {"trial-0", "trial-1", "trial-3", "trial-4"}
    trim(tmp_path, [], 400)
    assert len(list(tmp_path.iterdir())) == 4
    trim(tmp_path / "nowhere", [], 0)
