import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lpanas.lpa.model import Decoder, build
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.optim import OptimConfig, multiplier, optimizer, schedule, set_rate
from torch import nn

SHAPE = {"vocab_size": 61, "d_model": 32, "d_ff": 96, "n_layers": 2, "n_heads": 4, "head_dim": 12, "rank_multiple": 1}


def model(**fields: object) -> Decoder:
    config = ModelConfig.parse(SHAPE | {"placement": "0 q,o=1/4 down=1/8; 1 dense", "head_bias": True} | fields, "model")
    return build(config, torch.device("cpu"), 0)


def cosine(share: float) -> float:
    return (1 + math.cos(math.pi * share)) / 2


@pytest.mark.parametrize(
    ("kind", "step", "expected"),
    [
        ("cosine", 0, 1 / 20),
        ("cosine", 9, 1 / 2),
        ("cosine", 19, 1.0),
        ("cosine", 59, 0.1 + 0.9 * cosine(1 / 4)),
        ("cosine", 99, 0.1 + 0.9 / 2),
        ("cosine", 179, 0.1),
        ("linear", 0, 1 / 20),
        ("linear", 19, 1.0),
        ("linear", 59, 0.1 + 0.9 * 3 / 4),
        ("linear", 99, 0.1 + 0.9 / 2),
        ("linear", 179, 0.1),
    ],
)
def test_a_schedule_has_its_closed_form(kind: str, step: int, expected: float) -> None:
    config = OptimConfig.parse({"lr": 1.0, "warmup_share": 20 / 180, "schedule": kind, "final_share": 0.1}, "optim")
    assert schedule(config, step, 180) == pytest.approx(expected, rel=1e-9)


@given(
    steps=st.integers(1, 300),
    warmup=st.floats(0, 1),
    final=st.floats(0, 1),
    kind=st.sampled_from(["cosine", "linear"]),
)
def test_a_schedule_rises_then_falls_between_nothing_and_the_peak(steps: int, warmup: float, final: float, kind: str) -> None:
    config = OptimConfig.parse({"lr": 1.0, "warmup_share": warmup, "schedule": kind, "final_share": final}, "optim")
    rates = [schedule(config, step, steps) for step in range(steps)]
    top = rates.index(max(rates))
    assert all(0 < rate <= 1 for rate in rates[:-1])
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == pytest.approx(1 if warmup == 1 else final) or steps * (1 - warmup) < 1


@pytest.mark.parametrize(("base", "width"), [(None, 32), (256, 256)])
def test_mup_gives_a_hidden_matrix_the_base_width_over_its_own(base: int | None, width: int) -> None:
    config, built = OptimConfig(lr=1.0, lr_base_width=base), model()
    inputs = {"attention.q": 32, "attention.o": 48, "ffn.gate": 32, "ffn.down": 96}
    for name, d_in in inputs.items():
        assert multiplier(config, built, f"blocks.1.{name}.weight") == pytest.approx(width / d_in)
    assert multiplier(config, built, "head.weight") == pytest.approx(width / 32)


@pytest.mark.parametrize("base", [None, 256])
@pytest.mark.parametrize(("name", "d_in", "rank"), [("attention.q", 32, 8), ("attention.o", 48, 8), ("ffn.down", 96, 4)])
def test_mup_gives_a_half_and_b_d_in_over_two_ranks_of_the_dense_rate(
    base: int | None, name: str, d_in: int, rank: int
) -> None:
    config, built = OptimConfig(lr=1.0, lr_base_width=base), model()
    dense = multiplier(config, built, f"blocks.1.{name}.weight")
    assert multiplier(config, built, f"blocks.0.{name}.a.weight") == pytest.approx(dense / 2)
    assert multiplier(config, built, f"blocks.0.{name}.b.weight") == pytest.approx(dense * d_in / (2 * rank))


@pytest.mark.parametrize(("tied", "rule"), [(False, "mup"), (False, "uniform"), (True, "uniform")])
def test_vectors_and_the_embedding_take_the_rate_itself(tied: bool, rule: str) -> None:
    built, config = model(tie_embeddings=tied), OptimConfig.parse({"lr": 1.0, "lr_rule": rule, "lr_base_width": 8}, "optim")
    for name, parameter in built.named_parameters():
        if parameter.ndim == 1 or name == "embedding.weight":
            assert multiplier(config, built, name) == 1


def test_the_uniform_rule_gives_every_parameter_the_same_rate() -> None:
    built, config = model(), OptimConfig(lr=1.0, lr_rule="uniform", lr_base_width=8)
    assert {multiplier(config, built, name) for name, _ in built.named_parameters()} == {1.0}


@pytest.mark.parametrize("tied", [False, True])
def test_every_parameter_stands_in_exactly_one_group(tied: bool) -> None:
    built = model(tie_embeddings=tied)
    grouped = [id(p) for group in optimizer(built, OptimConfig(lr=1e-3)).param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in built.parameters())


def test_a_group_holds_the_rate_and_decay_of_its_parameters() -> None:
    built, config = model(), OptimConfig(lr=1e-3, weight_decay=0.1, beta1=0.8, beta2=0.9, eps=1e-6)
    names = {id(parameter): name for name, parameter in built.named_parameters()}
    for group in optimizer(built, config).param_groups:
        assert (group["betas"], group["eps"]) == ((0.8, 0.9), 1e-6)
        for parameter in group["params"]:
            assert group["peak_lr"] == pytest.approx(1e-3 * multiplier(config, built, names[id(parameter)]))
            assert group["weight_decay"] == (0.1 if parameter.ndim == 2 else 0)


def test_without_gradients_only_matrices_decay_each_at_its_own_rate() -> None:
    built, config = model(), OptimConfig(lr=0.01, weight_decay=0.5)
    before = {name: parameter.detach().clone() for name, parameter in built.named_parameters()}
    adamw = optimizer(built, config)
    for parameter in built.parameters():
        parameter.grad = torch.zeros_like(parameter)
    set_rate(adamw, 0.5)
    adamw.step()
    for name, parameter in built.named_parameters():
        rate = 0.5 * 0.01 * multiplier(config, built, name)
        shrunk = 1 - rate * 0.5 if parameter.ndim == 2 else 1
        torch.testing.assert_close(parameter.detach(), before[name] * shrunk)


def test_set_rate_scales_from_the_peak_however_often_it_is_called() -> None:
    adamw = optimizer(model(), OptimConfig(lr=0.01))
    peaks = [group["lr"] for group in adamw.param_groups]
    for share in (0.5, 0.1, 0.25):
        set_rate(adamw, share)
    assert [group["lr"] for group in adamw.param_groups] == pytest.approx([0.25 * peak for peak in peaks])


def test_under_mup_a_first_step_moves_outputs_alike_at_every_rank() -> None:
    moves = {}
    for rank in ("1/32", "1/16", "1/8", "1/4"):
        built = model(d_model=128, head_dim=32, d_ff=256, placement=f"q={rank}")
        layer = built.get_submodule("blocks.0.attention.q")
        x = torch.randn(64, 128, generator=torch.Generator().manual_seed(1))
        adamw, before = optimizer(built, OptimConfig(lr=1e-3)), layer(x).detach()
        target = torch.randn(64, 128, generator=torch.Generator().manual_seed(2))
        nn.functional.mse_loss(layer(x), target).backward()
        adamw.step()
        moves[rank] = (layer(x) - before).square().mean().sqrt().item()
    assert max(moves.values()) < 3 * min(moves.values())
