"""Text -> token shards -> batches. A batch is a pure function of (seed, step)."""

import glob
import hashlib
import json
import math
import os
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from .config import Config, Count, UserError
from .model import ModelConfig

END_OF_TEXT = 256
"""Follows every document; the bytes themselves are tokens 0 to 255."""
BYTE_VOCAB = 257
SPLITS = ("train", "valid", "test")
HELD_OUT_PERCENT = 5
"""Of the files, by content hash, for validation and as many for test (assumption)."""


class DataConfig(Config):
    """What text a model is trained on."""

    source: Literal["stdlib", "text"] = "stdlib"
    """stdlib: the source code of Python's own library, without its tests. text: the files that `text` names."""
    text: tuple[str, ...] = ()
    """Globs of text files (`~` and `**` work); a relative one is looked up where the command is started."""
    valid_tokens: Annotated[Count, Field(gt=0)] = 65_536
    """Validation reads the first windows of its split, without overlap, up to this many tokens."""
    max_epochs: Annotated[float, Field(gt=0)] | None = 1.0
    """A run that would read its text more often than this is refused; null: any number of times."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.source == "text") != bool(self.text):
            raise ValueError("text: 'source: text' and a list of globs go together")
        return self


@dataclass(frozen=True)
class Shards:
    """A source as tokens on disk: one file of uint16 a split."""

    folder: Path
    content: str
    """Hash of the documents and of how they became tokens."""
    tokens: dict[str, int]
    """Tokens of each split, end-of-text tokens included."""
    text_bytes: dict[str, int]
    """Bytes of text of each split."""
    vocab_size: int = BYTE_VOCAB
    """Different tokens that there may be."""

    def split(self, name: str) -> np.ndarray:
        """(tokens,) uint16, memory-mapped."""
        return np.memmap(self.folder / f"{name}.bin", dtype=np.uint16, mode="r")

    def bits_per_byte(self, loss_nats: float, split: str) -> float:
        """A loss in nats a token as bits a byte of text."""
        return loss_nats / float(np.log(2)) * self.tokens[split] / self.text_bytes[split]


def open_shards(config: DataConfig) -> Shards:
    """The source's shards, written on the first call and found by content hash afterwards.

    The cache is $LPANAS_CACHE or ~/.cache/lpanas. Raises UserError: no such files, no text, not UTF-8.
    """
    documents = list(_documents(config))
    content = _content_hash(documents)
    folder = _cache() / content
    if not folder.exists():
        _write(folder, documents)
    return read_shards(folder)


def read_shards(folder: Path) -> Shards:
    """The shards in a folder that open_shards has written."""
    meta = json.loads((folder / "meta.json").read_text())
    return Shards(folder, folder.name, meta["tokens"], meta["text_bytes"])


def check_fits(shards: Shards, config: DataConfig, tokens: int, model: ModelConfig) -> None:
    """Raises UserError when a run of `tokens` training tokens cannot be had from the source, or its tokens are more than the
    model has rows for."""
    if model.vocab_size < shards.vocab_size:
        raise UserError(f"model.vocab_size: {model.vocab_size} is less than the data's {shards.vocab_size} different tokens")
    found, epochs, window = shards.tokens["train"], config.max_epochs, model.context + 1
    needed = max(window, 0 if epochs is None else math.ceil(tokens / epochs) + 1)
    name = "the standard library" if config.source == "stdlib" else ", ".join(config.text)
    if found < needed:
        once = "" if epochs is None or needed == window else f" ({tokens:,} tokens at max_epochs {epochs:g})"
        raise UserError(f"data: too little training text in {name}: {found:,} tokens found, {needed:,} needed{once}")
    if shards.tokens["valid"] < window:
        raise UserError(
            f"data: too little validation text in {name}: {shards.tokens['valid']:,} tokens found, {window:,} needed"
        )


class Batches:
    """Training batches: windows of context + 1 tokens, in an order drawn anew for every epoch from (seed, epoch)."""

    def __init__(self, tokens: np.ndarray, context: int, batch_size: int, seed: int) -> None:
        self.tokens, self.context, self.batch_size, self.seed = tokens, context, batch_size, seed
        self.n_windows = (len(tokens) - 1) // context

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """(inputs, targets) of a step, each (batch, context) int64; a pure function of (seed, step)."""
        places = range(step * self.batch_size, (step + 1) * self.batch_size)
        order = [_order(self.seed, place // self.n_windows, self.n_windows)[place % self.n_windows] for place in places]
        return windows(self.tokens, np.array(order) * self.context, self.context)


def valid_batches(tokens: np.ndarray, context: int, limit: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The split's first windows, without overlap, at most `limit` tokens and at least one window."""
    count = min((len(tokens) - 1) // context, max(1, limit // context))
    for first in range(0, count, batch_size):
        starts = np.arange(first, min(first + batch_size, count)) * context
        yield windows(tokens, starts, context)


def windows(tokens: np.ndarray, starts: np.ndarray, context: int) -> tuple[Tensor, Tensor]:
    """(inputs, targets) of the windows that start there, each (len(starts), context) int64."""
    taken = tokens[starts[:, None] + np.arange(context + 1)].astype(np.int64)  # (batch, context + 1)
    block = torch.from_numpy(taken)
    return block[:, :-1], block[:, 1:]


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, n_windows: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n_windows)


def _documents(config: DataConfig) -> Iterator[bytes]:
    """The texts, equal ones once, in the order of their hashes (so that any prefix is a fair sample)."""
    by_hash: dict[str, bytes] = {}
    for path in _files(config):
        try:
            text = path.read_bytes()
            text.decode("utf-8")
        except UnicodeDecodeError:
            if config.source == "stdlib":  # a few of its files are in older encodings
                continue
            raise UserError(f"data.text: {path} is not UTF-8") from None
        except OSError as error:
            raise UserError(f"data.text: {path} cannot be read: {error.strerror}") from None
        if text:
            by_hash[hashlib.sha256(text).hexdigest()] = text
    for key in sorted(by_hash):
        yield by_hash[key]


def _files(config: DataConfig) -> list[Path]:
    if config.source == "stdlib":
        root = Path(sysconfig.get_paths()["stdlib"])
        return [path for path in sorted(root.rglob("*.py")) if not any(map(_is_no_source, path.relative_to(root).parts))]
    files: set[Path] = set()
    for pattern in config.text:
        found = {Path(name) for name in glob.glob(os.path.expanduser(pattern), recursive=True)}
        found = {path for path in found if path.is_file()}
        if not found:
            raise UserError(f"data.text: no file matches '{pattern}'")
        files |= found
    return sorted(files)


def _is_no_source(name: str) -> bool:
    """Whether a file or folder of the standard library is left out: tests, other people's packages, and what was made when
    Python was built there (it differs from machine to machine)."""
    left_out = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
    return name in left_out or name.startswith(("_sysconfigdata", "config-"))


def _content_hash(documents: list[bytes]) -> str:
    digest = hashlib.sha256(f"bytes {END_OF_TEXT} {HELD_OUT_PERCENT}".encode())
    for text in documents:
        digest.update(hashlib.sha256(text).digest())
    return digest.hexdigest()[:16]


def _split_of(text: bytes) -> str:
    bucket = int.from_bytes(hashlib.sha256(text).digest()[-4:], "big") % 100
    return "valid" if bucket < HELD_OUT_PERCENT else "test" if bucket < 2 * HELD_OUT_PERCENT else "train"


def _write(folder: Path, documents: list[bytes]) -> None:
    """Write the shards beside their place and move them there whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".draft-"))
    try:
        meta: dict[str, dict[str, int]] = {"tokens": {}, "text_bytes": {}}
        for split in SPLITS:
            texts = [text for text in documents if _split_of(text) == split]
            parts = [np.append(np.frombuffer(text, np.uint8).astype(np.uint16), np.uint16(END_OF_TEXT)) for text in texts]
            tokens = np.concatenate(parts) if parts else np.zeros(0, np.uint16)
            tokens.tofile(draft / f"{split}.bin")
            meta["tokens"][split], meta["text_bytes"][split] = len(tokens), sum(map(len, texts))
        (draft / "meta.json").write_text(json.dumps(meta))
        draft.rename(folder)
    except OSError:
        if not folder.exists():  # otherwise another process was faster with the same content
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _cache() -> Path:
    return Path(os.environ.get("LPANAS_CACHE") or Path.home() / ".cache" / "lpanas")
