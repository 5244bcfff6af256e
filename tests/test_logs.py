"""What TensorBoard and Weights & Biases read of a training, against metrics.jsonl."""

import json
import shutil
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from consumer import consume
from lpanas.lpa.config import dump_yaml
from lpanas.lpa.data import DataConfig, Shards
from lpanas.lpa.logs import Logs
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.optim import OptimConfig
from lpanas.lpa.train import train
from lpanas.lpa.train_config import TrainConfig
from making import Call

Told = dict[str, list[tuple[int, float]]]
"""(step, figure) by name."""
EVENTS = Logs(tensorboard=True)
CALLS = """
import contextlib, io, json, sys
from lpanas.search.cli import main

for words in json.loads(sys.argv[2]):
    whole, sys.argv = sys.argv, ["lpanas", *words]
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main()
    sys.argv = whole
    print(told.getvalue(), end="")
"""
"""The command line, call by call; what each says on standard error."""
RUNS = """
import glob, json, struct, sys
import wandb
from wandb.proto.wandb_internal_pb2 import Record

wandb.teardown()  # what writes the files has ended


def records(path):  # LevelDB's log: blocks of 32 KiB, each record in pieces behind checksum, length and kind
    data, at, whole = open(path, "rb").read(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole, at = whole + data[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):
            yield Record.FromString(whole)
            whole = b""


for path in sorted(glob.glob(sys.argv[1] + "/wandb/offline-run-*/*.wandb")):
    found = {"history": []}
    for record in records(path):
        if record.HasField("run") and record.run.project:
            config = {one.key: json.loads(one.value_json) for one in record.run.config.update}
            found |= {"id": record.run.run_id, "project": record.run.project, "config": config}
        if record.HasField("history"):
            found["history"].append({one.nested_key[0]: json.loads(one.value_json) for one in record.history.item})
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def config(tiny: ModelConfig, pages: DataConfig) -> TrainConfig:
    """Twelve steps of four sequences, evaluated at three of them."""
    optim, tokens = OptimConfig(lr=1e-2), 12 * 4 * 16
    return TrainConfig(model=tiny, data=pages, optim=optim, tokens=tokens, batch_size=4, evals=3, log_every=1, device="cpu")


def by_name(out: Path) -> Told:
    """The figures that metrics.jsonl tells, in float32."""
    told: Told = {}
    for row in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()):
        for name in row.keys() - {"step", "device", "precision", "kernels", "cuda_graph", "activation_checkpointing"}:
            told.setdefault(name, []).append((row["step"], float(np.float32(row[name]))))
    return told


def read_events(out: Path) -> Told:
    """What TensorBoard reads."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'lpanas[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    assert found.Tags()["tensors"] == ["config/text_summary"]
    return {name: [(one.step, one.value) for one in found.Scalars(name)] for name in found.Tags()["scalars"]}


def whole(config: TrainConfig, shards: Shards, out: Path) -> None:
    list(train(config, shards, out, logs=EVENTS))


def stopped(config: TrainConfig, shards: Shards, out: Path) -> None:
    for count in (5, 3, 12):
        steps = train(config, shards, out, logs=EVENTS)
        list(islice(steps, count))
        steps.close()


def killed(config: TrainConfig, shards: Shards, out: Path) -> None:
    """Twice, each time two steps past a checkpoint."""
    for before, after in ((None, "one"), ("one", "two")):
        running = out.with_name("running")
        if before:
            shutil.copytree(out.with_name(before), running)
        steps = train(config.change(checkpoint_every=5), shards, running, logs=EVENTS)
        list(islice(steps, 7 if before is None else 5))
        shutil.copytree(running, out.with_name(after))  # what a SIGKILL leaves at this instant
        steps.close()
        shutil.rmtree(running)
    shutil.copytree(out.with_name("two"), out)
    whole(config, shards, out)


def asked_for_late(config: TrainConfig, shards: Shards, out: Path) -> None:
    """And once left out."""
    for logs in (Logs(), EVENTS, Logs(), EVENTS):
        steps = train(config, shards, out, logs=logs)
        list(islice(steps, 3))
        steps.close()


@pytest.mark.parametrize("course", [whole, stopped, killed, asked_for_late])
def test_tensorboard_reads_what_metrics_jsonl_tells_however_the_training_went(
    course: Callable[[TrainConfig, Shards, Path], None], config: TrainConfig, shards: Shards, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'lpanas[tensorboard]'")
    course(config, shards, tmp_path / "out")
    told = by_name(tmp_path / "out")
    assert [step for step, _ in told["train_loss_nats"]] == list(range(1, 13))
    assert {"valid_loss_nats", "lr", "gradient_norm", "tokens_per_second", "tokens", "devices"} < told.keys()
    assert read_events(tmp_path / "out") == told


@pytest.mark.slow
def test_a_run_of_wandb_has_what_metrics_jsonl_tells_and_goes_on_as_the_same(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    path, out = tmp_path / "train.yaml", tmp_path / "out"
    path.write_text(dump_yaml(config))
    some = [["train", str(path), "--out", str(out), "--steps", str(steps)] for steps in (5, 3, 12)]
    calls = [some[0], *([*words, "--wandb", "mine"] for words in some[1:])]
    first, then = map(json.loads, consume("wandb", CALLS + RUNS, out, json.dumps(calls)).splitlines())
    assert first["id"] == then["id"]
    assert first["project"] == then["project"] == "mine"
    assert then["config"]["model"] == json.loads(config.model.model_dump_json())
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    told = [{name: value for name, value in row.items() if name[0] != "_"} for row in first["history"] + then["history"]]
    assert [row["_step"] for row in first["history"] + then["history"]] == [row["step"] for row in rows] == list(range(1, 13))
    assert told == [{name: value for name, value in row.items() if name != "step"} for row in rows]


@pytest.mark.slow
def test_without_a_key_wandb_is_a_mistake_in_one_line_before_anything_is_trained(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WANDB_MODE", "online"), ("HOME", str(tmp_path)), ("WANDB_BASE_URL", "http://127.0.0.1:9")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    path, out = tmp_path / "train.yaml", tmp_path / "out"
    path.write_text(dump_yaml(config))
    told = consume("wandb", CALLS, out, json.dumps([["train", str(path), "--out", str(out), "--wandb", "mine"]]))
    assert told.startswith("lpanas: --wandb mine: ")
    assert told.count("\n") == 1
    assert (out / "metrics.jsonl").read_text() == ""


@pytest.mark.parametrize(("words", "package"), [(("--tensorboard",), "tensorboard"), (("--wandb", "mine"), "wandb")])
def test_a_missing_package_is_a_mistake_before_anything_is_written(
    words: tuple[str, ...], package: str, config: TrainConfig, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / "train.yaml"
    path.write_text(dump_yaml(config))
    code, _, told = call("train", path, "--out", tmp_path / "out", *words)
    assert (code, told) == (2, f"lpanas: --{package}: {package} is not installed: pip install 'lpanas[{package}]'\n")
    assert not (tmp_path / "out").exists()
