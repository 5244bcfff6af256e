"""The error rates of whole confirmations, in short; tests/benchmarks/confirm_errors.py has them of thousands."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from lpanas.search.conclude import conclude
from lpanas.search.course import Course

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
from confirm_errors import MATTERS_NATS, STD_NATS, TRUTHS, Truth, judge, measure, play, predicted, printed, protocol

STUDIES = 150


def most(rate, studies=STUDIES):
    """What a share that is truly this rate exceeds with a chance of less than 1 %."""
    return rate + 2.33 * math.sqrt(rate * (1 - rate) / studies)


@pytest.fixture(scope="module")
def null():
    return measure("null, width", STUDIES, 0)


def test_where_no_arm_is_better_hardly_any_study_says_so(null):
    assert null.false_confirmed <= most(0.05)
    assert null.false_claims <= null.false_confirmed
    assert null.false_confirmed_best == null.false_confirmed


def test_where_the_effect_is_what_matters_hardly_any_study_refutes_it():
    found = measure("what matters, noise 1 : 2 : 0.5 : 1.5", STUDIES // 2, 0)
    assert found.false_refuted <= most(0.05, STUDIES // 2)
    assert found.false_confirmed == 0


def test_effects_are_seen_about_as_often_as_the_plan_predicts():
    low, high = predicted(TRUTHS["power, 1 sd"])
    found = measure("power, 1 sd", 40, 0)
    assert low - 0.1 < found.confirmed < high + 0.1
    assert 5 < found.seeds < 12


def test_rates_that_were_chosen_on_noise_are_held_against_both_truths():
    found = measure("rates, curve 1", 60, 0)
    assert found.false_confirmed <= most(0.05, 60)
    assert found.false_confirmed_best <= most(0.1, 60)  # 27 % where the lowest mean is taken as it is


def test_the_verdicts_are_those_of_the_program():
    for seed, truth in enumerate((Truth(), Truth(STD_NATS), Truth(MATTERS_NATS, stds={"ffn": 3.0}, shared=0.5))):
        space, arms, _ = protocol(truth.settings)
        records = play(truth, seed)
        found = conclude(space, arms, records)
        assert found.finished
        judged = judge(truth, records)
        assert [one.verdict for one in judged] == [one.verdict for one in found.comparisons]
        assert [one.seeds for one in judged] == [one.n for one in found.comparisons]


def test_made_up_losses_have_the_truth_that_is_asked_for():
    truth = Truth(2 * STD_NATS, stds={"dense": 2.0}, shared=0.5, curve=3.0)
    records = [record for seed in range(60) for record in play(truth, seed)]
    losses = {}
    for record in records:
        losses.setdefault((record.params["arm"], float(record.params["lr_factor"])), []).append(record.loss_nats - 2.0)
    for (arm, factor), found in losses.items():
        if len(found) > 100:
            expected = -2 * STD_NATS * (arm == "attention") + 0.06 * math.log2(factor) ** 2
            std = 0.02 * (2.0 if arm == "dense" else 1.0)
            assert np.mean(found) == pytest.approx(expected, abs=4 * std / math.sqrt(len(found)))
            assert np.std(found) == pytest.approx(std, rel=0.25)
    assert ("attention", 1.0) in losses
    space, arms, _ = protocol(truth.settings)
    assert Course(space, arms, play(truth, 0)).wanted() == []


def test_figures_are_printed_as_a_table(null):
    rows = printed([null]).splitlines()
    assert len(rows) == 3
    assert rows[2].startswith(f"| null, width | {STUDIES} | {null.false_confirmed:.1%} ± ")
    assert len({row.count("|") for row in rows}) == 1
