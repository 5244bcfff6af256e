"""A confirmation without training: what each run would come to is a function of the arm, the rate and the seed."""

import math
from random import Random

import numpy as np
import pytest
from lpanas.lpa.config import UserError
from lpanas.search.conclude import conclude
from lpanas.search.confirm import check
from lpanas.search.course import Course
from lpanas.search.variants import variants
from made_up import Losses, ask, play, protocol_space
from scipy import stats

SEEDS = "confirm.seeds={first: 3, every: 1, most: 8}"


@pytest.fixture(scope="module")
def space():
    return protocol_space(SEEDS)


def told_apart(**arms):
    """Arms that differ by so much more than their seeds that the first look settles everything."""
    return Losses(arms={"dense": 2.0, "attention": 1.8, "ffn": 2.3, "both": 2.6} | arms, noise=1e-3)


def contest(found, text, match="width", size="proxy"):
    return next(one for one in found.comparisons if (one.text, one.size) == (text, size) and match in one.matches)


# which runs


def test_no_run_is_asked_for_twice_and_the_end_is_reached(space):
    records = play(space, told_apart())
    keys = [record.trained for record in records]
    assert len(set(keys)) == len(keys)
    assert Course(space, variants(space, {}), records).wanted() == []


def test_every_arm_has_its_rates_before_its_seeds_and_they_share_none(space):
    records = play(space, told_apart())
    sweep = {cell.seed for cell in ask(space, [])}
    assert sweep == {1000, 1001}
    course = Course(space, variants(space, {}), records)
    for one in course.variants:
        deciding = {cell.seed for cell in course.deciding(one, 8) if cell in course}
        assert len(deciding) == 3
        assert not deciding & sweep
    searched = {space.seed + n for n in range(space.search.noise_seeds)}
    assert not searched & {record.seed for record in records}


def test_dense_is_trained_once_for_all_matches():
    space = protocol_space(SEEDS, "confirm.matches=[width, params, flops]")
    records = play(space, told_apart())
    dense = [r for r in records if r.params["arm"] == "dense" and "control" not in r.params]
    assert len({r.model.model_dump_json() for r in dense}) == 1
    assert len(dense) == 3 * space.confirm.seeds.sweep + 3


def test_the_order_in_which_runs_end_changes_neither_the_runs_nor_what_they_say():
    space = protocol_space(SEEDS, "confirm.matches=[width, params]", "confirm.sizes=[{name: a, tokens: 128}, {name: b}]")
    losses = Losses(noise=0.05)
    one = play(space, losses)
    for seed in range(3):
        other = play(space, losses, at_once=7, random=Random(seed))
        assert {record.trained for record in other} == {record.trained for record in one}
        assert conclude(space, variants(space, {}), other) == conclude(space, variants(space, {}), one)


def test_it_goes_on_from_whatever_has_ended(space):
    whole = play(space, told_apart())
    for count in (0, 1, 10, len(whole) - 1):
        again = play(space, told_apart(), before=whole[:count])
        assert {record.trained for record in again} == {record.trained for record in whole}


# learning rates


@pytest.mark.parametrize(("best", "expected"), [(1.0, [0.5, 1, 2]), (2.0, [0.5, 1, 2, 4]), (0.25, [0.125, 0.25, 0.5, 1, 2])])
def test_rates_are_added_until_the_best_lies_inside(space, best, expected):
    course = Course(space, variants(space, {}), play(space, Losses(best_factor=best, noise=0)))
    sweep = course.sweep(course.variants[0])
    assert [rate.factor for rate in sweep.rates] == expected
    assert sweep.best.factor == best
    assert not sweep.at_edge


def test_rates_end_where_no_more_are_allowed(space):
    course = Course(space, variants(space, {}), play(space, Losses(best_factor=2.0**9, noise=0)))
    sweep = course.sweep(course.variants[0])
    assert [rate.factor for rate in sweep.rates] == [0.5, 1, 2, 4, 8, 16]
    assert sweep.at_edge


def test_a_rate_at_which_a_seed_diverges_is_not_chosen(space):
    losses = Losses(best_factor=2.0, noise=0, diverges=lambda arm, factor, seed: factor >= 2 and seed == 1001)
    course = Course(space, variants(space, {}), play(space, losses))
    assert course.sweep(course.variants[0]).best.factor == 1.0


def test_the_rate_is_chosen_on_validation_and_the_result_taken_on_test(space):
    losses = Losses(best_factor=1.0, noise=0.0, test_best_factor=0.5)
    found = conclude(space, variants(space, {}), play(space, losses))
    assert {round(arm.lr / space.proxy.optim.lr, 6) for arm in found.arms} == {1.0}
    arm = found.arms[0]
    assert arm.losses_nats == pytest.approx([losses.test("dense", None, 1.0, seed) for seed in arm.seeds])


# seeds


def test_clear_effects_are_settled_at_the_first_look_and_no_more_seeds_are_spent(space):
    found = conclude(space, variants(space, {}), play(space, told_apart()))
    assert [one.verdict for one in found.comparisons] == ["confirmed"] * 3
    assert {one.n for one in found.comparisons} == {3}
    assert [one.verdict for one in found.claims] == ["confirmed"]


def test_an_open_comparison_goes_on_alone_to_the_last_look(space):
    found = conclude(space, variants(space, {}), play(space, told_apart(attention=1.995)))
    by_text = {one.text: one for one in found.comparisons}
    assert by_text["attention better than ffn"].n == 3
    assert by_text["attention better than dense"].n <= 8
    assert {arm.arm: len(arm.seeds) for arm in found.arms if not arm.control}["both"] == 3


def test_seeds_that_come_for_others_do_not_change_what_was_settled():
    """Attention against both is clear at once; more seeds of either come for other comparisons."""
    space = protocol_space(
        SEEDS, "confirm.claim=[attention better than both, attention better than dense, ffn better than both]"
    )
    losses = Losses(arms={"dense": 2.0, "attention": 1.995, "ffn": 2.298, "both": 2.3}, noise=0.01)
    records = play(space, losses)
    course = Course(space, variants(space, {}), records)
    contests = course.contests("proxy", "claim")
    found = {one.text: one for one in conclude(space, variants(space, {}), records).comparisons}
    clear = found["attention better than both"]
    assert len(course.pairs(contests[0]).seeds) == 8
    assert clear.n < 8
    assert clear.verdict == "confirmed"
    assert clear.seeds == tuple(range(1002, 1002 + clear.n))
    assert clear.mean_nats == pytest.approx(np.mean(course.pairs(contests[0]).differences[: clear.n]))


def test_all_sizes_come_to_their_first_look_before_any_goes_on():
    space = protocol_space(SEEDS, "confirm.sizes=[{name: small, tokens: 128}, {name: large}]")
    records = play(space, Losses(noise=0.05))
    further = [place for place, record in enumerate(records) if record.seed > 1004]
    assert {records[place].params["size"] for place in further} == {"small", "large"}
    assert max(place for place, record in enumerate(records) if record.seed <= 1004) < min(further)


def test_without_a_difference_it_is_refuted_that_it_is_better_by_what_matters(space):
    losses = told_apart(attention=2.0)
    found = conclude(space, variants(space, {}), play(space, losses))
    assert contest(found, "attention better than dense").verdict == "refuted"
    assert [one.verdict for one in found.claims] == ["refuted"]


def test_the_differences_are_of_the_test_losses_seed_by_seed(space):
    losses = Losses(noise=0.02)
    found = conclude(space, variants(space, {}), play(space, losses))
    one = contest(found, "attention better than ffn")
    expected = [losses.test("attention", None, 1.0, seed) - losses.test("ffn", None, 1.0, seed) for seed in one.seeds]
    assert one.differences_nats == pytest.approx(expected)
    assert one.mean_nats == pytest.approx(np.mean(expected))
    interval = stats.ttest_1samp(expected, 0.0).confidence_interval(0.95)
    assert one.t_nats == pytest.approx((interval.low, interval.high))
    assert one.t_ppl_percent == pytest.approx([100 * (math.exp(end) - 1) for end in interval])
    assert one.t_p == pytest.approx(stats.ttest_1samp(expected, 0.0, alternative="less").pvalue)


def test_a_run_that_diverges_counts_as_guessing_and_one_that_fails_is_replaced(space):
    diverges = Losses(noise=1e-3, diverges=lambda arm, factor, seed: arm == "ffn" and seed == 1003)
    ffn = next(arm for arm in conclude(space, variants(space, {}), play(space, diverges)).arms if arm.arm == "ffn")
    assert ffn.losses_nats[1] == math.log(space.proxy.model.vocab_size)
    assert ffn.diverged == (1003,)
    fails = Losses(arms=told_apart().arms, noise=1e-3, fails=lambda arm, factor, seed: arm == "ffn" and seed == 1003)
    found = conclude(space, variants(space, {}), play(space, fails))
    assert contest(found, "attention better than ffn").seeds == (1002, 1004, 1005)
    assert contest(found, "attention better than ffn").left_out == (1003,)
    assert contest(found, "attention better than dense").seeds[:3] == (1002, 1003, 1004)


@pytest.mark.parametrize("what", ["diverges", "fails"])
def test_an_arm_that_never_trains_leaves_its_comparisons_open_and_ends_the_others(space, what):
    losses = Losses(arms=told_apart().arms, noise=1e-3, **{what: lambda arm, factor, seed: arm == "ffn"})
    found = conclude(space, variants(space, {}), play(space, losses))
    assert found.finished
    assert contest(found, "attention better than ffn").verdict == "inconclusive"
    assert contest(found, "attention better than ffn").n == 0
    assert contest(found, "attention better than dense").verdict == "confirmed"


def test_the_controls_have_as_many_seeds_as_the_first_look(space):
    found = conclude(space, variants(space, {}), play(space, Losses(noise=0.05)))
    assert {len(arm.seeds) for arm in found.arms if arm.control} == {3}
    assert len([arm for arm in found.arms if arm.control]) == 5
    effect = next(one for one in found.controls if one.control is None)
    assert effect.mean_nats == pytest.approx(contest(found, "attention better than dense").mean_nats)


def test_two_models_that_are_equal_at_two_matches_are_one_comparison_and_are_corrected_for_once():
    space = protocol_space(SEEDS, "confirm.matches=[width, params, flops]")
    records = play(space, Losses(noise=0.05))
    found = conclude(space, variants(space, {}), records)
    assert [one.matches for one in found.comparisons] == [("width",)] * 3 + [("params", "flops")] * 3
    assert {arm.matches for arm in found.arms if not arm.control} == {
        ("width", "params", "flops"),
        ("width",),
        ("params", "flops"),
    }
    without = space.change(confirm=space.confirm.change(matches=("width", "params")))
    other = conclude(without, variants(without, {}), records)
    assert [one.confirm_p_holm for one in other.comparisons] == [one.confirm_p_holm for one in found.comparisons]
    assert [(one.match, one.verdict) for one in found.claims][1:] == [
        (match, found.claims[1].verdict) for match in ("params", "flops")
    ]


# the ladder


def test_a_claim_may_hold_at_one_size_and_not_at_another():
    space = protocol_space(SEEDS, "confirm.sizes=[{name: small, tokens: 128}, {name: large}]")
    arms = told_apart().arms
    losses = Losses(arms=arms, noise=1e-3, sizes={"small": arms | {"attention": 2.5}})
    found = conclude(space, variants(space, {}), play(space, losses))
    assert {one.size: one.verdict for one in found.claims} == {"small": "refuted", "large": "confirmed"}
    step = found.ladder[0]
    assert (step.small, step.large, step.arms) == ("small", "large", ("dense", "attention", "ffn", "both"))
    assert step.spearman == pytest.approx(stats.spearmanr([2.0, 2.5, 2.3, 2.6], [2.0, 1.8, 2.3, 2.6]).statistic)
    assert (step.same, step.reversed, step.undecided) == (4, 2, 0)
    moved = step.moved[0]
    assert (moved.text, moved.small_verdict, moved.large_verdict) == ("attention better than dense", "refuted", "confirmed")
    here, there = (contest(found, moved.text, size=size).differences_nats for size in ("small", "large"))
    interval = stats.ttest_ind(there, here, equal_var=False).confidence_interval(0.95)
    assert moved.change_nats == pytest.approx(-0.7, abs=0.01)
    assert moved.change_interval_nats == pytest.approx((interval.low, interval.high))


# budgets


def test_the_least_budget_is_what_a_plain_study_spends(space, shards):
    records = play(space, told_apart())
    course = Course(space, variants(space, {}), [])
    assert course.least == sum(record.tokens for record in records)
    check(space.change(confirm=space.confirm.change(tokens=course.least)), course.variants, shards)
    with pytest.raises(UserError, match=rf"confirm.tokens: .*{course.least:,} are needed"):
        check(space.change(confirm=space.confirm.change(tokens=course.least - 1)), course.variants, shards)


def test_what_has_ended_so_far_can_be_concluded_from_at_any_time(space):
    records = play(space, Losses(noise=0.05))
    for count in range(0, len(records), 5):
        found = conclude(space, variants(space, {}), records[:count])
        assert found.finished is False
        assert all(one.verdict == "inconclusive" for one in found.comparisons if one.n < 3)
