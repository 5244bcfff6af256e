from itertools import product

import pytest
import torch
from lpanas.lpa.config import UserError, parse_yaml
from lpanas.lpa.model import Decoder
from lpanas.lpa.placement import Placement
from lpanas.lpa.train import TrainConfig
from lpanas.search.budget import ARMS
from lpanas.search.carry import retarget
from lpanas.search.export import export
from lpanas.search.presets import load_space
from lpanas.search.results import Results
from making import arm_records, ended, job, tiny_space

SPACE = tiny_space("vary.bands=2", "vary.rebalance=[none, params]", "vary.factor_activation=[none, silu]")
POINT = {
    "rank attention band 0": "1/4",
    "rank attention band 1": "dense",
    "rank ffn band 0": "dense",
    "rank ffn band 1": "1/2",
    "rebalance": "none",
    "factor_activation": "silu",
}
RECORD = ended(job(SPACE.candidate(POINT), "trial-4"), 3.05)
FOUND = Results(SPACE, [*arm_records(SPACE, 3.0, 3.1, 3.2, 3.3), RECORD], [])


def exported(found, record, out, shape=None):
    path = export(found, record, out, shape).path
    assert path == out / "export" / (shape or "target") / "train.yaml"
    return TrainConfig.parse(parse_yaml(path.read_text(), "train.yaml"), "train.yaml")


def dense_params(model):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Decoder(model).parameters())


def test_what_is_exported_is_the_candidates_target(tmp_path):
    for params in map(dict, product(*([(key, value) for value in values] for key, values in SPACE.choices.items()))):
        if params["rank ffn band 0"] == params["rank attention band 0"] == "dense":
            record = ended(job(SPACE.candidate(params), "trial-4"), 3.05)
            assert exported(FOUND, record, tmp_path).model == record.target


@pytest.mark.parametrize("number", range(len(ARMS)))
def test_an_arm_is_exported_whether_or_not_it_lies_in_the_space(tmp_path, number):
    record = FOUND.records[number]
    assert exported(FOUND, record, tmp_path).model == record.target
    outside = tiny_space("vary.ranks={both: [1/8, 1/4]}")
    records = arm_records(outside, 3.0, 3.1, 3.2, 3.3)
    assert not records[number].params
    assert exported(Results(outside, records, []), records[number], tmp_path).model == records[number].target


def test_fractions_and_bands_carry_over_to_another_named_shape(tmp_path):
    model = exported(FOUND, RECORD, tmp_path, "llama-60m").model
    assert (model.d_model, model.d_ff, model.n_layers, model.vocab_size) == (512, 1376, 8, 32000)
    assert model.placement == Placement.parse("0-3 attention=1/4; 4-7 ffn=1/2", 8)
    assert (model.context, model.rank_multiple, model.factor_activation) == (32, 4, "silu")
    assert (model.rank(0, "q"), model.rank(7, "up"), model.rank(7, "q")) == (128, 256, None)


def test_a_rebalance_is_done_again_at_another_shape(tmp_path):
    record = ended(job(SPACE.candidate({**POINT, "rebalance": "params"}), "trial-4"), 3.05)
    model = exported(FOUND, record, tmp_path, "llama-20m").model
    dense = dense_params(model.dense().change(d_ff=688))
    assert model.d_ff > 688
    assert dense_params(model) <= dense < dense_params(model.change(d_ff=model.d_ff + model.ffn_multiple))


def test_the_learning_rate_and_the_width_it_was_chosen_at_are_the_proxys(tmp_path):
    optim = exported(FOUND, RECORD, tmp_path, "llama-60m").optim
    assert optim == SPACE.proxy.optim.change(lr_base_width=SPACE.proxy.model.d_model)


def test_a_base_width_that_the_space_names_is_kept(tmp_path):
    space = tiny_space("proxy.optim.lr_base_width=8")
    found = Results(space, arm_records(space, 3.0), [])
    assert exported(found, found.records[0], tmp_path).optim.lr_base_width == 8


@pytest.mark.parametrize("shape", [None, "llama-20m"])
def test_the_tokens_are_so_many_a_parameter_of_the_dense_target(tmp_path, shape):
    space = tiny_space("target.tokens_per_param=7")
    found = Results(space, arm_records(space, 3.0, 3.1), [])
    config = exported(found, found.records[1], tmp_path, shape)
    assert config.tokens == 7 * dense_params(config.model.dense())


def test_batch_microbatch_seed_and_text_are_those_of_the_space(tmp_path):
    space = tiny_space("seed=5", "proxy.data={max_epochs: 0.5, valid_tokens: 128}")
    found = Results(space, arm_records(space, 3.0), [])
    config = exported(found, found.records[0], tmp_path)
    assert (config.batch_size, config.microbatch, config.seed) == (8, 4, 5)
    assert config.data == space.proxy.data.change(max_epochs=None)


def test_a_shape_where_the_records_rank_saves_nothing_is_refused(tmp_path):
    space = load_space("quickstart")
    found = Results(space, arm_records(space, 3.0, 3.1), [])
    assert exported(found, found.records[0], tmp_path, "llama-9m").model.n_layers == 4
    with pytest.raises(UserError, match=r"--target llama-9m: placement: rank 64 .*saves nothing"):
        export(found, found.records[1], tmp_path, "llama-9m")


def test_a_shape_with_fewer_layers_than_bands_is_refused(tmp_path):
    space = tiny_space("vary.bands=5", "proxy.model.n_layers=5", "target.model.n_layers=5")
    found = Results(space, arm_records(space, 3.0), [])
    with pytest.raises(UserError, match=r"--target llama-9m: 5 bands of depth in 4 layers"):
        export(found, found.records[0], tmp_path, "llama-9m")


def test_an_unknown_shape_is_refused_with_the_nearest_right_one():
    with pytest.raises(UserError, match=r"--target.*llama-13m.*did you mean 'llama-130m'"):
        retarget(SPACE, "llama-13m")


def test_the_files_head_says_where_it_comes_from_and_what_it_rests_on(tmp_path):
    text = export(FOUND, RECORD, tmp_path).path.read_text()
    assert "trial-4" in text
    assert "3.0500 nats, +0.050 against the dense arm" in text
