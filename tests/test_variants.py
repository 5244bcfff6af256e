import math

import pytest
import torch
from lpanas.lpa.config import UserError
from lpanas.lpa.model import Decoder, build
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.optim import multiplier, optimizer
from lpanas.lpa.placement import ATTENTION, FFN
from lpanas.search.presets import load_space, presets
from lpanas.search.protocol import WITHIN
from lpanas.search.variants import as_listed, matched, sized, sizes, variants
from made_up import protocol_space
from making import ended, job, point, tiny_space
from torch.utils.flop_counter import FlopCounterMode

CPU = torch.device("cpu")
ONE = "confirm={{beside: [], controls: [], matches: [{match}], sizes: [{{name: one, model: {model}}}]}}"


def arms_of(space, match, size="proxy"):
    """The models by arm."""
    return {v.arm: v.model for v in variants(space, {}) if (v.match, v.size, v.control) == (match, size, None)}


def body(model):
    """Of the built model: what lies between embedding and head."""
    with torch.device("meta"):
        built = Decoder(model)
    return sum(p.numel() for name, p in built.named_parameters() if name.startswith(("blocks.", "norm.")))


def flops(model):
    """As torch counts them, of a training step, a token."""
    built, tokens = Decoder(model), torch.zeros(1, model.context, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        built.loss(tokens, tokens).backward()
    return counter.get_total_flops() / model.context


MEASURED = {"params": body, "flops": flops}
MODELS = [
    "{}",
    "{d_model: 64, d_ff: 176, n_layers: 2, n_heads: 4, rank_multiple: 8}",
    "{d_model: 128, d_ff: 344, n_kv_heads: 1, head_dim: 32}",
    "{d_model: 96, d_ff: 64, n_layers: 6, n_heads: 6, n_kv_heads: 2}",
    "{d_model: 64, d_ff: 256, ffn: relu, bias: true, norm: layer_after, positions: learned, head_bias: true}",
    "{d_model: 96, d_ff: 256, ffn: relu, n_layers: 3, context: 64}",
    "{shape: cpu-128, n_layers: 3, ffn_multiple: 8}",
]


# matches


@pytest.mark.parametrize("match", ["params", "flops"])
@pytest.mark.parametrize("model", MODELS)
def test_every_arm_costs_what_the_built_dense_one_does_within_half_a_per_cent(model, match):
    arms = arms_of(protocol_space(ONE.format(match=match, model=model)), match, "one")
    costs = {arm: MEASURED[match](its) for arm, its in arms.items()}
    assert set(arms) == {"dense", "attention", "ffn", "both"}
    assert all(abs(cost / costs["dense"] - 1) <= 0.005 for cost in costs.values())
    assert {arm: its.placement.sublayers for arm, its in arms.items()} == {arm: arm for arm in arms}


def test_tied_embeddings_are_matched_too():
    model = "proxy.model={vocab_size: 264, d_model: 64, d_ff: 176, n_heads: 4, n_layers: 4, context: 64, tie_embeddings: true}"
    tied = [model, "proxy.optim.lr_rule=uniform", "proxy.model.rank_multiple=4"]
    arms = arms_of(tiny_space(*tied, "confirm={beside: [], matches: [params]}"), "params")
    assert all(its.tie_embeddings for its in arms.values())
    assert all(abs(body(its) / body(arms["dense"]) - 1) <= 0.005 for its in arms.values())


@pytest.mark.parametrize("match", ["params", "flops"])
@pytest.mark.parametrize("model", MODELS)
def test_no_other_width_of_the_ffn_is_nearer(model, match):
    arms = arms_of(protocol_space(ONE.format(match=match, model=model)), match, "one")
    measure, target = MEASURED[match], MEASURED[match](arms["dense"])
    for its in (arms["attention"], arms["both"]):
        found = abs(measure(its) - target)
        for d_ff in (its.d_ff - 1, its.d_ff + 1):
            assert abs(measure(its.change(d_ff=d_ff)) - target) >= found


@pytest.mark.parametrize(("d_ff", "placement"), [(24, "up=1/2"), (16, "gate,up,down=1/4"), (40, "q,k,v,o=1/4 down=1/3")])
def test_where_ranks_follow_the_width_the_nearest_of_all_widths_is_found_or_none_is_near(d_ff, placement):
    shape = {"vocab_size": 264, "d_model": 48, "d_ff": d_ff, "n_heads": 2, "n_layers": 2, "context": 16, "rank_multiple": 4}
    placed = ModelConfig.parse(shape | {"placement": placement}, "model")
    target, off = body(placed.dense()), {}
    for width in range(1, 200):
        try:
            off[width] = abs(body(placed.change(d_ff=width)) - target)
        except ValueError:
            continue  # a rank that saves nothing there
    nearest = min(off.values())
    if nearest <= WITHIN * target:
        assert off[matched(placed, "params").d_ff] == nearest
    else:
        with pytest.raises(ValueError, match="the nearest FFN"):
            matched(placed, "params")


def test_at_equal_width_nothing_but_the_placement_differs():
    for arm, its in arms_of(protocol_space(), "width").items():
        assert its.dense() == protocol_space().proxy.model
        assert its.placement.sublayers == arm


def test_an_arm_that_cannot_be_matched_is_refused_with_size_arm_match_and_figure():
    space = protocol_space(ONE.format(match="params", model="{d_model: 16, d_ff: 24, n_layers: 1}"))
    with pytest.raises(UserError) as error:
        variants(space, {})
    text = str(error.value)
    assert text.startswith("confirm: attention at equal params and size 'one': the nearest FFN, d_ff 35, has +0.72% of")
    dense = space.proxy.model.change(d_model=16, d_ff=24, n_layers=1, placement="dense")
    near = dense.change(d_ff=35, placement="q,k,v,o=1/4")
    assert body(near) / body(dense) - 1 == pytest.approx(0.0072, abs=5e-5)


@pytest.mark.parametrize("name", presets())
def test_every_preset_can_be_confirmed_by_the_default_protocol(name):
    space = load_space(name)
    listed = {"winner": as_listed(space, ended(job(next(c for c in map(space.candidate, space.corners()) if c.feasible)), 1.0))}
    found = variants(space.change(confirm=space.confirm.change(placements=listed)), {})
    assert {(one.arm, one.match) for one in found if one.arm != "winner"} >= {
        (arm, match) for arm in ("dense", "attention", "ffn", "both") for match in ("width", "params", "flops")
    }


# sizes


def test_a_size_may_be_a_named_shape_of_another_depth_with_keys_set_otherwise():
    other = "{shape: llama-9m, n_layers: 3, d_ff: 300}"
    space = protocol_space(f"confirm={{beside: [], sizes: [{{name: a}}, {{name: b, model: {other}}}]}}")
    here, there = (sized(space, size).model for size in sizes(space))
    assert here == space.proxy.model
    shape = {"vocab_size": 32000, "d_model": 128, "d_ff": 300, "n_heads": 4, "n_layers": 3}
    assert there == ModelConfig.parse(shape | {"context": 16, "rank_multiple": 2}, "b")


def test_without_sizes_the_proxy_is_the_only_one():
    space = protocol_space()
    assert {one.size for one in variants(space, {})} == {"proxy"}
    assert sized(space, sizes(space)[0]).model == space.proxy.model


def test_a_size_may_train_longer_and_by_other_batches():
    asked = "{name: a}, {name: c, batch_size: 6, microbatch: 3}, {name: b, tokens: 1000, batch_size: 6}"
    space = protocol_space("proxy.microbatch=2", f"confirm={{beside: [], sizes: [{asked}]}}")
    recipes = [one.recipe for one in variants(space, {}) if (one.arm, one.match, one.control) == ("dense", "width", None)]
    assert [(its.tokens, its.batch_size, its.microbatch) for its in recipes] == [(640, 4, 2), (640, 6, 3), (1000, 6, None)]
    tokens = {one.size: one.tokens for one in variants(space, {})}
    assert tokens == {"a": 640, "b": math.ceil(1000 / 96) * 96, "c": math.ceil(640 / 96) * 96}


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ("{name: a}, {name: b}", "a run of 'b' has 2.53e+08 training FLOPs and one of 'a' 2.53e+08"),
        ("{name: big, model: {d_model: 64}}, {name: little}", "a run of 'little' has 2.53e+08"),
    ],
)
def test_sizes_that_do_not_grow_are_no_ladder(sizes, said):
    with pytest.raises(UserError, match=r"confirm.sizes: smallest first, but ") as error:
        variants(protocol_space(f"confirm={{beside: [], sizes: [{sizes}]}}"), {})
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("model: {d_modle: 64}", "model.d_modle: unknown key, did you mean 'd_model'?"),
        ("model: {d_model: sixty}", "model.d_model: expected a whole number, found 'sixty' (text)"),
        ("model: {d_model: 63}", "model.n_heads: 2 heads do not divide d_model 63"),
        ("model: {placement: attention=1/4}", "model.placement: the arms fill it in, found 'attention=1/4'"),
        ("model: {tie_embeddings: true}", "optim.lr_rule: mup does not carry tied embeddings"),
        ("batch_size: 4, microbatch: 3", "microbatch: 3 does not divide batch_size 4"),
    ],
)
def test_a_size_that_cannot_be_is_one_line_with_its_name_and_key(size, expected):
    space = protocol_space(f"confirm={{sizes: [{{name: small}}, {{name: large, {size}}}]}}")
    with pytest.raises(UserError) as error:
        variants(space, {})
    assert str(error.value).startswith(f"confirm.sizes 'large': {expected}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("rule", "share"), [("mup", 1 / 4), ("uniform", 1.0)])
def test_the_learning_rate_is_carried_to_another_width_by_its_rule(rule, share):
    settings = [f"proxy.optim.lr_rule={rule}", "confirm={beside: [], sizes: [{name: a}, {name: b, model: {d_model: 128}}]}"]
    space = protocol_space(*settings)
    rates = []
    for size in ("a", "b"):
        dense = next(v for v in variants(space, {}) if (v.arm, v.size) == ("dense", size))
        groups = optimizer(build(dense.model, CPU, 0), dense.recipe.optim).param_groups
        shapes = {tuple(p.shape): group["lr"] for group in groups for p in group["params"]}
        rates.append((shapes[dense.model.d_model, dense.model.d_model], shapes[264, dense.model.d_model]))
    assert rates[0] == pytest.approx((space.proxy.optim.lr, space.proxy.optim.lr))
    assert rates[1][0] == pytest.approx(share * space.proxy.optim.lr)


def test_another_width_than_the_one_that_the_rate_was_chosen_at_counts_from_that_one():
    space = protocol_space("proxy.optim.lr_base_width=64", "confirm={beside: [], sizes: [{name: b, model: {d_model: 128}}]}")
    recipe = variants(space, {})[0].recipe
    built = build(variants(space, {})[0].model, CPU, 0)
    assert multiplier(recipe.optim, built, "blocks.0.attention.q.weight") == 1 / 2


# controls


def controls(*settings):
    found = variants(protocol_space(*settings), {})
    first = {one.arm: one for one in found if one.control is None and one.match == "width"}
    return first, {(one.control, one.arm): one for one in found if one.control}


def stds(model):
    """std of what each projection multiplies by, over the layers, of the built model."""
    built, found = build(model, CPU, 0), {}
    for name in (*ATTENTION, *FFN):
        of = [getattr(block.attention if name in ATTENTION else block.ffn, name) for block in built.blocks]
        products = [part.b.weight @ part.a.weight if hasattr(part, "a") else part.weight for part in of]
        found[name] = torch.cat([product.flatten() for product in products]).std().item()
    return found


def test_scaled_starts_the_attention_of_dense_at_its_root_of_a_third_and_changes_nothing_else():
    first, found = controls("proxy.model.d_model=64", "proxy.model.d_ff=192")
    one = found["scaled", "dense"]
    assert [key for key in found if key[0] == "scaled"] == [("scaled", "dense")]
    assert one.recipe == first["dense"].recipe
    dense, scaled = build(first["dense"].model, CPU, 0), build(one.model, CPU, 0)
    for (name, before), (_, after) in zip(dense.named_parameters(), scaled.named_parameters(), strict=True):
        factor = 1 / math.sqrt(3) if ".attention." in name else 1.0
        torch.testing.assert_close(after, factor * before)
    share = {name: std / stds(first["dense"].model)[name] for name, std in stds(one.model).items()}
    assert share == pytest.approx({name: 3**-0.5 if name in ATTENTION else 1.0 for name in share})


def test_init_leaves_low_rank_attention_at_about_a_root_of_a_third_of_what_dense_has():
    _, found = controls("proxy.model.d_model=96", "proxy.model.d_ff=256")
    low, dense = stds(found["init", "attention"].model), stds(found["init", "dense"].model)
    assert {name: low[name] / dense[name] for name in ATTENTION} == pytest.approx(dict.fromkeys(ATTENTION, 3**-0.5), rel=0.05)
    assert {name: low[name] / dense[name] for name in FFN} == pytest.approx(dict.fromkeys(FFN, 1.0), rel=0.05)


@pytest.mark.parametrize(("proxy", "other"), [("matched", "lpa"), ("lpa", "matched")])
def test_init_is_the_initialisation_that_the_proxy_has_not(proxy, other):
    first, found = controls(f"proxy.model.init={proxy}", f"target.model.init={proxy}")
    for arm in ("dense", "attention"):
        one = found["init", arm]
        assert one.model == first[arm].model.change(init=other)
        assert (one.target.init, one.recipe) == (other, first[arm].recipe)


@pytest.mark.parametrize(("proxy", "other"), [(0.05, 0.0), (0.2, 0.0), (0.0, 0.05)])
def test_warmup_is_none_where_the_proxy_has_one_and_one_where_it_has_none(proxy, other):
    first, found = controls(f"proxy.optim.warmup_share={proxy}")
    for arm in ("dense", "attention"):
        one = found["warmup", arm]
        assert one.model == first[arm].model
        assert one.recipe.optim == first[arm].recipe.optim.change(warmup_share=other)
        assert one.name == f"{arm}, " + ("warm-up of 5%" if other else "no warm-up")


@pytest.mark.parametrize("init", ["lpa", "scaled"])
def test_scaled_is_left_out_where_other_weights_would_differ_or_none(init):
    _, found = controls(f"proxy.model.init={init}")
    assert {control for control, _ in found} == {"init", "warmup"}


def test_controls_are_of_the_first_match():
    space = protocol_space("confirm.matches=[params, width]")
    found = variants(space, {})
    assert {one.match for one in found if one.control} == {"params"}
    attention = next(one for one in found if one.control == "warmup" and one.arm == "attention")
    assert attention.model == next(one for one in found if one.arm == "attention" and one.match == "params").model


# the winner and other placements


def with_winner(winner, *settings):
    space = protocol_space(*settings)
    protocol = space.confirm
    arms = (*protocol.arms, "winner")
    placed = protocol.placements | {"winner": as_listed(space, winner)}
    return space.change(confirm=protocol.change(arms=arms, placements=placed))


BANDS = "vary={ranks: {attention: [dense, 1/4, 1/8], ffn: [dense, 1/2]}, bands: 2, factor_activation: [none, silu]}"


def test_a_point_with_bands_is_an_arm_of_the_same_placement_at_every_size():
    params = {
        "rank attention band 0": "dense",
        "rank attention band 1": "1/8",
        "rank ffn band 0": "1/2",
        "rank ffn band 1": "dense",
        "rebalance": "none",
        "factor_activation": "silu",
    }
    sizes = "confirm={beside: [], matches: [width], sizes: [{name: a}, {name: b, model: {n_layers: 6}}]}"
    candidate = protocol_space(BANDS).candidate(params)
    space = with_winner(ended(job(candidate), 1.0), BANDS, sizes, "confirm.arms=[dense, attention, ffn, both]")
    assert arms_of(space, "width", "a")["winner"] == candidate.proxy
    deep = arms_of(space, "width", "b")["winner"]
    assert deep.placement.text == "0-2 gate,up,down=1/2; 3-5 q,k,v,o=1/8"
    assert deep.factor_activation == "silu"


@pytest.mark.parametrize("arm", ["dense", "attention", "ffn", "both"])
def test_a_winner_that_is_a_reference_arm_trains_nothing_of_its_own(arm):
    space = protocol_space()
    found = variants(with_winner(ended(job(space.arm(arm), arm=arm), 1.0)), {})
    assert {one.trained(1.0) for one in found} == {one.trained(1.0) for one in variants(space, {})}
    models = {(one.arm, one.match): one.model for one in found if one.control is None}
    assert all(models["winner", match] == models[arm, match] for match in space.confirm.matches)


def test_a_winner_that_is_a_reference_arm_but_for_what_it_buys_is_that_arm_at_every_match():
    space = protocol_space("vary.rebalance=[none, params]", "confirm.matches=[width, params]")
    winner = ended(job(space.candidate(point("1/4", rebalance="params"))), 1.0)
    for match in ("width", "params"):
        models = arms_of(with_winner(winner, "confirm.matches=[width, params]"), match)
        assert models["winner"] == models["attention"]


def test_a_winner_of_its_own_is_an_arm_and_a_listed_one_is_taken_at_its_word():
    space = protocol_space()
    point_of = ended(job(space.candidate(point("1/4", "1/4"))), 1.0)
    assert arms_of(with_winner(point_of), "width")["winner"].placement.text == "0-3 q,k,v,o,gate,up,down=1/4"
    text = "search.placements=[{ranks: {'q,k': [1/8, 1/4]}, rebalance: flops}]"
    listed = protocol_space(text).search.placements[0]
    record = ended(job(space.listed(listed)), 1.0).change(listed=listed)
    assert as_listed(space, record) == listed
    assert arms_of(with_winner(record), "width")["winner"].placement.text == "0-1 q,k=1/8; 2-3 q,k=1/4"


def test_a_claim_about_the_winner_keeps_it_whatever_it_is_and_no_comparison_is_lost():
    arm = ended(job(protocol_space().arm("attention"), arm="attention"), 1.0)
    arms = "confirm={arms: [dense, attention, ffn, both, winner], beside: [], claim: [winner better than dense]}"
    space = protocol_space(arms)
    space = space.change(confirm=space.confirm.change(placements={"winner": as_listed(space, arm)}))
    models = arms_of(space, "params")
    assert models["winner"] == models["attention"]


@pytest.mark.parametrize(
    ("ranks", "size", "said"),
    [
        ("{}", "{}", "dense"),
        ("{attention: 1/4}", "{}", "q8 k8 v8 o8"),
        ("{attention: 1/8}", "{rank_multiple: 8, d_model: 32}", "q8 k8 v8 o8"),
    ],
)
def test_two_arms_that_are_one_model_are_not_compared(ranks, size, said):
    other = "dense" if said == "dense" else "attention"
    space = protocol_space(
        f"confirm={{arms: [dense, attention, thin], claim: [thin better than {other}], beside: [], matches: [width], "
        f"placements: {{thin: {{ranks: {ranks}}}}}, sizes: [{{name: small, model: {size}}}]}}"
    )
    with pytest.raises(UserError) as error:
        variants(space, {})
    said = f"at equal width and size 'small': both are one model, {said}"
    assert str(error.value) == f"confirm.claim: 'thin better than {other}' {said}"


@pytest.mark.parametrize("name", ["thin", "winner"])
@pytest.mark.parametrize(
    ("ranks", "where", "said"),
    [
        ("{attention: 1}", "the target", "placement: rank 64 (1) saves nothing in q of layer 0, 64 x 64; below 32 it would"),
        ("{attention: [1/4, 1/4, 1/4, 1/4, 1/8]}", "the target", "5 bands of depth in 4 layers"),
        ("{attention: [1/4, 1/4, 1/8]}", "size 'two'", "3 bands of depth in 2 layers"),
    ],
)
def test_a_placement_that_cannot_be_built_is_one_line(name, ranks, where, said):
    space = protocol_space(
        f"confirm={{arms: [dense, attention, ffn, both, {name}], placements: {{{name}: {{ranks: {ranks}}}}}, beside: [], "
        "matches: [width], sizes: [{name: two, model: {n_layers: 2}}]}"
    )
    with pytest.raises(UserError) as error:
        variants(space, {})
    assert str(error.value) == f"confirm: {name} at equal width and {where}: {said}"
