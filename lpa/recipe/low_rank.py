"""The low-rank layer for torchtitan, and the converter that puts it in the place of dense ones, by their names."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import spmd_types as spmd
import torch.nn.functional as F
from torch import Tensor
from torchtitan.distributed import ParallelDims
from torchtitan.models.common import Linear
from torchtitan.models.common.attention import BaseQKVLinear, QKVLinear
from torchtitan.models.common.decoder_sharding import dense_param_placement
from torchtitan.models.llama3.model import Llama3Model
from torchtitan.protocols.model import ModelConfigConverter
from torchtitan.protocols.module import Module
from torchtitan.protocols.sharding import ShardingConfig

from .model import ATTENTION, Init, Shape, dense_std, start

SILU_RMS = 0.5965
"""sqrt(E[silu(z)^2]) for z ~ N(0, 1): what a SiLU between the factors leaves of the scale."""


class LowRankLinear(Module):
    """y = act(x A) B, x: (..., in_features) -> (..., out_features). a.weight is A^T: rank x in_features, b.weight is B^T:
    out_features x rank."""

    @dataclass(kw_only=True, slots=True)
    class Config(Linear.Config):
        """A dense layer's, and what the two factors are."""

        rank: int
        activation: Literal["none", "silu"]
        a_init: Init
        b_init: Init

    def __init__(self, config: Config) -> None:
        super().__init__()
        rank, whole = config.rank, min(config.in_features, config.out_features)
        if not 0 < rank <= whole or config.bias:
            raise ValueError(f"rank {rank}: expected 1 to {whole}, and no bias")
        self.activation = config.activation
        a_sharding, b_sharding = _shardings(config.sharding_config)
        self.a = Linear.Config(
            in_features=config.in_features, out_features=rank, param_init=config.a_init, sharding_config=a_sharding
        ).build()
        self.b = Linear.Config(
            in_features=rank, out_features=config.out_features, param_init=config.b_init, sharding_config=b_sharding
        ).build()

    def parallelize(self, parallel_dims: ParallelDims) -> None:
        """Raises ValueError where tensor parallelism would put a SiLU on partial sums."""
        if self.activation != "none" and parallel_dims.tp > 1:
            raise ValueError("tensor_parallel_degree: with a SiLU between the factors it has to be 1")
        super().parallelize(parallel_dims)

    def forward(self, input: Tensor) -> Tensor:
        hidden = self.a(input)  # (..., rank)
        return self.b(F.silu(hidden) if self.activation == "silu" else hidden)


class SeparateQKVLinear(QKVLinear):
    """q, k and v with a config each, where torchtitan has one for k and v together."""

    @dataclass(kw_only=True, slots=True)
    class Config(QKVLinear.Config):
        """wkv says no more than how both are sharded."""

        wk: Linear.Config
        wv: Linear.Config

    def __init__(self, config: Config) -> None:
        BaseQKVLinear.__init__(self, config)
        sharding = config.wkv.sharding_config
        self.wq = config.wq.build()
        self.wk = replace(config.wk, sharding_config=sharding).build()
        self.wv = replace(config.wv, sharding_config=sharding).build()


class LowRankConverter(ModelConfigConverter):
    """Swaps the linear layers of these names for low-rank ones."""

    @dataclass(kw_only=True, slots=True)
    class Config(ModelConfigConverter.Config):
        """Which layers, and how they start."""

        shape: Shape
        ranks: dict[str, int]
        """Of each low-rank layer by its full name, e.g. layers.0.attention.qkv_linear.wq."""
        activation: Literal["none", "silu"] = "none"

    def __init__(self, config: Config) -> None:
        self.config = config

    def convert(self, model_config: Llama3Model.Config) -> Llama3Model.Config:
        """The same config, changed. Raises ValueError for a name that no linear layer has."""
        left = dict(self.config.ranks)
        for name, qkv, parent, place in list(model_config.traverse(QKVLinear.Config)):
            if left.keys() & {f"{name}.wk", f"{name}.wv"}:
                setattr(parent, place, _apart(qkv))
        for name, dense, parent, place in list(model_config.traverse(Linear.Config)):
            if name in left:
                setattr(parent, place, self._factors(name, dense, left.pop(name)))
        if left:
            raise ValueError(f"ranks: no linear layer has the name '{min(left)}'")
        return model_config

    def _factors(self, name: str, dense: Linear.Config, rank: int) -> LowRankLinear.Config:
        """std(A) = 1/sqrt(d_in), std(B) such that std(AB) is the dense matrix's."""
        shape, d_in = self.config.shape, dense.in_features
        gain = SILU_RMS if self.config.activation == "silu" else 1.0
        b_std = dense_std(shape, name.rpartition(".")[2], d_in) * math.sqrt(d_in / rank) / gain
        fields: dict[str, Any] = {"in_features": d_in, "out_features": dense.out_features, "rank": rank}
        fields |= {"a_init": start(shape, d_in, 1 / math.sqrt(d_in)), "b_init": start(shape, rank, b_std)}
        return LowRankLinear.Config(**fields, activation=self.config.activation)


def _apart(qkv: QKVLinear.Config) -> SeparateQKVLinear.Config:
    fields: dict[str, Any] = {"head_dim": qkv.head_dim, "wq": qkv.wq, "wkv": qkv.wkv}
    return SeparateQKVLinear.Config(**fields, wk=replace(qkv.wkv), wv=replace(qkv.wkv))


def full_names(bands: Iterable[tuple[Iterable[int], Mapping[str, int]]]) -> dict[str, int]:
    """(layers, ranks by the short name) -> the rank by the full name: wq of layer 0 is layers.0.attention.qkv_linear.wq."""
    return {f"layers.{layer}.{_inside(name)}": rank for layers, its in bands for layer in layers for name, rank in its.items()}


def _inside(name: str) -> str:
    if name not in ATTENTION:
        return f"feed_forward.{name}"
    return f"attention.{name}" if name == "wo" else f"attention.qkv_linear.{name}"


def _shardings(dense: ShardingConfig | None) -> tuple[ShardingConfig | None, ShardingConfig | None]:
    """Of A and of B, from the dense layer's: where its outputs are spread (q, k, v, gate, up) B's are, and A is whole on every
    GPU; where its inputs are (o, down) A's are, and B is whole. What goes in and comes out moves as it does there."""
    weight = dense.state_shardings.get("weight") if dense is not None else None
    if weight is None:
        return None, None
    its = ShardingConfig(state_shardings={"weight": weight})
    whole = ShardingConfig(state_shardings={"weight": dense_param_placement(tp=spmd.R)})
    return (whole, its) if weight == dense_param_placement(tp=spmd.S(0)) else (its, whole)
