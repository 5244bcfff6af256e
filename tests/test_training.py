"""What `lpanas train` says, by the command line."""

import json
from pathlib import Path

import pytest
from lpanas.lpa.checkpoint_folder import FOLDERS
from lpanas.lpa.config import UserError, dump_yaml
from lpanas.lpa.data import DataConfig
from lpanas.lpa.kernels import forget
from lpanas.lpa.model import Decoder
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.optim import OptimConfig
from lpanas.lpa.train_config import TrainConfig
from lpanas.search.folder import check_folder
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


def test_a_training_that_has_lost_its_log_goes_on_from_its_checkpoint(path: Path, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "out"
    assert call("train", path, "--out", out, "--steps", 5)[0] == 0
    for name in ("metrics.jsonl", ".lock"):
        (out / name).unlink()
    assert call("train", path, "--out", out)[::2] == (0, "")
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(6, 13))


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # dynamo's own, at a tensor in the middle
def test_compiling_is_said_once_and_is_in_no_speed(
    path: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Decoder.use, "__defaults__", ("eager",))  # a backend that needs no compiler
    forget()
    code, told, _ = call("train", path, "--out", tmp_path / "out", "--set", "kernels=regions")
    assert (code, told.count("compiling kernels")) == (0, 1)
    assert told.startswith("compiling kernels (regions), in the first step and evaluation\nstep 1 of 12")
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "tokens_per_second" in row] == list(range(2, 12))  # the last has the evaluation
    assert {row["kernels"] for row in rows} == {"regions"}
    assert "compiling kernels" not in call("train", path, "--out", tmp_path / "out", "--set", "kernels=regions")[1]


@pytest.mark.parametrize("name", ["checkpoint-000000005", "checkpoint.pt"])
def test_a_folder_with_a_checkpoint_is_a_trainings_and_one_with_another_name_is_none(name: str, tmp_path: Path) -> None:
    """The names that `lpanas train` looks for."""
    markers = ("metrics.jsonl", "checkpoint.pt", FOLDERS)
    (tmp_path / f"{name}.mine").mkdir()
    with pytest.raises(UserError, match=r"holds '.*\.mine' and no metrics\.jsonl; expected a new or empty folder"):
        check_folder(tmp_path, *markers)
    (tmp_path / name).mkdir()
    assert check_folder(tmp_path, *markers) == tmp_path


def test_a_checkpoint_that_cannot_be_read_is_named_with_what_to_do(path: Path, tmp_path: Path, call: Call) -> None:
    file = tmp_path / "out" / "checkpoint.pt"
    assert call("train", path, "--out", file.parent, "--steps", 5)[0] == 0
    file.write_bytes(file.read_bytes()[:999])
    code, _, told = call("train", path, "--out", file.parent)
    assert code == 2
    assert told == (
        f"lpanas: {file}: not a checkpoint that can be read: damaged, or another program's; "
        "remove it, and lpanas train goes on from the one before, or begins anew\n"
    )
    file.unlink()
    assert call("train", path, "--out", file.parent)[::2] == (0, "")


def test_a_folder_in_the_place_of_a_config_is_said_with_the_config_in_it(path: Path, tmp_path: Path, call: Call) -> None:
    assert call("train", tmp_path)[::2] == (
        2,
        f"lpanas: {tmp_path}: a folder; expected a training's config, such as {path}\n",
    )
    (tmp_path / "empty").mkdir()
    assert call("train", tmp_path / "empty")[2].endswith(
        ": a folder; expected a training's config, a file such as train.yaml\n"
    )
