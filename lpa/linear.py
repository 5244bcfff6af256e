"""The low-rank layer y = (x A) B: its initialisation, its parameters and its FLOPs."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FactorActivation = Literal["none", "silu"]

SILU_RMS = 0.5965
"""sqrt(E[silu(z)^2]) for z ~ N(0, 1), by numerical integration: what a SiLU between the factors leaves of the scale."""


def matmul_params(d_in: int, d_out: int, rank: int | None) -> int:
    """Weights of one projection: d_in d_out when dense, r (d_in + d_out) when low-rank. Two FLOPs a token each, forward."""
    return d_in * d_out if rank is None else rank * (d_in + d_out)


def saves(d_in: int, d_out: int, rank: int) -> bool:
    """Whether two factors are smaller than the matrix that they replace."""
    return matmul_params(d_in, d_out, rank) < matmul_params(d_in, d_out, None)


class LowRankLinear(nn.Module):
    """y = act(x A) B with A: d_in x r and B: r x d_out, stored as torch does: a.weight is A^T, b.weight is B^T.

    x: (..., d_in) -> y: (..., d_out). No norm, nothing shared (Lv et al., arXiv 2411.02063). `activation` is "none" or
    "silu" (CoLA's choice); a bias, where there is one, stands behind B.
    """

    def __init__(self, d_in: int, d_out: int, rank: int, activation: FactorActivation = "none", bias: bool = False) -> None:
        super().__init__()
        self.activation = activation
        self.a = nn.Linear(d_in, rank, bias=False)
        self.b = nn.Linear(rank, d_out, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.a(x))

    def second(self, hidden: Tensor) -> Tensor:
        """From x A to y. hidden: (..., rank)."""
        if self.activation == "silu":
            hidden = F.silu(hidden)
        return self.b(hidden)

    def matched_stds(self, dense_std: float) -> tuple[float, float]:
        """(std of A, std of B): 1/sqrt(d_in) and dense_std sqrt(d_in / r), so that std(AB) is the dense matrix's.

        With a SiLU between the factors B's is larger by 1 / SILU_RMS: then not AB but the layer's output has the dense
        layer's scale, for inputs of unit scale (x A is then normal with unit variance); at other input scales it has not.
        """
        d_in, rank = self.a.in_features, self.b.in_features
        gain = 1.0 if self.activation == "none" else SILU_RMS
        return 1 / math.sqrt(d_in), dense_std * math.sqrt(d_in / rank) / gain


def torch_default_(parameter: Tensor, d_in: int, generator: torch.Generator) -> None:
    """torch's own default for a linear layer's weight and bias, U(-1/sqrt(d_in), 1/sqrt(d_in)), which the LPA authors' code
    leaves in place."""
    bound = 1 / math.sqrt(d_in)
    nn.init.uniform_(parameter, -bound, bound, generator=generator)
