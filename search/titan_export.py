"""`lpanas export --to torchtitan`: a train.yaml -> a package that torchtitan trains, and how to start it."""

import shlex
from pathlib import Path

from ..lpa import titan
from ..lpa.files import replace_text, writing
from ..lpa.sources import DataConfig
from ..lpa.train_config import TrainConfig
from .anchored import unanchored
from .presets import load_config

FOLDER, VERSION = "torchtitan", "0.3.0"


def export_config(path: Path) -> Path:
    """The package of a train.yaml and its README.md, in `torchtitan` beside it; returns that folder. Raises UserError."""
    config, folder = load_config(path), path.parent / FOLDER
    titan.write_package(folder, config)
    with writing(folder):
        replace_text(folder / "README.md", readme(config))
    return folder


def readme(config: TrainConfig) -> str:
    """How to start it, and what is otherwise than in `lpanas train`."""
    model = config.model
    own = "Its model is torchtitan's Llama 3" if model.placement.sublayers == "dense" else _LOW_RANK
    return f"""# For torchtitan {VERSION}

`{titan.PACKAGE}/` is a package that torchtitan imports: {model.placement.text}; {config.steps:,} steps of {config.batch_size}
sequences of {model.context} tokens. {own}.
`{titan.REGISTRY}` holds every number of train.yaml; torchtitan's own flags (`--help`) go before it.

## Start it

    pip install torchtitan=={VERSION} 'torch>=2.14'
{_shards(config.data)}
    torchrun --nproc-per-node 8 -m torchtitan.train --module {titan.PACKAGE} --config {titan.FUNCTION}

In this folder; the same command goes on from the last checkpoint. torch 2.13 does not do: torchtitan {VERSION} calls
torch.distributed.set_timeout after its first step, which came later, and spreads a model in a way that came later, too. Results
go to `outputs/` (`--dump_folder`). lpanas has tried it on a CPU alone, where its trainer has the losses of `lpanas train`.

All processes share one batch of {config.batch_size}: their number has to divide it. FSDP spreads the model over them. Pipeline
parallelism is untried; each stage would need a parameter of every group of `GROUPS`.

## What is as in `lpanas train`

The model, to the last weight; the rule by which weights start; the batches, window by window; AdamW with each factor's own
learning rate (`GROUPS`), weight decay on matrices alone, clipping; the schedule, but for a warm-up of whole steps.

## What is not

- Weights are drawn from another stream of random numbers.
- In bfloat16 the norms, the embedding and the stream between the layers are bfloat16, too, where `lpanas train` keeps float32.
- There is no evaluation: the validation split is not read.
- A run that needs its text more than once is not refused; epochs follow each other, each in an order of its own.
- FLOPs (for MFU) count 6 for each weight of the norms, too: {_of_norms(config):,} a token more than `lpanas show` says.
"""


_LOW_RANK = """Its model is torchtitan's Llama 3 with q, k and v apart; a converter (`LowRankConverter`) swaps the linear
layers that RANKS names for two factors"""


def _shards(data: DataConfig) -> str:
    """The command that makes the token shards."""
    if data.source == "shards":
        return f"    # reads the token shards of train.yaml; elsewhere: --dataloader.dataset_path DIR (now {data.shards})"
    sources = {"stdlib": ["stdlib"], "hf": [f"hf:{data.dataset}"]}.get(data.source, data.text)
    words = ["lpanas", "prepare", *sources, "--out", titan.SHARDS]
    words += [] if data.tokenizer == "bytes" else ["--tokenizer", data.tokenizer]
    words += ["--vocab-size", str(data.vocab_size)] if data.vocab_size else []
    words += ["--text-field", data.text_field] if data.text_field != "text" else []
    words += ["--end-of-text", data.end_of_text] if data.end_of_text else []
    told = "    # started where the relative paths begin; shards is then moved here" if unanchored(data) else ""
    if data.split not in (None, "train"):
        told = f"    # which reads the split train, where train.yaml has {data.split}"
    return f"    {shlex.join(words)}{told}"


def _of_norms(config: TrainConfig) -> int:
    bias = config.model.vocab_size if config.model.head_bias else 0
    return 6 * ((2 * config.model.n_layers + 1) * config.model.d_model + bias)
