"""Text -> token ids: bytes, a byte-level BPE trained on the source, or any tokenizer.json."""

import hashlib
import json
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from .config import UserError, nearest, one_line
from .words import WordByWord

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KINDS = ("bytes", "bpe")
"""The tokenizers that have a name; any other is a file."""
END_OF_TEXT = 256
"""Of bytes: follows every document; the bytes themselves are tokens 0 to 255."""
BYTE_VOCAB = 257
FILE = "tokenizer.json"
"""The tokenizer's name beside its shards."""
END_WORD = "<|endoftext|>"
"""The end-of-text token of a BPE that is trained here; the last of its vocabulary."""
END_WORDS = (END_WORD, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]", "<|im_end|>", "[SEP]")
"""What other tokenizers call it, the first that is there counts; `end_of_text` names another."""

BYTE_WORD = re.compile("<0x[0-9A-F]{2}>")
"""How other tokenizers spell a byte."""
ALPHABET = frozenset(chr(code) for code in [*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324)])
"""ByteLevel's letters, one for each byte."""
ASCII_LETTERS = {byte: 256 + byte for byte in range(33)} | {127: 289}
"""ByteLevel's letters for the ASCII characters that are not their own."""
CACHE_BYTES = 32 * 2**20
"""Of remembered words, about 220,000: with a sixth of it 50 MB of English take 1.2 times as long, with twice as much 0.9."""


def byte_letters() -> list[str]:
    """ByteLevel's letter of each byte: itself where it is printed in Latin-1, otherwise the next one from 256 on."""
    own = {byte for byte in range(256) if chr(byte) in ALPHABET}
    others = iter(range(256, 512))
    return [chr(byte if byte in own else next(others)) for byte in range(256)]


class Encoder(Protocol):
    """A tokenizer as the shards need it."""

    vocab_size: int
    """One more than the largest id."""
    end: int
    """The token that follows every document."""

    token_bytes: np.ndarray
    """(vocab_size,) uint32: bytes of text that each token stands for, as far as its spelling says."""

    def encode(self, texts: Sequence[bytes], ends: Sequence[bool] | None = None) -> np.ndarray:
        """(tokens,) uint16, or uint32 where the vocabulary needs it: each text, and the end-of-text token after those that are
        the ends of documents (all, when left out)."""
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
    token_bytes = np.append(np.ones(256, np.uint32), np.uint32(0))

    def encode(self, texts: Sequence[bytes], ends: Sequence[bool] | None = None) -> np.ndarray:
        """See Encoder."""
        last = np.cumsum([len(text) for text in texts], dtype=np.int64)[np.array(ends or [True] * len(texts), bool)]
        return np.insert(np.frombuffer(b"".join(texts), np.uint8).astype(np.uint16), last, END_OF_TEXT)

    def save(self, folder: Path) -> None:
        """Nothing is needed."""


class Learned:
    """A tokenizer of the `tokenizers` library; words that look like special tokens are ordinary text."""

    def __init__(self, tokenizer: "Tokenizer", end: int, file: bytes | None = None, *, cache_bytes: int = CACHE_BYTES) -> None:
        """`file`: the tokenizer.json that it was read from."""
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # else a later fork prints a warning
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self.tokenizer, self.end, self.file = tokenizer, end, file
        self.vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.dtype = np.dtype(dtype_of(self.vocab_size))
        rules = json.loads(tokenizer.to_str())
        self.token_bytes, self.known = _token_bytes(rules, self.vocab_size), _characters(rules)
        cuts = self.known is None and _cuts_at_words(rules)
        self.by_word = WordByWord(self._word, end, self.dtype, cache_bytes) if cuts else None
        self.model = tokenizer.model

    def encode(self, texts: Sequence[bytes], ends: Sequence[bool] | None = None) -> np.ndarray:
        """See Encoder. The texts together should be short: an encoding takes some hundred bytes a token.

        Raises UserError when the tokenizer has no token for a part of a text, instead of losing it.
        """
        ends = ends or [True] * len(texts)
        try:
            if self.by_word:
                return self.by_word.encode(texts, ends)
            strings = [text.decode("utf-8") for text in texts]
            self._check_known(strings)
            found = self.tokenizer.encode_batch_fast(strings, add_special_tokens=False)
        except UserError:
            raise
        except Exception as error:  # the library raises Exception itself
            raise UserError(f"data.tokenizer: cannot make tokens of the text: {one_line(error)}") from None
        end = self._pack([self.end])
        ended = zip(found, ends, strict=True)
        return np.frombuffer(b"".join(self._pack(part.ids) + end * ends_here for part, ends_here in ended), self.dtype)

    def _check_known(self, strings: list[str]) -> None:
        if self.known is None:
            return
        for text in strings:
            if lost := next((letter for letter in _cut(self.tokenizer, text) if letter not in self.known), None):
                found = f"data.tokenizer: has no token for {lost!r}, and would drop it"
                raise UserError(f"{found}; expected an unk_token, byte_fallback, or all bytes in its vocabulary")

    def _word(self, word: str) -> bytes:
        if not word.isascii():
            return self._pack(self.tokenizer.encode(word, add_special_tokens=False).ids)
        letters = word.translate(ASCII_LETTERS)  # by itself a word of the model: a tenth of the time of the whole way
        return self._pack([token.id for token in self.model.tokenize(letters)])

    def _pack(self, ids: list[int]) -> bytes:
        return array("H" if self.dtype.itemsize == 2 else "I", ids).tobytes()

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, an unchanged copy where there is a file."""
        if self.file is not None:
            (folder / FILE).write_bytes(self.file)
        else:
            self.tokenizer.save(str(folder / FILE))


def _cuts_at_words(rules: dict[str, Any]) -> bool:
    """Whether a text's tokens are its words' tokens: GPT-2's way of cutting, nothing normalised, no words of its own."""
    cutting = rules["pre_tokenizer"] or {}
    gpt2 = cutting.get("type") == "ByteLevel" and cutting.get("use_regex", True) and not cutting.get("add_prefix_space")
    plain = rules["normalizer"] is None and all(token["special"] for token in rules["added_tokens"])
    return bool(gpt2 and plain and rules["model"]["type"] == "BPE")


def _of_bytes(rules: dict[str, Any]) -> bool:
    """Whether the model reads ByteLevel's letters, one a byte."""
    return '"ByteLevel"' in json.dumps([rules["pre_tokenizer"], rules["normalizer"]])


def _token_bytes(rules: dict[str, Any], vocab_size: int) -> np.ndarray:
    """See Encoder. Special tokens and the unknown one stand for none. Not exact where text is changed before it is cut, or gets
    a space before it: `prepare` compares the sums with the text."""
    model, sizes = rules["model"], np.zeros(vocab_size, np.uint32)
    words = [pair[0] for pair in model["vocab"]] if isinstance(model["vocab"], list) else model["vocab"]  # of Unigram: a list
    ids = range(len(words)) if isinstance(model["vocab"], list) else model["vocab"].values()
    of_bytes = _of_bytes(rules)
    for word, number in zip(words, ids, strict=True):
        if of_bytes or (model.get("byte_fallback") and BYTE_WORD.fullmatch(word)):
            sizes[number] = len(word) if of_bytes else 1
        elif word != model.get("unk_token") and number != model.get("unk_id"):
            sizes[number] = len(word.replace("\u2581", " ").encode("utf-8"))
    for token in rules["added_tokens"]:
        sizes[token["id"]] = 0 if token["special"] else len(token["content"].encode("utf-8"))
    return sizes


def _characters(rules: dict[str, Any]) -> frozenset[str] | None:
    """What a BPE can read that silently drops anything else; None: this tokenizer drops nothing."""
    model = rules["model"]
    if model["type"] != "BPE" or model["unk_token"] or model["byte_fallback"]:
        return None
    prefix, suffix = model["continuing_subword_prefix"] or "", model["end_of_word_suffix"] or ""
    known = frozenset(word.removeprefix(prefix).removesuffix(suffix) for word in model["vocab"])
    return None if _of_bytes(rules) and known >= ALPHABET else known


def _cut(tokenizer: "Tokenizer", text: str) -> Iterator[str]:
    """The characters that a tokenizer's model reads."""
    normalizer, pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    text = normalizer.normalize_str(text) if normalizer else text
    for word, _ in pre_tokenizer.pre_tokenize_str(text) if pre_tokenizer else [(text, None)]:
        yield from word


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

    content = _read(path)
    try:
        tokenizer = Tokenizer.from_str(content.decode("utf-8"))
    except Exception as error:  # the library raises Exception itself
        raise UserError(f"data.tokenizer: {path} holds no tokenizer: {one_line(error)}") from None
    if dropout := getattr(tokenizer.model, "dropout", None):
        raise UserError(f"data.tokenizer: {path} has dropout {dropout:g}, so that a text's tokens are random; set it to null")
    found = tokenizer.get_vocab(with_added_tokens=True)
    words = END_WORDS if end_of_text is None else (end_of_text,)
    end = next((found[word] for word in words if word in found), None)
    if end is None and end_of_text is not None:
        raise UserError(f"data.end_of_text: '{end_of_text}' is no token of {path}, {nearest(end_of_text, END_WORDS)}")
    if end is None:
        raise UserError(
            f"data.tokenizer: {path} has none of the tokens {' '.join(words)}; name one with end_of_text (--end-of-text)"
        )
    return Learned(tokenizer, end, content)


def identity(path: Path, end_of_text: str | None) -> str:
    """What a tokenizer.json adds to the name of the shards."""
    return f"{hashlib.sha256(_read(path)).hexdigest()} {end_of_text}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        meant = f", {nearest(path.name, KINDS)} or a tokenizer.json" if not path.exists() and path.parent == Path() else ""
        raise UserError(f"data.tokenizer: {path} cannot be read: {error.strerror}{meant}") from None
