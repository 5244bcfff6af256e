"""Sections of a space: what may vary, the reference arms, the target, and a limit."""

import math
import re
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from ..lpa.config import Config
from ..lpa.cost import Rebalance
from ..lpa.linear import FactorActivation
from ..lpa.model_config import ModelConfig
from .budget import RankChoice, check_groups

LIMIT = r"(\d+\.?\d*(?:[eE][-+]?\d+)?)(?: ?x ?dense)?"


def _limit(value: object) -> str:
    text = " ".join(str(value).split())
    factor = None if isinstance(value, bool) else re.fullmatch(LIMIT, text)
    if factor is None or not float(factor[1]) or math.isinf(float(factor[1])):
        raise ValueError(f"expected a positive number or '1.0 x dense', found '{value}'")
    return text


Limit = Annotated[str, BeforeValidator(_limit)]
"""`1.0 x dense`, or a number; positive."""


class Vary(Config):
    """What the search may choose."""

    ranks: dict[str, tuple[RankChoice, ...]]
    """For each group of projections (attention, ffn, both, or names such as `q,k`) its choices: dense, 1/4, 1/8, ...
    Projections in no group stay dense."""
    bands: Annotated[int, Field(gt=0)] = 1
    """Equal bands of depth, each with ranks of its own."""
    rebalance: tuple[Rebalance, ...] = ("none",)
    """What the saved parameters buy."""
    factor_activation: tuple[FactorActivation, ...] = ("none",)
    """Between the factors of every low-rank projection."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_groups(self.ranks)
        for group, choices in self.ranks.items():
            if len(set(choices)) < len(choices) or not choices:
                raise ValueError(f"ranks.{group}: expected different choices, found {', '.join(choices) or 'none'}")
        for name in ("rebalance", "factor_activation"):
            if len(set(getattr(self, name))) < max(1, len(getattr(self, name))):
                raise ValueError(f"{name}: a choice stands twice")
        if not all((self.ranks, self.rebalance, self.factor_activation)):
            raise ValueError("nothing to choose from: an empty list")
        return self


class Arms(Config):
    """The ranks of the reference arms: attention, ffn, and both at once; the dense arm has none."""

    attention: RankChoice = "1/4"
    ffn: RankChoice = "1/4"

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("attention", "ffn"):
            if getattr(self, name) == "dense":
                raise ValueError(f"{name}: expected a rank, found dense")
        return self


class Target(Config):
    """The full shape, whose cost counts and which is exported, and how it would be trained."""

    model: ModelConfig
    microbatch: Annotated[int, Field(gt=0)] = 16
    """Sequences in one forward pass; decides memory_bytes."""
    activation_checkpointing: bool = False
    """As in a TrainConfig; decides memory_bytes and step_seconds, and is exported."""
    batch_size: Annotated[int, Field(gt=0)] = 128
    """Sequences a step (128 x 1024 tokens: as many as the LPA 130M setting's 512 x 256)."""
    step_times: str | None = None
    """Where step_seconds is a cost: a file of `lpanas show SPACE --step-times FILE`, made on the device whose seconds count.
    Measured when the search begins, on a device like the one that it trains on, when left out."""
    tokens_per_param: Annotated[float, Field(gt=0)] = 20.0
    """Training tokens for each parameter of the dense target (20: Hoffmann et al., arXiv 2203.15556)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.batch_size % self.microbatch:
            raise ValueError(f"microbatch: {self.microbatch} does not divide batch_size {self.batch_size}")
        return self
