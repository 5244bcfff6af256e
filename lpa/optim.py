"""AdamW's parameter groups, with each factor's own learning rate, and schedules that are pure functions of the step."""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from .config import Config
from .linear import LowRankLinear
from .model import Decoder

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(Config):
    """AdamW, its schedule and how its rate is spread over the parameters."""

    lr: Positive
    """Peak learning rate of the embedding and the norms, and of a dense matrix as wide as lr_base_width."""
    lr_rule: Literal["mup", "uniform"] = "mup"
    """mup: hidden matrices at lr x lr_base_width / d_in, factors at their own rates (see multiplier). uniform: lr for all, and
    the only one for tied embeddings, whose one matrix has no rate that suits both of its uses at every width."""
    lr_base_width: Annotated[int, Field(gt=0)] | None = None
    """The width that lr was chosen at; the model's own when left out."""
    warmup_share: Share = 0.05
    """Of the steps, in which the rate rises linearly from 0."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """How the rate falls after the warm-up."""
    final_share: Share = 0.1
    """Of the peak rate, at the last step."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled, on matrices only; applied at the group's own rate."""
    beta1: Beta = 0.9
    """Decay a step of the mean of the gradients."""
    beta2: Beta = 0.95
    """Decay a step of the mean of their squares (0.9 and 0.95: the LPA authors' scripts)."""
    eps: Positive = 1e-8
    """Added to the root of that mean (torch's default; 1e-5 in the LPA authors' scripts)."""
    clip: Positive | None = 1.0
    """Largest norm of the whole gradient; null: not clipped."""


def schedule(config: OptimConfig, step: int, steps: int) -> float:
    """The share of the peak rate at a step (0-based) of a run of `steps`; a pure function."""
    warmup = config.warmup_share * steps
    if step + 1 <= warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step + 1 - warmup) / max(1.0, steps - warmup))
    fall = (1 + math.cos(math.pi * progress)) / 2 if config.schedule == "cosine" else 1 - progress
    return config.final_share + (1 - config.final_share) * fall


def multiplier(config: OptimConfig, model: Decoder, name: str) -> float:
    """What a parameter's rate is of lr.

    Under mup a hidden matrix takes base / d_in; of a low-rank one, A takes half of that and B takes d_in / (2 r) of it
    (Compute Better Spent, ICML 2024). The embedding, learned positions, the norms and biases take 1.
    """
    path = name.rpartition(".")[0]
    module = model.get_submodule(path)
    is_bias = name.endswith(".bias")
    if config.lr_rule == "uniform" or not isinstance(module, nn.Linear) or is_bias:
        return 1.0
    base = config.lr_base_width or model.config.d_model
    parent = model.get_submodule(path.rpartition(".")[0])
    if isinstance(parent, LowRankLinear):
        d_in, rank = parent.a.in_features, parent.b.in_features
        share = base / d_in
        return share / 2 if module is parent.a else share * d_in / (2 * rank)
    return base / module.in_features


def optimizer(model: Decoder, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over groups that differ in rate or decay; each group's `peak_lr` is what the schedule scales."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decay = config.weight_decay if parameter.ndim == 2 else 0.0
        groups.setdefault((config.lr * multiplier(config, model, name), decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": rate, "peak_lr": rate, "weight_decay": decay}
            for (rate, decay), parameters in groups.items()
        ],
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )


def set_rate(adamw: torch.optim.AdamW, share: float) -> None:
    """Put every group at this share of its peak rate."""
    for group in adamw.param_groups:
        group["lr"] = group["peak_lr"] * share
