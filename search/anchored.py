"""The text of an export by its whole path: an exported config is trained from another folder than the search."""

import os
from pathlib import Path

from ..lpa.config import UserError
from ..lpa.paths import files_of
from ..lpa.sources import DataConfig
from ..lpa.tokenizer import KINDS


def anchored(data: DataConfig) -> DataConfig:
    """The same text by whole paths, as relative ones are read here. One that names nothing here stays (the search may have been
    started elsewhere), and so does a glob below folders with `*`, `?` or `[` in their names."""
    return data.change(
        text=tuple(_whole(word) if _same_files(word) else word for word in data.text),
        **{name: _whole(word) for name, word in _paths(data).items() if Path(_whole(word)).exists()},
    )


def unanchored(data: DataConfig) -> list[str]:
    """A line for each relative path of an anchored source."""
    words = [("text", word) for word in data.text] + [*_paths(data).items()]
    return [
        f"data.{name}: '{word}' stays relative to where the training is started: no whole path to it was found."
        for name, word in words
        if not os.path.isabs(os.path.expanduser(word)) and name != "dataset"  # that may be a name on the hub
    ]


def _paths(data: DataConfig) -> dict[str, str]:
    """Keys that name a file or a folder, or may do so."""
    tokenizer = None if data.tokenizer in KINDS else data.tokenizer
    named = {"shards": data.shards, "tokenizer": tokenizer, "dataset": data.dataset}
    return {name: word for name, word in named.items() if word is not None}


def _whole(word: str) -> str:
    return str(Path.cwd() / os.path.expanduser(word))


def _same_files(word: str) -> bool:
    """Whether the whole path names what the word names, and that is something."""
    try:
        return [Path.cwd() / path for path in files_of(word)] == files_of(_whole(word))
    except UserError:
        return False
