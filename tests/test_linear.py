import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lpanas.lpa.linear import SILU_RMS, FactorActivation, LowRankLinear, matmul_params, saves, torch_default_
from lpanas.lpa.model import Decoder, build
from lpanas.lpa.model_config import ModelConfig
from scipy.integrate import quad
from torch import nn

sizes = st.integers(1, 40)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def factors(d_in: int, d_out: int, rank: int, activation: FactorActivation) -> tuple[LowRankLinear, torch.Tensor, torch.Tensor]:
    """A layer whose factors are A (d_in, rank) and B (rank, d_out)."""
    layer, a, b = LowRankLinear(d_in, d_out, rank, activation).double(), draw(d_in, rank), draw(rank, d_out, seed=1)
    layer.load_state_dict({"a.weight": a.T, "b.weight": b.T})
    return layer, a, b


@given(d_in=sizes, d_out=sizes, rank=sizes)
def test_the_layer_is_x_times_a_times_b(d_in: int, d_out: int, rank: int) -> None:
    layer, a, b = factors(d_in, d_out, rank, "none")
    x = draw(2, 3, d_in, seed=2)
    torch.testing.assert_close(layer(x), x @ (a @ b))


@given(d_in=sizes, d_out=sizes, rank=sizes)
def test_silu_stands_between_the_factors(d_in: int, d_out: int, rank: int) -> None:
    layer, a, b = factors(d_in, d_out, rank, "silu")
    x = draw(2, 3, d_in, seed=2)
    hidden = x @ a
    torch.testing.assert_close(layer(x), (hidden / (1 + torch.exp(-hidden))) @ b)


@given(d_in=sizes, d_out=sizes, rank=sizes)
def test_parameters_are_counted_as_built(d_in: int, d_out: int, rank: int) -> None:
    with torch.device("meta"):
        low, dense = LowRankLinear(d_in, d_out, rank), nn.Linear(d_in, d_out, bias=False)
    assert matmul_params(d_in, d_out, rank) == sum(parameter.numel() for parameter in low.parameters())
    assert matmul_params(d_in, d_out, None) == sum(parameter.numel() for parameter in dense.parameters())


@given(d_in=st.integers(1, 200), d_out=st.integers(1, 200))
def test_the_ranks_that_save_are_those_below_the_harmonic_limit(d_in: int, d_out: int) -> None:
    saving = [rank for rank in range(1, 201) if saves(d_in, d_out, rank)]
    assert saving == [rank for rank in range(1, 201) if rank * (1 / d_in + 1 / d_out) < 1 - 1e-12]


def test_silu_rms_is_its_integral() -> None:
    def density(z: float) -> float:
        return (z / (1 + math.exp(-z))) ** 2 * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    assert pytest.approx(math.sqrt(quad(density, -20, 20)[0]), abs=5e-5) == SILU_RMS


def shaped(d_model: int, d_ff: int, **fields: object) -> ModelConfig:
    shape = {"vocab_size": 300, "d_model": d_model, "d_ff": d_ff, "n_layers": 2, "n_heads": 4, "rank_multiple": 1}
    return ModelConfig.parse(shape | fields, "shape")


def product(model: Decoder, name: str) -> torch.Tensor:
    """AB of a low-rank projection, (d_in, d_out)."""
    layer = model.get_submodule(name)
    assert isinstance(layer, LowRankLinear)
    return layer.a.weight.detach().T @ layer.b.weight.detach().T


def std_tolerance(d_in: int, d_out: int, rank: int) -> float:
    """Five standard errors of a product's std, relative: its rank (d_in + d_out) factor entries are what is drawn."""
    return 5 * math.sqrt(1 / (2 * rank) * (1 / d_in + 1 / d_out) + 1 / (d_in * d_out))


SHAPES = [(128, 256, "1/4"), (256, 128, "1/8"), (192, 448, "3/8"), (128, 512, "1/16")]


@pytest.mark.parametrize(("d_model", "d_ff", "rank"), SHAPES)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_matched_product_starts_at_the_dense_std(d_model: int, d_ff: int, rank: str, seed: int) -> None:
    config = shaped(d_model, d_ff, placement=f"both={rank}")
    low = build(config, torch.device("cpu"), seed)
    dense = build(config.dense(), torch.device("cpu"), seed)
    for name in ("attention.q", "attention.o", "ffn.gate", "ffn.up", "ffn.down"):
        d_in, d_out = config.projection(name[-1] if name.startswith("a") else name[4:])
        expected = dense.get_submodule(f"blocks.1.{name}").weight.std().item()
        tolerance = std_tolerance(d_in, d_out, config.rank(1, name.rpartition(".")[2]) or 0)
        assert product(low, f"blocks.1.{name}").std().item() == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize(("d_model", "d_ff", "rank"), SHAPES)
def test_an_lpa_product_starts_at_torchs_default_over_the_root_of_three(d_model: int, d_ff: int, rank: str) -> None:
    torch.manual_seed(0)
    config = shaped(d_model, d_ff, placement=f"both={rank}", init="lpa")
    low = build(config, torch.device("cpu"), 0)
    for name in ("q", "o", "gate", "down"):
        d_in, d_out = config.projection(name)
        default = nn.Linear(d_in, d_out, bias=False).weight.std().item()
        found = product(low, f"blocks.0.{'attention' if name in 'qo' else 'ffn'}.{name}").std().item()
        assert found == pytest.approx(default / math.sqrt(3), rel=std_tolerance(d_in, d_out, config.rank(0, name) or 0))


@pytest.mark.parametrize(("d_in", "d_out", "rank"), [(256, 256, 32), (128, 512, 64)])
def test_with_silu_the_output_has_the_dense_scale(d_in: int, d_out: int, rank: int) -> None:
    layer, dense_std, x = LowRankLinear(d_in, d_out, rank, "silu").double(), 0.02, draw(4096, d_in, seed=3)
    std_a, std_b = layer.matched_stds(dense_std)
    layer.load_state_dict({"a.weight": std_a * draw(rank, d_in), "b.weight": std_b * draw(d_out, rank, seed=1)})
    dense = x @ (dense_std * draw(d_in, d_out, seed=4))
    assert layer(x).pow(2).mean().sqrt().item() == pytest.approx(dense.pow(2).mean().sqrt().item(), rel=0.1)


@pytest.mark.parametrize(("d_in", "d_out"), [(64, 256), (300, 20)])
def test_torch_default_has_the_distribution_of_an_untouched_layer(d_in: int, d_out: int) -> None:
    torch.manual_seed(0)
    default, ours = nn.Linear(d_in, d_out).weight.detach(), torch.empty(d_out, d_in)
    torch_default_(ours, d_in, torch.Generator().manual_seed(1))
    quantiles = torch.linspace(0.05, 0.95, 7)
    spread = default.abs().max().item()
    torch.testing.assert_close(
        ours.flatten().quantile(quantiles), default.flatten().quantile(quantiles), rtol=0, atol=0.05 * spread
    )
    assert ours.abs().max().item() == pytest.approx(spread, rel=0.01)
