import json
import math

import pytest
from lpanas.lpa.config import UserError
from lpanas.search import live
from lpanas.search.executor import Seat
from lpanas.search.record import Trained
from lpanas.search.study import State
from making import arm_records, job, stop_at, tiny_space
from scripted import Kept


def state_of(*losses, running=("trial-4",), settings=(), workers=2):
    """A search whose arms have ended with these losses, each after 2 s and 640 tokens, and that trains these runs."""
    space = tiny_space(*settings)
    state = State(space, arm_records(space, *losses), [])
    state.running = {run: job(space.arm("both"), run) for run in running}
    seats = [Seat(str(n), "cpu", run) for n, run in enumerate(running)]
    seats += [Seat(str(n), "cpu", None) for n in range(len(running), workers)]
    state.seats = lambda: tuple(seats)
    return state


def test_a_moment_says_what_each_worker_trains_and_how_far_it_is():
    state = state_of(3.0)
    state.curves["trial-4"] = {320: 4.5}
    state.progress["trial-4"] = Trained("trial-4", 400, 50.0)
    training, idle = live.moment(state, "searching").workers
    assert (training.run, training.tokens, training.of, training.loss_nats) == ("trial-4", 400, 640, 4.5)
    assert (training.tokens_per_second, training.placement) == (50.0, state.running["trial-4"].placement)
    assert (idle.worker, idle.run) == ("1", None)


def test_a_loss_that_is_no_number_is_left_out():
    state = state_of(3.0)
    state.curves["trial-4"] = {320: math.nan}
    assert live.moment(state, "searching").workers[0].loss_nats is None


def test_the_time_left_is_that_of_what_is_left_to_train():
    """Seven runs are planned, three have ended at 2 s each and one is half way: three and a half on two workers."""
    state = state_of(3.0, 3.1, 3.2)
    state.curves["trial-4"] = {320: 4.5}
    assert live.seconds_left(state) == pytest.approx(3.5 * 2.0 / 2)


def test_a_last_run_takes_its_time_however_many_workers_are_idle():
    state = state_of(*([3.0] * 4), settings=("search.trials=4", "search.noise_seeds=2"), workers=8)
    assert live.seconds_left(state) == pytest.approx(2.0)


def test_another_attempt_starts_at_nothing():
    state = state_of(3.0)
    state.curves["trial-4"] = {320: 4.5}
    state.running["trial-4"] = state.running["trial-4"].change(attempts=("lost",))
    again = live.moment(state, "searching").workers[0]
    assert (again.tokens, again.loss_nats, again.attempt) == (0, None, 2)


def test_the_time_left_is_not_foretold_before_a_run_has_ended():
    assert live.seconds_left(state_of()) is None


@pytest.mark.parametrize(
    ("setting", "runs"),
    [("search.tokens=3200", 2), ("search.tokens=1920", 1), ("search.trials=4", 2)],
)
def test_the_time_left_keeps_to_the_budget(setting, runs):
    """Three runs have ended, one is under way: so many more, itself included, on one worker."""
    state = state_of(3.0, 3.1, 3.2, settings=(setting, "search.noise_seeds=2"), workers=1)
    assert live.seconds_left(state) == pytest.approx(2.0 * runs)


def test_no_more_time_is_left_than_the_minutes_and_a_last_run_take():
    state = state_of(3.0, 3.1, settings=("search.minutes=1e-3", "search.trials=100"), workers=1)
    assert live.seconds_left(state) == pytest.approx(2.0, abs=0.1)


def test_a_search_that_stops_waits_for_nothing_new():
    state = state_of(3.0, 3.1, workers=1)
    state.stopping = True
    assert live.seconds_left(state) == pytest.approx(2.0)


def test_a_search_writes_how_it_goes_and_that_it_has_ended(tmp_path):
    phases = []
    with live.written(tmp_path) as write:

        def watch(state):
            write(state)
            phases.append(live.read(tmp_path).phase)

        state = Kept().search(watch=watch)
    assert set(phases) == {"searching"}
    last = live.read(tmp_path)
    assert (last.phase, last.done, last.workers, last.tokens) == ("ended", state.done, (), state.tokens)


def test_a_search_that_is_stopped_says_so(tmp_path):
    with pytest.raises(KeyboardInterrupt), live.written(tmp_path) as write:
        Kept().search(watch=lambda state: (write(state), stop_at(2)(state)))
    assert live.read(tmp_path).phase == "stopped"


def test_a_folder_that_cannot_be_written_costs_the_search_nothing(tmp_path):
    with live.written(tmp_path / "gone") as write:
        state = Kept().search(watch=write)
    assert state.done == state.planned
    assert live.read(tmp_path / "gone") is None


def test_a_file_that_is_not_ours_is_one_line(tmp_path):
    (tmp_path / live.LIVE).write_text(json.dumps({"name": 3}))
    with pytest.raises(UserError, match=r"live\.json: name: "):
        live.read(tmp_path)
