"""A point of a space as two models, and what the larger one costs."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ..lpa.model_config import ModelConfig

FORMULAS = ("flops_per_token", "params", "memory_bytes")
"""Costs that are known of any model."""
STEP_SECONDS = "step_seconds"
"""The one that is measured."""
COSTS = (*FORMULAS, STEP_SECONDS)
Costs = Mapping[str, int | float]


@dataclass(frozen=True)
class Candidate:
    """A point of the space as two models, with what the larger one costs."""

    params: dict[str, str]
    """The point, or nothing for an arm that lies outside of the space."""
    proxy: ModelConfig
    target: ModelConfig
    costs: dict[str, int | float]
    """At the target, by name."""
    feasible: bool
    """Whether the costs keep to the space's limits."""

    @cached_property
    def trained(self) -> str:
        """What is trained, as text: candidates with equal texts are one."""
        return self.proxy.model_dump_json()
