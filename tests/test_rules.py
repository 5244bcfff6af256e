"""What an exported file says of its keys, against numbers worked out by hand."""

import re

import pytest
from lpanas.lpa.config import parse_yaml
from lpanas.lpa.prepare import open_shards
from lpanas.lpa.train_config import TrainConfig
from lpanas.search.export import export
from lpanas.search.results import Results
from making import BANDED, arm_records, ended, job, tiny_space

BY_HAND = ("vary.bands=2", "vary.rebalance=[none, params, flops]", "vary.factor_activation=[none, silu]")


def written(space, out, shape=None, **changes):
    record = ended(job(space.candidate({**BANDED, **changes}), "trial-4"), 3.05)
    return export(Results(space, [*arm_records(space, 3.0), record], []), record, out, shape).path.read_text()


def above(text, key):
    """The comment above a key, in one line."""
    match = re.search(rf"((?:^ *#.*\n)+)^ *{key}:", text, re.MULTILINE)
    return " ".join(line.strip(" #") for line in match[1].splitlines()) if match else ""


def test_fractions_become_the_nearest_multiples_of_the_layers_ranks(tmp_path):
    said = above(written(tiny_space(*BY_HAND), tmp_path, "llama-130m"), "placement")
    # attention is 768 x 768, of whose 768 a quarter is 192, 48 times the space's multiple of 4; the FFN 768 x 2048
    assert "layers 0-5: q,k,v,o 1/4 x 768 = 192, rank 192" in said
    assert "layers 6-11: gate,up,down 1/2 x 768 = 384, rank 384" in said
    coarse = above(written(tiny_space(*BY_HAND, "target.model.rank_multiple=4"), tmp_path, "llama-35m"), "placement")
    assert "q,k,v,o 1/4 x 384 = 96, rank 96" in coarse


def test_a_rank_that_is_no_multiple_is_rounded_and_both_are_said(tmp_path):
    space = tiny_space(*BY_HAND, "target.model.rank_multiple=12")
    said = above(written(space, tmp_path), "placement")
    # 1/4 of 64 is 16, to a multiple of 12: 12; 1/2 of 64 is 32, which lies nearer to 36 than to 24
    assert "layers 0-1: q,k,v,o 1/4 x 64 = 16, rank 12" in said
    assert "layers 2-3: gate,up,down 1/2 x 64 = 32, rank 36" in said


def test_each_layer_lies_in_the_band_that_the_rule_says(tmp_path):
    text = written(tiny_space(*BY_HAND), tmp_path, "llama-60m")
    assert "layer l of 8 is in band floor(2 l / 8) of 2" in above(text, "placement")
    assert "The proxy, of 2 layers and d_model 16: 0 q,k,v,o=1/4; 1 gate,up,down=1/2." in above(text, "placement")
    placement = parse_yaml(text, "x")["model"]["placement"]
    assert placement == "0-3 q,k,v,o=1/4; 4-7 gate,up,down=1/2"
    assert [2 * layer // 8 for layer in range(8)] == [0] * 4 + [1] * 4


def test_every_matrix_trains_at_the_rate_that_the_rule_gives_by_hand(tmp_path):
    said = above(written(tiny_space(*BY_HAND, "proxy.optim.lr=16e-3"), tmp_path), "lr")
    # The proxy's d_model is 16, the target's 64, d_ff 192: a dense 64 x n trains at 16e-3 x 16 / 64 = 4e-3.
    assert "embedding, positions, norms, biases: 0.016" in said
    assert "head (64 x 264): 0.004" in said
    # attention in layers 0-1 at rank 16: A at half of 4e-3, B at 64 / (2 x 16) = 2 times 4e-3
    assert "q,k,v,o (A, 64 x 16): 0.002" in said
    assert "q,k,v,o (B, 16 x 64): 0.008" in said
    # down, dense in layers 0-1, reads d_ff: 16e-3 x 16 / 192; at rank 32 its A has half of it and B 192 / 64 = 3 times it
    assert "down (192 x 64): 0.001333" in said
    assert "down (A, 192 x 32): 0.0006667" in said
    assert "down (B, 32 x 64): 0.004" in said
    assert "gate,up (A, 64 x 32): 0.002 gate,up (B, 32 x 192): 0.004" in said


def test_it_is_said_that_width_alone_carries_the_rate(tmp_path):
    said = above(written(tiny_space(*BY_HAND), tmp_path), "lr")
    assert "carries it across widths; other depths, batches and lengths of training may want another rate" in said


def test_the_lpa_setting_is_named_where_a_step_has_as_many_tokens(tmp_path):
    # the authors' 130M setting: 512 sequences of 256 tokens
    for batch, context, same in ((512, 256, True), (128, 1024, True), (512, 128, False), (128, 512, False)):
        space = tiny_space(f"target.batch_size={batch}", f"target.model.context={context}")
        said = above(written(space.change(vary=tiny_space(*BY_HAND).vary), tmp_path), "batch_size")
        assert ("as many as in the LPA 130M setting, 512 x 256; arXiv 2411.02063" in said) == same


def test_it_is_said_how_often_shards_are_read_and_how_much_validation_is(tmp_path, pages):
    shards = open_shards(pages)
    text = written(
        tiny_space(*BY_HAND, f"proxy.data={{source: shards, shards: '{shards.folder}', valid_tokens: 300}}"), tmp_path
    )
    params = 4 * (4 * 64**2 + 3 * 64 * 192) + 9 * 64 + 2 * 264 * 64
    there = (shards.folder / "train.bin").stat().st_size // 2
    assert f"about {20 * params / there:.2g} times ({there:,} training tokens)" in above(text, "data")
    assert "1/1000 of the training tokens, at most 1,048,576 and no fewer than the proxy's 300" in above(text, "valid_tokens")
    assert parse_yaml(text, "x")["data"]["valid_tokens"] == 20 * params // 1000
    gone = tiny_space(*BY_HAND, "proxy.data={source: shards, shards: nowhere}")
    assert "as often as the tokens need; put" in above(written(gone, tmp_path), "data")


def test_a_base_width_of_the_space_goes_into_the_rates(tmp_path):
    text = written(tiny_space(*BY_HAND, "proxy.optim={lr: 16e-3, lr_base_width: 8}"), tmp_path)
    assert "q,k,v,o (64 x 64): 0.002" in above(text, "lr")
    assert "proxy.optim.lr_base_width of the space" in above(text, "lr_base_width")


def test_under_the_uniform_rule_one_rate_is_said(tmp_path):
    text = written(tiny_space(*BY_HAND, "proxy.optim.lr_rule=uniform"), tmp_path)
    assert "for every parameter" in above(text, "lr")
    assert "(A," not in text


def test_a_wider_ffn_is_said_with_the_budget_that_it_keeps_to(tmp_path):
    text = written(tiny_space(*BY_HAND), tmp_path, rebalance="params")
    # Dense body of 4 layers: 4 x (4 x 64^2 + 3 x 64 x 192) + 9 norms of 64. Ranks 16 and 32 in two layers each.
    dense = 4 * (4 * 64**2 + 3 * 64 * 192) + 9 * 64
    body = [2 * (4 * 16 * 128 + 3 * 64 * d + 4 * 64**2 + 3 * 32 * (64 + d)) + 9 * 64 for d in range(192, 400, 4)]
    widest = max(n for n, one in enumerate(body) if one <= dense)
    said = above(text, "d_ff")
    assert parse_yaml(text, "x")["model"]["d_ff"] == 192 + 4 * widest
    assert f"{body[widest]:,} of {dense:,}" in said
    assert "rebalance: params" in said
    assert "from the shape's 192 to a multiple of ffn_multiple 4" in said
    assert "training FLOPs a token" in above(written(tiny_space(*BY_HAND), tmp_path, rebalance="flops"), "d_ff")
    assert "no rebalance" in above(written(tiny_space(*BY_HAND), tmp_path), "d_ff")


def test_tokens_batch_and_warm_up_are_said_as_they_are_counted(tmp_path):
    text = written(tiny_space(*BY_HAND), tmp_path)
    # the dense body, the embedding and the head; 20 tokens for each, 8 x 32 = 256 a step
    params = 4 * (4 * 64**2 + 3 * 64 * 192) + 9 * 64 + 2 * 264 * 64
    steps = -(-20 * params // 256)
    raw = parse_yaml(text, "x")
    assert raw["tokens"] == 20 * params
    assert f"20 for each of the {params:,} parameters" in above(text, "tokens")
    assert "arXiv 2203.15556" in above(text, "tokens")
    assert f"{steps:,} steps, {steps * 256:,} tokens" in above(text, "tokens")
    assert "8 x 32 = 256 tokens a step" in above(text, "batch_size")
    assert f"{steps * 5 / 100:,} of {steps:,} steps" in above(text, "warmup_share")
    assert "32 tokens a sequence" in above(text, "context")


def test_tokens_that_the_space_asks_for_are_not_said_to_be_another_source(tmp_path):
    said = above(written(tiny_space(*BY_HAND, "target.tokens_per_param=7"), tmp_path), "tokens")
    assert said.startswith("7 for each of")
    assert "target.tokens_per_param of the space" in said


@pytest.mark.parametrize("shape", [None, "llama-7b", "lpa-370m"])
def test_the_comments_change_nothing_that_is_read(tmp_path, shape):
    text = written(tiny_space(*BY_HAND), tmp_path, shape)
    bare = "".join(line for line in text.splitlines(keepends=True) if not line.lstrip().startswith("#"))
    assert parse_yaml(text, "x") == parse_yaml(bare, "x")
    assert TrainConfig.parse(parse_yaml(text, "x"), "x").model_dump(mode="json") == parse_yaml(bare, "x")
    assert all(len(line) <= 128 for line in text.splitlines()[1:])
