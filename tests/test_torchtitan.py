import ast
import math
import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from consumer import consume
from hf_folders import CPU
from lpanas.lpa import hf
from lpanas.lpa.config import UserError, dump_yaml
from lpanas.lpa.cost import cost
from lpanas.lpa.data import DataConfig
from lpanas.lpa.model import Decoder, build
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.optim import multiplier, schedule
from lpanas.lpa.prepare import open_shards
from lpanas.lpa.train import train
from lpanas.lpa.train_config import TrainConfig
from lpanas.lpa.weights import hf_name
from lpanas.search.presets import load_space, presets, shapes
from lpanas.search.titan_export import export_config, readme

SHAPE: dict[str, Any] = {
    "vocab_size": 257,
    "d_model": 64,
    "d_ff": 96,
    "n_layers": 3,
    "n_heads": 4,
    "context": 32,
    "rank_multiple": 1,
}
WIDE = {"d_model": 192, "d_ff": 256, "n_layers": 2, "placement": "0 both=1/4; 1 dense"}
MODELS: dict[str, dict[str, Any]] = {
    "bands": {"placement": "0 attention=1/4; 1 q=1/8 k=1/8 down=1/4; 2 dense"},
    "silu": {
        "placement": "k,up=1/8 v=1/4",
        "factor_activation": "silu",
        "n_kv_heads": 2,
        "rope_theta": 500.0,
        "norm_eps": 1e-4,
    },
    "other heads": {"placement": "both=1/8", "head_dim": 32, "n_heads": 3, "head_bias": True, "norm_eps": 1e-4},
    "dense": {},
    "tied": {"n_kv_heads": 1, "tie_embeddings": True, "rope_theta": 500.0},
    "tied lpa": {"tie_embeddings": True, "init": "lpa", "placement": "v=1/4"},
    "matched": WIDE,
    "scaled": WIDE | {"init": "scaled"},
    "lpa": WIDE | {"init": "lpa", "head_bias": True},
}
OPTIM = {"lr": 3e-3, "lr_base_width": 32, "weight_decay": 0.1, "beta1": 0.8, "beta2": 0.98, "eps": 1e-7, "final_share": 0.2}
SCRIPT = Path(__file__).with_name("titan_script.py")
PRESETS = [name for name in presets() if name != "lpa-370m"]  # which is no Llama
LARGE = [*PRESETS, "llama-250m", "llama-7b"]


def config(fields: Mapping[str, Any], **rest: Any) -> TrainConfig:
    rule = {"lr_rule": "uniform"} if fields.get("tie_embeddings") else {}
    raw: dict[str, Any] = {"tokens": 40 * 8 * 32, "batch_size": 8, "microbatch": 4, "seed": 3, "optim": OPTIM | rule}
    return TrainConfig.parse(raw | rest | {"model": SHAPE | dict(fields)}, "train.yaml")


def exported(one: TrainConfig, folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "train.yaml").write_text(dump_yaml(one))
    return export_config(folder / "train.yaml")


def tokens() -> torch.Tensor:
    return torch.randint(0, 257, (3, 20), generator=torch.Generator().manual_seed(5))


def to_train(pages: DataConfig) -> TrainConfig:
    """12 steps in float32, two forward passes each, with recomputed activations."""
    rest: dict[str, Any] = {"tokens": 12 * 8 * 32, "log_every": 1, "evals": 1, "precision": "float32", "device": "cpu"}
    rest |= {"activation_checkpointing": True}
    data = {"source": "shards", "shards": str(open_shards(pages).folder), "valid_tokens": 64, "max_epochs": None}
    optim = OPTIM | {"lr": 2e-2, "warmup_share": 0.25, "clip": 0.5}
    return config(MODELS["bands"] | {"factor_activation": "silu"}, **rest, data=data, optim=optim)


def begin(one: TrainConfig, folder: Path) -> None:
    """What a training from our weights needs."""
    exported(one, folder)
    first = build(one.model, CPU, one.seed)
    hf.write_folder(folder / "hf", one.model, None, hf.model_weights(one.model, first.state_dict(), "here"))


@pytest.fixture(scope="module")
def found(pages: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What torchtitan makes of all of them, in one process of its own."""
    work = tmp_path_factory.mktemp("torchtitan")
    for name, fields in MODELS.items():
        exported(config(fields), work / "models" / name)
        weights = {hf_name(key): its.detach() for key, its in ours(name).named_parameters()}
        torch.save({"weights": weights, "tokens": tokens()}, work / "models" / name / "ours.pt")
    for name, arm in product(LARGE, ("dense", "both")):
        exported(config(large(name, arm)), work / "large" / f"{name} {arm}")
    begin(to_train(pages), work / "training")
    consume("torchtitan", SCRIPT.read_text(), work)
    return torch.load(work / "found.pt", weights_only=False)


def ours(name: str) -> Decoder:
    return build(config(MODELS[name]).model, CPU, 1)


def large(name: str, arm: str) -> dict[str, Any]:
    """The target of a preset, or a named shape."""
    if name in PRESETS:
        return load_space(name).arm(arm).target.model_dump(mode="json")
    return shapes()[name] | {"placement": arm if arm == "dense" else "both=1/4", "rank_multiple": 32}


def expected_cost(model: ModelConfig) -> tuple[int, int]:
    """torchtitan counts 6 FLOPs a token for every parameter but the embedding's, norms and biases among them, where we count
    matrices alone."""
    its = cost(model, 1)
    beside = (2 * model.n_layers + 1) * model.d_model + (model.vocab_size if model.head_bias else 0)
    return its.params, its.flops_per_token + 6 * beside


@pytest.mark.parametrize("name", MODELS)
def test_our_weights_give_our_logits(found: Any, name: str) -> None:
    with torch.no_grad():
        torch.testing.assert_close(found[name]["logits"], ours(name)(tokens()), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_the_predicted_ones_and_flops_differ_by_the_norms(found: Any, name: str) -> None:
    model = config(MODELS[name]).model
    assert (found[name]["params"], found[name]["flops"]) == expected_cost(model)
    assert f"{expected_cost(model)[1] - cost(model, 1).flops_per_token:,} a token more" in readme(config(MODELS[name]))


@pytest.mark.parametrize("name", LARGE)
def test_the_target_of_every_preset_and_large_shapes_are_built_with_its_predicted_parameters(found: Any, name: str) -> None:
    for arm in ("dense", "both"):
        assert found[f"{name} {arm}"] == expected_cost(config(large(name, arm)).model)


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_starts_at_our_std(found: Any, name: str) -> None:
    started, mine = found[name]["started"], ours(name)
    assert {key: its.shape for key, its in started.items()} == {hf_name(key): its.shape for key, its in mine.named_parameters()}
    for key, parameter in mine.named_parameters():
        its = started[hf_name(key)]
        if parameter.std() == 0:
            torch.testing.assert_close(its, parameter.detach(), msg=key)
        else:  # the std of a std of n normal numbers is 1/sqrt(2n) of it: five of each
            assert its.std().item() == pytest.approx(parameter.std().item(), rel=7 / math.sqrt(its.numel())), key
            assert its.abs().max() < 6 * parameter.std(), key


@pytest.mark.parametrize(
    ("init", "attention", "product"), [("matched", 1.0, 1.0), ("scaled", 3**-0.5, 1.0), ("lpa", 1 / 3, 1 / 3)]
)
def test_products_of_factors_start_at_the_rules_std(found: Any, init: str, attention: float, product: float) -> None:
    started, depth = found[init]["started"], 1.0 if init == "lpa" else 1 / math.sqrt(2 * 2)
    for name, d_in, ends, share in (
        ("self_attn.q_proj", 192, 1, attention),
        ("self_attn.o_proj", 192, depth, attention),
        ("mlp.up_proj", 192, 1, product),
        ("mlp.down_proj", 256, depth, product),
    ):
        a, b = (started[f"model.layers.0.{name}.{factor}.weight"] for factor in "ab")
        assert (b @ a).std().item() == pytest.approx(share * ends / math.sqrt(d_in), rel=0.06)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_has_our_rate_and_decay(found: Any, name: str) -> None:
    mine, rule = ours(name), config(MODELS[name]).optim
    expected = {
        hf_name(key): (rule.lr * multiplier(rule, mine, key), 0.1 if parameter.ndim == 2 else 0.0, (0.8, 0.98), 1e-7)
        for key, parameter in mine.named_parameters()
    }
    assert found[name]["rates"].keys() == expected.keys()
    for key, (rate, *rest) in expected.items():
        assert found[name]["rates"][key] == (pytest.approx(rate), *rest), key


def test_the_config_says_what_train_yaml_does(found: Any) -> None:
    its = found["bands"]
    training = {"local_batch_size": 4, "global_batch_size": 8, "seq_len": 32, "steps": 40, "max_norm": 1.0}
    assert (training | {"mixed_precision_param": "bfloat16"}).items() <= its["training"].items()
    assert (its["seed"], its["checkpointing"]) == (3, False)
    parts = its["config"]
    assert {"seed": 3, "dataset_path": "shards", "vocab_size": 257}.items() <= parts["dataloader"].items()
    assert {"enable": True, "interval": 500}.items() <= parts["checkpoint"].items()
    assert parts["metrics"]["log_freq"] == 10
    rule = config({}).optim
    assert its["shares"] == pytest.approx([schedule(rule, step, 40) for step in range(40)])


def test_a_dense_model_is_llama_without_a_converter(found: Any, tmp_path: Path) -> None:
    for name in ("dense", "tied"):
        assert "LowRankLinear" not in found[name]["classes"]
    folder = exported(config(MODELS["bands"]), tmp_path / "it")
    assert (folder / "lpanas_model" / "low_rank.py").exists()
    (tmp_path / "it" / "train.yaml").write_text(dump_yaml(config({})))
    export_config(tmp_path / "it" / "train.yaml")
    names = ["README.md", "__init__.py", "config_registry.py", "model.py", "shards.py", "training.py"]
    assert sorted(path.name for path in folder.rglob("*.*")) == names
    assert "LowRank" not in (folder / "lpanas_model" / "config_registry.py").read_text()


def test_its_trainer_stopped_and_started_again_has_our_losses_step_by_step(found: Any, pages: DataConfig) -> None:
    one = to_train(pages)
    mine = [progress.train_loss_nats for progress in train(one, open_shards(one.data))]
    steps, losses, norms = zip(*found["rows"], strict=True)
    assert steps == tuple(range(1, 13))
    assert losses == pytest.approx(mine, rel=1e-5)
    assert losses[-1] < losses[0] - 1
    assert max(norms) > 0.5  # what is clipped


@pytest.mark.slow
@pytest.mark.parametrize("shared", ["data_parallel_shard_degree", "tensor_parallel_degree"])
def test_two_processes_have_the_losses_of_one(shared: str, pages: DataConfig, tmp_path: Path) -> None:
    one = to_train(pages).change(activation_checkpointing=False)
    one = one.change(model=one.model.change(factor_activation="none"))  # with a SiLU there is no tensor parallelism
    begin(one, tmp_path / "it")
    run = "import sys; from torch.distributed.run import main; main(sys.argv[1:])"
    words = ("--standalone", "--nproc-per-node", 2, SCRIPT, tmp_path / "it", f"--parallelism.{shared}", 2)
    consume("torchtitan", run, *words, "--parallelism.spmd_backend", "partial_dtensor")
    rows = torch.load(tmp_path / "it" / "found.pt")
    mine = [progress.train_loss_nats for progress in train(one, open_shards(one.data))]
    assert [loss for _, loss, _ in rows] == pytest.approx(mine[:4], rel=1e-5)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"bias": True}, "torchtitan: model.bias: true is not in torchtitan's Llama; expected false"),
        ({"positions": "learned"}, "torchtitan: model.positions: learned is not in torchtitan's Llama; expected rotary"),
        ({"ffn": "relu"}, "torchtitan: model.ffn: relu is not in torchtitan's Llama; expected swiglu"),
        ({"norm": "layer_after"}, "torchtitan: model.norm: layer_after is not in torchtitan's Llama; expected rms_before"),
        ({"dropout": 0.1}, "torchtitan: model.dropout: 0.1 is not in torchtitan's Llama; expected 0"),
        ({"n_heads": 8}, "torchtitan: model.head_dim: 8 is too small for its attention; expected 16 or more"),
    ],
)
def test_what_torchtitan_is_not_is_refused_in_a_line(fields: dict[str, Any], line: str, tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text(dump_yaml(config(fields)))
    with pytest.raises(UserError, match=f"^{re.escape(line)}$"):
        export_config(tmp_path / "train.yaml")
    assert not (tmp_path / "torchtitan").exists()


def test_the_package_needs_torchtitan_and_nothing_of_ours(tmp_path: Path) -> None:
    one = config(MODELS["bands"], activation_checkpointing=True, optim=OPTIM | {"clip": None})
    roots = set[str]()
    for path in exported(one, tmp_path / "it").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                roots.add((node.module or "").partition(".")[0])
            elif isinstance(node, ast.Import):
                roots |= {alias.name.partition(".")[0] for alias in node.names}
    library = {"collections", "dataclasses", "functools", "json", "math", "os", "pathlib", "re", "typing"}
    assert roots - library == {"torch", "torchtitan", "numpy", "spmd_types"}  # the last comes with torchtitan


@pytest.mark.parametrize(
    ("data", "command"),
    [
        ({}, "lpanas prepare stdlib --out shards"),
        ({"source": "text", "text": ["a b/*.txt", "c"]}, "lpanas prepare 'a b/*.txt' c --out shards"),
        (
            {"source": "hf", "dataset": "x/y", "text_field": "body", "tokenizer": "bpe", "vocab_size": 300},
            "lpanas prepare hf:x/y --out shards --tokenizer bpe --vocab-size 300 --text-field body",
        ),
        ({"source": "shards", "shards": "here"}, "reads the token shards of train.yaml"),
    ],
)
def test_the_readme_says_how_the_shards_are_made(data: dict[str, Any], command: str) -> None:
    assert command in readme(config({}, data=data))
