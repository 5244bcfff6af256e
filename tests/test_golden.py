"""The first ten losses of a seeded run of each arm. A change that moves them must say so: write them anew with

LPANAS_GOLDEN=write pytest tests/test_golden.py
"""

import json
import os
from pathlib import Path

import pytest
from lpanas.lpa.data import DataConfig, Shards
from lpanas.lpa.train import TrainConfig, train

GOLDEN = Path(__file__).parent / "golden_losses.json"
ARMS = {"dense": "dense", "attention": "attention=1/4", "ffn": "ffn=1/4", "both": "attention=1/4 ffn=1/4"}


def first_losses(placement: str, pages: DataConfig, shards: Shards) -> list[float]:
    raw = {
        "model": {"vocab_size": 264, "d_model": 32, "d_ff": 88, "n_heads": 2, "n_layers": 2, "context": 32, "rank_multiple": 4},
        "optim": {"lr": 8e-3},
        "tokens": 1280,
        "batch_size": 4,
        "log_every": 1,
        "evals": 1,
        "device": "cpu",
    }
    raw["model"]["placement"] = placement
    config = TrainConfig.parse(raw, "golden").change(data=pages)
    return [progress.train_loss_nats for progress in train(config, shards) if progress.train_loss_nats is not None]


@pytest.mark.parametrize("arm", ARMS)
def test_the_first_losses_are_those_that_were_committed(arm: str, pages: DataConfig, shards: Shards) -> None:
    losses = first_losses(ARMS[arm], pages, shards)
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("LPANAS_GOLDEN") == "write":
        GOLDEN.write_text(json.dumps(golden | {arm: losses}, indent=1) + "\n")
    assert len(losses) == 10
    assert losses == pytest.approx(json.loads(GOLDEN.read_text())[arm], rel=1e-4)  # other CPUs round otherwise
