"""Trainings on GPUs by real torchrun: bfloat16, nccl, and checkpoints that another number of GPUs, or a CPU, goes on from."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import lpanas_train, torchrun
from lpanas.lpa.config import dump_yaml
from lpanas.lpa.data import DataConfig, Shards
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.optim import OptimConfig
from lpanas.lpa.train import train
from lpanas.lpa.train_config import TrainConfig

Rows = list[dict[str, Any]]
DEVICE, GPUS = "cuda", torch.cuda.device_count()
pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.skipif(GPUS < 1, reason="there is no GPU here")]
two_gpus = pytest.mark.skipif(GPUS < 2, reason=f"nccl needs a GPU for each of two processes, here are {GPUS}")


@pytest.fixture(scope="module")
def config(tiny: ModelConfig, pages: DataConfig) -> TrainConfig:
    """Twelve steps of six sequences, with low rank, silu and microbatches."""
    model = ModelConfig.parse(tiny.model_dump() | {"placement": "0 q,k=1/4; 1 down=1/4", "factor_activation": "silu"}, "model")
    steps = {"tokens": 12 * 6 * 16, "evals": 3, "log_every": 1, "checkpoint_every": 2, "batch_size": 6, "microbatch": 3}
    computed = {"device": DEVICE, "precision": "bfloat16", "kernels": "plain"}
    return TrainConfig(model=model, data=pages, optim=OptimConfig(lr=1e-2, clip=0.5), **steps, **computed)


@pytest.fixture(scope="module")
def path(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("config") / "train.yaml"
    file.write_text(dump_yaml(config))
    return file


def rows(out: Path) -> Rows:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses(found: Rows) -> list[float]:
    """Of training and validation."""
    return [row[name] for row in found for name in ("train_loss_nats", "valid_loss_nats") if name in row]


@pytest.fixture(scope="module")
def alone(config: TrainConfig, shards: Shards, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """What one GPU tells of all twelve steps."""
    out = tmp_path_factory.mktemp("alone")
    list(train(config, shards, out))
    return rows(out)


@pytest.fixture(scope="module")
def half(path: Path, shards: Shards, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two GPUs that have done seven of the steps."""
    out = tmp_path_factory.mktemp("two") / "out"
    code, text = torchrun(2, *lpanas_train(path, out, "--steps", 7))
    assert code == 0, text
    return out


@two_gpus
def test_two_gpus_have_the_losses_of_one_in_bfloat16(half: Path, alone: Rows) -> None:
    found = rows(half)
    assert losses(found) == pytest.approx(losses(alone[:7]), rel=5e-3)  # 8 bits of mantissa, other sums
    assert {(row["devices"], row["precision"], row["device"]) for row in found} == {(2, "bfloat16", alone[0]["device"])}
    assert sorted(path.name for path in half.glob("checkpoint*")) == ["checkpoint-000000006", "checkpoint-000000007"]


@two_gpus
@pytest.mark.parametrize("processes", [1, 2])
def test_what_two_gpus_have_begun_goes_on_on_as_many_and_on_one(
    processes: int, half: Path, alone: Rows, path: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(half, tmp_path / "out")
    code, text = torchrun(processes, *lpanas_train(path, out))
    assert code == 0, text
    assert "step 7 " not in text
    assert losses(rows(out)) == pytest.approx(losses(alone), rel=5e-3)


def test_a_bfloat16_training_of_a_gpu_goes_on_on_a_cpu_and_says_that_it_is_in_float32(
    config: TrainConfig, shards: Shards, tmp_path: Path
) -> None:
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this GPU has no bfloat16")
    (tmp_path / "train.yaml").write_text(dump_yaml(config.change(precision="auto", device="auto")))
    code, text = torchrun(1, *lpanas_train(tmp_path / "train.yaml", tmp_path / "out", "--steps", 7))
    assert code == 0, text
    assert {row["device"] for row in rows(tmp_path / "out")} == {torch.cuda.get_device_name()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        code, text = torchrun(1, *lpanas_train(tmp_path / "train.yaml", tmp_path / "out"))
    assert code == 0, text
    assert text.count("its steps were in bfloat16, those from here on are in float32\n") == 1
    assert [row["device"] for row in rows(tmp_path / "out")][-1] == "cpu"
