from fractions import Fraction

import pytest
from lpanas.lpa.config import UserError
from lpanas.search.budget import ARMS, Budget, Listed
from making import tiny_space

QUARTER = Fraction(1, 4)


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        (
            "{ranks: {atention: 1/4}}",
            r"placements\.0.*ranks\.atention: unknown projection 'atention', did you mean 'attention'",
        ),
        ("{ranks: {'q,k': 1/4, attention: 1/8}}", r"placements\.0.*ranks\.attention: k stands in another group too"),
        ("{ranks: {'q,q': 1/4}}", r"placements\.0.*ranks\.q,q: 'q,q' names a projection twice"),
        ("{ranks: {attention: [1/4, 1/8], ffn: [1/4, 1/2, 1/4]}}", r"ranks\.attention: 2 bands where another group has 3"),
        ("{ranks: {attention: []}}", r"placements\.0\.ranks\.attention"),
        ("{ranks: {attention: 3/2}}", r"placements\.0\.ranks\.attention.*3/2"),
        ("{ranks: {attention: low}}", r"expected 'dense' or a fraction such as 1/4, found 'low'"),
        ("{ranks: {attention: 1/4}, rebalance: param}", r"placements\.0\.rebalance"),
        ("{rank: {attention: 1/4}}", r"placements\.0"),
        ("{ranks: {attention: [1/4, 1/4, 1/4]}}", r"search\.placements\.0: .*3 bands.* 2 layers"),
        ("{ranks: {attention: 1/2}}", r"search\.placements\.0: .*saves nothing in q"),
    ],
)
def test_a_placement_that_cannot_be_is_refused_with_its_place(placement, message):
    with pytest.raises(UserError, match=message) as refused:
        tiny_space(f"search.placements=[{placement}]")
    assert str(refused.value).startswith("tiny.yaml: ")
    assert "\n" not in str(refused.value)


def test_the_second_placement_is_named_by_its_own_number():
    with pytest.raises(UserError, match=r"search\.placements\.1"):
        tiny_space("search.placements=[{ranks: {attention: 1/4}}, {ranks: {attention: 1/2}}]")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("search.trials=3", r"trials: expected 4 or more|trials: .*4, found 3"),
        ("search.rungs=8", r"search\.rungs: 8 rungs of eta 4 in 10 steps"),
        ("search.rungs=3", r"search\.rungs: 3 rungs of eta 4 in 10 steps"),
        ("search.rungs=9", r"search\.rungs: .*9"),
        ("search.rungs=-1", r"search\.rungs: .*-1"),
        ("search.eta=1", r"search\.eta: .*1"),
        ("search.tokens=0", r"search\.tokens: .*0"),
        ("search.tokens=1.5", r"search\.tokens: .*1\.5"),
        ("search.sampler=gpp", r"search\.sampler: .*gpp"),
        ("search.noise_seeds=1", r"search\.noise_seeds: .*1"),
    ],
)
def test_a_budget_that_cannot_be_is_refused_with_its_key(setting, message):
    with pytest.raises(UserError, match=message):
        tiny_space(setting)


def test_trials_have_room_for_the_arms_and_the_placements():
    three = "search.placements=[{ranks: {q: 1/4}}, {ranks: {k: 1/4}}, {ranks: {v: 1/4}}]"
    with pytest.raises(UserError, match=r"trials: expected 7 or more, for the arms and the placements; found 6"):
        tiny_space(three)
    assert len(tiny_space(three, "search.trials=7").search.placements) == 3 == 7 - len(ARMS)


def test_one_rank_is_a_band_and_ranks_are_written_in_one_way():
    listed = Listed.parse({"ranks": {"attention": 0.25, "up": ["dense", "2/8"]}}, "here")
    assert listed.ranks == {"attention": ("1/4",), "up": ("dense", "1/4")}
    assert listed.n_bands == 2
    attention = dict.fromkeys("qkvo", QUARTER)
    assert listed.bands == [attention | {"up": None}, attention | {"up": QUARTER}]


def test_a_placement_without_ranks_is_one_dense_band():
    assert (Listed(ranks={}).n_bands, Listed(ranks={}).bands) == (1, [{}])


def test_tokens_may_be_written_as_a_power_of_ten():
    assert Budget.parse({"tokens": 2.5e9}, "here").tokens == 2_500_000_000


@pytest.mark.parametrize(
    ("settings", "rungs"), [((), (128,)), (("search.rungs=0",), ()), (("search.eta=2", "search.rungs=2"), (128, 320))]
)
def test_rungs_lie_at_whole_steps_of_the_proxy(settings, rungs):
    """Of 10 steps of 64 tokens: 10 / 4 is taken as 2."""
    assert tiny_space(*settings).rungs == rungs


def test_tokens_that_do_not_pay_for_one_run_are_refused():
    assert tiny_space("search.tokens=640").search.tokens == 640
    with pytest.raises(UserError, match=r"search\.tokens: expected 640 or more, for one run; found 639"):
        tiny_space("search.tokens=639")
