"""A loss that is not a number changes no weight, whether or not the device is asked at each step."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from lpanas.lpa.data import DataConfig
from lpanas.lpa.guard import DivergedError, Guard
from lpanas.lpa.model import Decoder
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.optim import optimizer
from lpanas.lpa.train import fresh, step
from lpanas.lpa.train_config import TrainConfig

CPU = torch.device("cpu")


@pytest.fixture
def config(tiny: ModelConfig, pages: DataConfig) -> TrainConfig:
    raw: dict[str, Any] = {"model": tiny, "data": pages, "optim": {"lr": 1e-2}, "tokens": 999, "batch_size": 2, "device": "cpu"}
    return TrainConfig.model_validate(raw)


def weights(model: Decoder) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def taken(config: TrainConfig, guard: Guard, bad: set[int], steps: int) -> list[list[torch.Tensor]]:
    """The weights after each step, where an infinite weight of the last norm makes the loss of some steps infinite or NaN."""
    model = fresh(config, CPU)
    adamw, after = optimizer(model, config.optim), []
    tokens = torch.arange(2 * 16).reshape(2, 16) % 257
    for number in range(steps):
        with torch.no_grad():
            kept = model.norm.weight[0].clone()
            model.norm.weight[0] = math.inf if number in bad else kept
        loss, _ = step(model, adamw, (tokens, tokens), config, number, 1.0, guard=guard)
        with torch.no_grad():
            if number in bad:
                assert not torch.isfinite(loss)
                model.norm.weight[0] = kept
        after.append(weights(model))
    return after


def test_no_weight_moves_from_the_first_bad_step_on(config: TrainConfig) -> None:
    guard = Guard(CPU, waits=False)
    after = taken(config, guard, bad={3, 5}, steps=7)
    same = [all(map(torch.equal, one, other)) for one, other in pairwise(after)]
    assert same == [False, False, True, True, True, True]
    with pytest.raises(DivergedError, match=r"the training loss was (nan|inf) at step 4"):
        guard.check()


def test_good_steps_are_those_of_a_guard_that_waits(config: TrainConfig) -> None:
    guards = Guard(CPU, waits=False), Guard(CPU, waits=True)
    one, other = (taken(config, guard, bad=set(), steps=4) for guard in guards)
    assert all(map(torch.equal, one[-1], other[-1]))
    for guard in guards:
        guard.check()


def test_a_guard_that_waits_raises_before_the_update(config: TrainConfig) -> None:
    with pytest.raises(DivergedError, match=r"at step 3"):
        taken(config, Guard(CPU, waits=True), bad={2}, steps=4)


def test_a_gradient_that_is_not_finite_is_a_bad_step_although_its_loss_is(config: TrainConfig) -> None:
    model, guard = fresh(config, CPU), Guard(CPU, waits=False)
    adamw = optimizer(model, config.optim)
    for number, norm in enumerate([1.0, math.inf, math.nan, 2.0]):
        guard.see(torch.tensor(3.0), torch.tensor(norm), number, adamw)
    with pytest.raises(DivergedError, match=r"the gradient's norm was inf at step 2"):
        guard.check()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_no_step_waits_for_a_gpu(config: TrainConfig) -> None:
    device, config = torch.device("cuda"), config.change(device="cuda", kernels="plain")
    model, guard = fresh(config, device), Guard(device)
    adamw, tokens = optimizer(model, config.optim), torch.arange(2 * 16, device=device).reshape(2, 16) % 257
    step(model, adamw, (tokens, tokens), config, 0, 1.0, guard=guard)  # which makes the optimizer's state
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(1, 4):
            step(model, adamw, (tokens, tokens), config, number, 1.0, guard=guard)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    guard.check()
