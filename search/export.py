"""A record -> a complete full-scale training config."""

from pathlib import Path

from pydantic import ValidationError

from ..lpa.config import UserError, dump_yaml, first_mistake
from ..lpa.files import replace_text, writing
from ..lpa.model import ModelConfig
from ..lpa.train import TrainConfig
from .presets import named_shape
from .proxy import Record
from .results import Results
from .space import Candidate, Space


def export(found: Results, record: Record, out: Path, shape: str | None = None) -> Path:
    """Write train.yaml for a record's placement at the space's target, or at another named shape; returns its path.

    out: the study's folder; the file goes to export/target/ or export/<shape>/. Raises UserError for an unknown shape or
    one that cannot hold the placement.
    """
    space = found.space if shape is None else retarget(found.space, shape)
    try:
        candidate = _rebuilt(space, record)
    except ValueError as error:
        reason = first_mistake(ModelConfig, error) if isinstance(error, ValidationError) else str(error)
        raise UserError(f"--target {shape}: {reason}") from None
    config = train_config(space, candidate)
    folder = out / "export" / (shape or "target")
    path = folder / "train.yaml"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(path, dump_yaml(config, _head(found, record, space, candidate, config)))
    return path


def _rebuilt(space: Space, record: Record) -> Candidate:
    """The candidate of a record, in a space that may have another target."""
    if record.arm is not None:
        return space.arm(record.arm)
    return space.candidate(record.params) if record.listed is None else space.listed(record.listed)


def retarget(space: Space, shape: str) -> Space:
    """The space with another named shape as its target; context, multiples and initialisation stay. Raises UserError.

    It is not checked again: choices that a candidate does not take may be impossible there.
    """
    old = space.target.model
    kept = {name: getattr(old, name) for name in ("context", "rank_multiple", "ffn_multiple", "init")}
    target = space.target.change(model=named_shape(shape, kept, "--target"))
    return Space.model_construct(**{name: getattr(space, name) for name in Space.model_fields} | {"target": target})


def train_config(space: Space, candidate: Candidate) -> TrainConfig:
    """How a target is trained: the proxy's recipe, its learning rate carried by width, the target's batch and tokens."""
    optim = space.proxy.optim
    return TrainConfig(
        model=candidate.target,
        data=space.proxy.data.change(max_epochs=None),
        optim=optim.change(lr_base_width=optim.lr_base_width or space.proxy.model.d_model),
        tokens=int(space.target.tokens_per_param * space.dense_costs["params"]),
        batch_size=space.target.batch_size,
        microbatch=space.target.microbatch,
        seed=space.seed,
        evals=100,
    )


def _head(found: Results, record: Record, space: Space, candidate: Candidate, config: TrainConfig) -> str:
    """What a reader of the file should know, as comments."""
    shares = ", ".join(f"{name} {figure / space.dense_costs[name]:.3f}" for name, figure in candidate.costs.items())
    noise = found.noise
    resolvable = f"{noise.resolvable_nats:.3f} nats, from {noise.n} seeds" if noise else "not measured"
    delta = found.delta(record)
    against = "" if delta is None else f", {delta:+.3f} against the dense arm"
    loss = "no loss" if record.loss_nats is None else f"{record.loss_nats:.4f} nats"
    return "\n".join(
        [
            f"Exported by lpanas from {record.run} of the study '{found.space.name}'. Train it: lpanas train train.yaml",
            f"Evidence: {loss}{against} after {record.tokens:,} tokens at d_model {record.model.d_model}, "
            f"{record.model.n_layers} layers; one run.",
            f"Smallest difference that the proxy resolves: {resolvable}. Cost against the dense target: {shares}.",
            f"tokens: {space.target.tokens_per_param:g} a parameter of the dense target. optim.lr was chosen at "
            f"lr_base_width {config.optim.lr_base_width}; lr_rule carries it to this width.",
            "data: the search's source, read as often as the tokens need; put your own pretraining text there.",
        ]
    )
