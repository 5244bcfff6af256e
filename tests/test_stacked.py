"""A run of a stack takes the steps that it takes alone, whatever becomes of its neighbours."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lpanas.lpa.data import Batches, DataConfig
from lpanas.lpa.guard import DivergedError
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.shards import Shards
from lpanas.lpa.train import train
from lpanas.lpa.train_config import TrainConfig

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
from stacked import Stack

STEPS = 12


@pytest.fixture
def config(tiny: ModelConfig, pages: DataConfig) -> TrainConfig:
    raw: dict[str, Any] = {"model": tiny, "data": pages, "optim": {"lr": 1e-2}, "tokens": STEPS * 4 * 16, "batch_size": 4}
    return TrainConfig.model_validate(raw | {"device": "cpu", "precision": "float32", "log_every": 1, "evals": 1})


def run(config: TrainConfig, lr: float, seed: int, init: str = "matched", **optim: object) -> TrainConfig:
    return config.change(seed=seed, optim=config.optim.change(lr=lr, **optim), model=config.model.change(init=init))


def alone(config: TrainConfig, shards: Shards) -> list[list[float]]:
    """Of each step loss and gradient norm, as the training loop has them."""
    return [[row.train_loss_nats, row.gradient_norm] for row in train(config, shards)]


def stacked(configs: Sequence[TrainConfig], shards: Shards) -> Stack:
    tokens = shards.split("train")
    batches = [Batches(tokens, one.model.context, one.batch_size, one.seed) for one in configs]
    return Stack(configs, batches, configs[0].resolve_device())


def together(configs: Sequence[TrainConfig], shards: Shards) -> list[list[list[float]]]:
    """The same of each run of a stack."""
    stack = stacked(configs, shards)
    rows = torch.stack([torch.stack(stack.step(number)) for number in range(configs[0].steps)])  # (steps, 2, runs)
    return rows.permute(2, 0, 1).tolist()


SHAPES: dict[str, dict[str, object]] = {
    "dense": {},
    "low rank": {"placement": "attention=1/4 ffn=1/2"},
    "bands, silu": {"placement": "0 q,k=1/4; 1 down=1/2", "factor_activation": "silu"},
    "grouped queries, relu, biases": {"n_kv_heads": 1, "ffn": "relu", "bias": True, "head_bias": True},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_each_run_takes_the_steps_that_it_takes_alone(shape: str, config: TrainConfig, shards: Shards) -> None:
    config = config.change(model=ModelConfig.parse(config.model.model_dump() | SHAPES[shape], "m"))
    optim = {"weight_decay": 0.3, "clip": 0.5}
    runs = [
        run(config, lr, seed, init, **optim)
        for lr, seed, init in [(1e-2, 0, "matched"), (1e-3, 1, "matched"), (1e-2, 1, "lpa"), (5e-2, 0, "scaled")]
    ]
    for one, its in zip(together(runs, shards), (alone(one, shards) for one in runs), strict=True):
        assert torch.tensor(one) == pytest.approx(torch.tensor(its), rel=1e-5)


def test_a_matrix_that_embedding_and_head_share_is_one_in_a_stack(config: TrainConfig, shards: Shards) -> None:
    config = config.change(
        model=config.model.change(tie_embeddings=True), optim=config.optim.change(lr_rule="uniform", clip=None)
    )
    runs = [run(config, lr, seed) for lr, seed in ((1e-2, 0), (2e-2, 3))]
    for one, its in zip(together(runs, shards), (alone(one, shards) for one in runs), strict=True):
        assert torch.tensor(one) == pytest.approx(torch.tensor(its), rel=1e-5)


def test_the_neighbours_of_a_run_that_diverges_do_not_notice(config: TrainConfig, shards: Shards) -> None:
    runs = [run(config, lr, seed) for lr, seed in ((1e-2, 0), (1e25, 1), (3e-3, 2))]
    with pytest.raises(DivergedError) as ended:
        alone(runs[1], shards)
    stack = stacked(runs, shards)
    losses = torch.stack([stack.step(number)[0] for number in range(STEPS)])
    good, bad, also_good = stack.first_bad.tolist()
    assert (good, also_good) == (-1, -1)
    assert str(ended.value).endswith(f"at step {bad}")
    for place in (0, 2):
        its = [loss for loss, _ in alone(runs[place], shards)]
        assert losses[:, place].tolist() == pytest.approx(its, rel=1e-5)


def test_the_weights_of_a_run_that_diverged_are_those_before(config: TrainConfig, shards: Shards) -> None:
    stack = stacked([run(config, lr, 0) for lr in (1e-2, 1e25)], shards)
    after = []
    for number in range(STEPS):
        stack.step(number)
        after.append(stack.weights.detach().clone())
    bad = int(stack.first_bad[1].item())
    assert 1 < bad < STEPS
    assert torch.equal(after[-1][1], after[bad - 2][1])
    assert not torch.equal(after[-1][0], after[bad - 2][0])


def test_in_bfloat16_a_run_is_itself_to_its_rounding(config: TrainConfig, shards: Shards) -> None:
    runs = [run(config.change(precision="bfloat16"), 1e-2, seed) for seed in (0, 1)]
    for one, its in zip(together(runs, shards), (alone(one, shards) for one in runs), strict=True):
        assert torch.tensor(one)[:, 0] == pytest.approx(torch.tensor(its)[:, 0], rel=1e-2)


def test_runs_of_two_shapes_or_lengths_are_no_stack(config: TrainConfig, shards: Shards) -> None:
    for other in (config.change(batch_size=8), config.change(model=config.model.change(d_ff=48))):
        with pytest.raises(ValueError, match=r"differ in seed, optim\.lr, model\.init alone"):
            together([config, other], shards)


def test_what_a_stack_has_not_is_refused(config: TrainConfig, shards: Shards) -> None:
    with pytest.raises(ValueError, match="without dropout"):
        together([config.change(model=config.model.change(dropout=0.1))], shards)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("kernels", ["plain", "regions"])
def test_on_a_gpu_too(kernels: str, graph: bool, config: TrainConfig, shards: Shards) -> None:
    config = config.change(device="cuda", kernels=kernels, cuda_graph=graph)
    runs = [run(config, lr, seed) for lr, seed in ((1e-2, 0), (1e-3, 1))]
    for one, its in zip(together(runs, shards), (alone(one, shards) for one in runs), strict=True):
        assert torch.tensor(one) == pytest.approx(torch.tensor(its), rel=1e-4)
