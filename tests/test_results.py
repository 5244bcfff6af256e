import math
import statistics

import numpy as np
import pytest
from lpanas.lpa.config import UserError
from lpanas.search.results import Results, write_tables
from lpanas.search.stored import read_records
from making import arm_records, ended, job, point, record, tiny_space

SPACE = tiny_space()
SEEDS = [ended(job(SPACE.arm("dense"), f"noise-{n}", seed=n + 1), loss) for n, loss in enumerate((3.02, 3.04))]
MIXED = [
    record(0, 3.00, 100, arm="dense"),
    record(1, 3.30, 60, arm="attention"),
    record(2, 3.05, 70),
    record(3, 3.05, 70),
    record(4, 3.06, 95),
    record(5, None, 10, status="diverged", reason="the training loss was nan"),
    record(6, 2.00, 10, feasible=False),
]
FOUND = Results(SPACE, MIXED, SEEDS)
RESOLVABLE = 4.30265 * math.sqrt(2) * 0.02  # t(0.975, 2) from a printed table, of the losses 3.00, 3.02 and 3.04


def runs(records):
    return [record.run for record in records]


def test_the_front_holds_the_non_dominated_feasible_complete_records_lowest_loss_first():
    assert runs(FOUND.front) == ["trial-0", "trial-2", "trial-3", "trial-1"]


def test_the_front_follows_the_objectives_of_the_space():
    records = [its.change(costs={**its.costs, "params": 200 - its.costs["params"]}) for its in MIXED]
    found = Results(tiny_space("objectives=[loss_nats, params]"), records, [])
    assert runs(found.front) == ["trial-0"]
    assert runs(Results(tiny_space("objectives=[loss_nats]"), MIXED, []).front) == ["trial-0"]


def test_the_winner_is_the_knee_of_the_front():
    # loss and cost scaled over the front: (0, 1), (1/6, 1/4), (1/6, 1/4), (1, 0)
    assert FOUND.winner.run == "trial-2"


def test_delta_is_the_loss_less_the_dense_arms():
    assert FOUND.delta(MIXED[1]) == pytest.approx(0.3)
    assert FOUND.delta(MIXED[0]) == 0
    assert FOUND.delta(MIXED[5]) is None
    assert Results(SPACE, MIXED[1:], SEEDS).delta(MIXED[1]) is None


def test_the_noise_is_that_of_the_dense_arm_and_its_further_seeds():
    losses = [3.00, 3.02, 3.04]
    assert FOUND.noise.n == 3
    assert FOUND.noise.mean_nats == pytest.approx(statistics.fmean(losses))
    assert FOUND.noise.std_nats == pytest.approx(statistics.stdev(losses))


def test_a_seed_without_a_loss_is_left_out_of_the_noise():
    lost = ended(job(SPACE.arm("dense"), "noise-2", seed=3))
    assert Results(SPACE, MIXED, [*SEEDS, lost]).noise == FOUND.noise
    assert Results(SPACE, MIXED, [lost]).noise is None


def test_a_run_is_told_from_dense_when_it_differs_by_more_than_is_resolvable():
    losses = {
        3.0 + 0.99 * RESOLVABLE: "tied",
        3.0 - 0.99 * RESOLVABLE: "tied",
        3.0 + 1.01 * RESOLVABLE: "worse",
        3.0 - 1.01 * RESOLVABLE: "better",
    }
    assert [FOUND.against_dense(record(9, loss, 1)) for loss in losses] == list(losses.values())
    assert FOUND.against_dense(MIXED[0]) == ""
    assert FOUND.against_dense(MIXED[5]) == "unknown"
    assert Results(SPACE, MIXED, []).against_dense(MIXED[1]) == "unknown"


def test_tied_are_the_other_complete_records_within_what_is_resolvable():
    losses = (3.0, 3.0 + 0.99 * RESOLVABLE, 3.0 - 0.99 * RESOLVABLE, 3.0 + 1.01 * RESOLVABLE)
    records = [record(0, 3.0, 1, arm="dense"), *(record(number, loss, 1) for number, loss in enumerate(losses, 1)), MIXED[5]]
    assert runs(Results(SPACE, records, SEEDS).tied(records[0])) == ["trial-1", "trial-2", "trial-3"]
    assert FOUND.tied(MIXED[5]) == Results(SPACE, MIXED, []).tied(MIXED[2]) == []


def test_tied_with_the_front_are_those_that_would_be_on_it_with_the_noise_to_their_credit():
    random = np.random.default_rng(0)
    rows = [record(n, 2 + random.random(), int(random.integers(50, 100))) for n in range(40)]
    seeds = [record(90, rows[0].loss_nats + 0.02, 100), record(91, rows[0].loss_nats + 0.04, 100)]
    found = Results(SPACE, [rows[0].change(arm="dense"), *rows[1:-1], rows[-1].change(feasible=False)], seeds)
    credit = found.noise.resolvable_nats
    wanted = []
    for one in found.records:
        lower = record(99, one.loss_nats - credit, one.costs["params"])
        others = [its for its in found.records[:-1] if its.run != one.run]
        if one.feasible and one not in found.front and lower in Results(SPACE, [*others, lower], []).front:
            wanted.append(one)
    assert found.tied_with_front == wanted
    assert 0 < len(wanted) < 39 - len(found.front)
    assert Results(SPACE, rows, []).tied_with_front == []


@pytest.mark.parametrize(
    ("which", "run"),
    [("knee", "trial-2"), ("loss", "trial-0"), ("cost", "trial-1"), ("4", "trial-4"), ("trial-1", "trial-1"), ("6", "trial-6")],
)
def test_a_record_is_picked_by_its_place_on_the_front_or_by_its_number(which, run):
    assert FOUND.pick(which).run == run


def test_a_stopped_run_is_picked_by_the_run_that_went_on_with_it():
    behind = {"status": "pruned", "reason": "behind at 320 tokens"}
    others = [SPACE.candidate(point("dense", fraction)) for fraction in ("1/2", "1/4")]
    stopped = [ended(job(one, f"trial-{n}")).change(**behind) for n, one in enumerate(others)]
    ends = ended(job(others[1], "trial-7"), 3.1).change(continues="trial-1")
    found = Results(SPACE, [*stopped, ended(job(SPACE.arm("dense"), "trial-2", "dense"), 3.0), ends], [])
    with pytest.raises(UserError, match=r": behind at 320 tokens; trial-7 is the same placement, complete: --pick 7$"):
        found.pick("1")
    with pytest.raises(UserError, match=r": behind at 320 tokens$"):
        found.pick("trial-0")


@pytest.mark.parametrize(
    ("which", "message"),
    [("7", "trial-0 to trial-6"), ("kne", "knee, loss, cost"), ("-1", "no such run"), ("5", "diverged: the tr")],
)
def test_a_record_that_is_not_there_or_has_no_loss_is_not_picked(which, message):
    with pytest.raises(UserError, match=message):
        FOUND.pick(which)


def test_a_study_without_a_complete_record_has_no_front_no_winner_and_no_noise():
    found = Results(SPACE, [ended(job(SPACE.arm("dense"), arm="dense"))], [])
    assert (found.complete, found.front, found.winner, found.noise) == ([], [], None, None)
    assert found.delta(found.records[0]) is None
    for which in ("knee", "loss", "cost", "0"):
        with pytest.raises(UserError):
            found.pick(which)


def test_a_study_without_records_says_so_when_asked_for_one():
    with pytest.raises(UserError) as error:
        Results(SPACE, [], []).pick("3")
    assert "--1" not in str(error.value)


def test_a_study_in_which_every_run_breaks_a_limit_has_no_winner():
    assert Results(SPACE, [MIXED[6]], []).winner is None


def test_a_row_of_the_table_says_what_its_record_says():
    its = ended(job(SPACE.candidate(point("1/4", "1/2")), "trial-4"), 3.5)
    arms = arm_records(SPACE, 3.0)
    row = Results(SPACE, [*arms, its], SEEDS).table([its]).iloc[0]
    assert (row.run, row.arm, row.sublayers, row.status) == ("trial-4", "", "both", "complete")
    assert (row.loss_nats, row.perplexity) == (3.5, pytest.approx(math.exp(3.5)))
    assert (row.delta_nats, row.against_dense) == (pytest.approx(0.5), "worse")
    assert row.flops_per_token == its.costs["flops_per_token"]
    assert row.params_share == pytest.approx(its.costs["params"] / SPACE.arm("dense").costs["params"])
    assert (row.placement, row.proxy_placement) == (its.target.placement.text, its.model.placement.text)
    assert (row.d_ff, row.proxy_d_ff, row.seed, row.tokens, row.seconds) == (192, 48, 0, 640, 2.0)


def test_the_table_has_a_row_a_record_in_their_order_with_units_in_the_names():
    table = FOUND.table([*MIXED, *SEEDS])
    assert list(table["run"]) == runs([*MIXED, *SEEDS])
    assert {"loss_nats", "bits_per_byte", "flops_per_token", "params", "memory_bytes", "tokens", "seconds"} <= set(table)


def test_records_jsonl_reads_back_to_equal_records(tmp_path):
    write_tables(FOUND, tmp_path)
    assert read_records(tmp_path / "records.jsonl") == [*MIXED, *SEEDS]


def test_a_loss_whose_perplexity_is_more_than_a_float_can_hold_is_a_row_like_any_other():
    huge = record(0, 1e4, 100)
    assert Results(SPACE, [huge], []).table([huge]).iloc[0].loss_nats == 1e4


def test_the_tokens_of_a_stopped_run_that_was_taken_up_again_count_once():
    stopped = [record(n, None, 10, status="pruned", tokens=100) for n in (7, 8)]
    again = record(9, 3.1, 10, tokens=400, tokens_before=100, continues="trial-7")
    found = Results(SPACE, [*stopped, again], [])
    assert found.tokens == 100 + 100 + 300
    assert list(found.table([*stopped, again])["continues"]) == ["", "", "trial-7"]


def test_a_front_of_one_run_or_two_is_not_said_to_have_a_knee():
    two = [record(0, 3.0, 100, arm="dense"), record(1, 3.3, 60)]
    assert Results(SPACE, two[:1], []).winner_words == "the only run on the front"
    assert Results(SPACE, two, []).winner_words == "an end of the front, which has no knee"
    assert FOUND.winner_words == "the knee of the front"
