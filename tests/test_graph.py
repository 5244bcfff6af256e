import pytest
import torch
from lpanas.lpa.config import UserError
from lpanas.lpa.data import DataConfig, Shards
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.train import train
from lpanas.lpa.train_config import TrainConfig


@pytest.fixture
def config(tiny: ModelConfig, pages: DataConfig) -> TrainConfig:
    raw = {"model": tiny, "data": pages, "optim": {"lr": 1e-2}, "tokens": 16 * 4 * 12, "batch_size": 4, "microbatch": 2}
    return TrainConfig.model_validate(raw | {"log_every": 1, "evals": 3})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("kernels", ["plain", "regions"])
def test_a_graph_takes_the_same_steps(kernels: str, config: TrainConfig, shards: Shards) -> None:
    config = config.change(device="cuda", kernels=kernels, precision="float32")
    one, other = (
        [(row.train_loss_nats, row.valid_loss_nats) for row in train(config.change(cuda_graph=graph), shards)]
        for graph in (False, True)
    )
    for (loss, valid), (its, its_valid) in zip(one, other, strict=True):
        assert its == pytest.approx(loss, rel=1e-5)
        assert its_valid == (None if valid is None else pytest.approx(valid, rel=1e-5))


def test_a_graph_without_a_gpu_is_a_mistake_in_one_line(config: TrainConfig, shards: Shards) -> None:
    with pytest.raises(UserError, match=r"cuda_graph: only on one GPU alone, found 1 on cpu"):
        next(train(config.change(device="cpu", cuda_graph=True), shards))


def test_what_draws_random_numbers_has_no_graph(config: TrainConfig) -> None:
    with pytest.raises(ValueError, match=r"cuda_graph: not with dropout"):
        config.change(cuda_graph=True, activation_checkpointing=True)
