"""A training in the words of programs that use transformers' Trainer, and what they have no words for."""

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from ..lpa.config import UserError
from ..lpa.model import Decoder
from ..lpa.optim import OptimConfig, multiplier
from ..lpa.paths import files_of
from ..lpa.sources import DataConfig
from ..lpa.train_config import TrainConfig
from ..lpa.weights import hf_name

PLACEHOLDER = "text.jsonl"
"""Stands for text that such a program does not read: a file that the user puts beside the YAML."""


def shared(config: TrainConfig) -> dict[str, Any]:
    """Keys that LLaMA-Factory and axolotl call alike, without the learning rate."""
    optim = config.optim
    return {
        "max_steps": config.steps,
        "gradient_accumulation_steps": config.batch_size // microbatch(config),
        "warmup_steps": warmup_steps(config),
        "weight_decay": optim.weight_decay,
        "adam_beta1": optim.beta1,
        "adam_beta2": optim.beta2,
        "adam_epsilon": optim.eps,
        "max_grad_norm": optim.clip or 0.0,  # 0: not clipped
        "bf16": config.precision != "float32",
        "seed": config.seed,
        "logging_steps": config.log_every,
        "save_steps": config.checkpoint_every,
    }


def warmup_steps(config: TrainConfig) -> int:
    """Whole steps; fewer than all."""
    return min(round(config.optim.warmup_share * config.steps), config.steps - 1)


def microbatch(config: TrainConfig) -> int:
    """Sequences in one forward pass."""
    return config.microbatch or config.batch_size


def schedule(optim: OptimConfig, rate: float) -> tuple[str, dict[str, float]]:
    """Our schedule's name in transformers, and its arguments. rate: the optimizer's own."""
    if optim.final_share == 1:
        return "constant_with_warmup", {}
    if optim.schedule == "cosine":
        return "cosine_with_min_lr", {"min_lr_rate": optim.final_share}
    return "polynomial", {"lr_end": rate * optim.final_share, "power": 1.0}


def rates(config: TrainConfig) -> dict[str, float]:
    """Each tensor's peak learning rate in `lpanas train`, under Hugging Face's names."""
    with torch.device("meta"):
        model = Decoder(config.model)
    names = (name for name, _ in model.named_parameters())
    return {hf_name(name): config.optim.lr * multiplier(config.optim, model, name) for name in names}


def wide_rate(config: TrainConfig) -> float:
    """The peak learning rate of a dense matrix as wide as d_model, the head's too."""
    base = config.optim.lr_base_width or config.model.d_model
    return config.optim.lr * (base / config.model.d_model if config.optim.lr_rule == "mup" else 1.0)


def text_files(data: DataConfig) -> list[Path]:
    """The files of `source: text`, each once; none for other sources, and where some are not on this machine."""
    try:
        return list(dict.fromkeys(path.resolve() for word in data.text for path in files_of(word)))
    except UserError:
        return []


def dataset_name(data: DataConfig) -> str:
    """The name of `source: hf`; of a local folder its whole path, as the program may start elsewhere."""
    name = data.dataset or ""
    return str(Path(name).expanduser().resolve()) if Path(name).expanduser().is_dir() else name


def yours(data: DataConfig) -> str:
    """What is said where the placeholder stands."""
    return f'The text ({data.name}) is not here as files that it reads: put yours into {PLACEHOLDER}, a {{"text": ...}} a line.'


def say_missing(data: DataConfig, notes: Sequence[str], path: Path, say: Callable[[str], None]) -> None:
    """On the screen, too, that a file has the placeholder in place of the text."""
    if yours(data) in notes:
        say(f"{path}: {yours(data)}")


def differences(config: TrainConfig) -> list[str]:
    """What is not as in `lpanas train` under any Trainer, in words."""
    context, first = config.model.context, "0" if warmup_steps(config) else "the peak"
    return [
        f"A window of {context} tokens has {context - 1} targets; in lpanas train {context}.",
        f"The learning rate follows the same curve a step later; that of the first step is {first}.",
        "All of the text is trained on, again and again if it is short; lpanas train holds out 10 % of the documents.",
        "Nothing is evaluated; lpanas train says the loss on documents that it holds out.",
    ]


def recipe(keys: dict[str, Any], head: Sequence[str], differs: Sequence[str]) -> str:
    """YAML with how it is started at its head, and what it does otherwise than `lpanas train`."""
    said = [*head, "Other than in lpanas train:", *(f"- {line}" for line in differs)]
    lines = [part for line in said for part in textwrap.wrap(line, 118, subsequent_indent="  ")]
    return "".join(f"# {line}\n" for line in lines) + yaml.safe_dump(keys, sort_keys=False, width=120)
