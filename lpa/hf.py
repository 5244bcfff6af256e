"""A model as a Hugging Face folder: config.json, weights, tokenizer, and the modeling file where it is more than a Llama."""

import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from .config import UserError, one_line
from .draft import draft_of, free_place, move
from .hf_tokenizer import FILES, HfTokenizer
from .model import Decoder
from .model_config import ModelConfig
from .weights import hf_name

CONFIG, GENERATION, WEIGHTS, MODELING = "config.json", "generation_config.json", "model.safetensors", "modeling_lowrank_llama"
README, TITLE = "README.md", "# Exported by lpanas"
"""A file for people, and how it begins."""
_ONLY = {"ffn": "swiglu", "norm": "rms_before", "positions": "rotary", "bias": False, "dropout": 0}
"""What a model must be for transformers' Llama, or the one of the modeling file, to be the same model."""


def write_folder(
    folder: Path, config: ModelConfig, tokenizer: HfTokenizer | None, weights: dict[str, Tensor] | None, readme: str = ""
) -> None:
    """Write the folder that AutoModelForCausalLM and AutoTokenizer load; one that is there is replaced whole.

    weights: under Hugging Face's names; without them from_config draws some by our rules, of a dense model, too: with the
    modeling file, as a plain Llama would start otherwise. readme: begins with TITLE; there is none when it is empty.

    Raises UserError: a model that is no Llama, a tokenizer with more tokens than the model, a folder that holds anything else
    or cannot be written.
    """
    plain = weights is not None and _is_llama(config)
    files = {CONFIG: model_json(config, tokenizer, plain), GENERATION: _generation_json(tokenizer)}
    files |= {} if tokenizer is None else tokenizer.files(config.context)
    folder, held = check_place(folder, weights is not None)
    try:
        with draft_of(folder) as draft:
            for name, content in files.items():
                (draft / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            if readme:
                (draft / README).write_text(readme, encoding="utf-8")
            if not plain:
                code = resources.files("lpanas.lpa").joinpath(f"{MODELING}.py").read_text(encoding="utf-8")
                (draft / f"{MODELING}.py").write_text(code, encoding="utf-8")
            if weights is not None:
                save_file({name: tensor.contiguous() for name, tensor in weights.items()}, draft / WEIGHTS, {"format": "pt"})
            if held:
                shutil.rmtree(folder)
            move(draft, folder, CONFIG)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from None
    except SafetensorError as error:  # what it makes of a full disk, too
        raise UserError(f"{folder}: cannot be written: {one_line(error)}") from None


def check(config: ModelConfig, tokenizer: HfTokenizer | None) -> None:
    """Raises UserError for what write_folder would refuse of a model and its tokenizer."""
    model_json(config, tokenizer, plain=False)


def model_json(config: ModelConfig, tokenizer: HfTokenizer | None, plain: bool) -> dict[str, Any]:
    """config.json. plain: of transformers' Llama, otherwise with the placement and the modeling file's names.

    Raises UserError for what neither of them is.
    """
    check_expressible(config)
    if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
        raise UserError(f"hf: model.vocab_size: {config.vocab_size} is less than the tokenizer's {tokenizer.vocab_size} tokens")
    end = None if tokenizer is None else tokenizer.end
    llama = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    return (llama if plain else _low_rank(config)) | {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.d_head,
        "hidden_act": "silu",
        "max_position_embeddings": config.context,
        "initializer_range": config.d_model**-0.5,  # of what is added to it later, such as tokens
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": None,  # as an id it would keep that token's embedding from being trained
        "dtype": "float32",
    }


def check_expressible(config: ModelConfig, form: str = "hf", whose: str = "Hugging Face's") -> None:
    """Raises UserError for a model that is no Llama. form: of `export --to`; whose: Llama."""
    for key, only in _ONLY.items():
        if (found := getattr(config, key)) != only:
            shown, expected = (str(value).lower() for value in (found, only))
            raise UserError(f"{form}: model.{key}: {shown} is not in {whose} Llama; expected {expected}")


def merged(config: ModelConfig, weights: dict[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The dense model whose matrices are the products AB, and its weights; weights under Hugging Face's names.

    Raises UserError where something stands between the factors.
    """
    if config.factor_activation != "none" and config.placement.sublayers != "dense":
        raise UserError(f"--merge: with model.factor_activation {config.factor_activation} a product of factors is no matrix")
    result = dict[str, Tensor]()
    for name, tensor in weights.items():
        if name.endswith(".a.weight"):
            b = weights[name.removesuffix("a.weight") + "b.weight"]
            product = b.double() @ tensor.double()  # (d_out, d_in)
            result[name.removesuffix("a.weight") + "weight"] = product.to(tensor.dtype)
        elif not name.endswith(".b.weight"):
            result[name] = tensor
    return config.dense(), result


def model_weights(config: ModelConfig, state: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """A model's state under Hugging Face's names, a tied head once. Raises UserError for a state of another model, with the
    first tensor that is not as it should be."""
    with torch.device("meta"):
        model = Decoder(config)
    own = model.state_dict()
    for name in [*own, *state]:
        wanted, found = (f"{list(side[name].shape)}" if name in side else "no such tensor" for side in (own, state))
        if wanted != found:
            raise UserError(f"{where}: {name}: expected {wanted}, found {found}")
    return {hf_name(name): state[name].detach() for name, _ in model.named_parameters()}


def check_place(folder: Path, has_weights: bool) -> tuple[Path, bool]:
    """(The folder, whether it is there with files of an earlier export). Raises UserError where it holds anything else, or
    weights to which there is no successor."""
    folder, held = free_place(folder)
    ours = {CONFIG, GENERATION, WEIGHTS, f"{MODELING}.py", *FILES, *([README] if _is_ours(folder / README) else [])}
    if others := sorted({*held} - ours):
        raise UserError(f"--out {folder}: holds '{others[0]}'; expected a new or empty folder, or an earlier export")
    if WEIGHTS in held and not has_weights:
        raise UserError(f"--out {folder}: holds {WEIGHTS}, which would be lost; remove the folder or export elsewhere")
    return folder, bool(held)


def _is_ours(readme: Path) -> bool:
    return readme.is_file() and readme.read_bytes().startswith(TITLE.encode())


def _is_llama(config: ModelConfig) -> bool:
    """Whether it is transformers' own Llama, to which, once it has weights, no code needs to be added."""
    return config.placement.sublayers == "dense" and not config.head_bias and config.d_model % config.n_heads == 0


def _low_rank(config: ModelConfig) -> dict[str, Any]:
    layers = range(config.n_layers)
    ranks = [{name: config.rank(layer, name) for name in config.projections} for layer in layers]
    return {
        "architectures": ["LowRankLlamaForCausalLM"],
        "model_type": "lowrank_llama",
        "auto_map": {
            "AutoConfig": f"{MODELING}.LowRankLlamaConfig",
            "AutoModel": f"{MODELING}.LowRankLlamaModel",
            "AutoModelForCausalLM": f"{MODELING}.LowRankLlamaForCausalLM",
        },
        "placement": config.placement.text,
        "ranks": [{name: rank for name, rank in row.items() if rank is not None} for row in ranks],
        "factor_activation": config.factor_activation,
        "init": config.init,
        "head_bias": config.head_bias,
    }


def _generation_json(tokenizer: HfTokenizer | None) -> dict[str, Any]:
    """generation_config.json. Rows of a batch that have ended are filled up with the end-of-text token."""
    return {} if tokenizer is None else {"eos_token_id": tokenizer.end, "pad_token_id": tokenizer.end}
