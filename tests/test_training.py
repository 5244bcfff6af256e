"""What `lpanas train` says, by the command line."""

from pathlib import Path

import pytest
from lpanas.lpa.config import dump_yaml
from lpanas.lpa.data import DataConfig
from lpanas.lpa.model import ModelConfig
from lpanas.lpa.optim import OptimConfig
from lpanas.lpa.train import TrainConfig
from making import Call


@pytest.fixture
def path(tiny: ModelConfig, pages: DataConfig, tmp_path: Path) -> Path:
    """Twelve steps of four sequences."""
    steps = {"tokens": 12 * 4 * 16, "log_every": 1, "evals": 1}
    config = TrainConfig(model=tiny, data=pages, optim=OptimConfig(lr=1e-2), batch_size=4, device="cpu", **steps)
    (tmp_path / "train.yaml").write_text(dump_yaml(config))
    return tmp_path / "train.yaml"


def test_a_text_that_is_read_too_often_is_a_mistake_without_more_words(path: Path, tmp_path: Path, call: Call) -> None:
    often = ("--set", "tokens=1000000", "--set", "log_every=1000000", "--steps", 1)
    code, _, told = call("train", path, "--out", tmp_path / "out", *often, "--set", "data.max_epochs=1")
    assert code == 2
    assert told.startswith("lpanas: data: too little training text")
    assert told.count("\n") == 1
    code, _, told = call("train", path, "--out", tmp_path / "out", *often)
    assert code == 0
    assert told.count("lpanas: ") == told.count("lpanas: the text is read ") == 1
