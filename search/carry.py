"""From proxy to target: a record -> its candidate at a target, and how that is trained."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import cast

import torch

from ..lpa.cost import Rebalance
from ..lpa.linear import LowRankLinear
from ..lpa.model import Decoder
from ..lpa.model_config import ModelConfig
from ..lpa.optim import OptimConfig, multiplier
from ..lpa.placement import Placement
from ..lpa.train_config import TrainConfig
from .candidate import Candidate
from .presets import named_shape
from .record import Record
from .space import Space

EVALS, VALID_MOST, VALID_SHARE = 100, 2**20, 1000
"""Evaluations of a target, each on a thousandth of the training tokens but on no more than 2^20: as a forward pass is a third
of a step's FLOPs, all of them together take about 3 % of the training's (assumptions)."""


def retarget(space: Space, shape: str) -> Space:
    """The space with another named shape as its target; context, multiples and initialisation stay. Raises UserError.

    It is not checked again: choices that a candidate does not take may be impossible there.
    """
    old = space.target.model
    kept = {name: getattr(old, name) for name in ("context", "rank_multiple", "ffn_multiple", "init")}
    target = space.target.change(model=named_shape(shape, kept, "--target"))
    return Space.model_construct(
        **{name: getattr(space, name) for name in Space.model_fields}
        | {"target": target, "step_times": None, "dense_step": None}
    )


def rebuilt(space: Space, record: Record) -> Candidate:
    """The candidate of a record, in a space that may have another target. Raises ValueError where it cannot be built."""
    if record.arm is not None:
        return space.arm(record.arm)
    return space.candidate(record.params) if record.listed is None else space.listed(record.listed)


def rebalance_of(record: Record) -> Rebalance:
    """What the saved parameters of a record buy."""
    if record.arm is not None:
        return "none"
    return cast(Rebalance, record.params["rebalance"]) if record.listed is None else record.listed.rebalance


def bands_of(space: Space, record: Record) -> int:
    """In how many equal bands of depth a record's ranks were said."""
    if record.arm is not None:
        return 1
    return space.vary.bands if record.listed is None else len(record.listed.bands)


def train_config(space: Space, model: ModelConfig) -> TrainConfig:
    """How a model is trained at the target: the proxy's recipe, its learning rate carried by width (not by depth, batch or
    length of training), the target's batch and tokens, and validation on windows that are worth them."""
    optim, tokens = space.proxy.optim, int(space.target.tokens_per_param * space.dense_costs["params"])
    valid = max(space.proxy.data.valid_tokens, min(tokens // VALID_SHARE, VALID_MOST))
    return TrainConfig(
        model=model,
        data=space.proxy.data.change(max_epochs=None, valid_tokens=valid),
        optim=optim.change(lr_base_width=optim.lr_base_width or space.proxy.model.d_model),
        tokens=tokens,
        batch_size=space.target.batch_size,
        microbatch=space.target.microbatch,
        activation_checkpointing=space.target.activation_checkpointing,
        seed=space.seed,
        evals=EVALS,
    )


def dense_training(space: Space, device: str) -> TrainConfig:
    """The dense target's training: what step times are measured of. device: what runs train on."""
    return train_config(space, space.target.model).change(device="cuda" if device == "cuda" else "cpu")


@dataclass(frozen=True)
class Rate:
    """The peak learning rate of parameters that share it."""

    names: str
    """`q,k,v`, or `head`."""
    what: str
    """`768 x 768`, or `A, 768 x 64`."""
    lr: float


def rates(model: ModelConfig, optim: OptimConfig) -> list[Rate]:
    """The peak rates of a model's weight matrices, as the optimizer has them. Builds, on the meta device, one layer of each
    run of layers that are alike."""
    rows = [model.placement.layers[first] for first, _ in model.placement.alike]
    with torch.device("meta"):
        decoder = Decoder(model.change(n_layers=len(rows), placement=Placement(tuple(rows))))
    found = dict[tuple[str, float], dict[str, None]]()
    for name, what, path in _matrices(decoder):
        found.setdefault((what, optim.lr * multiplier(optim, decoder, path)), {})[name] = None
    return [Rate(",".join(names), what, lr) for (what, lr), names in found.items()]


def _matrices(decoder: Decoder) -> Iterator[tuple[str, str, str]]:
    """(projection, what it is, parameter) of the head and of every projection of every layer."""
    yield "head", _sized(decoder.head), "head.weight"
    for layer in range(decoder.config.n_layers):
        for part in ("attention", "ffn"):
            for name, module in decoder.get_submodule(f"blocks.{layer}.{part}").named_children():
                path = f"blocks.{layer}.{part}.{name}"
                if isinstance(module, LowRankLinear):
                    yield name, f"A, {_sized(module.a)}", f"{path}.a.weight"
                    yield name, f"B, {_sized(module.b)}", f"{path}.b.weight"
                else:
                    yield name, _sized(module), f"{path}.weight"


def _sized(module: torch.nn.Module) -> str:
    assert isinstance(module, torch.nn.Linear)
    return f"{module.in_features} x {module.out_features}"


def rank_lines(model: ModelConfig) -> list[str]:
    """How the fractions of a model's placement become ranks: `layers 0-5: q,k,v,o 1/4 x 768 = 192, rank 192`."""
    lines = []
    for first, count in model.placement.alike:
        said = [(f"{rank} x {full} = {float(rank * full):g}, rank {model.rank(first, name)}", name)
                for name in model.projections
                if (rank := model.placement.rank(first, name)) is not None
                for full in [min(model.projection(name))]]  # fmt: skip
        parts = [f"{','.join(name for _, name in its)} {text}" for text, its in groupby(said, key=lambda one: one[0])]
        span = f"layers {first}-{first + count - 1}" if count > 1 else f"layer {first}"
        lines.append(f"{span}: {'; '.join(parts) or 'dense'}")
    return lines
