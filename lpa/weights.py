"""Weights under the names of Hugging Face's Llama, both ways, for dense and low-rank models alike."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from .config import UserError
from .model import Decoder

_MODULES = {
    "embedding": "model.embed_tokens",
    "positions": "model.embed_positions",
    "norm": "model.norm",
    "head": "lm_head",
    "attention": "self_attn",
    "ffn": "mlp",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def hf_name(name: str) -> str:
    """Our name of a tensor as Hugging Face's: blocks.0.attention.q.weight -> model.layers.0.self_attn.q_proj.weight.

    A low-rank projection keeps its two factors: model.layers.0.self_attn.q_proj.a.weight (A^T, rank x d_in) and .b.weight
    (B^T, d_out x rank).
    """
    inside = re.fullmatch(r"blocks\.(\d+)\.(attention|ffn)\.(\w+)\.(.+)", name)
    if inside:
        return f"model.layers.{inside[1]}.{_MODULES[inside[2]]}.{inside[3]}_proj.{inside[4]}"
    beside = re.fullmatch(r"blocks\.(\d+)\.(\w+)\.(.+)", name)
    if beside:
        return f"model.layers.{beside[1]}.{_MODULES[beside[2]]}.{beside[3]}"
    module, _, kind = name.rpartition(".")
    return f"{_MODULES[module]}.{kind}"


def to_hf(model: Decoder) -> dict[str, Tensor]:
    """The weights under Hugging Face's names; a tied head stands there once, as the embedding."""
    return {hf_name(name): parameter.detach() for name, parameter in model.named_parameters()}


@torch.no_grad()
def from_hf(model: Decoder, weights: Mapping[str, Tensor]) -> None:
    """Copy weights under Hugging Face's names into a model, whatever their dtype.

    Raises UserError for a missing, an extra or a misshapen tensor, with its name and both shapes; then nothing is copied.
    """
    ours = {hf_name(name): parameter for name, parameter in model.named_parameters()}
    given = dict(weights)
    if model.config.tie_embeddings:
        given.pop("lm_head.weight", None)  # some files repeat the embedding there
    for name in [*ours, *given]:
        expected, found = (f"{list(side[name].shape)}" if name in side else "no such tensor" for side in (ours, given))
        if expected != found:
            raise UserError(f"weights: {name}: expected {expected}, found {found}")
    for name, parameter in ours.items():
        parameter.copy_(given[name])
