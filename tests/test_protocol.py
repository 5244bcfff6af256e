import math

import pytest
from lpanas.lpa.config import UserError, dump_yaml, override, parse_yaml
from lpanas.search.budget import ARMS
from lpanas.search.presets import load_space, parse_space, presets
from lpanas.search.protocol import WINNER, Protocol, Versus, parse_versus
from made_up import protocol_space
from making import tiny_space

THIN = "confirm.placements={thin: {ranks: {attention: 1/8}}}"


def refusal(*settings):
    with pytest.raises(UserError) as error:
        protocol_space(*settings)
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith("tiny.yaml: confirm")
    return text.removeprefix("tiny.yaml: ")


# what it is when nothing is said


@pytest.mark.parametrize("name", presets())
def test_every_preset_has_the_claim_of_the_paper_as_its_protocol(name):
    protocol = load_space(name).confirm
    assert protocol == Protocol()
    assert protocol.arms == (*ARMS, WINNER)
    assert [(one.a, one.direction, one.b) for one in protocol.versus("claim")] == [
        ("attention", "better", other) for other in ("dense", "ffn", "both")
    ]
    assert {"params", "flops"} <= set(protocol.matches)
    assert len(protocol.lr_factors) >= 3
    assert protocol.seeds.first >= 5
    assert set(protocol.controls) == {"scaled", "init", "warmup"}
    assert protocol.plan.looks == tuple(range(5, 13))


def test_it_is_read_from_yaml_and_written_back_to_the_same():
    text = """
    arms: [dense, attention, ffn, both, thin]
    placements: {thin: {ranks: {attention: [1/8, dense]}, factor_activation: silu}}
    claim: [attention better than dense, "thin  no worse than attention", ffn equivalent to both]
    beside: [thin better than dense]
    matches: [params]
    controls: []
    sizes: [{name: small}, {name: large, model: {shape: cpu-64, n_layers: 2}, tokens: 2e3, batch_size: 8}]
    lr_factors: [0.25, 1, 4]
    """
    space = protocol_space(f"confirm={{{', '.join(line.strip() for line in text.strip().splitlines())}}}")
    protocol = space.confirm
    assert protocol.claim == ("attention better than dense", "thin no worse than attention", "ffn equivalent to both")
    assert protocol.placements["thin"].bands[0]["q"] == 1 / 8
    large = protocol.sizes[1]
    assert (large.name, large.tokens, large.batch_size) == ("large", 2000, 8)
    assert large.model == {"vocab_size": 264, "d_model": 64, "d_ff": 176, "n_heads": 4, "n_layers": 2, "context": 128}
    assert parse_space(parse_yaml(dump_yaml(space), "again"), "again") == space


def test_the_smallest_effect_that_matters_is_a_difference_of_loss():
    for percent in (0.5, 1.0, 5.0):
        nats = protocol_space(f"confirm.matters_ppl_percent={percent}").confirm.matters_nats
        assert 100 * (math.exp(nats) - 1) == pytest.approx(percent)


# A better than B


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("attention better than dense", Versus("attention", "better", "dense")),
        ("winner no worse than dense", Versus("winner", "no worse", "dense")),
        (" ffn   equivalent  to both ", Versus("ffn", "equivalent", "both")),
    ],
)
def test_a_comparison_is_three_words_and_reads_back(text, expected):
    assert parse_versus(text) == expected
    assert parse_versus(expected.text) == expected
    assert expected.text == " ".join(text.split())


@pytest.mark.parametrize("text", ["", "attention", "attention beats dense", "a better than", "a b better than c"])
def test_what_is_no_comparison_is_refused_with_the_three_that_there_are(text):
    with pytest.raises(ValueError, match="expected 'A better than B', 'A no worse than B' or 'A equivalent to B', found"):
        parse_versus(text)


def test_an_arm_is_not_compared_with_itself():
    with pytest.raises(ValueError, match="'ffn equivalent to ffn' compares an arm with itself"):
        parse_versus("ffn equivalent to ffn")


# what is refused


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("arms=[dense, atention]", "arms: found 'atention', did you mean 'attention'?"),
        ("arms=[dense, attention, dense]", "arms: one stands twice"),
        ("arms=dense", "arms: expected a list"),
        ("arms=[dense, attention, ffn, both, thin]", "arms: found 'thin', known: dense, attention, ffn, both, winner"),
        ("arms=[dense, ffn]", "claim: 'attention' is not among arms"),
        ("claim=[]", "claim: expected a comparison, found none"),
        ("claim=[attention beats dense]", "claim.0: expected 'A better than B'"),
        ("claim=[ffn better than ffn]", "claim.0: 'ffn better than ffn' compares an arm with itself"),
        ("claim=[atention better than dense]", "claim: 'atention' is not among arms, did you mean 'attention'?"),
        ("claim=[winner better than dense]", "claim: 'winner' is not among arms"),
        ("claim=[ffn better than dense, ffn better  than dense]", "claim: one stands twice"),
        ("beside=[thin better than dense]", "beside: 'thin' is not among arms"),
        ("placements={dense: {ranks: {attention: 1/4}}}", "placements: expected a word that is no reference arm's name"),
        ("placements={'a b': {ranks: {attention: 1/4}}}", "placements: expected a word that is no reference arm's name"),
        ("placements={thin: {rank: {}}}", "placements.thin.rank: unknown key, did you mean 'ranks'?"),
        ("placements={thin: {ranks: {atention: 1/4}}}", "placements.thin.ranks.atention: unknown projection 'atention'"),
        ("placements={thin: {ranks: {attention: 3}}}", "placements.thin.ranks.attention.0: the rank 3 is not between"),
        ("placements={thin: 1/4}", "placements.thin: expected keys with values"),
        ("matches=[]", "matches: expected one or more, found none"),
        ("matches=[params, params]", "matches: one stands twice"),
        ("matches=[parms]", "matches.0: found 'parms' (text), did you mean 'params'?"),
        ("controls=[warmpu]", "controls.0: found 'warmpu' (text), did you mean 'warmup'?"),
        ("controls=[init, init]", "controls: one stands twice"),
        ("sizes=[{name: a}, {name: a}]", "sizes: a name stands twice"),
        ("sizes=[{tokens: 100}]", "sizes.0.name: missing"),
        ("sizes=[{name: a, modle: {}}]", "sizes.0.modle: unknown key, did you mean 'model'?"),
        ("sizes=[{name: a, model: {shape: cpu-63}}]", "sizes.0.model.shape: unknown shape 'cpu-63', did you mean 'cpu-64'?"),
        ("sizes=[{name: a, model: cpu-64}]", "sizes.0.model: expected keys with values"),
        ("sizes=[{name: a, tokens: 1.5}]", "sizes.0.tokens: expected a whole number"),
        ("sizes=[3]", "sizes.0: expected keys with values"),
        ("sizes={name: a}", "sizes: expected a list"),
        ("lr_factors=[1, 2]", "lr_factors: expected three or more, found 2"),
        ("lr_factors=[2, 1, 0.5]", "lr_factors: expected them ascending, found 2.0, 1.0, 0.5"),
        ("lr_factors=[1, 1, 2]", "lr_factors: one stands twice"),
        ("lr_factors=[0, 1, 2]", "lr_factors.0: expected greater than 0"),
        ("lr_extend=-1", "lr_extend: expected greater than or equal to 0"),
        ("seeds={offset: 0}", "seeds.offset: expected greater than 0"),
        ("seeds={offset: 1}", "seeds.offset: the search's own seeds go up to 1"),
        ("seeds={sweep: 0}", "seeds.sweep: expected greater than 0"),
        ("seeds={first: 1}", "seeds.first: expected greater than or equal to 2"),
        ("seeds={first: 13}", "seeds.first: expected at most 12, which is most; found 13"),
        ("seeds={every: 0}", "seeds.every: expected greater than 0"),
        ("seeds={mots: 9}", "seeds.mots: unknown key, did you mean 'most'?"),
        ("alpha=0", "alpha: expected greater than 0"),
        ("alpha=0.3", "alpha: expected less than or equal to 0.25"),
        ("matters_ppl_percent=0", "matters_ppl_percent: expected greater than 0"),
        ("test=welch", "test: found 'welch' (text), known: t, sign flip"),
        ("power=1", "power: expected less than 1"),
        ("tokens=0", "tokens: expected greater than 0"),
        ("minutes=0", "minutes: expected greater than 0"),
        ("alhpa=0.05", "alhpa: unknown key, did you mean 'alpha'?"),
    ],
)
def test_a_mistake_is_one_line_with_its_key(setting, expected):
    assert refusal(f"confirm.{setting}").startswith(f"confirm.{expected}")


def test_more_seeds_than_signs_can_be_flipped_of_are_refused():
    text = refusal("confirm={test: sign flip, seeds: {most: 41}}")
    assert text == "confirm.seeds.most: expected at most 40 for sign flips, found 41"
    assert protocol_space("confirm={seeds: {most: 41}}").confirm.plan.looks[-1] == 41


def test_the_controls_need_the_arms_that_they_are_of():
    arms = "confirm={arms: [dense, ffn], claim: [ffn better than dense], beside: []"
    assert refusal(arms + "}") == "confirm.controls: they are of dense and attention, which arms leaves out"
    assert protocol_space(arms + ", controls: []}").confirm.arms == ("dense", "ffn")


def test_a_comparison_of_the_winner_may_stand_beside_without_its_being_an_arm():
    assert WINNER in Protocol().beside[0]
    assert protocol_space("confirm={arms: [dense, attention, ffn, both]}").confirm.beside == Protocol().beside


def test_a_section_that_is_no_mapping_is_refused():
    raw = parse_yaml(dump_yaml(tiny_space()), "tiny.yaml")
    for wrong in (3, [], "attention better than dense"):
        with pytest.raises(UserError, match=r"^tiny.yaml: confirm: expected keys with values"):
            parse_space(override(raw | {"confirm": wrong}, []), "tiny.yaml")


# seeds


@pytest.mark.parametrize(("seed", "noise_seeds", "offset"), [(0, 2, 2), (7, 5, 5), (3, 2, 1000)])
def test_the_search_sees_none_of_the_seeds_and_none_serves_twice(seed, noise_seeds, offset):
    space = protocol_space(
        f"seed={seed}", f"search.noise_seeds={noise_seeds}", f"confirm.seeds={{offset: {offset}, sweep: 3, most: 9}}"
    )
    sweep = list(space.confirm.sweep_seeds(space.seed))
    deciding = [space.confirm.seed(space.seed, number) for number in range(9)]
    searched = [space.seed + number for number in range(noise_seeds)]
    assert len(sweep) == 3
    assert len({*sweep, *deciding, *searched}) == 3 + 9 + noise_seeds
