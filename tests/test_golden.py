"""The first ten losses of a seeded run of each kind of model. A change that moves them must say so: write them anew with

LPANAS_GOLDEN=write pytest tests/test_golden.py
"""

import json
import os
from pathlib import Path

import pytest
from lpanas.lpa.data import DataConfig, Shards
from lpanas.lpa.train import train
from lpanas.lpa.train_config import TrainConfig

GOLDEN = Path(__file__).parent / "golden_losses.json"
MODELS: dict[str, dict[str, object]] = {
    "dense": {},
    "attention": {"placement": "attention=1/4"},
    "ffn": {"placement": "ffn=1/4"},
    "both": {"placement": "attention=1/4 ffn=1/4"},
    "silu": {"placement": "attention=1/4 ffn=1/4", "factor_activation": "silu"},
    "lpa init": {"placement": "attention=1/4", "init": "lpa", "head_bias": True},
    "tied": {"placement": "attention=1/4", "tie_embeddings": True},
    "370m": {"placement": "attention=1/4", "ffn": "relu", "norm": "layer_after", "positions": "learned", "bias": True},
}


def first_losses(model: dict[str, object], pages: DataConfig, shards: Shards) -> list[float]:
    shape = {"vocab_size": 264, "d_model": 32, "d_ff": 88, "n_heads": 2, "n_layers": 2, "context": 32, "rank_multiple": 4}
    raw = {
        "model": shape | model,
        "optim": {"lr": 8e-3, "lr_rule": "uniform" if model.get("tie_embeddings") else "mup"},
        "tokens": 1280,
        "batch_size": 4,
        "log_every": 1,
        "evals": 1,
        "device": "cpu",
    }
    config = TrainConfig.parse(raw, "golden").change(data=pages)
    return [progress.train_loss_nats for progress in train(config, shards) if progress.train_loss_nats is not None]


@pytest.mark.parametrize("name", MODELS)
def test_the_first_losses_are_those_that_were_committed(name: str, pages: DataConfig, shards: Shards) -> None:
    losses = first_losses(MODELS[name], pages, shards)
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("LPANAS_GOLDEN") == "write":
        GOLDEN.write_text(json.dumps(golden | {name: losses}, indent=1) + "\n")
    assert len(losses) == 10
    assert losses == pytest.approx(json.loads(GOLDEN.read_text())[name], rel=1e-4)  # other CPUs round otherwise
