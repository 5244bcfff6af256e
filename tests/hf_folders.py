"""Models and the Hugging Face folders of them, so small that a test takes no time."""

import json
from pathlib import Path

import torch
from lpanas.lpa import checkpoint, hf
from lpanas.lpa.config import dump_yaml
from lpanas.lpa.data import DataConfig
from lpanas.lpa.hf_tokenizer import bytes_tokenizer
from lpanas.lpa.model import Decoder, build
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.prepare import open_shards
from lpanas.lpa.train import train
from lpanas.lpa.train_config import TrainConfig
from lpanas.lpa.weights import hf_name
from lpanas.search.hf_export import export_forms

SHAPE: dict[str, object] = {
    "vocab_size": 257,
    "d_model": 32,
    "d_ff": 48,
    "n_layers": 3,
    "n_heads": 4,
    "context": 32,
    "rank_multiple": 1,
}
PLACED = {"placement": "0 attention=1/4; 1 q=1/8 down=1/4; 2 dense"}
LOW_RANK: dict[str, dict[str, object]] = {
    "bands": PLACED,
    "silu, tied": {"placement": "both=1/8", "factor_activation": "silu", "tie_embeddings": True},
    "grouped heads": {"placement": "k,up=1/8", "n_kv_heads": 2, "rope_theta": 500.0, "norm_eps": 1e-4},
    "heads of another width": {"placement": "both=1/8", "head_dim": 16, "n_heads": 3},
    "head with a bias": {"head_bias": True},
}
DENSE: dict[str, dict[str, object]] = {
    "plain": {},
    "grouped, tied": {"n_kv_heads": 1, "tie_embeddings": True, "rope_theta": 500.0},
}
CPU = torch.device("cpu")


def model(fields: dict[str, object]) -> Decoder:
    return build(ModelConfig.parse(SHAPE | fields, "model"), CPU, 1)


def written(fields: dict[str, object], folder: Path, merge: bool = False) -> Decoder:
    """A model whose folder has been written; returns ours."""
    ours = model(fields)
    config, weights = ours.config, hf.model_weights(ours.config, ours.state_dict(), "here")
    if merge:
        config, weights = hf.merged(config, weights)
    hf.write_folder(folder, config, bytes_tokenizer(), weights)
    return ours


def trained_in(folder: Path, data: DataConfig) -> None:
    """A low-rank training of 40 steps."""
    shape = ModelConfig.parse(SHAPE | PLACED, "model").model_dump(mode="json")
    raw = {"model": shape, "data": data.model_dump(mode="json"), "optim": {"lr": 1e-2}, "tokens": 5120, "batch_size": 4}
    for _ in train(TrainConfig.parse(raw | {"device": "cpu"}, "train"), open_shards(data), folder):
        pass


def trained_model(folder: Path) -> Decoder:
    """What it came to."""
    ours = model(PLACED)
    ours.load_state_dict(checkpoint.weights(folder / "checkpoint.pt"))
    return ours


def tokens(batch: int = 3, time: int = 20) -> torch.Tensor:
    return torch.randint(0, 257, (batch, time), generator=torch.Generator().manual_seed(5))


def greedy(ours: Decoder, begin: torch.Tensor, count: int) -> torch.Tensor:
    """The whole sequence anew for every token."""
    for _ in range(count):
        begin = torch.cat((begin, ours(begin)[:, -1].argmax(-1, keepdim=True)), dim=1)
    return begin


DOCUMENTS = [f"page {number} says: " + "the cat sat on the mat. " * 6 for number in range(200)]
OTHER: dict[str, object] = {
    "optim": {"lr": 3e-3, "lr_rule": "uniform", "schedule": "linear", "warmup_share": 0, "clip": None},
    "precision": "float32",
    "microbatch": None,
    "activation_checkpointing": False,
}
"""Keys of a training that differ from those of `recipe`."""
RECIPE_SHAPE = SHAPE | {"d_model": 64, "d_ff": 96, "context": 48}
OPTIM = {"lr": 1e-2, "lr_base_width": 32, "warmup_share": 0.25, "final_share": 0.2, "weight_decay": 0.1}


def recipe(folder: Path, form: str, **fields: object) -> TrainConfig:
    """A training of 8 steps on DOCUMENTS, exported to a form into a folder; returns it."""
    (folder / "text").mkdir(parents=True, exist_ok=True)
    for name, its in (("a", DOCUMENTS[:150]), ("b", DOCUMENTS[150:])):
        (folder / "text" / f"{name}.jsonl").write_text("".join(json.dumps({"body": one}) + "\n" for one in its))
    raw: dict[str, object] = {
        "model": RECIPE_SHAPE | PLACED,
        "data": {"source": "text", "text": [f"{folder}/text/*.jsonl"], "text_field": "body"},
        "optim": OPTIM | {"beta1": 0.88, "beta2": 0.97, "eps": 1e-9, "clip": 0.9},
        "tokens": 8 * 8 * 48,
        "batch_size": 8,
        "microbatch": 4,
        "seed": 7,
        "log_every": 1,
        "checkpoint_every": 5,
        "activation_checkpointing": True,
    }
    config = TrainConfig.parse(raw | fields, "recipe")
    (folder / "train.yaml").write_text(dump_yaml(config))
    export_forms(folder / "train.yaml", (form,), print)
    return config


def our_spreads(config: ModelConfig) -> dict[str, float]:
    """The std that each matrix of a model of ours starts with, under Hugging Face's names."""
    named = build(config, CPU, 1).named_parameters()
    return {hf_name(name): tensor.std().item() for name, tensor in named if tensor.ndim == 2}


def product_ratios(spreads: dict[str, float], config: ModelConfig) -> list[float]:
    """What the products AB of a model start at, as shares of the dense matrices' std, by closed form; about 1 each.

    spreads: the std of each tensor, under Hugging Face's names.
    """
    ratios = []
    for name, spread in spreads.items():
        if name.endswith(".a.weight"):
            projection = name.split(".")[-3].removesuffix("_proj")
            layer, d_in = int(name.split(".")[2]), config.d_ff if projection == "down" else config.d_model
            rank = config.rank(layer, projection)
            assert rank is not None
            dense = (d_in * (2 * config.n_layers if projection in ("o", "down") else 1)) ** -0.5
            ratios.append(spread * spreads[name.replace(".a.", ".b.")] * rank**0.5 / dense)
    return ratios
