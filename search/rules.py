"""The rules by which a target's training follows from a proxy's, each in words with its source: comments of train.yaml."""

from pathlib import Path

from ..lpa.config import UserError
from ..lpa.cost import body_params, flops_per_token
from ..lpa.model_config import ModelConfig
from ..lpa.optim import OptimConfig
from ..lpa.shards import read_shards
from ..lpa.train_config import TrainConfig
from .carry import VALID_MOST, VALID_SHARE, bands_of, rank_lines, rates, rebalance_of
from .record import Record
from .space import Space

HOFFMANN = "Hoffmann et al., arXiv 2203.15556"
LPA_BATCH = " (as many as in the LPA 130M setting, 512 x 256; arXiv 2411.02063)"
RATES = 12
"""Matrices whose rates are named, at most: a placement of its own in each layer has hundreds."""


def rules(space: Space, record: Record | None, config: TrainConfig, shape: str | None) -> dict[str, list[str]]:
    """What decided each key of a target's training, as comments by key. space: with that target; record: None for the dense
    twin; shape: its name, None for the space's own target."""
    model = config.model
    own = "the space's target.model"
    named = f"{shape} of spaces/models.yaml; context, rank_multiple, ffn_multiple and init: of the space's target"
    found = {
        "model.vocab_size": [f"Shape: {named if shape else own}."],
        "model.context": [f"{model.context} tokens a sequence: target.model.context of the space."],
        "optim.lr": _rate(model, config.optim),
        "optim.lr_base_width": [_base_width(space)],
        "optim.warmup_share": [
            f"The proxy's share: {_steps(config.optim.warmup_share * config.steps)} of {config.steps:,} steps here."
        ],
        "tokens": [_tokens(space, config)],
        "batch_size": [
            f"{config.batch_size} x {model.context} = {config.batch_tokens:,} tokens a step: target.batch_size of the space, "
            f"whatever the width{LPA_BATCH if config.batch_tokens == 131_072 else ''}."
        ],
        "microbatch": ["target.microbatch of the space; it decides the memory, not the result."],
        "activation_checkpointing": ["target.activation_checkpointing of the space; as microbatch does."],
        "seed": ["The space's; with it the dense twin is trained on the same batches."],
        "data": [
            f"The search's source, read as often as the tokens need{_epochs(config)}; put your own pretraining text there. "
            "Relative paths start where the command does."
        ],
        "data.valid_tokens": [
            f"The first windows of the validation split, as far as it goes: 1/{VALID_SHARE} of the training tokens, at most "
            f"{VALID_MOST:,} and no fewer than the proxy's {space.proxy.data.valid_tokens:,}."
        ],
    }
    if record is not None and model.placement.sublayers != "dense":
        found |= _placed(space, record, model)
    return found | {"model.d_ff": [_width(space, record, model)]}


def _placed(space: Space, record: Record, model: ModelConfig) -> dict[str, list[str]]:
    bands, proxy = bands_of(space, record), record.model
    count = model.n_layers
    depth = f"layer l of {count} is in band floor({bands} l / {count}) of {bands}" if bands > 1 else "one band"
    return {
        "model.rank_multiple": [
            "A rank is the nearest multiple of this to fraction x min(d_in, d_out), and at least one of them: target.model of "
            "the space (multiples of 64 suit tensor cores)."
        ],
        "model.placement": [
            f"Depth: {depth}. The proxy, of {proxy.n_layers} layers and d_model {proxy.d_model}: {proxy.placement.text}.",
            *rank_lines(model),
        ],
    }


def _width(space: Space, record: Record | None, model: ModelConfig) -> str:
    """How the FFN's width was found."""
    rule, own = "none" if record is None else rebalance_of(record), space.target.model.d_ff
    if rule == "none" or record is None:
        return "The shape's own: no rebalance."
    measure, what = (body_params, "body parameters") if rule == "params" else (flops_per_token, "training FLOPs a token")
    return (
        f"rebalance: {rule}, done anew here (lpa/cost.py): from the shape's {own} to a multiple of ffn_multiple "
        f"{model.ffn_multiple}, the widest at which {what} stay within the dense twin's, {measure(model):,} of "
        f"{measure(space.target.model):,}. At the proxy: from {space.proxy.model.d_ff} to {record.model.d_ff}."
    )


def _rate(model: ModelConfig, optim: OptimConfig) -> list[str]:
    if optim.lr_rule == "uniform":
        return ["The proxy's, for every parameter: lr_rule uniform carries nothing to another width."]
    its = rates(model, optim)
    more = [f"and {len(its) - RATES} more kinds of matrices"] if len(its) > RATES else []
    return [
        "The proxy's. lr_rule mup carries it: a matrix trains at lr x lr_base_width / d_in; of two factors of rank r, A at "
        "half of that and B at d_in / (2 r) of it (Compute Better Spent, ICML 2024; lpa/optim.py). That carries it across "
        "widths; other depths, batches and lengths of training may want another rate. Peak rates here:",
        f"embedding, positions, norms, biases: {optim.lr:.4g}",
        *(f"{one.names} ({one.what}): {one.lr:.4g}" for one in its[:RATES]),
        *more,
    ]


def _steps(count: float) -> str:
    """A share of the steps is not always a whole number of them, and the schedule does not round it."""
    return f"{count:,.2f}".rstrip("0").rstrip(".")


def _base_width(space: Space) -> str:
    if space.proxy.optim.lr_base_width is None:
        return "The width that lr was chosen at: d_model of the proxy."
    return "The width that lr was chosen at: proxy.optim.lr_base_width of the space."


def _epochs(config: TrainConfig) -> str:
    """How often, where that is said beside the shards; other sources would have to be read."""
    if config.data.source != "shards":
        return ""
    try:
        there = read_shards(Path(config.data.shards or "").expanduser()).tokens["train"]
    except UserError:
        return ""
    return f", about {config.tokens / there:.2g} times ({there:,} training tokens)" if there else ""


def _tokens(space: Space, config: TrainConfig) -> str:
    share, params = space.target.tokens_per_param, space.dense_costs["params"]
    source = HOFFMANN if share == 20 else f"target.tokens_per_param of the space; {HOFFMANN}, would have 20"
    return (
        f"{share:g} for each of the {params:,} parameters of the dense twin ({source}); "
        f"{config.steps:,} steps, {config.steps * config.batch_tokens:,} tokens in whole ones."
    )
