"""The coordinate check: does the scale of a model's activations, after a few steps, depend on its width?"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .data import Batches, Shards
from .model import Decoder, build
from .model_config import ModelConfig
from .optim import optimizer
from .train import autocast, step
from .train_config import TrainConfig


@dataclass(frozen=True)
class Coordinate:
    """The scale of one activation at one width."""

    lr_rule: str
    """mup or uniform."""
    width: int
    """d_model."""
    place: str
    """embedding, block 0, ..., or logits."""
    rms: float
    """Root mean square over a batch."""


def scaled(config: ModelConfig, width: int) -> ModelConfig:
    """The same model at another width: FFN and heads grow with it, a head's width and the rank fractions stay."""
    grow = width / config.d_model
    heads, kv_heads = (max(1, round(count * grow)) for count in (config.n_heads, config.kv_heads))
    d_ff = round(config.d_ff * grow)
    return config.change(d_model=width, d_ff=d_ff, n_heads=heads, n_kv_heads=kv_heads, head_dim=config.d_head)


def coordinates(config: TrainConfig, shards: Shards, widths: Sequence[int], steps: int) -> list[Coordinate]:
    """Train the config's model at several widths for a few steps at its full learning rate, chosen at the first width, under
    both rules (tied embeddings have one); the scale of every activation after that (Yang et al., arXiv 2203.03466,
    appendix D). Raises DivergedError."""
    rows: list[Coordinate] = []
    for rule in ("uniform",) if config.model.tie_embeddings else ("mup", "uniform"):
        for width in widths:
            optim = config.optim.change(lr_rule=rule, lr_base_width=widths[0])
            one = config.change(model=scaled(config.model, width), optim=optim)
            rows += [Coordinate(rule, width, place, rms) for place, rms in _after(one, shards, steps).items()]
    return rows


def _after(config: TrainConfig, shards: Shards, steps: int) -> dict[str, float]:
    device = config.resolve_device()
    model = build(config.model, device, config.seed)
    adamw = optimizer(model, config.optim)
    batches = Batches(shards.split("train"), config.model.context, config.batch_size, config.seed)
    for number in range(steps):
        step(model, adamw, batches(number), config, number, share=1.0)
    return _scales(model, batches(0)[0].to(device), config)


@torch.no_grad()
def _scales(model: Decoder, tokens: Tensor, config: TrainConfig) -> dict[str, float]:
    places: dict[str, nn.Module] = {"embedding": model.embedding}
    places |= {f"block {layer}": block for layer, block in enumerate(model.blocks)}
    places["logits"] = model.head
    found: dict[str, float] = {}

    def keep(module: nn.Module, _inputs: object, output: Tensor) -> None:
        place = next(place for place, one in places.items() if one is module)
        found[place] = output.float().pow(2).mean().sqrt().item()

    hooks = [module.register_forward_hook(keep) for module in places.values()]
    model.eval()
    with autocast(config, tokens.device):
        model(tokens)
    for hook in hooks:
        hook.remove()
    return found
