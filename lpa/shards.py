"""Token shards on disk, and reading them; a loss over their first windows as bits a byte."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from .config import Config, UserError
from .files import replace_text
from .sources import Watch, unwatched
from .splits import SPLITS
from .tokenizer import BYTE_VOCAB, END_OF_TEXT, FILE

META = "meta.json"
TOKEN_BYTES = "token_bytes.bin"
"""uint32, one a token id: bytes of text that it stands for, 0 for end-of-text."""


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
    token_bytes: bool = False
    """Whether token_bytes.bin stands beside the shards: a uint32 for each id, the bytes of text that it stands for. Left out
    where that is not known exactly, as in tokenizers that change the text or have an unknown token."""
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
    token_bytes: bool = False
    """Whether it is known how many bytes of text each token stands for."""

    def split(self, name: str) -> np.ndarray:
        """(tokens,) uint16 or uint32, memory-mapped."""
        if not self.tokens[name]:
            return np.zeros(0, self.dtype)
        return np.memmap(self.folder / f"{name}.bin", dtype=self.dtype, mode="r")

    def bits_per_byte(self, loss_nats: float, split: str, context: int, limit: int) -> float:
        """A mean loss in nats a token over the split's first windows (see n_windows) as bits a byte of their text.

        Exact where the bytes of each token are known. Otherwise (shards of other programs; a tokenizer that changes the text)
        the windows' tokens are taken to be as long as the split's are on average, which may be some per cent off.
        """
        targets = n_windows(self.tokens[split], context, limit) * context
        size = 0
        if self.token_bytes:
            sizes = np.fromfile(self.folder / TOKEN_BYTES, np.uint32)
            size = int(sizes[self.split(split)[1 : targets + 1]].sum(dtype=np.int64))
        bytes_a_token = size / targets if size else self.text_bytes[split] / self.tokens[split]
        return loss_nats / float(np.log(2)) / bytes_a_token


def n_windows(n_tokens: int, context: int, limit: int) -> int:
    """How many windows of context + 1 tokens an evaluation reads: the split's first, each beginning with the last one's last
    token, at most `limit` tokens and at least one window."""
    return min((n_tokens - 1) // context, max(1, limit // context))


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
        if meta.tokens[split] and not meta.text_bytes[split]:
            raise UserError(f"{path}: text_bytes.{split}: expected the bytes of text of {meta.tokens[split]:,} tokens, found 0")
    if meta.token_bytes:
        _check_size(folder / TOKEN_BYTES, meta.vocab_size * np.dtype(np.uint32).itemsize)
    content = meta.content or folder.name
    return Shards(folder, content, meta.tokens, meta.text_bytes, meta.vocab_size, meta.dtype, meta.token_bytes)


def keep_tokenizer(shards: Shards, folder: Path, anew: bool) -> None:
    """Write what the shards' tokens mean into a training's folder: meta.json, and tokenizer.json where there is one.

    anew: also where something is kept already. Raises OSError.
    """
    if (folder / META).exists() and not anew:
        return  # with a tokenizer that has been put beside the shards since, the weights would read other tokens
    if (shards.folder / FILE).exists():
        replace_text(folder / FILE, (shards.folder / FILE).read_bytes().decode("utf-8"))
    else:
        (folder / FILE).unlink(missing_ok=True)
    meta = Meta.parse(json.loads((shards.folder / META).read_bytes()), str(shards.folder / META))
    replace_text(folder / META, meta.change(content=shards.content).model_dump_json(indent=1) + "\n")


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
