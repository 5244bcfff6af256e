import json

import optuna
import pytest
from lpanas.lpa.config import UserError
from lpanas.search.ledger import NOISE, SEARCH, Ledger, open_ledger
from making import arm_records, ended, job, point, same, tiny_space
from optuna.storages import RDBStorage
from optuna.trial import TrialState

SPACE = tiny_space()
WAYS = [point("1/4"), point("dense", "1/2"), point("1/4", "1/4")]
JOBS = [job(SPACE.candidate(params), f"trial-{number}") for number, params in enumerate(WAYS)]
SEED = job(SPACE.arm("dense"), "noise-0", seed=1)


class Killed(BaseException):
    pass


class Dying(RDBStorage):
    """A database whose client is killed just before a write: of a kind of attribute, or of the end of a trial."""

    before = ""

    def set_trial_user_attr(self, trial_id, key, value):
        if key == self.before:
            raise Killed
        super().set_trial_user_attr(trial_id, key, value)

    def set_trial_state_values(self, trial_id, state, values=None):
        if self.before == "end":
            raise Killed
        return super().set_trial_state_values(trial_id, state, values)


def opened(url, space=SPACE):
    return open_ledger(space, url, "s")


def trials(url, name="s trial"):
    return optuna.load_study(storage=url, study_name=name).trials


def test_jobs_that_were_not_told_come_back_in_order_and_equal(url):
    ledger = opened(url)
    for written in JOBS:
        ledger.add(SEARCH, written)
    ledger.add(NOISE, SEED)
    ledger.tell(ended(JOBS[1], 3.0))
    again = opened(url)
    assert again.recover() == [JOBS[0], JOBS[2], SEED]
    assert (again.count(SEARCH), again.count(NOISE)) == (3, 1)
    assert [trial.state for trial in trials(url)] == [TrialState.RUNNING, TrialState.COMPLETE, TrialState.RUNNING]


def test_a_record_whose_trial_was_not_told_is_told_and_not_trained_again(url):
    storage = Dying(url)
    ledger = Ledger(SPACE, storage, "s")
    ledger.add(SEARCH, JOBS[0])
    ledger.add(SEARCH, JOBS[1])
    storage.before = "end"
    for record in (ended(JOBS[0], 3.0), ended(JOBS[1], reason="lost")):
        with pytest.raises(Killed):
            ledger.tell(record)
    assert {trial.state for trial in trials(url)} == {TrialState.RUNNING}
    again = opened(url)
    assert again.recover() == []
    assert again.records(SEARCH) == [ended(JOBS[0], 3.0), ended(JOBS[1], reason="lost")]
    assert [trial.state for trial in trials(url)] == [TrialState.COMPLETE, TrialState.FAIL]
    assert opened(url).recover() == []


def test_a_job_whose_record_was_not_written_is_trained_again(url):
    storage = Dying(url)
    ledger = Ledger(SPACE, storage, "s")
    ledger.add(SEARCH, JOBS[0])
    storage.before = "record"
    with pytest.raises(Killed):
        ledger.tell(ended(JOBS[0], 3.0))
    again = opened(url)
    assert (again.recover(), again.records(SEARCH)) == ([JOBS[0]], [])
    again.tell(ended(JOBS[0], 3.5))
    assert opened(url).records(SEARCH) == [ended(JOBS[0], 3.5)]


def test_records_come_back_equal_and_by_number_however_they_ended(url):
    ledger = opened(url)
    written = [ended(JOBS[0], 0.1 + 0.2), ended(JOBS[1], status="diverged", reason="the loss was nan"), ended(JOBS[2])]
    for record, its in zip(written, JOBS, strict=True):
        ledger.add(SEARCH, its)
        assert record.run == its.run
    for record in reversed(written):
        ledger.tell(record)
    ledger.add(NOISE, SEED)
    ledger.tell(ended(SEED, 3.2))
    assert opened(url).records(SEARCH) == ledger.records(SEARCH) == written
    assert opened(url).records(NOISE) == [ended(SEED, 3.2)]


def test_optuna_sees_complete_records_with_their_objectives_and_the_others_as_failed(url):
    space = tiny_space("objectives=[loss_nats, params, flops_per_token]")
    ledger = opened(url, space)
    for its in JOBS:
        ledger.add(SEARCH, its)
    ledger.tell(ended(JOBS[0], 3.0))
    ledger.tell(ended(JOBS[1], status="diverged"))
    ledger.tell(ended(JOBS[2], status="failed"))
    found = trials(url)
    assert [trial.state for trial in found] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL]
    assert found[0].values == [3.0, JOBS[0].costs["params"], JOBS[0].costs["flops_per_token"]]
    assert [trial.params for trial in found] == WAYS


def test_an_arm_outside_of_the_space_and_a_noise_seed_are_trials_without_parameters(url):
    space = tiny_space("vary.ranks.attention=[dense, 1/8]")
    ledger = opened(url, space)
    arms = arm_records(space, 3.0, 3.1)
    for record in arms:
        ledger.add(SEARCH, job(space.arm(record.arm), record.run, record.arm))
        ledger.tell(record)
    ledger.add(NOISE, SEED)
    ledger.tell(ended(SEED, 3.2))
    assert [trial.params for trial in trials(url)] == [point(), {}]
    assert (trials(url, "s noise")[0].params, trials(url, "s noise")[0].values) == ({}, [3.2])
    assert list(map(same, opened(url, space).records(SEARCH))) == list(map(same, arms))


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("vary.bands=2", "vary.bands"),
        ("seed=1", "seed"),
        ("proxy.optim.lr=2e-2", "proxy.optim.lr"),
        ("vary.ranks.ffn=[dense, 1/2]", "vary.ranks.ffn"),
        ("target.model.d_ff=256", "target.model.d_ff"),
        ("limits.params=1e9", "limits.params"),
        ("name=other", "name"),
    ],
)
def test_another_spaces_study_is_refused_with_the_key_that_differs(url, setting, key):
    opened(url).check("data")
    with pytest.raises(UserError, match=rf" {key} "):
        opened(url, tiny_space(setting)).check("data")
    opened(url).check("data")


def test_a_study_with_a_limit_that_ours_lacks_is_refused_with_that_key(url):
    opened(url, tiny_space("limits.params=1e9")).check("data")
    with pytest.raises(UserError, match=r"limits\.params"):
        opened(url).check("data")


def test_a_study_on_other_data_is_refused(url):
    opened(url).check("some text")
    with pytest.raises(UserError, match="data"):
        opened(url).check("another text")


def test_another_budget_is_accepted_and_kept(url):
    opened(url).check("data")
    opened(url, tiny_space("search={trials: 9, sampler: random, minutes: 3}")).check("data")
    held = optuna.load_study(storage=url, study_name="s trial").user_attrs["made_from"]["space"]
    assert (held["search"]["trials"], held["search"]["sampler"]) == (9, "random")


def test_a_study_in_the_same_storage_under_another_name_is_another_one(url):
    opened(url).add(SEARCH, JOBS[0])
    assert open_ledger(SPACE, url, "t").count(SEARCH) == 0


@pytest.mark.parametrize("place", ["sqlite:////no/such/folder/study.db", "nonsense", "postgresql+nodriver://host/db"])
def test_a_storage_that_cannot_be_opened_is_one_line_with_its_url(place):
    with pytest.raises(UserError) as error:
        opened(place)
    assert str(error.value).startswith(f"--storage {place}: ")
    assert "\n" not in str(error.value)


def test_a_database_that_is_a_text_file_is_one_line_with_its_url(url, tmp_path):
    (tmp_path / "study.db").write_text("this is no database\n" * 100)
    with pytest.raises(UserError, match="--storage"):
        opened(url)


def test_what_is_stored_is_json_that_other_programs_can_read(url):
    ledger = opened(url)
    ledger.add(SEARCH, JOBS[0])
    ledger.tell(ended(JOBS[0], 3.0))
    attributes = trials(url)[0].user_attrs
    assert json.loads(attributes["job"])["run"] == "trial-0"
    assert json.loads(attributes["record"])["loss_nats"] == 3.0
