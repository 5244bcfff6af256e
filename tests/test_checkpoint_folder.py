"""The checkpoint of many processes, written here by one: what is gone on from when something befalls it."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from lpanas.lpa import checkpoint
from lpanas.lpa.checkpoint_folder import Writer, furthest, lack, weights
from lpanas.lpa.config import dump_yaml
from lpanas.lpa.data import DataConfig, Shards
from lpanas.lpa.distributed import World
from lpanas.lpa.model import build
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.optim import OptimConfig, optimizer
from lpanas.lpa.train import train
from lpanas.lpa.train_config import TrainConfig
from making import Call

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(tiny: ModelConfig, pages: DataConfig) -> TrainConfig:
    """Twelve steps of four sequences."""
    steps = {"tokens": 12 * 4 * 16, "log_every": 1, "evals": 1, "checkpoint_every": 3}
    return TrainConfig(model=tiny, data=pages, optim=OptimConfig(lr=1e-2), batch_size=4, device="cpu", **steps)


@pytest.fixture(scope="module")
def world() -> Generator[World]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield World(control=dist.group.WORLD, storage=dist.group.WORLD)
    dist.destroy_process_group()


def as_folder(out: Path, config: TrainConfig, shards: Shards, world: World) -> None:
    """The file of a training as a folder beside it."""
    model, fingerprint = build(config.model, CPU, 1), config.fingerprint(shards.content)
    adamw = optimizer(model, config.optim)
    reached = checkpoint.load(out / "checkpoint.pt", fingerprint, model, adamw)
    writer = Writer(out, fingerprint, model, adamw, world)
    writer.begin(reached)
    writer.finish()
    writer.thread.shutdown()


@pytest.fixture(scope="module")
def whole(config: TrainConfig, shards: Shards, world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training with folders after six and nine of its steps."""
    out = tmp_path_factory.mktemp("whole") / "out"
    for progress in train(config, shards, out):
        if progress.step in (7, 10):  # the file is of the step before
            as_folder(out, config, shards, world)
        if progress.step == 10:
            shutil.copytree(out, out.with_name("killed"))  # what a SIGKILL leaves at this instant
    (out.with_name("killed") / "checkpoint.pt").unlink()
    return out.with_name("killed")


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "out")


@pytest.fixture
def path(config: TrainConfig, tmp_path: Path) -> Path:
    (tmp_path / "train.yaml").write_text(dump_yaml(config))
    return tmp_path / "train.yaml"


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def spoil(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def all_but_reached(folder: Path) -> None:
    for file in folder.iterdir():
        if file.name != "reached.json":
            file.unlink()


DAMAGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a part is cut": ("__0_0.distcp", cut, r"__0_0\.distcp has [\d,]+ bytes of [\d,]+"),
    "a part is gone": ("__0_0.distcp", Path.unlink, r"__0_0\.distcp is missing"),
    "metadata is cut": (".metadata", cut, r"\.metadata cannot be read: [^\n]+"),
    "metadata is spoilt": (".metadata", spoil, r"\.metadata cannot be read: [^\n]+"),
    "metadata is gone": (".metadata", Path.unlink, r"\.metadata cannot be read: [^\n]+"),
    "nothing but the step": ("", all_but_reached, r"\.metadata cannot be read: [^\n]+"),
    "the step is cut": ("reached.json", cut, r"reached\.json cannot be read: [^\n]+"),
    "an empty folder": ("", lambda folder: [file.unlink() for file in folder.iterdir()], r"reached\.json cannot be read[^\n]+"),
}


def test_a_folder_as_it_was_written_lacks_nothing(out: Path) -> None:
    six, nine = out / "checkpoint-000000006", out / "checkpoint-000000009"
    assert (lack(six), lack(nine)) == (None, None)
    assert furthest(out) == (nine, {})
    assert furthest(out / "elsewhere") == (None, {})


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_said_in_a_line_and_the_one_before_it_gone_on_from(
    damage: str, out: Path, config: TrainConfig, shards: Shards, capfd: pytest.CaptureFixture[str]
) -> None:
    name, do, what = DAMAGES[damage]
    nine = out / "checkpoint-000000009"
    do(nine / name)
    assert [row.step for row in train(config, shards, out)] == [7, 8, 9, 10, 11, 12]
    told = capfd.readouterr().err
    assert told.count("\n") == 1
    pattern = rf"lpanas: {nine}: {what}; going on from {out / 'checkpoint-000000006'}\n"
    assert re.fullmatch(pattern, told), told


def test_damaged_folders_alone_are_a_mistake_that_names_them(out: Path, path: Path, call: Call) -> None:
    six, nine = out / "checkpoint-000000006", out / "checkpoint-000000009"
    cut(six / "__0_0.distcp")
    (nine / ".metadata").unlink()
    code, _, told = call("train", path, "--out", out)
    assert code == 2
    assert told.startswith(f"lpanas: {nine}: not a checkpoint that can be read: .metadata cannot be read")
    assert told.endswith(f"; remove it and {six} to begin anew\n")
    assert told.count("\n") == 1
    shutil.rmtree(six)
    shutil.rmtree(nine)
    assert call("train", path, "--out", out)[0] == 0


def test_a_folder_whose_bytes_are_others_is_a_mistake_in_one_line_without_the_words_of_torch(
    out: Path, path: Path, call: Call
) -> None:
    nine = out / "checkpoint-000000009"
    spoil(nine / "__0_0.distcp")
    code, _, told = call("train", path, "--out", out)
    assert code == 2
    assert told.startswith(f"lpanas: {nine}: not a checkpoint that can be read: ")
    assert told.endswith("; remove it, and lpanas train goes on from the one before, or begins anew\n")
    assert told.count("\n") == 1
    assert "Traceback" not in told


READ = """
import sys
from pathlib import Path
from lpanas.lpa.checkpoint_folder import UserError, weights
from lpanas.lpa.model_config import ModelConfig

try:
    weights(Path(sys.argv[1]), ModelConfig.parse_json(sys.argv[2], "model"))
except UserError as error:
    print(error)
"""


@pytest.mark.slow
def test_the_weights_of_a_damaged_folder_are_a_mistake_in_one_line_without_the_words_of_torch(
    out: Path, config: TrainConfig
) -> None:
    nine = out / "checkpoint-000000009"
    cut(nine / ".metadata")
    words = [sys.executable, "-c", READ, str(nine), config.model.model_dump_json()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=150)  # here pytest hears torch's log
    assert done.stderr == ""
    line = rf"{nine}: not a checkpoint that can be read: \.metadata cannot be read: [^\n]*; remove it, [^\n]*\n"
    assert re.fullmatch(line, done.stdout)


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")],
        ),
    ],
)
def test_a_checkpoint_is_of_the_step_at_which_it_was_begun_whatever_becomes_of_the_weights_meanwhile(
    device: str, config: TrainConfig, world: World, tmp_path: Path
) -> None:
    model = build(config.model, torch.device(device), 1)
    adamw = optimizer(model, config.optim)
    before = {name: value.cpu().clone() for name, value in model.state_dict().items()}
    writer = Writer(tmp_path, "mine", model, adamw, world)
    writer.begin(checkpoint.Reached(5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    writer.finish()
    writer.thread.shutdown()
    after = weights(tmp_path / "checkpoint-000000005", config.model)
    assert after.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_a_damaged_folder_that_lies_beyond_takes_no_whole_ones_place(
    out: Path, config: TrainConfig, shards: Shards, world: World
) -> None:
    (out / "checkpoint-000000009").rename(out / "checkpoint-000000020")
    cut(out / "checkpoint-000000020" / ".metadata")
    for progress in train(config, shards, out):
        if progress.step in (10, 12):
            as_folder(out, config, shards, world)
    kept = [f"checkpoint-{step:09}" for step in (9, 12, 20)]
    assert sorted(path.name for path in out.glob("checkpoint-*")) == kept


@pytest.mark.parametrize("is_file", [True, False], ids=["file", "folder"])
def test_a_training_that_goes_on_in_another_precision_says_so_in_a_line(
    is_file: bool, out: Path, path: Path, call: Call, config: TrainConfig, shards: Shards, world: World
) -> None:
    place = out / "checkpoint-000000009"
    if is_file:
        place = out / "checkpoint.pt"
        assert call("train", path, "--out", out, "--steps", 1)[::2] == (0, "")
        shutil.rmtree(out / "checkpoint-000000009")
        shutil.rmtree(out / "checkpoint-000000006")
        state = torch.load(place, weights_only=True)
        assert state["precision"] == "float32"
        torch.save(state | {"precision": "bfloat16"}, place)  # as a GPU leaves it
    else:
        row = json.loads((place / "reached.json").read_text())
        assert row["precision"] == "float32"
        (place / "reached.json").write_text(json.dumps(row | {"precision": "bfloat16"}))
    line = f"lpanas: {place}: its steps were in bfloat16, those from here on are in float32\n"
    assert call("train", path, "--out", out, "--steps", 1)[::2] == (0, line)
    assert call("train", path, "--out", out)[::2] == (0, "")


def test_checkpoints_that_do_not_tell_their_precision_are_gone_on_from(out: Path, path: Path, call: Call) -> None:
    row = json.loads((out / "checkpoint-000000009" / "reached.json").read_text())
    del row["precision"]
    (out / "checkpoint-000000009" / "reached.json").write_text(json.dumps(row))
    assert call("train", path, "--out", out, "--steps", 1)[::2] == (0, "")
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    del state["precision"]
    torch.save(state, out / "checkpoint.pt")
    code, told, error = call("train", path, "--out", out)
    assert (code, error) == (0, "")
    assert "step 10 " not in told
    assert "step 11 of 12" in told
