"""Weights under the names of Hugging Face's Llama, both ways, for dense and low-rank models alike."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .config import UserError
from .model import Decoder

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
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
    """The weights under Hugging Face's names; a tied head stands there once, as the embedding.

    They are views: they change as the model is trained.
    """
    return {hf_name(name): parameter.detach() for name, parameter in model.named_parameters()}


@torch.no_grad()
def from_hf(model: Decoder, weights: Mapping[str, Tensor], where: str = "weights") -> None:
    """Copy weights under Hugging Face's names into a model, whatever their dtype. where: their origin, for errors.

    Raises UserError for a missing, an extra or a misshapen tensor, with its name and both shapes, and for a head that is not
    the embedding of a model that ties them; then nothing is copied.
    """
    ours = {hf_name(name): parameter for name, parameter in model.named_parameters()}
    expected, given = dict(ours), dict(weights)
    if model.config.tie_embeddings and HEAD in given:  # some files repeat the embedding there
        expected[HEAD] = ours[EMBEDDING]
    for name in [*expected, *given]:
        wanted, found = (f"{list(side[name].shape)}" if name in side else "no such tensor" for side in (expected, given))
        if wanted != found:
            raise UserError(f"{where}: {name}: expected {wanted}, found {found}")
    if HEAD in expected.keys() - ours.keys() and not torch.equal(given[HEAD], given[EMBEDDING]):
        raise UserError(f"{where}: {HEAD}: expected the values of {EMBEDDING} (tie_embeddings), found others")
    for name, parameter in ours.items():
        parameter.copy_(given[name])


def save_hf(model: Decoder, path: Path) -> None:
    """Write the weights under Hugging Face's names to a .safetensors file, replaced whole."""
    draft = path.with_name(f".{path.name}.draft")
    save_file({name: tensor.contiguous() for name, tensor in to_hf(model).items()}, draft, metadata={"format": "pt"})
    draft.replace(path)


def load_hf(model: Decoder, path: Path) -> None:
    """Copy the weights of a .safetensors file under Hugging Face's names into a model.

    Raises UserError for a file that cannot be read, and for tensors that are not the model's (see from_hf).
    """
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a .safetensors file that can be read: {' '.join(str(error).split())[:120]}") from None
    from_hf(model, weights, str(path))
