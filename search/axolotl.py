"""`lpanas export --to axolotl`: a train.yaml -> what axolotl (0.19.0) pretrains the Hugging Face folder with."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..lpa.files import replace_text, writing
from ..lpa.paths import MAGIC, files_of
from ..lpa.sources import DataConfig
from ..lpa.text import kind
from ..lpa.train_config import TrainConfig
from . import hf_trainer as trainer

CONFIG = "axolotl.yaml"
_TYPES = {".jsonl": "json", ".parquet": "parquet", "": "text"}
"""Our kinds of files in the words of the datasets library."""


def write(config: TrainConfig, folder: Path, say: Callable[[str], None]) -> Path:
    """Write the YAML beside the folder `hf`; its path. say: told what it lacks. Raises UserError."""
    datasets, notes = _datasets(config)
    with writing(folder):
        replace_text(folder / CONFIG, trainer.recipe(_keys(config, datasets), _head(config), [*_differences(config), *notes]))
    trainer.say_missing(config.data, notes, folder / CONFIG, say)
    return folder / CONFIG


def _keys(config: TrainConfig, datasets: list[dict[str, Any]]) -> dict[str, Any]:
    schedule_kind, arguments = trainer.schedule(config.optim, config.optim.lr)
    return {
        "base_model": "./hf",
        "trust_remote_code": True,
        "reinit_weights": True,
        "datasets": datasets,
        "sequence_len": config.model.context,
        "sample_packing": True,
        "pad_to_sequence_len": True,
        "attn_implementation": "sdpa",
        "output_dir": "./trained/axolotl",
        "micro_batch_size": trainer.microbatch(config),
        "optimizer": "adamw_torch_fused",
        "learning_rate": config.optim.lr,
        **_own_rates(config),
        "lr_scheduler": schedule_kind,
        "lr_scheduler_kwargs": arguments,
        **trainer.shared(config),
        "gradient_checkpointing": config.activation_checkpointing,
    }


def _own_rates(config: TrainConfig) -> dict[str, Any]:
    """The matrices' learning rates, where they are not all the same. A group takes what its words are a part of the name of."""
    if config.optim.lr_rule == "uniform":
        return {}
    layers = dict[str, dict[str, float]]()  # a tensor's name in its layer -> its name -> rate
    for name, rate in trainer.rates(config).items():
        if name.startswith("model.layers.") and "norm" not in name:
            layers.setdefault(name.split(".", 3)[3], {})[name.removeprefix("model.")] = rate
    groups = dict[float, list[str]]()
    for short, named in layers.items():
        alike = len({*named.values()}) == 1
        for name, rate in list(named.items())[: 1 if alike else None]:
            groups.setdefault(rate, []).append(short if alike else name)
    own = [{"name": f"rate_{n}", "modules": names, "lr": rate} for n, (rate, names) in enumerate(sorted(groups.items()), 1)]
    return {"embedding_lr": trainer.wide_rate(config), "lr_groups": own}


def _head(config: TrainConfig) -> list[str]:
    return [
        "The training of train.yaml in axolotl 0.19.0, from scratch. In this folder:",
        f"axolotl train {CONFIG}",
        f"On N GPUs divide gradient_accumulation_steps by N: a step is {config.batch_size} sequences.",
        "On GPUs before Hopper axolotl warns of sdpa with packed windows; there take attn_implementation: flash_attention_2.",
    ]


def _differences(config: TrainConfig) -> list[str]:
    optim = config.optim
    lines = trainer.differences(config)
    if optim.lr_rule == "mup":
        own = trainer.wide_rate(config)
        lines.append(f"The embedding has the head's learning rate, {own:.3g}; there {optim.lr:.3g}. All others have their own.")
        if optim.weight_decay:
            lines.append("Embedding and head have no weight decay.")
    return [
        *lines,
        "A token sees its own document alone, and windows are padded; there they are full and nothing parts documents.",
        f"Of a document the first {64 * config.model.context} tokens are read.",
    ]


def _datasets(config: TrainConfig) -> tuple[list[dict[str, Any]], list[str]]:
    """(The datasets, what is to be said of them)."""
    data, files = config.data, trainer.text_files(config.data)
    if data.source == "hf":
        return [_entry(trainer.dataset_name(data), data.split or "train", data.text_field)], []
    groups = dict[str, list[Path]]()
    for path in files:
        groups.setdefault(_TYPES[kind(path)[0]], []).append(path)
    if groups:
        lines = ["Each line of a text file is a document."] if "text" in groups else []
        return [_files(name, paths, data) for name, paths in groups.items()], lines
    return [_entry(trainer.PLACEHOLDER, "train", "text", ds_type="json")], [trainer.yours(data)]


def _files(name: str, paths: list[Path], data: DataConfig) -> dict[str, Any]:
    folder = os.path.commonpath([path.parent for path in paths])  # only of a folder it reads the files that are named
    field = "text" if name == "text" else data.text_field
    return _entry(folder, "train", field, ds_type=name, data_files=list(_words(data, paths)))


def _words(data: DataConfig, paths: list[Path]) -> Iterator[str]:
    """Files of a kind by the globs that name them, where the datasets library reads these alike; the others one by one."""
    left = dict.fromkeys(paths)
    for word in data.text:
        files = [path.resolve() for path in files_of(word)]
        whole = _whole_glob(word)
        if whole and len(files) > 1 and len({*files} & left.keys()) == len(files):
            yield whole
        else:
            yield from (str(path) for path in dict.fromkeys(files) if path in left)
        for path in files:
            left.pop(path, None)


def _whole_glob(word: str) -> str:
    """`text/*.jsonl` by its whole path; empty for what is no such glob."""
    path = Path(word).expanduser()
    folder, magic = path.parent.resolve(), MAGIC & {*path.name}
    return str(folder / path.name) if magic == {"*"} and "**" not in path.name and not MAGIC & {*str(folder)} else ""


def _entry(path: str, split: str, field: str, **more: object) -> dict[str, Any]:
    return {"path": path, **more, "split": split, "type": "completion", "field": field}
