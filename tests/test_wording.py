"""What a confirmation says in words, held against the numbers that were made up for it."""

import math

import numpy as np
import pytest
from lpanas.search import wording
from lpanas.search.conclude import conclude
from lpanas.search.terminal import print_confirmation
from lpanas.search.variants import variants
from made_up import Losses, play, protocol_space
from scipy import stats

SEEDS = "confirm.seeds={first: 3, every: 1, most: 8}"
LADDER = "confirm.sizes=[{name: small, tokens: 128}, {name: large}]"
CLEAR = {"dense": 2.0, "attention": 1.8, "ffn": 2.3, "both": 2.6}


def confirmed(losses, *settings, records=None):
    space = protocol_space(SEEDS, *settings)
    played = play(space, losses)[:records]
    return conclude(space, variants(space, {}), played)


def words(found, title):
    return " ".join(text for head, texts in wording.sections(found) if head.startswith(title) for text in texts)


@pytest.mark.parametrize(
    ("attention", "expected"),
    [
        ({}, "confirmed at every size and match"),
        (
            {"small": CLEAR | {"attention": 2.5}},
            "confirmed at equal width (large); refuted at equal width (small)",
        ),
        (
            {"small": CLEAR | {"attention": 2.5}, "large": CLEAR | {"attention": 2.5}},
            "refuted at every size and match",
        ),
    ],
)
def test_the_headline_names_every_verdict_and_where_it_holds(attention, expected):
    assert wording.headline(confirmed(Losses(arms=CLEAR, noise=1e-3, sizes=attention), LADDER)) == f"The claim is {expected}"


def test_what_has_not_come_to_its_end_says_so():
    found = confirmed(Losses(arms=CLEAR, noise=1e-3), records=40)
    assert wording.headline(found).startswith("So far, as it has not come to its end, the claim is")


def test_a_sentence_has_verdict_p_effect_interval_and_n():
    found = confirmed(Losses(noise=0.02))
    one = next(one for one in found.comparisons if one.text == "attention better than both")
    x = np.array(one.differences_nats)
    t = stats.ttest_1samp(x, 0.0).confidence_interval(0.95)
    percent = [100 * math.expm1(value) for value in (x.mean(), t.low, t.high)]
    said = wording.sentence(one, 1.0)
    assert f"is {one.verdict} (p " in said
    assert "{:+.2f} % ({:+.2f} to {:+.2f}) in perplexity".format(*percent) in said
    assert f"{x.mean():+.4f} nats ({t.low:+.4f} to {t.high:+.4f})" in said
    assert f"n = {len(x)}." in said


def test_a_confirmed_effect_that_is_less_than_matters_is_said_to_be():
    little = math.log1p(-0.005)
    losses = Losses(arms=CLEAR | {"attention": 2.0 + little}, noise=2e-5)
    found = confirmed(losses)
    by_text = {one.text: wording.sentence(one, 1.0) for one in found.comparisons}
    assert "by less than the 1 % that matter" in by_text["attention better than dense"]
    assert "by 1 % or more" in by_text["attention better than both"]


def test_what_is_open_says_how_many_seeds_would_settle_it():
    found = confirmed(Losses(arms=CLEAR | {"attention": 1.995}, noise=0.01))
    one = next(one for one in found.comparisons if one.verdict == "inconclusive")
    said = f"{one.text} at equal width: about {one.n + one.more_seeds} seeds in all, {one.more_seeds} more"
    assert said in words(found, "Not settled")
    assert f"--set confirm.seeds.offset={found.next_offset} " in words(found, "Not settled")
    used = {seed for arm in found.arms for seed in arm.seeds}
    assert found.next_offset > max(used)


def test_a_refuted_effect_is_said_not_to_be_as_much_as_matters():
    found = confirmed(Losses(arms=CLEAR | {"attention": 2.0 - 0.002}, noise=2e-3))
    one = found.comparisons[0]
    assert (one.verdict, one.mean_nats < 0) == ("refuted", True)
    assert "; not better by the 1 % that matter)" in wording.sentence(one, 1.0)


@pytest.mark.parametrize(
    ("small", "said"),
    [
        ({"attention": 2.5}, "Confirmed at one size and refuted at the other: attention better than dense"),
        ({"ffn": 2.7}, "Arms surely change places between the sizes"),
        ({"attention": 1.9}, "effects move with the size"),
        ({}, "The order is the same at both sizes"),
    ],
)
def test_the_ladder_says_what_follows_for_the_target_and_no_more(small, said):
    found = confirmed(Losses(arms=CLEAR, noise=1e-4, sizes={"small": CLEAR | small}), LADDER)
    assert said in words(found, "From size to size")
    assert "the target (" in words(found, "From size to size")


def test_where_few_orders_are_sure_nothing_is_said_to_carry():
    found = confirmed(Losses(noise=0.2), LADDER)
    assert "is not shown" in words(found, "From size to size")


def test_what_makes_a_verdict_worth_less_is_named():
    assert "lies at an end" in words(confirmed(Losses(best_factor=2.0**9, noise=0)), "To mind")
    assert "by noise alone" in words(confirmed(Losses(noise=0.5)), "To mind").lower()
    assert not words(confirmed(Losses(arms=CLEAR, noise=1e-4)), "To mind")
    diverged = Losses(noise=1e-3, diverges=lambda arm, factor, seed: arm == "ffn" and seed == 1003)
    assert "ffn at equal width and proxy (1 of" in words(confirmed(diverged), "To mind")
    failed = Losses(noise=1e-3, fails=lambda arm, factor, seed: arm == "ffn" and seed == 1003)
    assert "Runs failed" in words(confirmed(failed), "To mind")


def test_a_winner_that_is_another_arm_is_named():
    settings = ("confirm.arms=[dense, attention, ffn, both, winner]", "confirm.placements={winner: {ranks: {attention: 1/4}}}")
    losses = Losses(arms=CLEAR | {"winner": CLEAR["attention"]}, noise=1e-3)
    found = confirmed(losses, *settings)
    assert found.winner_is == "attention"
    assert "The search's winner is the arm 'attention'" in words(found, "To mind")
    assert confirmed(Losses(arms=CLEAR, noise=1e-3)).winner_is is None


@pytest.mark.parametrize("records", [0, 20, 60, None])
def test_the_screen_has_every_comparison_that_has_begun(records, capsys):
    found = confirmed(Losses(arms=CLEAR, noise=0.02), records=records)
    print_confirmation(found, {"verdict": "there"})
    shown = capsys.readouterr().out
    for one in found.comparisons:
        assert (one.text in shown.partition("proxy at")[2]) == (one.n > 0)
    assert "verdict: there" in shown
