import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lpanas.search.claim import Comparison, Evidence, Plan, gather, step_down, together, verdicts
from lpanas.search.finding import SEEDS_AT_MOST, estimate, findings, more_seeds
from lpanas.search.statistics import holm
from scipy import stats

STUDIES = 2000
STD = 0.02
MATTERS = 0.015
PLAN = Plan(first=4, every=2, most=10)
KINDS = ("better", "no worse", "equivalent")


def margin(rate):
    return 3.5 * math.sqrt(rate * (1 - rate) / STUDIES)


def comparison(direction="better", matters=MATTERS, by=0.0):
    return Comparison(f"{direction} than dense", direction, matters, by)


def exact(mean, n, std=STD):
    """Differences of just this mean and deviation."""
    x = np.random.default_rng(n).normal(size=n)
    return mean + std * (x - x.mean()) / x.std(ddof=1)


def verdict(kind, x, plan=PLAN):
    return verdicts([gather(kind, np.asarray(x), plan)], plan)[0]


def simulated(comparisons, means, plan, seed, shared=0.5, n=None):
    """Studies in which all comparisons share their first arm, so that their differences are correlated: lists of Evidence."""
    random = np.random.default_rng(seed)
    first = random.normal(0, math.sqrt(shared), (STUDIES, n or plan.most))
    evidence = []
    for one, mean in zip(comparisons, means, strict=True):
        own = random.normal(0, math.sqrt(1 - shared), first.shape)
        evidence.append(gather(one, mean + STD * (first + own), plan))
    return [[sliced(one, study) for one in evidence] for study in range(STUDIES)]


def sliced(evidence, study, looks=None):
    parts = (evidence.confirms, evidence.refutes, evidence.matters)
    return Evidence(*([p[study][:looks] if study is not None else p[:looks] for p in part] for part in parts))


def share(studies, plan, wrong):
    """Of the studies in which any of the verdicts is wrong: (place, verdict) pairs."""
    return np.mean([any(found[place] == bad for place, bad in wrong) for found in (verdicts(one, plan) for one in studies)])


# what confirms and what refutes


@pytest.mark.parametrize(
    ("direction", "mean", "expected"),
    [
        ("better", -0.03, "confirmed"),
        ("better", -0.005, "confirmed"),
        ("better", 0.0, "refuted"),
        ("better", 0.03, "refuted"),
        ("no worse", -0.03, "confirmed"),
        ("no worse", 0.01, "confirmed"),
        ("no worse", 0.02, "refuted"),
        ("equivalent", 0.01, "confirmed"),
        ("equivalent", -0.01, "confirmed"),
        ("equivalent", 0.02, "refuted"),
        ("equivalent", -0.02, "refuted"),
    ],
)
def test_with_little_noise_the_verdict_is_the_truth_and_with_much_it_is_inconclusive(direction, mean, expected):
    assert verdict(comparison(direction), exact(mean, 10, std=0.001)) == expected
    assert verdict(comparison(direction), exact(mean, 10, std=0.5)) == "inconclusive"


def test_better_by_as_much_as_matters_is_asked_for_with_by():
    x = exact(-0.005, 10, std=0.001)
    assert verdict(comparison(), x) == "confirmed"
    assert verdict(comparison(by=MATTERS), x) == "refuted"


@pytest.mark.parametrize(
    ("direction", "mean", "effect"),
    [
        ("better", -0.03, "as much as matters"),
        ("better", -0.005, "less than matters"),
        ("better", -MATTERS, "unknown"),
        ("no worse", 0.03, "as much as matters"),
        ("no worse", 0.0, "less than matters"),
        ("equivalent", -0.03, "as much as matters"),
        ("equivalent", 0.0, "less than matters"),
    ],
)
def test_the_effect_is_held_against_the_smallest_that_matters(direction, mean, effect):
    assert findings([comparison(direction)], [exact(mean, 10, std=0.001)], PLAN)[0].effect == effect


@given(st.lists(st.floats(-0.1, 0.1).map(lambda x: round(x, 6)), min_size=10, max_size=10), st.sampled_from(KINDS))
def test_confirming_and_refuting_exclude_each_other_but_for_better_between_its_bounds(x, direction):
    evidence = gather(comparison(direction), np.array(x), PLAN)
    alone = verdicts([Evidence(evidence.confirms, [np.ones(4)], [])], PLAN) == ["confirmed"]
    other = verdicts([Evidence([np.ones(4)], evidence.refutes, [])], PLAN) == ["refuted"]
    at_once = [np.maximum.reduce(evidence.confirms) < 0.05, np.minimum.reduce(evidence.refutes) < 0.025]
    if direction != "better":
        assert not np.any(np.logical_and(*at_once))
    assert verdicts([evidence], PLAN) == ["confirmed" if alone else "refuted" if other else "inconclusive"]


def test_equivalence_does_not_depend_on_the_sign():
    for mean in (0.0, 0.004, 0.02):
        x = exact(mean, 10, std=0.01)
        assert verdict(comparison("equivalent"), x) == verdict(comparison("equivalent"), -x)


def test_a_single_look_at_a_single_comparison_is_the_test_of_the_textbook():
    plan = Plan(first=8, most=8)
    for mean in np.linspace(-0.04, 0.04, 33):
        x = exact(mean, 8)
        better = stats.ttest_1samp(x, 0, alternative="less").pvalue <= 0.05
        worse = stats.ttest_1samp(x, -MATTERS, alternative="greater").pvalue <= 0.05
        assert verdict(comparison(), x, plan) == ("confirmed" if better else "refuted" if worse else "inconclusive")
        within = [stats.ttest_1samp(x, b, alternative=side).pvalue for b, side in ((-0.02, "greater"), (0.02, "less"))]
        same, other = max(within) <= 0.05, 1 - max(within) <= 0.025
        expected = "confirmed" if same else "refuted" if other else "inconclusive"
        assert verdict(comparison("equivalent", 0.02), x, plan) == expected


def test_seeds_that_are_all_alike_settle_nothing():
    for direction in KINDS:
        for test in ("t", "sign flip"):
            plan = Plan(first=4, every=2, most=10, test=test)
            assert verdict(comparison(direction), np.full(10, -0.01), plan) == "inconclusive"
    found = findings([comparison()], [np.full(10, -0.01)], PLAN)[0]
    assert found.repeated is found.estimate.t is found.estimate.bca is found.more_seeds is None
    assert found.estimate.t_p is found.estimate.sign_flip_p is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"matters_nats": -0.01},
        {"by_nats": 0.02, "matters_nats": 0.01},
        {"direction": "equivalent", "matters_nats": 0.0},
        {"direction": "no worse", "by_nats": 0.01},
        {"matters_nats": math.nan},
    ],
)
def test_a_comparison_that_asks_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match="than dense: expected"):
        Comparison(**{"name": "better than dense", "direction": "better", "matters_nats": 0.01} | wrong)


@pytest.mark.parametrize(
    "wrong", [{"first": 1}, {"first": 9, "most": 8}, {"every": 0}, {"alpha": 0.0}, {"alpha": 0.5}, {"power": 1.0}]
)
def test_a_plan_that_cannot_be_followed_is_refused(wrong):
    with pytest.raises(ValueError, match="expected 2 <= first"):
        Plan(**wrong)


def test_more_seeds_than_can_be_flipped_have_no_sign_flip_p_and_no_plan_for_it():
    x = exact(-0.01, 41)
    assert estimate(comparison(), x).sign_flip_p is None
    assert estimate(comparison(), x[:40]).sign_flip_p < 0.01
    with pytest.raises(ValueError, match="40 seeds for sign flips"):
        Plan(most=41, test="sign flip")


@given(st.integers(2, 9), st.integers(1, 5), st.integers(0, 9))
def test_a_plan_looks_first_and_last_and_between(first, every, more):
    looks = Plan(first=first, every=every, most=first + more).looks
    assert (looks[0], looks[-1]) == (first, first + more)
    assert all(0 < b - a <= every for a, b in itertools.pairwise(looks))


# several


@given(st.lists(st.sampled_from([0.006, 0.011, 0.014, 0.02, 0.03, 0.06]), max_size=5))
@example([0.011, 0.014, 0.02, 0.03])
@example([0.03, 0.006, 0.014, 0.02])
def test_the_steps_reject_what_holms_p_reject(p):
    rejected = step_down(len(p), lambda place, level: p[place] <= level * (1 + 1e-12), 0.05)
    assert rejected == {place for place, one in enumerate(holm(p)) if one <= 0.05 * (1 + 1e-9)}


def test_the_verdicts_are_those_of_the_p_that_are_reported():
    random = np.random.default_rng(4)
    kinds = [comparison(), comparison("equivalent", 0.03), comparison("no worse")]
    seen = set()
    for _ in range(8):
        x = [random.normal(random.choice([-0.04, 0.0, 0.04]), STD, 8) for _ in kinds]
        for one in findings(kinds, x, PLAN):
            seen.add(one.verdict)
            confirmed, refuted = one.confirm_p_holm <= PLAN.alpha, one.refute_p_holm <= PLAN.alpha
            assert one.verdict == ("confirmed" if confirmed else "refuted" if refuted else "inconclusive")
            assert one.confirm_p <= one.confirm_p_holm
    assert seen == {"confirmed", "refuted", "inconclusive"}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (["confirmed"] * 3, "confirmed"),
        (["confirmed", "inconclusive"], "inconclusive"),
        (["confirmed", "refuted", "inconclusive"], "refuted"),
    ],
)
def test_a_claim_is_confirmed_by_all_and_refuted_by_any_of_its_comparisons(found, expected):
    assert together(found) == expected


# errors, over 2,000 studies of a known truth


@pytest.mark.parametrize(
    ("means", "wrong"),
    [
        ((0.0, 0.0, 0.0), "confirmed"),
        ((-0.06, 0.0, 0.0), "confirmed"),
        ((-0.06, -0.06, 0.0), "confirmed"),
        ((-MATTERS,) * 3, "refuted"),
        ((0.06, -MATTERS, -MATTERS), "refuted"),
    ],
)
def test_any_false_verdict_among_several_comparisons_has_at_most_alpha(means, wrong):
    kinds = [comparison()] * 3
    bad = [(place, wrong) for place, mean in enumerate(means) if mean in (0.0, -MATTERS)]
    rate = share(simulated(kinds, means, PLAN, seed=1), PLAN, bad)
    assert 0.01 < rate <= 0.05 + margin(0.05)


@pytest.mark.parametrize(
    ("direction", "mean", "wrong"),
    [
        ("no worse", MATTERS, "confirmed"),
        ("no worse", MATTERS, "refuted"),
        ("equivalent", MATTERS, "confirmed"),
        ("equivalent", -MATTERS, "confirmed"),
        ("equivalent", MATTERS, "refuted"),
        ("equivalent", -MATTERS, "refuted"),
    ],
)
def test_on_the_margin_false_verdicts_have_at_most_alpha(direction, mean, wrong):
    rate = share(simulated([comparison(direction)], [mean], PLAN, seed=2), PLAN, [(0, wrong)])
    assert 0.002 < rate <= 0.05 + margin(0.05)


@pytest.mark.parametrize(
    ("means", "wrong", "least"),
    [((-0.2, -0.2, 0.0), "confirmed", 0.03), ((0.0, 0.0, 0.0), "confirmed", 0.0), ((-MATTERS,) * 3, "refuted", 0.02)],
)
def test_a_false_verdict_on_the_whole_claim_has_at_most_alpha(means, wrong, least):
    studies = simulated([comparison()] * 3, means, PLAN, seed=3)
    rate = np.mean([together(verdicts(one, PLAN)) == wrong for one in studies])
    assert least <= rate <= 0.05 + margin(0.05)


def test_stopping_as_soon_as_all_is_settled_errs_with_at_most_alpha_and_saves_seeds():
    wrong, used = 0, []
    for study in simulated([comparison()] * 3, (0.0, 0.0, -0.05), PLAN, seed=4):
        for look in range(1, len(PLAN.looks) + 1):
            found = verdicts([sliced(one, None, look) for one in study], PLAN)
            if "inconclusive" not in found:
                break
        wrong += "confirmed" in found[:2]
        used.append(PLAN.looks[look - 1])
    assert wrong / STUDIES <= 0.05 + margin(0.05)
    assert np.mean(used) < PLAN.most


# how many more seeds


@pytest.mark.parametrize(
    ("direction", "mean"),
    [("better", -0.02), ("better", 0.01), ("no worse", -0.01), ("equivalent", 0.0), ("equivalent", 0.045)],
)
def test_after_as_many_more_seeds_as_advised_studies_are_settled_as_often_as_planned(direction, mean):
    plan, kind = Plan(first=3, most=30), comparison(direction, 0.02)
    found = more_seeds(kind, exact(mean, 3), plan, plan.alpha, plan.alpha)
    assert found is not None
    settled = [
        one != "inconclusive" for study in simulated([kind], [mean], plan, 5, n=3 + found) for one in verdicts(study, plan)
    ]
    assert plan.power - margin(0.2) <= np.mean(settled) <= plan.power + 0.1
    fewer = 3 + found - 1
    settled = [one != "inconclusive" for study in simulated([kind], [mean], plan, 5, n=fewer) for one in verdicts(study, plan)]
    assert np.mean(settled) < plan.power + 0.05


def test_the_advice_for_a_single_look_is_the_sample_size_of_the_textbook():
    plan = Plan(first=2, most=2)
    found = 2 + more_seeds(comparison(matters=0.5), exact(-STD, 2), plan, 0.05, 1e-9)
    power = [1 - stats.nct.cdf(stats.t.isf(0.05, n - 1), n - 1, math.sqrt(n)) for n in (found - 1, found)]
    assert power[0] < 0.8 <= power[1]


def test_where_no_number_of_seeds_would_settle_it_none_is_advised():
    plan = Plan(first=3, most=10)
    assert more_seeds(comparison(matters=0.02), exact(-0.0001, 10, std=5.0), plan, 0.05, 0.05) is None
    least = more_seeds(comparison(), exact(-0.0075, 10), plan, 0.05, 0.05)  # half way between the two bounds
    assert least is not None
    assert plan.most < 10 + least <= SEEDS_AT_MOST


def test_sign_flips_need_enough_seeds_for_their_smallest_p():
    x = exact(-0.2, 3)
    t, flips = (Plan(first=3, most=20, test=test) for test in ("t", "sign flip"))
    found = 3 + more_seeds(comparison(), x, flips, 0.05, 0.05)
    level = dict(
        zip(
            flips.looks,
            np.diff([0, *(2 * stats.norm.sf(stats.norm.isf(0.025) / np.sqrt(n / 20)) for n in flips.looks)]),
            strict=True,
        )
    )
    assert 2.0**-found <= level[found]
    assert 2.0 ** -(found - 1) > level[found - 1]
    assert found > 3 + more_seeds(comparison(), x, t, 0.05, 0.05)


# the whole report


def test_a_finding_says_all_of_a_settled_and_of_an_open_comparison():
    x = [exact(-0.08, 7), exact(-0.01, 7)]
    first, second = findings([comparison(), comparison()], x, PLAN)
    assert (first.verdict, first.more_seeds) == ("confirmed", None)
    assert second.verdict == "inconclusive"
    assert second.more_seeds > 0
    assert (
        first.repeated.low < first.estimate.t.low < first.estimate.mean_nats < first.estimate.t.high < first.repeated.high < 0
    )
    assert first.estimate.ppl_percent == pytest.approx(100 * (math.exp(-0.08) - 1))
    assert first.estimate.sign_flip_p == 2**-7
    assert first.estimate.t_p == pytest.approx(stats.ttest_1samp(x[0], 0, alternative="less").pvalue)
    assert findings([comparison(), comparison()], x[::-1], PLAN)[1] == first
    with pytest.raises(ValueError, match="finite"):
        findings([comparison()], [np.array([0.1, math.nan, 0.2, 0.1])], PLAN)


def test_an_equivalence_is_refuted_on_either_side_so_its_p_is_twice_that_of_one():
    x = exact(0.04, 8)
    for side in (x, -x):
        found = findings([comparison("equivalent", 0.02)], [side], Plan(first=8, most=8))[0]
        assert found.refute_p == pytest.approx(2 * stats.ttest_1samp(x, 0.02, alternative="greater").pvalue, rel=1e-3)


def test_several_open_comparisons_need_more_seeds_than_one():
    x = exact(-0.02, 6)
    alone = findings([comparison(by=0.0)], [x], PLAN)[0].more_seeds
    three = [one.more_seeds for one in findings([comparison()] * 3, [x] * 3, PLAN)]
    assert three == [more_seeds(comparison(), x, PLAN, 0.05 / 3, 0.05 / 3)] * 3
    assert three[0] > alone


def test_the_p_of_an_equivalence_is_the_larger_one_of_statsmodels():
    x = np.array([2.01, 1.98, 2.05, 2.02, 1.99]) - np.array([2.03, 2.01, 2.04, 2.05, 2.00])
    assert estimate(comparison("equivalent", 0.05), x).t_p == pytest.approx(0.005234834644807419)  # 0.15.0: ttost_paired


def test_before_the_first_look_nothing_is_settled():
    assert verdict(comparison(), exact(-1.0, 3)) == "inconclusive"
    found = findings([comparison()], [exact(-1.0, 3)], PLAN)[0]
    assert (found.confirm_p, found.repeated, found.more_seeds) == (1.0, None, 1)
