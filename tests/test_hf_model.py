import ast
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_folders import DENSE, LOW_RANK, PLACED, SHAPE, greedy, tokens, written
from lpanas.lpa import hf
from lpanas.lpa.data import Batches, DataConfig
from lpanas.lpa.hf_tokenizer import bytes_tokenizer
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.optim import OptimConfig, multiplier
from lpanas.lpa.prepare import open_shards
from lpanas.lpa.weights import hf_name
from safetensors.torch import load_file


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", LOW_RANK)
def test_a_low_rank_folder_gives_our_logits(hub: Any, kind: str, attention: str, tmp_path: Path) -> None:
    ours = written(LOW_RANK[kind], tmp_path / "hf")
    with pytest.raises(ValueError, match="trust_remote_code"):
        hub.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", trust_remote_code=False)
    load = {"trust_remote_code": True, "attn_implementation": attention}
    theirs = hub.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", **load)
    inner = hub.AutoModel.from_pretrained(tmp_path / "hf", **load)
    with torch.no_grad():
        expected, found = ours(tokens()), theirs(tokens()).logits
        hidden = inner(tokens()).last_hidden_state
    assert type(theirs).__name__ == "LowRankLlamaForCausalLM"
    assert theirs.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(ours.head(hidden), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", DENSE)
def test_a_dense_folder_is_transformers_own_llama_and_gives_our_logits(hub: Any, kind: str, tmp_path: Path) -> None:
    ours = written(DENSE[kind], tmp_path / "hf")
    theirs = hub.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", trust_remote_code=False)
    assert type(theirs) is hub.LlamaForCausalLM
    assert not list((tmp_path / "hf").glob("*.py"))
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens()).logits, ours(tokens()), rtol=0, atol=2e-5)


def test_merged_factors_are_a_plain_llama_with_the_same_logits(hub: Any, tmp_path: Path) -> None:
    ours = written(PLACED, tmp_path / "merged", merge=True)
    theirs = hub.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", trust_remote_code=False)
    assert type(theirs) is hub.LlamaForCausalLM
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens()).logits, ours(tokens()), rtol=0, atol=2e-5)


def test_the_config_says_the_placement_and_the_ranks(hub: Any, tmp_path: Path) -> None:
    written(PLACED | {"rope_theta": 500.0}, tmp_path / "hf")
    config = hub.AutoConfig.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    assert config.placement == "0 q,k,v,o=1/4; 1 q=1/8 down=1/4; 2 dense"
    assert config.ranks == [{"q": 8, "k": 8, "v": 8, "o": 8}, {"q": 4, "down": 8}, {}]
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 500.0}
    assert (config.num_key_value_heads, config.head_dim, config.dtype, config.eos_token_id) == (4, 8, torch.float32, 256)


@pytest.mark.parametrize(
    "change", [{"ranks": [{}]}, {"ranks": [{"w": 4}, {}, {}]}, {"init": "zero"}, {"ranks": [{"q": "4"}, {}, {}]}]
)
def test_a_config_that_was_spoilt_is_refused(hub: Any, change: dict[str, object], tmp_path: Path) -> None:
    written(PLACED, tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(Exception, match=next(iter(change))):
        hub.AutoConfig.from_pretrained(tmp_path / "hf", trust_remote_code=True)


@pytest.mark.parametrize("kind", ["AutoModelForCausalLM", "AutoModel"])
@pytest.mark.parametrize(
    ("init", "attention", "product"), [("matched", 1.0, 1.0), ("scaled", 3**-0.5, 1.0), ("lpa", 1 / 3, 1 / 3)]
)
def test_without_weights_products_start_at_the_rules_std(
    hub: Any, kind: str, init: str, attention: float, product: float, tmp_path: Path
) -> None:
    wide = {"d_model": 192, "d_ff": 256, "n_layers": 2, "placement": "0 both=1/4; 1 dense", "init": init}
    config = ModelConfig.parse(SHAPE | wide, "model")
    hf.write_folder(tmp_path / "hf", config, None, None)
    assert not (tmp_path / "hf" / "model.safetensors").exists()
    read = hub.AutoConfig.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    torch.manual_seed(0)
    made = getattr(hub, kind).from_config(read, trust_remote_code=True)
    layers = (made.model if kind != "AutoModel" else made).layers
    depth = 1 if init == "lpa" else 1 / math.sqrt(2 * 2)
    for name, d_in, ends, share in (
        ("self_attn.q_proj", 192, 1, attention),
        ("self_attn.o_proj", 192, depth, attention),
        ("mlp.up_proj", 192, 1, product),
        ("mlp.down_proj", 256, depth, product),
    ):
        factors, dense = layers[0].get_submodule(name), layers[1].get_submodule(name)
        with torch.no_grad():
            found = (factors.b.weight @ factors.a.weight).std().item()
        assert found == pytest.approx(share * ends / math.sqrt(d_in), rel=0.06)
        assert dense.weight.std().item() == pytest.approx(
            (3**-0.5 if init == "lpa" else share * ends) / math.sqrt(d_in), rel=0.03
        )
    if kind != "AutoModel":
        assert made.lm_head.weight.std().item() == pytest.approx((3**-0.5 if init == "lpa" else 1) / math.sqrt(192), rel=0.03)


def test_with_a_silu_between_its_factors_a_layer_starts_at_the_dense_scale(hub: Any, tmp_path: Path) -> None:
    wide = {"d_model": 192, "n_layers": 2, "placement": "both=1/4", "d_ff": 512, "factor_activation": "silu"}
    hf.write_folder(tmp_path / "hf", ModelConfig.parse(SHAPE | wide, "model"), None, None)
    read = hub.AutoConfig.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    torch.manual_seed(0)
    made = hub.AutoModelForCausalLM.from_config(read, trust_remote_code=True)
    with torch.no_grad():
        outputs = made.model.layers[1].mlp.up_proj(torch.randn(512, 192))
    assert outputs.std().item() == pytest.approx(1, rel=0.06)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("kind", ["bands", "grouped heads", "silu, tied"])
def test_greedy_generation_is_our_own(hub: Any, kind: str, cached: bool, tmp_path: Path) -> None:
    ours = written(LOW_RANK[kind], tmp_path / "hf")
    theirs = hub.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    begin = tokens(2, 6)
    options = {"do_sample": False, "use_cache": cached, "eos_token_id": None, "pad_token_id": 0}
    with torch.no_grad():
        found = theirs.generate(begin, attention_mask=torch.ones_like(begin), max_new_tokens=12, **options)
        assert torch.equal(found, greedy(ours, begin, 12))


def test_rows_filled_up_on_the_left_generate_what_they_do_alone(hub: Any, tmp_path: Path) -> None:
    written(PLACED, tmp_path / "hf")
    theirs = hub.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    alone = tokens(1, 5)
    filled = torch.cat((torch.full((1, 3), 256), alone), dim=1)
    both = torch.cat((filled, tokens(1, 8)))
    mask = torch.ones_like(both)
    mask[0, :3] = 0
    options = {"do_sample": False, "max_new_tokens": 8, "eos_token_id": None, "pad_token_id": 256}
    expected = theirs.generate(alone, attention_mask=torch.ones_like(alone), **options)[0, 5:]
    assert torch.equal(theirs.generate(both, attention_mask=mask, **options)[0, 8:], expected)


@pytest.mark.parametrize("kind", ["bands", "silu, tied"])
def test_what_transformers_saves_loads_with_the_same_logits(hub: Any, kind: str, tmp_path: Path) -> None:
    written(LOW_RANK[kind], tmp_path / "hf")
    first = hub.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    first.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "modeling_lowrank_llama.py").exists()
    assert set(load_file(tmp_path / "again" / "model.safetensors")) == set(load_file(tmp_path / "hf" / "model.safetensors"))
    second = hub.AutoModelForCausalLM.from_pretrained(tmp_path / "again", trust_remote_code=True)
    with torch.no_grad():
        assert torch.equal(first(tokens()).logits, second(tokens()).logits)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_trainer_lowers_the_loss(hub: Any, checkpointing: bool, pages: DataConfig, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed: pip install 'lpanas[hf]'")
    hf.write_folder(tmp_path / "hf", ModelConfig.parse(SHAPE | PLACED, "model"), bytes_tokenizer(), None)
    read = hub.AutoConfig.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    torch.manual_seed(0)
    made = hub.AutoModelForCausalLM.from_config(read, trust_remote_code=True)
    rows = Batches(open_shards(pages).split("train"), 32, 160, 0)(0)[0]
    options = {"max_steps": 20, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "logging_steps": 1}
    quiet = {"report_to": [], "disable_tqdm": True, "save_strategy": "no", "use_cpu": True}
    arguments = hub.TrainingArguments(tmp_path / "out", **options, **quiet)
    if checkpointing:  # by its name from 5.24 on, or before
        (getattr(made, "activation_checkpointing_enable", None) or made.gradient_checkpointing_enable)()
    calls: list[int] = []
    made.model.layers[0].self_attn.q_proj.register_forward_hook(lambda *_: calls.append(1))
    trainer = hub.Trainer(made, arguments, train_dataset=[{"input_ids": row, "labels": row} for row in rows])
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert len(losses) == 20
    assert len(calls) == (40 if checkpointing else 20)
    assert sum(losses[-3:]) / 3 < losses[0] - 0.5


def test_groups_for_an_optimizer_have_the_rates_of_our_own(hub: Any, tmp_path: Path) -> None:
    fields = {"placement": "0 both=1/4; 1-2 dense", "head_bias": True}
    ours, rule = written(fields, tmp_path / "hf"), OptimConfig(lr=3e-3, lr_base_width=8, weight_decay=0.1)
    theirs = hub.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    its = {id(parameter): name for name, parameter in theirs.named_parameters()}
    groups = theirs.parameter_groups(3e-3, base_width=8, weight_decay=0.1)
    found = {its[id(one)]: (group["lr"], group["weight_decay"]) for group in groups for one in group["params"]}
    expected = {hf_name(name): 3e-3 * multiplier(rule, ours, name) for name, _ in ours.named_parameters()}
    assert {name: rate for name, (rate, _) in found.items()} == pytest.approx(expected)
    q = found["model.layers.0.self_attn.q_proj.a.weight"], found["model.layers.0.self_attn.q_proj.b.weight"]
    assert q == ((pytest.approx(3e-3 * 8 / 32 / 2), 0.1), (pytest.approx(3e-3 * 8 / 8 / 2), 0.1))  # 32 wide, rank 8
    assert found["model.norm.weight"] == (3e-3, 0.0)
    torch.optim.AdamW(groups)
    written(LOW_RANK["silu, tied"], tmp_path / "tied")
    with pytest.raises(ValueError, match="tie_word_embeddings"):
        hub.AutoModelForCausalLM.from_pretrained(tmp_path / "tied", trust_remote_code=True).parameter_groups(3e-3)


def test_the_modeling_file_needs_torch_and_transformers_alone() -> None:
    source = Path(hf.__file__).with_name("modeling_lowrank_llama.py").read_text()
    roots = set[str]()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            roots.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
    assert roots == {"math", "typing", "torch", "transformers", "huggingface_hub"}  # the last comes with transformers
