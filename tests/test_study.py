from itertools import pairwise

import pytest
from lpanas.lpa.config import UserError
from lpanas.search.budget import ARMS
from lpanas.search.executor import LocalExecutor, lost
from lpanas.search.ledger import NOISE, SEARCH, open_ledger
from lpanas.search.record import Advanced, Record
from lpanas.search.study import search
from making import plain, stop_at, tiny_space
from scripted import Crowd, Kept, Rungs

BANDS = "vary.bands=2"
PLAN = [*(f"trial-{number}" for number in range(6)), "noise-0"]


@pytest.fixture(scope="module")
def executor(setup):
    with LocalExecutor(setup, 1) as one:
        yield one


@pytest.fixture(scope="module")
def undisturbed(executor, tmp_path_factory):
    study = Study(f"sqlite:///{tmp_path_factory.mktemp('undisturbed')}/study.db")
    return study, study.search(executor)


class Study:
    """A study's database, opened anew for every search as a new process does."""

    def __init__(self, url):
        self.url, self.handed_out = url, []

    def search(self, executor, *settings, watch=lambda state: None):
        def note(state):
            self.handed_out += [run for run in state.running if run not in self.handed_out[-1:]]
            watch(state)

        space = tiny_space(BANDS, *settings)
        return search(space, open_ledger(space, self.url, "s"), executor, note)

    def records(self, *settings):
        ledger = open_ledger(tiny_space(BANDS, *settings), self.url, "s")
        return ledger.records(SEARCH) + ledger.records(NOISE)


def let_go(executor):
    """What a stopped driver's workers still had to tell is lost."""
    while executor.jobs:
        for message in executor.wait():
            if isinstance(message, Advanced) and message.at_rung:
                executor.answer(message.run, True)


def models(records):
    return [(record.model.model_dump_json(), record.seed) for record in records]


def test_a_search_trains_what_was_planned_arms_first_and_nothing_twice(undisturbed):
    study, state = undisturbed
    records = study.records()
    assert (state.done, state.planned, state.exhausted) == (7, 7, False)
    assert [record.run for record in records] == PLAN
    assert [record.arm for record in records] == [*ARMS, None, None, None]
    assert study.handed_out == [*PLAN[:4], "noise-0", *PLAN[4:6]]
    assert len(set(models(records))) == 7
    assert {record.status for record in records} == {"complete"}


def test_every_run_but_the_noise_seeds_has_the_seed_of_the_space(undisturbed):
    records = undisturbed[0].records()
    assert [record.seed for record in records] == [0] * 6 + [1]
    assert records[6].model == records[0].model
    assert records[6].loss_nats != records[0].loss_nats


def test_the_state_that_is_returned_holds_what_the_ledger_holds(undisturbed):
    study, state = undisturbed
    assert state.records + state.noise == study.records()
    assert state.running == state.curves == {}


def test_the_same_seed_gives_equal_records(executor, undisturbed, url):
    again = Study(url)
    again.search(executor)
    assert plain(again.records()) == plain(undisturbed[0].records())


def test_each_record_says_which_worker_trained_it_and_none_trained_two_at_once(two, url):
    study = Study(url)
    study.search(two)
    its = [record.measured for record in study.records()]
    assert {one.worker for one in its} == {"0, cpu", "1, cpu"}
    for worker in ("0, cpu", "1, cpu"):
        turns = sorted((one.started, one.started + one.seconds) for one in its if one.worker == worker)
        assert all(end <= start for (_, end), (start, _) in pairwise(turns))


def test_a_record_from_before_workers_were_noted_is_read_without_one(undisturbed):
    record = undisturbed[0].records()[0]
    text = record.model_dump_json().replace(f'"worker":"{record.measured.worker}",', "")
    assert "worker" not in text
    assert Record.parse_json(text, "an old record") == record.change(measured=record.measured.change(worker=""))


def test_a_finished_search_trains_nothing_when_it_is_started_again(executor, undisturbed):
    study, _ = undisturbed
    before, handed_out = study.records(), list(study.handed_out)
    state = study.search(executor)
    assert (state.done, state.done_before) == (7, 7)
    assert (study.records(), study.handed_out) == (before, handed_out)


@pytest.mark.parametrize("done", [0, 5])
def test_a_search_that_is_stopped_goes_on_to_what_it_would_have_been(executor, undisturbed, url, done):
    study = Study(url)
    with pytest.raises(KeyboardInterrupt):
        study.search(executor, watch=stop_at(done))
    let_go(executor)
    kept = study.records()
    assert len(kept) == done
    study.handed_out.clear()
    state = study.search(executor)
    records = study.records()
    assert (state.done, state.done_before) == (7, done)
    assert [record for record in records if record in kept] == kept
    assert sorted(study.handed_out) == sorted(set(PLAN) - {record.run for record in kept})
    assert plain(records) == plain(undisturbed[0].records())


def test_a_search_that_is_stopped_again_and_again_still_ends_at_the_same_records(executor, undisturbed, url):
    study = Study(url)
    for done in (1, 2, 4, 6):
        with pytest.raises(KeyboardInterrupt):
            study.search(executor, watch=stop_at(done))
        let_go(executor)
    study.search(executor)
    assert plain(study.records()) == plain(undisturbed[0].records())


def test_a_larger_budget_goes_on_from_the_runs_of_the_smaller(executor, undisturbed, url):
    study = Study(url)
    assert study.search(executor, "search.trials=4").done == 5
    first = study.records()
    study.search(executor)
    records = study.records()
    assert [record for record in records if record in first] == first
    assert plain(records) == plain(undisturbed[0].records())


def test_a_space_smaller_than_the_budget_ends_when_all_of_it_is_trained(executor, url):
    study, settings = Study(url), ("vary.bands=1", "search.trials=20")
    state = study.search(executor, *settings)
    records = study.records(*settings)
    assert state.exhausted
    assert len(records) == 2 * 3 + 1
    assert len(set(models(records))) == 2 * 3 + 1
    assert study.search(executor, *settings).exhausted
    assert study.records(*settings) == records


def test_no_run_starts_when_the_time_is_up(executor, url):
    study = Study(url)
    state = study.search(executor, "search.minutes=1e-12")
    assert (state.done, state.exhausted, study.handed_out, study.records()) == (0, False, [], [])


def test_a_run_that_is_under_way_when_the_time_is_up_is_finished_and_kept(executor, url):
    def an_hour_passes(state):
        if state.done == 3 and state.running:
            state.started -= 3600

    study = Study(url)
    state = study.search(executor, "search.minutes=60", watch=an_hour_passes)
    assert (state.done, len(study.records()), state.running) == (4, 4, {})


def test_time_that_is_up_loses_nothing_of_what_a_stopped_search_had_under_way(executor, undisturbed, url):
    study = Study(url)
    with pytest.raises(KeyboardInterrupt):
        study.search(executor, watch=stop_at(4))
    let_go(executor)
    kept = study.records()
    assert study.search(executor, "search.minutes=1e-12").done == 4
    assert study.records() == kept
    study.search(executor)
    assert plain(study.records()) == plain(undisturbed[0].records())


def test_a_search_whose_every_run_diverges_comes_to_its_end(executor, url):
    study, setting = Study(url), "proxy.model.rope_theta=1e-300"
    assert study.search(executor, setting).done == 7
    records = study.records(setting)
    assert {record.status for record in records} == {"diverged"}
    assert len(set(models(records))) == 7


def test_two_workers_reach_the_plan_with_nothing_trained_twice(two, url):
    study = Study(url)
    state = study.search(two, "search.trials=9")
    records = study.records()
    assert state.done == state.planned == len(set(models(records))) == 10
    assert [record.run for record in records] == [*(f"trial-{number}" for number in range(9)), "noise-0"]


def test_a_budget_without_room_for_the_four_arms_is_refused():
    with pytest.raises(UserError, match=r"search.trials: .*4, found 3"):
        tiny_space("search.trials=3")
    assert tiny_space("search.trials=4").search.trials == 4


FOUR = "vary.ranks={q: [dense, 1/4], k: [dense, 1/4], v: [dense, 1/4], gate: [dense, 1/4]}"
CROWD = (BANDS, FOUR, "search.trials=60", "search.sampler=random", "search.rungs=0")


@pytest.mark.parametrize(("workers", "ahead"), [(1, 0), (15, 0), (16, 1), (40, 2)])
def test_of_many_workers_one_in_sixteen_has_a_job_made_before_it_asks(workers, ahead):
    ready = []
    state = Kept().search(*CROWD, executor=Crowd(workers), watch=lambda state: ready.append(len(state.ready)))
    assert max(ready) == ahead
    assert (state.done, len(state.ready)) == (state.planned, 0)
    assert len({record.run for record in state.records}) == 60


@pytest.mark.parametrize("done", [1, 15, 30])
def test_a_job_that_was_made_ahead_is_trained_by_the_next_call(done):
    study, executor = Kept(), Crowd(40)
    waiting = set()

    def watch(state):
        waiting.update(job.run for job in state.ready)
        stop_at(done)(state)

    with pytest.raises(KeyboardInterrupt):
        study.search(*CROWD, executor=executor, watch=watch)
    state = study.search(*CROWD, executor=Crowd(40))
    assert waiting <= {record.run for record in state.records}
    assert (state.done, len({record.run for record in state.records})) == (state.planned, 60)


def test_jobs_that_are_made_ahead_keep_to_the_tokens():
    state = Kept().search(*CROWD, "search.tokens=32e3", executor=Crowd(40))
    assert state.tokens == 32_000
    assert len(state.ready) == 0


@pytest.mark.parametrize("workers", [1, 2, 15, 32, 48])
def test_in_a_space_that_is_spent_every_stopped_run_is_taken_up_again(workers):
    state = Kept().search(BANDS, "search.trials=400", "search.sampler=random", executor=Rungs(workers))
    stopped = {record.run for record in state.records if record.status == "pruned"}
    assert state.exhausted
    assert stopped
    assert {record.continues for record in state.records} - {None} == stopped


class Lost(Crowd):
    """All its workers are lost at once, in the middle of their first runs."""

    def wait(self, seconds=None):
        if seconds:
            held, self.held, self.wait = self.held, [], super().wait
            for job in held:
                yield lost(job, "its node is gone")


def test_a_node_that_is_lost_with_many_workers_before_any_run_has_ended_does_not_end_the_search():
    state = Kept().search(*CROWD, executor=Lost(12))
    assert state.done == state.planned
    assert sum(len(record.attempts) for record in (*state.records, *state.noise)) == 12
