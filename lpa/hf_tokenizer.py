"""The tokenizer of a model's data as files that AutoTokenizer loads."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import UserError
from .prepare import open_shards
from .shards import META, Meta
from .sources import DataConfig
from .tokenizer import BYTE_VOCAB, END_OF_TEXT, END_WORD, FILE, Learned, byte_letters, read_tokenizer

SETTINGS = "tokenizer_config.json"
FILES = (FILE, SETTINGS)


@dataclass(frozen=True)
class HfTokenizer:
    """A tokenizer.json and what transformers is told beside it."""

    rules: dict[str, Any]
    """The content of tokenizer.json."""
    end: int
    """The token that follows every document."""
    end_word: str
    """Its spelling."""
    vocab_size: int
    """One more than the largest id."""

    def files(self, context: int) -> dict[str, dict[str, Any]]:
        """Names and contents. context: tokens in a sequence.

        The text's tokens are those that the model was trained on: no special token is put before or behind them, and a word
        of the text that looks like one is text. There is no padding token: transformers would keep its embedding from being
        trained, and the one that could serve ends documents here.
        """
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": self.end_word,
            "add_bos_token": False,
            "add_eos_token": False,
            "split_special_tokens": True,
            "clean_up_tokenization_spaces": False,
            "model_max_length": context,
        }
        return {FILE: self.rules, SETTINGS: settings}


def hf_tokenizer(data: DataConfig) -> HfTokenizer | None:
    """The tokenizer of a source; None for shards of another program that have none beside them.

    A BPE that is trained on the source stands beside its shards, which are made where they are not there yet. Raises UserError.
    """
    if data.source == "shards":
        return tokenizer_beside(Path(data.shards or "").expanduser())
    if data.is_bytes:
        return bytes_tokenizer()
    if data.tokenizer == "bpe":
        return tokenizer_beside(open_shards(data).folder)
    return _learned(read_tokenizer(Path(data.tokenizer).expanduser(), data.end_of_text))


def bytes_tokenizer() -> HfTokenizer:
    """Each byte is a token, in the spelling of a byte-level BPE without merges."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab={letter: byte for byte, letter in enumerate(byte_letters())}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_WORD, special=True, normalized=False)])
    return HfTokenizer(json.loads(tokenizer.to_str()), END_OF_TEXT, END_WORD, BYTE_VOCAB)


def tokenizer_beside(folder: Path) -> HfTokenizer | None:
    """The tokenizer of a meta.json, beside shards or kept by a training; None where there is none. Raises UserError."""
    try:
        meta = Meta.parse(json.loads((folder / META).read_bytes()), str(folder / META))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / META}: cannot be read: {error} (expected a folder of `lpanas prepare`)") from None
    if not (folder / FILE).exists():
        ours = meta.tokenizer == "bytes" and (meta.vocab_size, meta.end_of_text) == (BYTE_VOCAB, END_OF_TEXT)
        return bytes_tokenizer() if ours else None
    from tokenizers import Tokenizer

    path = folder / FILE
    word = Tokenizer.from_file(str(path)).id_to_token(meta.end_of_text)
    if word is None:
        raise UserError(f"{path}: has no token {meta.end_of_text}, which is end_of_text of {META}")
    return _learned(read_tokenizer(path, word))


def _learned(found: Learned) -> HfTokenizer:
    rules = json.loads(found.tokenizer.to_str())  # without truncation and padding
    if (rules["post_processor"] or {}).get("type") != "ByteLevel":
        rules["post_processor"] = None  # it would add tokens that training has not put there
    word = found.tokenizer.id_to_token(found.end)
    assert word is not None  # it was found by its spelling
    return HfTokenizer(rules, found.end, word, found.vocab_size)
