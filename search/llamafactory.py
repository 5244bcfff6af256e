"""`lpanas export --to llamafactory`: a train.yaml -> what LLaMA-Factory (0.9.5) pretrains the Hugging Face folder with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..lpa.files import replace_text, writing
from ..lpa.train_config import TrainConfig
from . import hf_trainer as trainer

CONFIG, DATASETS = "llamafactory.yaml", "dataset_info.json"
_READS = {".jsonl", ".parquet", ".txt"}
"""Of our kinds of files, those that it reads; it knows a kind by its name."""


def write(config: TrainConfig, folder: Path, say: Callable[[str], None]) -> Path:
    """Write the YAML, and the list of datasets that it names, beside the folder `hf`; the YAML's path. say: told
    what it lacks. Raises UserError."""
    datasets, notes = _datasets(config)
    text = trainer.recipe(_keys(config, list(datasets)), _head(config), [*_differences(config), *notes])
    with writing(folder):
        replace_text(folder / DATASETS, json.dumps(datasets, indent=2, ensure_ascii=False) + "\n")
        replace_text(folder / CONFIG, text)
    trainer.say_missing(config.data, notes, folder / CONFIG, say)
    return folder / CONFIG


def _keys(config: TrainConfig, datasets: list[str]) -> dict[str, Any]:
    rate = trainer.wide_rate(config)
    kind, arguments = trainer.schedule(config.optim, rate)
    return {
        "stage": "pt",
        "do_train": True,
        "finetuning_type": "full",
        "train_from_scratch": True,
        "model_name_or_path": "./hf",
        "trust_remote_code": True,
        "dataset_dir": ".",
        "dataset": ",".join(datasets),
        "cutoff_len": config.model.context,  # packing is on in stage pt; said here, it would take a token off
        "output_dir": "./trained/llamafactory",
        "per_device_train_batch_size": trainer.microbatch(config),
        "optim": "adamw_torch_fused",
        "learning_rate": rate,
        "lr_scheduler_type": kind,
        "lr_scheduler_kwargs": arguments,
        **trainer.shared(config),
        "disable_gradient_checkpointing": not config.activation_checkpointing,
    }


def _head(config: TrainConfig) -> list[str]:
    return [
        "The training of train.yaml in LLaMA-Factory 0.9.5, from scratch. In this folder (without a GPU add use_cpu=true):",
        f"llamafactory-cli train {CONFIG}",
        f"On N GPUs divide gradient_accumulation_steps by N: a step is {config.batch_size} sequences.",
    ]


def _differences(config: TrainConfig) -> list[str]:
    found = sorted(trainer.rates(config).values())
    own = (
        f"There is one learning rate, that of a matrix as wide as d_model; there {found[0]:.3g} to {found[-1]:.3g}, by tensor."
    )
    return [
        *([own] if found[0] != found[-1] else []),
        *trainer.differences(config),
        "No loss is taken on end-of-text, which serves as padding token.",
    ]


def _datasets(config: TrainConfig) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """(The content of dataset_info.json, what is to be said of it)."""
    data, files = config.data, trainer.text_files(config.data)
    if data.source == "hf":
        entry = {
            "hf_hub_url": trainer.dataset_name(data),
            "split": data.split or "train",
            "columns": {"prompt": data.text_field},
        }
        return {"text": entry}, []
    if files and all(path.suffix in _READS for path in files):
        lines = ["Each line of a .txt file is a document."] if any(path.suffix == ".txt" for path in files) else []
        entries = [_entry(path, data.text_field) for path in _places(files)]
        return {f"text-{number}": entry for number, entry in enumerate(entries, 1)}, lines
    return {"text": {"file_name": trainer.PLACEHOLDER, "columns": {"prompt": "text"}}}, [trainer.yours(data)]


def _places(files: list[Path]) -> list[Path]:
    """The folders that hold nothing but files of one kind that are read; of other folders the files."""
    folders = dict[Path, list[Path]]()
    for path in files:
        folders.setdefault(path.parent, []).append(path)
    return [
        place
        for folder, its in folders.items()
        for place in ([folder] if {*folder.iterdir()} == {*its} and len({one.suffix for one in its}) == 1 else its)
    ]


def _entry(place: Path, field: str) -> dict[str, Any]:
    one = next(place.iterdir()) if place.is_dir() else place
    return {"file_name": str(place), "columns": {"prompt": "text" if one.suffix == ".txt" else field}}
