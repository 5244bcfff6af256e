"""Token shards on disk, and reading them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from .config import Config, UserError
from .sources import Watch, unwatched
from .splits import SPLITS
from .tokenizer import BYTE_VOCAB, END_OF_TEXT

META = "meta.json"


class Meta(Config):
    """meta.json beside the shards."""

    tokens: dict[str, Annotated[int, Field(ge=0)]]
    """Tokens of each split, end-of-text tokens included."""
    text_bytes: dict[str, Annotated[int, Field(ge=0)]]
    """Bytes of text of each split."""
    vocab_size: Annotated[int, Field(gt=0, le=2**32)] = BYTE_VOCAB
    """Different tokens that there may be: one more than the largest id."""
    dtype: Literal["uint16", "uint32"] = "uint16"
    tokenizer: str = "bytes"
    """bytes, bpe or file; the latter two stand beside the shards as tokenizer.json."""
    end_of_text: int = END_OF_TEXT
    """The token that follows every document."""
    source: str = ""
    """Where the text came from, for people."""
    content: str = ""
    """Hash of the text and of how it became tokens; the folder's name when left out."""


@dataclass(frozen=True)
class Shards:
    """A source as tokens on disk: one file of uint16 or uint32 a split."""

    folder: Path
    content: str
    """Hash of the documents and of how they became tokens."""
    tokens: dict[str, int]
    """Tokens of each split, end-of-text tokens included."""
    text_bytes: dict[str, int]
    """Bytes of text of each split."""
    vocab_size: int = BYTE_VOCAB
    """Different tokens that there may be."""
    dtype: str = "uint16"

    def split(self, name: str) -> np.ndarray:
        """(tokens,) uint16 or uint32, memory-mapped."""
        if not self.tokens[name]:
            return np.zeros(0, self.dtype)
        return np.memmap(self.folder / f"{name}.bin", dtype=self.dtype, mode="r")

    def bits_per_byte(self, loss_nats: float, split: str) -> float:
        """A loss in nats a token as bits a byte of text. The loss is over some windows of the split; their tokens are taken to
        be as long as the split's are on average."""
        return loss_nats / float(np.log(2)) * self.tokens[split] / self.text_bytes[split]


def read_shards(folder: Path) -> Shards:
    """The shards in a folder that open_shards or prepare has written. Raises UserError: none there, or truncated ones."""
    path = folder / META
    try:
        raw = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror} (expected a folder of `lpanas prepare`)") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected an object, found a {type(raw).__name__}")
    meta = Meta.parse(raw, str(path))
    if not set(SPLITS) <= meta.tokens.keys() & meta.text_bytes.keys():
        raise UserError(f"{path}: tokens and text_bytes need each of {', '.join(SPLITS)}")
    for split in SPLITS:
        _check_size(folder / f"{split}.bin", meta.tokens[split] * np.dtype(meta.dtype).itemsize)
    return Shards(folder, meta.content or folder.name, meta.tokens, meta.text_bytes, meta.vocab_size, meta.dtype)


def check_ids(shards: Shards, watch: Watch = unwatched) -> None:
    """Raises UserError when a token is out of range, on which a GPU would end with no word of the reason."""
    if shards.vocab_size > np.iinfo(shards.dtype).max:
        return
    done, whole, size = 0, sum(shards.tokens.values()), 2**22
    for split in SPLITS:
        path = shards.folder / f"{split}.bin"
        for first in range(0, shards.tokens[split], size):
            watch("checking tokens", done, whole)
            ids = np.fromfile(path, shards.dtype, size, offset=first * np.dtype(shards.dtype).itemsize)
            if ids.max() >= shards.vocab_size:
                place = int(np.argmax(ids >= shards.vocab_size))
                raise UserError(f"{path}: token {first + place:,} is {ids[place]}, but vocab_size is {shards.vocab_size}")
            done += len(ids)


def _check_size(path: Path, expected: int) -> None:
    try:
        found = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if found != expected:
        what = "truncated" if found < expected else "longer than meta.json says"
        raise UserError(f"{path}: {what}: {found:,} bytes found, {expected:,} expected")
