"""Text -> token ids: bytes, a byte-level BPE trained on the source, or any tokenizer.json."""

import hashlib
import json
import os
import re
import shutil
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from .config import UserError, nearest

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = 256
"""Of bytes: follows every document; the bytes themselves are tokens 0 to 255."""
BYTE_VOCAB = 257
FILE = "tokenizer.json"
"""The tokenizer's name beside its shards."""
END_WORD = "<|endoftext|>"
"""The end-of-text token of a BPE that is trained here; the last of its vocabulary."""
END_WORDS = (END_WORD, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]", "<|im_end|>", "[SEP]")
"""What other tokenizers call it, the first that is there counts; `end_of_text` names another."""

ASCII_WORD = re.compile(
    r"[A-Za-z]++|'(?:s|t|re|ve|m|ll|d)|[^\sA-Za-z0-9]++| (?:[A-Za-z]++|[^\sA-Za-z0-9]++|[0-9]++)|[0-9]++|\s+(?!\S)|\s+",
    re.ASCII,
)
"""What the `tokenizers` library's ByteLevel cuts ASCII text into before it merges (GPT-2's pattern); alternatives that start
with one kind of character each, and that give nothing back, take 3/4 of the time."""
RUN = re.compile(r"\s*\S+|\s+")
"""Of any text: pieces that this pattern never joins; Python's whitespace is Unicode's and NO_RUN."""
NO_RUN = re.compile(r"[\x1c-\x1f]")
ASCII_LETTERS = {byte: 256 + byte for byte in range(33)} | {127: 289}
"""ByteLevel's letters for the ASCII characters that are not their own."""
CACHE_BYTES = 64 * 2**20
"""Of remembered words (assumption); about 280,000 words, which take up to twice as much."""


class Encoder(Protocol):
    """A tokenizer as the shards need it."""

    vocab_size: int
    """One more than the largest id."""
    end: int
    """The token that follows every document."""

    def encode(self, texts: Sequence[bytes]) -> np.ndarray:
        """(tokens,) uint16, or uint32 where the vocabulary needs it: each text and the end-of-text token after it."""
        ...

    def save(self, folder: Path) -> None:
        """Write what is needed to decode."""
        ...


def dtype_of(vocab_size: int) -> Literal["uint16", "uint32"]:
    """The smaller of uint16 and uint32 that holds the ids."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


class Bytes:
    """Each byte is a token."""

    vocab_size, end = BYTE_VOCAB, END_OF_TEXT

    def encode(self, texts: Sequence[bytes]) -> np.ndarray:
        """See Encoder."""
        parts = [np.append(np.frombuffer(text, np.uint8).astype(np.uint16), np.uint16(END_OF_TEXT)) for text in texts]
        return np.concatenate(parts) if parts else np.zeros(0, np.uint16)

    def save(self, folder: Path) -> None:
        """Nothing is needed."""


class Learned:
    """A tokenizer of the `tokenizers` library; words that look like special tokens are ordinary text."""

    def __init__(self, tokenizer: "Tokenizer", end: int, source: Path | None = None, *, cache_bytes: int = CACHE_BYTES) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # else a later fork prints a warning
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self.tokenizer, self.end, self.source = tokenizer, end, source
        self.vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.dtype = np.dtype(dtype_of(self.vocab_size))
        self.by_word = _cuts_at_words(tokenizer)
        self.model, self.words = tokenizer.model, Words(self._word, cache_bytes)

    def encode(self, texts: Sequence[bytes]) -> np.ndarray:
        """See Encoder. The texts together should be short: an encoding takes some hundred bytes a token."""
        strings = [text.decode("utf-8") for text in texts]
        if not self.by_word:
            return np.frombuffer(b"".join(ids + self._pack([self.end]) for ids in self._library(strings)), self.dtype)
        end, ids_of = self._pack([self.end]), self.words.__getitem__
        ids = (b"".join(map(ids_of, _words(text))) + end for text in strings)
        return np.frombuffer(b"".join(ids), self.dtype)

    def _word(self, word: str) -> bytes:
        if not word.isascii():
            return self._library([word])[0]
        letters = word.translate(ASCII_LETTERS)  # by itself a word of the model: half the time of the whole way
        return self._pack([token.id for token in self.model.tokenize(letters)])

    def _library(self, strings: list[str]) -> list[bytes]:
        return [self._pack(found.ids) for found in self.tokenizer.encode_batch_fast(strings, add_special_tokens=False)]

    def _pack(self, ids: list[int]) -> bytes:
        return array("H" if self.dtype.itemsize == 2 else "I", ids).tobytes()

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, an unchanged copy where there is a file."""
        if self.source is not None:
            shutil.copyfile(self.source, folder / FILE)
        else:
            self.tokenizer.save(str(folder / FILE))


class Words(dict[str, bytes]):
    """Words and their ids, made when they are first asked for; when full, those are forgotten that were not asked for since
    the last time. See tests/benchmarks/prepare.py."""

    def __init__(self, make: Callable[[str], bytes], limit: int) -> None:
        """At most about `limit` bytes are held."""
        super().__init__()
        self.make, self.limit, self.size = make, limit, 0
        self.before = dict[str, bytes]()

    def __missing__(self, word: str) -> bytes:
        ids = self.before.get(word) or self.make(word)
        self.size += 200 + 3 * len(word)
        if self.size > self.limit // 2:
            self.before, self.size = dict(self), 0
            self.clear()
        self[word] = ids
        return ids


def _cuts_at_words(tokenizer: "Tokenizer") -> bool:
    """Whether a text's tokens are its words' tokens: GPT-2's way of cutting, nothing normalised, no words of its own."""
    raw = json.loads(tokenizer.to_str())
    cutting = raw["pre_tokenizer"] or {}
    gpt2 = cutting.get("type") == "ByteLevel" and cutting.get("use_regex", True) and not cutting.get("add_prefix_space")
    plain = raw["normalizer"] is None and all(token["special"] for token in raw["added_tokens"])
    return bool(gpt2 and plain and raw["model"]["type"] == "BPE")


def _words(text: str) -> list[str]:
    """The text in pieces whose tokens do not depend on each other; an ASCII one is a single word of the model."""
    if text.isascii():
        return ASCII_WORD.findall(text)
    words = list[str]()
    for run in [text] if NO_RUN.search(text) else RUN.findall(text):
        words += ASCII_WORD.findall(run) if run.isascii() else (run,)
    return words


def train_bpe(texts: Iterable[bytes], vocab_size: int) -> Learned:
    """A byte-level BPE (so that every text has tokens) of at most vocab_size tokens, end-of-text included."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - 1, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator((text.decode("utf-8") for text in texts), trainer)
    tokenizer.add_special_tokens([END_WORD])
    return Learned(tokenizer, tokenizer.get_vocab(with_added_tokens=True)[END_WORD])


def read_tokenizer(path: Path, end_of_text: str | None) -> Learned:
    """The tokenizer in a tokenizer.json. Raises UserError: no such file, not a tokenizer, no end-of-text token."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(_read(path).decode("utf-8"))
    except Exception as error:  # the library raises Exception itself
        if isinstance(error, UserError):
            raise
        raise UserError(f"data.tokenizer: {path} holds no tokenizer: {' '.join(str(error).split())[:200]}") from None
    found = tokenizer.get_vocab(with_added_tokens=True)
    words = END_WORDS if end_of_text is None else (end_of_text,)
    end = next((found[word] for word in words if word in found), None)
    if end is None and end_of_text is not None:
        raise UserError(f"data.end_of_text: '{end_of_text}' is no token of {path}, {nearest(end_of_text, END_WORDS)}")
    if end is None:
        raise UserError(f"data.tokenizer: {path} has none of the tokens {' '.join(words)}; name one with end_of_text")
    return Learned(tokenizer, end, path)


def identity(path: Path, end_of_text: str | None) -> str:
    """What a tokenizer.json adds to the name of the shards."""
    return f"{hashlib.sha256(_read(path)).hexdigest()} {end_of_text}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"data.tokenizer: {path} cannot be read: {error.strerror}") from None
