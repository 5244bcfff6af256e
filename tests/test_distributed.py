"""Trainings by real torchrun, 2 and 3 processes on a CPU, against one process."""

import json
import os
import shutil
import signal
import time
from dataclasses import fields
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import distributed_parts
import pytest
import torch
from launching import SECONDS, children, launched, lpanas_train, torchrun
from lpanas.lpa import checkpoint_folder
from lpanas.lpa.config import UserError, dump_yaml
from lpanas.lpa.distributed import World
from lpanas.lpa.metrics import Machine
from lpanas.lpa.model import build
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.optim import OptimConfig, optimizer
from lpanas.lpa.train import reached, train
from lpanas.lpa.train_config import TrainConfig
from lpanas.lpa.weights import load_hf
from lpanas.search.hf_export import export_checkpoint

CLOCK = ("seconds", "tokens_per_second", *(field.name for field in fields(Machine)))
"""Speed, and what it is of."""
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def config(tiny: ModelConfig, pages: object) -> TrainConfig:
    """Twelve steps of six sequences, with low rank, silu, dropout nowhere, and matrices whose rows three do not divide."""
    model = ModelConfig.parse(tiny.model_dump() | {"placement": "0 q,k=1/4; 1 down=1/4", "factor_activation": "silu"}, "model")
    optim = OptimConfig(lr=1e-2, weight_decay=0.1, clip=0.5)
    steps = {"tokens": 12 * 6 * 16, "evals": 3, "log_every": 1, "checkpoint_every": 2}
    return TrainConfig(model=model, data=pages, optim=optim, batch_size=6, device="cpu", **steps)


@pytest.fixture(scope="module")
def path(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("config") / "train.yaml"
    file.write_text(dump_yaml(config))
    return file


def rows(out: Path) -> Rows:
    """The lines of metrics.jsonl, without their speed."""
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in CLOCK} for line in lines]


def same(found: Rows, expected: Rows) -> None:
    """The same figures at the same steps: losses within 1e-5 of each other."""
    assert [row.keys() for row in found] == [row.keys() for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


@pytest.fixture(scope="module")
def alone(config: TrainConfig, shards: object, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """What one process tells of all twelve steps."""
    out = tmp_path_factory.mktemp("alone")
    list(train(config, shards, out))
    return rows(out)


@pytest.fixture(scope="module")
def half(path: Path, shards: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two processes that have done seven of the steps, the last of them past a checkpoint of its own accord."""
    out = tmp_path_factory.mktemp("two") / "out"
    code, text = torchrun(2, *lpanas_train(path, out, "--steps", 7))
    assert code == 0, text
    assert text.count("step 7 of 12") == 1  # one process prints
    return out


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_and_keep_two_checkpoints(half: Path, alone: Rows) -> None:
    same(rows(half), alone[:7])
    assert {json.loads(line)["devices"] for line in (half / "metrics.jsonl").read_text().splitlines()} == {2}
    kept = ["checkpoint-000000006", "checkpoint-000000007"]
    assert sorted(path.name for path in half.iterdir()) == [".lock", *kept, "config.yaml", "metrics.jsonl"]


def test_one_process_goes_on_from_the_checkpoint_of_two(
    half: Path, alone: Rows, config: TrainConfig, shards: object, tmp_path: Path
) -> None:
    out = shutil.copytree(half, tmp_path / "out")
    (out / "checkpoint-000000009.draft").mkdir()
    assert reached(out, config, shards).step == 7
    assert [row.step for row in train(config, shards, out)] == [8, 9, 10, 11, 12]
    same(rows(out), alone)
    assert not list(out.glob("*.draft"))
    assert reached(out, config, shards).step == 12
    with pytest.raises(UserError, match=r"^[^\n]*a checkpoint of another config[^\n]*$"):
        reached(half, config.change(seed=1), shards)


@pytest.mark.parametrize("which", ["training", "checkpoint"])
def test_the_weights_of_a_folder_are_those_that_one_process_goes_on_with(
    which: str, half: Path, config: TrainConfig, shards: object, tmp_path: Path
) -> None:
    """The export finds them by the training's folder or by the checkpoint's."""
    out = shutil.copytree(half, tmp_path / "out")
    model = build(config.model, torch.device("cpu"), 1)
    adamw = optimizer(model, config.optim)
    checkpoint_folder.load(out / "checkpoint-000000007", config.fingerprint(shards.content), model, adamw, World())
    path = out if which == "training" else out / "checkpoint-000000007"
    folder = export_checkpoint(path, tmp_path / "hf", False, lambda text: None)
    other = build(config.model, torch.device("cpu"), 2)
    load_hf(other, folder / "model.safetensors")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.slow
def test_three_processes_go_on_from_the_checkpoint_of_two(half: Path, alone: Rows, path: Path, tmp_path: Path) -> None:
    out = shutil.copytree(half, tmp_path / "out")
    code, text = torchrun(3, *lpanas_train(path, out))
    assert code == 0, text
    assert "step 7 " not in text
    same(rows(out), alone)


@pytest.mark.slow
def test_two_processes_go_on_from_the_checkpoint_of_one(
    alone: Rows, config: TrainConfig, shards: object, path: Path, tmp_path: Path
) -> None:
    steps = train(config, shards, tmp_path / "out")
    list(islice(steps, 5))
    steps.close()
    code, text = torchrun(2, *lpanas_train(path, tmp_path / "out", "--set", "microbatch=1"))
    assert code == 0, text
    assert "step 5 " not in text
    same(rows(tmp_path / "out"), alone)


@pytest.mark.slow
def test_processes_that_do_not_divide_the_batch_say_so_once_and_end(path: Path, tmp_path: Path) -> None:
    code, text = torchrun(2, *lpanas_train(path, tmp_path / "out", "--set", "batch_size=5"))
    assert code != 0
    assert text.count("lpanas: ") == text.count("lpanas: batch_size: 5 sequences do not divide among 2 processes\n") == 1
    assert "exitcode  : 2" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written_ends_all_in_one_line_and_the_one_before_it_serves(
    half: Path, alone: Rows, path: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(half, tmp_path / "out")
    code, text = torchrun(2, *lpanas_train(path, out), file_blocks=32)
    assert code != 0
    mistake = f"lpanas: {out}/checkpoint-000000008: cannot be written: [Errno 27] File too large"
    kept = f"{out}/checkpoint-000000007 is whole, and the same command goes on from it"
    assert text.count("lpanas: ") == text.count(f"{mistake}; {kept}\n") == 1
    assert text.count("Traceback") == 1  # torchrun's own
    assert "exitcode  : 2" in text
    assert sorted(path.name for path in out.glob("checkpoint*")) == ["checkpoint-000000006", "checkpoint-000000007"]
    code, text = torchrun(2, *lpanas_train(path, out))
    assert code == 0, text
    same(rows(out), alone)


@pytest.mark.parametrize(
    ("size", "batch", "microbatch", "mistake"),
    [(4, 6, None, "batch_size: 6 sequences"), (2, 6, 2, "microbatch: 2 does not divide the 3"), (2, 6, 3, ""), (6, 6, 3, "")],
)
def test_each_process_takes_whole_microbatches(size: int, batch: int, microbatch: int | None, mistake: str) -> None:
    device = torch.device("cpu")
    if mistake:
        with pytest.raises(UserError, match=mistake):
            World(size=size).check(batch, microbatch, device)
        return
    World(size=size).check(batch, microbatch, device)
    parts = [range(batch)[World(rank, size).part(batch)] for rank in range(size)]
    assert [number for part in parts for number in part] == list(range(batch))


@pytest.mark.slow
def test_the_parts_of_a_step_on_two_processes() -> None:
    code, text = torchrun(2, distributed_parts.__file__)
    assert code == 0, text
    assert text.count("gradients_are_those_of_one_process") == 2


@pytest.mark.slow
def test_a_training_goes_on_from_its_last_checkpoint_when_a_process_is_killed(
    config: TrainConfig, shards: object, tmp_path: Path
) -> None:
    longer, out, path = config.change(tokens=150 * 6 * 16, checkpoint_every=10), tmp_path / "out", tmp_path / "train.yaml"
    path.write_text(dump_yaml(longer))
    list(train(longer, shards, tmp_path / "alone"))
    with launched(2, *lpanas_train(path, out), restarts=1) as agent:
        until = time.monotonic() + SECONDS
        while not list(out.glob("checkpoint-*0")):
            assert agent.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        first = int((out / ".lock").read_text())
        (other,) = set(children(agent.pid)) - {first}
        os.kill(other, signal.SIGKILL)
        text, _ = agent.communicate(timeout=SECONDS)
        assert agent.returncode == 0, text
    same(rows(out), rows(tmp_path / "alone"))
    told = [int(line.split()[1]) for line in text.splitlines() if line.startswith("step ")]
    (again,) = [number for number, (one, other) in enumerate(pairwise(told), 1) if other != one + 1]
    assert told[again] % 10 == 1  # the step after a checkpoint
    assert told[again] > 1
    assert told[again - 1] - told[again] < 20


DIVERGING = ("--set", "optim.lr=1e6", "--set", "optim.lr_rule=uniform", "--set", "optim.clip=null")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("words", "code", "line", "steps"),
    [(DIVERGING, 1, "training diverged: ", 1), (("--set", "model.d_model=17"), 2, "", 0)],
    ids=["diverges", "mistake"],
)
def test_what_would_end_alike_is_not_trained_again_when_torchrun_starts_it_again(
    processes: int, words: tuple[str, ...], code: int, line: str, steps: int, path: Path, tmp_path: Path
) -> None:
    ended, text = torchrun(processes, *lpanas_train(path, tmp_path / "out", *words), restarts=1)
    assert ended != 0
    lines = [line for line in text.splitlines() if line.startswith("lpanas: ")]
    assert len(lines) == 2
    assert lines[0] == lines[1]
    assert lines[0].startswith(f"lpanas: {line}")
    assert f"exitcode  : {code}" in text
    assert text.count("step 1 of 12") == steps


@pytest.mark.slow
def test_processes_that_hear_twice_that_they_should_end_leave_a_checkpoint_of_their_last_step(
    config: TrainConfig, shards: object, tmp_path: Path
) -> None:
    """As under Slurm, which tells torchrun and its processes, whereupon torchrun tells them, too."""
    longer, out, path = config.change(tokens=10**6, checkpoint_every=10**6), tmp_path / "out", tmp_path / "train.yaml"
    path.write_text(dump_yaml(longer))
    with launched(2, *lpanas_train(path, out)) as agent:
        until = time.monotonic() + SECONDS
        while not (out / "metrics.jsonl").exists() or len(rows(out)) < 3:
            assert agent.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        for process in (*children(agent.pid), *children(agent.pid), agent.pid):
            os.kill(process, signal.SIGTERM)
        text, _ = agent.communicate(timeout=SECONDS)
    told = rows(out)
    assert [path.name for path in out.glob("checkpoint-*")] == [f"checkpoint-{told[-1]['step']:09}"]
    assert text.count("lpanas: stopping at the end of this step\n") == 1
    assert reached(out, longer, shards).step == told[-1]["step"]
