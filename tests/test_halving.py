"""The driver with runs that cost nothing: halving, budgets, listed placements, refused proposals."""

from hashlib import sha256

import pytest
from lpanas.search.budget import SAMPLERS
from lpanas.search.ledger import NOISE, SEARCH
from making import tiny_space
from optuna.trial import TrialState
from scripted import BANDS, END, RUNG, SPREAD, Kept, Scripted, by_params


def models(records):
    return [(record.model.model_dump_json(), record.seed) for record in records]


def pruned(records):
    return [record for record in records if record.status == "pruned"]


def test_a_proposal_that_is_behind_at_a_rung_is_stopped_there_and_kept_as_pruned():
    study = Kept()
    state = study.search(*SPREAD)
    stopped = pruned(state.records)
    assert 0 < len(stopped) < 20
    for record in stopped:
        assert (record.tokens, record.loss_nats, record.bits_per_byte) == (RUNG, None, None)
        assert record.curve == ((RUNG, by_params(record, RUNG)),)
        assert record.arm is record.listed is None
    ledger = study.ledger(*SPREAD)
    trials = ledger.storage.get_all_trials(ledger.studies[SEARCH])
    expected = {"pruned": TrialState.PRUNED, "complete": TrialState.COMPLETE}
    assert [trial.state for trial in trials] == [expected[record.status] for record in state.records]
    assert [record.status for record in state.records[:4] + state.noise] == ["complete"] * 5


def test_the_worst_arm_and_the_worst_noise_seeds_are_never_stopped():
    """Every proposal is better than all arms, and the last seed is the worst of all."""
    study = Kept()
    state = study.search(
        *SPREAD, "search.noise_seeds=4", executor=Scripted(lambda job, tokens: 9.0 - (job.arm is None) + job.seed)
    )
    assert {record.status for record in state.records[:4] + state.noise} == {"complete"}
    assert len(state.noise) == 3


def test_a_run_that_is_clearly_the_best_at_the_rung_is_not_stopped_and_the_clearly_worst_is():
    order = []

    def loss(job, tokens):
        if job.run not in order:
            order.append(job.run)
        if job.arm is not None or job.run.startswith(NOISE):
            return 6.0 + 1e-3 * job.seed
        return 9.0 if int(job.run[6:]) % 2 else 5.0 - 0.1 * len(order)

    state = Kept().search(*SPREAD, "objectives=[loss_nats]", executor=Scripted(loss))
    proposals = state.records[4:]
    worst = {record.run for record in proposals if int(record.run[6:]) % 2 and record.continues is None}
    assert {record.run for record in pruned(proposals)} == worst


def test_without_rungs_nothing_is_asked_or_stopped():
    study = Kept()
    state = study.search(*SPREAD, "search.rungs=0")
    assert study.executor.asked == []
    assert {(record.status, record.tokens) for record in state.records} == {("complete", END)}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_seed_gives_the_same_runs_with_every_sampler_those_that_are_stopped_included(sampler):
    settings = (*SPREAD, "search.trials=12", f"search.sampler={sampler}")
    first, again = Kept().search(*settings), Kept().search(*settings)
    assert first.records == again.records
    assert pruned(first.records)
    assert len(set(models(first.records))) == 12


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_a_search_that_is_stopped_at_any_time_comes_to_the_records_of_an_undisturbed_one_with_runs_stopped_at_rungs(sampler):
    settings = (*SPREAD, "search.trials=12", f"search.sampler={sampler}")
    undisturbed, study, calls = Kept(), Kept(), iter(range(10**6))

    def interrupt(state):
        if next(calls) % 17 == 16:
            raise KeyboardInterrupt

    undisturbed.search(*settings)
    interrupted = 0
    while True:
        try:
            study.search(*settings, watch=interrupt)
            break
        except KeyboardInterrupt:
            interrupted += 1
    assert interrupted > 1
    assert pruned(study.records(*settings))
    assert study.records(*settings) == undisturbed.records(*settings)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_when_all_is_tried_what_was_stopped_is_taken_up_until_each_candidate_is_trained_to_the_end(sampler):
    study = Kept()
    settings = ("vary.ranks={q: [dense, 1/4], k: [dense, 1/4], ffn: [dense, 1/2, 1/4]}", BANDS, "search.trials=1000")
    state = study.search(*settings, f"search.sampler={sampler}", "search.noise_seeds=4")
    stopped = {record.run: record for record in pruned(state.records)}
    again = {record.continues: record for record in state.records if record.continues is not None}
    assert state.exhausted
    assert stopped
    assert again.keys() == stopped.keys()
    for run, record in again.items():
        assert record.model == stopped[run].model
        assert record.status == "complete"
        assert (record.tokens, record.tokens_before) == (END, RUNG)
        assert record.curve[0] == stopped[run].curve[0]
    complete = [record for record in state.records if record.status == "complete"]
    assert len(set(models(complete))) == len(complete) == len(set(models(state.records)))
    assert state.tokens == END * (len(complete) + len(state.noise))


def test_a_stopped_run_that_is_foreseen_to_gain_most_is_taken_up_before_all_is_tried():
    """All runs are alike at the rung but for chance, and differ at the end: what was stopped there was as good as any."""

    def loss(job, tokens):
        chance = int(sha256(f"{job.model.placement.text} {job.model.d_ff}".encode()).hexdigest(), 16) % 1000 / 1000
        worth = 0.0 if tokens == RUNG else 10 * job.costs["params"] / 1e6
        return 5 + chance + worth + 1e-3 * job.seed

    state = Kept().search(BANDS, "search.trials=40", "vary.rebalance=[none, params]", executor=Scripted(loss))
    places = [place for place, record in enumerate(state.records) if record.continues is not None]
    assert places
    assert not state.exhausted
    assert any(record.continues is None for record in state.records[places[0] + 1 :])


def test_a_run_that_is_taken_up_again_but_has_lost_its_checkpoint_is_not_stopped_where_it_was_before():
    class Forgetful(Scripted):
        def submit(self, job):
            self.checkpoints.clear()
            super().submit(job)

    state = Kept().search(*SPREAD, "search.trials=1000", "search.sampler=random", executor=Forgetful())
    again = [record for record in state.records if record.continues is not None]
    assert again
    assert {(record.status, record.tokens, record.tokens_before) for record in again} == {("complete", END, 0)}


LISTED = "search.placements=[{ranks: {attention: 1/4, ffn: 1/4}}, {ranks: {attention: [dense, 1/4]}}, {ranks: {q: 1/4}}]"


def test_listed_placements_are_trained_after_the_arms_and_the_noise_and_never_stopped():
    """One in the space, one with a rank a band, one outside of the space."""
    settings = (BANDS, LISTED, "search.trials=12")
    begun = []
    state = Kept().search(
        *settings,
        executor=Scripted(lambda job, tokens: 3.0 + 5 * (job.listed is not None) + 1e-3 * job.seed),
        watch=lambda state: begun.extend(run for run in state.running if run not in begun),
    )
    assert begun[:8] == [*(f"trial-{n}" for n in range(4)), "noise-0", "trial-4", "trial-5", "trial-6"]
    found = state.records[4:7]
    assert [record.listed for record in found] == list(tiny_space(*settings).search.placements)
    assert {record.status for record in found} == {"complete"}
    assert [record.target.placement.text for record in found] == [
        "0-3 q,k,v,o,gate,up,down=1/4",
        "0-1 dense; 2-3 q,k,v,o=1/4",
        "0-3 q=1/4",
    ]
    assert [bool(record.params) for record in found] == [True, True, False]
    assert found[1].params == found[0].params | {
        "rank attention band 0": "dense",
        "rank ffn band 0": "dense",
        "rank ffn band 1": "dense",
    }
    assert all(record.listed is None for record in state.records[:4] + state.records[7:])
    assert len(set(models(state.records))) == 12


def test_a_placement_that_is_an_arm_or_stands_twice_is_not_trained_again():
    settings = ("search.trials=6", "search.placements=[{ranks: {attention: 1/4}}, {ranks: {ffn: 1/4}}]")
    study = Kept()
    records = study.search(*settings).records
    assert [record.listed is not None for record in records] == [False] * 4 + [True, False]
    twice = "search.placements=[{ranks: {ffn: 1/4}}, {ranks: {'gate,up,down': [1/4, 1/4]}}]"
    assert [record.listed is not None for record in Kept().search("search.trials=6", twice).records].count(True) == 1
    study.search("search.trials=6", twice)
    assert study.records(*settings)[:6] == records


def test_a_placement_above_the_limits_is_trained_as_it_was_asked_for():
    settings = ("limits.params=0.8 x dense", "search.placements=[{ranks: {q: 1/4}}]")
    (listed,) = [record for record in Kept().search(*settings).records if record.listed]
    assert (listed.feasible, listed.status) == (False, "complete")


@pytest.mark.parametrize("tokens", [1 * END, 5.5 * END, 9 * END, 12.3 * END])
def test_the_tokens_of_a_search_are_never_exceeded_and_end_it_when_no_whole_run_fits(tokens):
    spent = []
    state = Kept().search(*SPREAD, f"search.tokens={int(tokens)}", watch=lambda state: spent.append(state.tokens))
    trained = sum(record.tokens - record.tokens_before for record in [*state.records, *state.noise])
    assert state.tokens == trained <= tokens < trained + END
    assert max(spent, default=0) <= tokens
    assert not state.exhausted


def test_more_tokens_go_on_from_where_fewer_ended():
    study, whole = Kept(), Kept()
    for tokens in (3000, 6000):
        study.search(*SPREAD, f"search.tokens={tokens}")
    whole.search(*SPREAD, "search.tokens=6000")
    assert study.records(*SPREAD) == whole.records(*SPREAD)


@pytest.mark.parametrize(
    ("limits", "word"), [((), "the model of trial-"), (("limits.params=0.8 x dense",), "above the limit of params")]
)
def test_what_was_refused_stands_with_its_reason_in_the_next_job(limits, word):
    settings = ("search.sampler=random", "search.trials=40", *limits)
    study = Kept()
    study.search(*settings)
    records = study.records(*settings)
    refused = [(record, refusal) for record in records for refusal in record.refused]
    assert any(refusal.why.startswith(word) for _, refusal in refused)
    space = tiny_space(*settings)
    before = {record.run: record.model for record in records}
    for record, refusal in refused:
        candidate = space.candidate(refusal.params)
        if refusal.why.startswith("the model of "):
            other = refusal.why.removeprefix("the model of ")
            assert before[other] == candidate.proxy
            assert int(other[6:]) < int(record.run[6:])
        else:
            assert candidate.costs["params"] > 0.8 * space.dense_costs["params"]
    assert not any(record.refused for record in records if record.arm or record.run.startswith(NOISE))
