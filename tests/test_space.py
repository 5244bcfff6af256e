from itertools import product
from math import floor
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lpanas.lpa.config import UserError, dump_yaml, parse_yaml
from lpanas.lpa.model import Decoder
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.placement import Placement
from lpanas.search.budget import ARMS
from lpanas.search.presets import load_space, parse_space, presets
from lpanas.search.space import Space
from making import point, tiny_space


def built_params(model: ModelConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Decoder(model).parameters())


def points(space: Space) -> list[dict[str, str]]:
    return [dict(zip(space.choices, values, strict=True)) for values in product(*space.choices.values())]


@pytest.mark.parametrize("name", presets())
def test_a_preset_loads_and_its_four_arms_are_what_they_are_called(name):
    space = load_space(name)
    for arm in ARMS:
        candidate = space.arm(arm)
        assert candidate.proxy.placement.sublayers == candidate.target.placement.sublayers == arm
        assert candidate.feasible
    assert space.arm("dense").costs == space.dense_costs


@pytest.mark.parametrize("name", presets())
def test_a_preset_is_costed_as_the_models_that_it_names(name):
    space = load_space(name)
    assert space.arm("both").costs["params"] == built_params(space.arm("both").target)


def test_a_point_gives_the_placement_written_by_hand():
    params = {
        "rank attention band 0": "1/4",
        "rank attention band 1": "dense",
        "rank ffn band 0": "dense",
        "rank ffn band 1": "1/2",
        "rebalance": "none",
        "factor_activation": "silu",
    }
    candidate = tiny_space("vary.bands=2", "vary.factor_activation=[none, silu]").candidate(params)
    assert candidate.proxy.placement == Placement.parse("0 q,k,v,o=1/4; 1 gate,up,down=1/2", 2)
    assert candidate.target.placement == Placement.parse("0-1 q,k,v,o=1/4; 2-3 gate,up,down=1/2", 4)
    assert candidate.proxy.factor_activation == candidate.target.factor_activation == "silu"
    assert candidate.params == params


@settings(max_examples=25)
@given(bands=st.integers(1, 3), proxy=st.integers(3, 7), target=st.integers(3, 13))
def test_a_band_covers_the_same_share_of_depth_in_proxy_and_target(bands, proxy, target):
    space = tiny_space(
        "vary.ranks={attention: [dense, 1/4, 1/8]}",
        f"vary.bands={bands}",
        f"proxy.model.n_layers={proxy}",
        f"target.model.n_layers={target}",
    )
    keys = [name for name in space.choices if name.startswith("rank")]
    ranks = dict(zip(keys, ("dense", "1/4", "1/8"), strict=False))
    candidate = space.candidate({**ranks, "rebalance": "none", "factor_activation": "none"})
    for model in (candidate.proxy, candidate.target):
        column = [model.placement.rank(layer, "q") for layer in range(model.n_layers)]
        runs = [column.count(rank) for rank in dict.fromkeys(column)]
        assert len(runs) == bands == len(list(dict.fromkeys(column)))
        assert all(floor(model.n_layers / bands) <= run <= floor(model.n_layers / bands) + 1 for run in runs)
    if target % proxy == 0:
        step = target // proxy
        assert candidate.target.placement.layers[::step] == candidate.proxy.placement.layers


@pytest.mark.parametrize("as_share", [True, False])
def test_a_limit_keeps_the_candidates_whose_built_target_is_small_enough(as_share):
    dense = built_params(tiny_space().target.model)
    limit = "0.8 x dense" if as_share else int(0.8 * dense)
    space = tiny_space("vary.rebalance=[none, params, flops]", f"limits.params={limit}")
    kept = [built_params(space.candidate(params).target) <= 0.8 * dense for params in points(space)]
    assert [space.candidate(params).feasible for params in points(space)] == kept
    assert any(kept)
    assert not all(kept)


def test_the_dense_model_keeps_to_a_limit_of_one_time_dense():
    space = tiny_space("limits={params: 1.0 x dense, flops_per_token: 1 x dense, memory_bytes: 1e0x dense}")
    assert space.arm("dense").feasible


def test_a_limit_that_no_candidate_keeps_to_is_refused():
    with pytest.raises(UserError, match=r"^tiny.yaml: limits: .*params: 0.01 x dense"):
        tiny_space("limits.params=0.01 x dense")


@pytest.mark.parametrize(
    ("setting", "key", "word"),
    [
        ("vary.rank={}", "vary.rank", "ranks"),
        ("proxy.optim.learning=1", "proxy.optim.learning", "lr"),
        ("searhc.trials=3", "searhc", "search"),
        ("vary.ranks={atention: [dense]}", "vary.ranks.atention", "attention"),
        ("vary.ranks={'q,gaet': [dense]}", "vary.ranks.q,gaet", "gate"),
        ("vary.rebalance=[parms]", "vary.rebalance.0", "params"),
        ("objectives=[loss_nats, flop_per_token]", "objectives.1", "flops_per_token"),
        ("limits={memory: 3}", "limits.memory", "memory_bytes"),
        ("search.sampler=tep", "search.sampler", "tpe"),
        ("arms.atention=1/4", "arms.atention", "attention"),
        ("target.model={shape: llama-13m}", "target.model.shape", "llama-130m"),
    ],
)
def test_an_unknown_word_is_refused_with_its_key_and_the_nearest_right_one(setting, key, word):
    with pytest.raises(UserError) as error:
        tiny_space(setting)
    assert str(error.value).startswith(f"tiny.yaml: {key}: ")
    assert word in str(error.value)


@pytest.mark.parametrize("shape", ["[1]", "{}", "3", "null"])
def test_a_shape_that_is_no_name_is_refused_with_its_key(shape):
    with pytest.raises(UserError, match=r"^tiny.yaml: target.model.shape: "):
        tiny_space(f"target.model={{shape: {shape}}}")


def test_an_unknown_preset_is_refused_with_the_nearest_right_one():
    with pytest.raises(UserError, match="did you mean 'quickstart'"):
        load_space("quikstart")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("vary.ranks.attention=[dense, 5/4]", "vary.ranks.attention.1: the rank 5/4"),
        ("vary.ranks.attention=[dense, 0]", "vary.ranks.attention.1: the rank 0"),
        ("vary.ranks.attention=[dense, quarter]", "vary.ranks.attention.1: expected 'dense' or a fraction"),
        ("vary.ranks.attention=[dense, 1/2]", "vary.ranks.attention: proxy: rank 8 (1/2) saves nothing in q"),
        ("target.model.rank_multiple=32", "vary.ranks.attention: target: rank 32 (1/4) saves nothing in q"),
        ("arms.ffn=0.9", "arms.ffn: proxy: rank 14 (9/10) saves nothing in gate"),
        ("arms.attention=dense", "arms.attention: expected a rank"),
        ("vary.ranks.attention=[dense, 1/4, 2/7]", "vary.ranks.attention: 1/4 and 2/7 are both rank 4"),
        ("vary.ranks.attention=[1/4, 0.25]", "vary.ranks.attention: expected different choices"),
        ("vary.ranks.attention=[]", "vary.ranks.attention: "),
        ("vary.ranks.attention=[dense, true]", "vary.ranks.attention.1: "),
        ("vary.ranks.q=[dense, 1/4]", "vary.ranks.q: q stands in another group"),
        ("vary.rebalance=[none, none]", "vary.rebalance: "),
        ("vary.bands=3", "vary.bands: 3 bands for the 2 layers of the proxy"),
        ("vary.bands=0", "vary.bands: "),
        ("objectives=[params, loss_nats]", "objectives: expected loss_nats first"),
        ("objectives=[loss_nats, params, params]", "objectives: "),
        ("limits.params=1.0 x dens", "limits.params: expected a positive number"),
        ("limits.params=1.2.3 x dense", "limits.params: expected a positive number"),
        ("proxy.model.placement=attention=1/4", "proxy.model.placement: "),
        ("target.microbatch=3", "target.microbatch: 3 does not divide"),
        ("proxy.microbatch=3", "proxy.microbatch: 3 does not divide"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused_with_its_dotted_key(setting, message):
    with pytest.raises(UserError) as error:
        tiny_space(setting)
    assert str(error.value).startswith(f"tiny.yaml: {message}")


def test_an_arm_inside_the_space_has_the_point_that_it_is():
    space = tiny_space("vary.bands=2", "vary.rebalance=[params, none]")
    for name in ARMS:
        arm = space.arm(name)
        assert arm.params in points(space)
        assert space.candidate(arm.params) == arm


@pytest.mark.parametrize(
    ("setting", "outside"),
    [
        ("vary.ranks.attention=[dense, 1/8]", {"attention", "both"}),
        ("vary.ranks.ffn=[1/2, 1/4]", {"dense", "attention"}),
        ("vary.ranks={both: [dense, 1/4]}", {"attention", "ffn", "both"}),
        ("vary.ranks={attention: [dense, 1/4], 'gate,up': [dense, 1/2]}", {"ffn", "both"}),
        ("vary.rebalance=[params]", {"attention", "ffn", "both", "dense"}),
        ("vary.factor_activation=[silu]", {"attention", "ffn", "both", "dense"}),
    ],
)
def test_an_arm_outside_of_the_space_has_no_point_but_its_placement(setting, outside):
    space = tiny_space(setting)
    assert {name for name in ARMS if not space.arm(name).params} == outside
    hand = {"dense": "dense", "attention": "attention=1/4", "ffn": "ffn=1/2", "both": "attention=1/4 ffn=1/2"}
    for name, text in hand.items():
        assert space.arm(name).target.placement == Placement.parse(text, 4)


@pytest.mark.parametrize("name", presets())
def test_a_resolved_preset_reads_back_to_an_equal_space(name):
    space = load_space(name)
    assert parse_space(parse_yaml(dump_yaml(space, "head\nlines"), name), name) == space


def test_a_resolved_space_reads_back_with_what_was_set():
    changes = ("limits={params: 9e5}", "vary.ranks.attention=[dense, 0.25]", "search.minutes=1.5", "proxy.optim.lr=3e-4")
    space = tiny_space(*changes, "vary.factor_activation=[none, silu]")
    again = parse_space(parse_yaml(dump_yaml(space), "x"), "x")
    assert again == space
    assert (again.proxy.optim.lr, again.limit("params")) == (3e-4, 9e5)
    assert again.choices["rank attention"] == ("dense", "1/4")


def test_the_points_of_a_small_space_are_all_of_its_points_once():
    space = tiny_space("vary.bands=2", "vary.rebalance=[none, params]")
    listed = [tuple(params.items()) for params in space.points(Random(0))]
    assert len(listed) == space.size == len(set(listed)) == (2 * 3) ** 2 * 2
    assert set(listed) == {tuple(params.items()) for params in points(space)}


def test_a_limit_that_only_a_corner_of_a_large_space_keeps_to_is_accepted():
    names = ("q", "k", "v", "o", "gate", "up", "down")
    ranks = ", ".join(f"{name}: [dense, 1/4, 1/8]" for name in names)
    free = tiny_space(f"vary.ranks={{{ranks}}}", "vary.bands=2")
    assert free.size == 3**14
    lowest = free.candidate({name: choices[0] if "rank" not in name else "1/8" for name, choices in free.choices.items()})
    limited = tiny_space(f"vary.ranks={{{ranks}}}", "vary.bands=2", f"limits.params={lowest.costs['params']}")
    assert limited.candidate(lowest.params).feasible


def test_rebalance_spends_on_the_ffn_what_the_factors_save():
    space = tiny_space("vary.rebalance=[none, params]")
    plain, wide = (space.candidate(point("1/4", "1/2", rule)).target for rule in ("none", "params"))
    dense = built_params(space.target.model)
    assert wide.placement == plain.placement
    assert built_params(plain) < built_params(wide) <= dense
    assert dense < built_params(wide.change(d_ff=wide.d_ff + wide.ffn_multiple))


def test_a_dense_model_is_one_candidate_whatever_its_missing_factors_would_have_done():
    space = tiny_space("vary.rebalance=[none, params]", "vary.factor_activation=[none, silu]")
    dense = [params for params in points(space) if params["rank attention"] == params["rank ffn"] == "dense"]
    assert len(dense) == 4
    assert all(space.candidate(params).proxy == space.proxy.model for params in dense)
    assert all(space.candidate(params).target == space.target.model for params in dense)
