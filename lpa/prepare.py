"""Documents -> token shards in a folder, written beside its place; found again by content hash."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np

from . import tokenizer as tokenizers
from .config import UserError
from .draft import draft_of, free_place, move
from .shards import META, TOKEN_BYTES, Meta, Shards, check_ids, read_shards
from .sources import DataConfig, Part, Watch, parts, texts, unwatched
from .splits import (
    HELD_OUT_BYTES,
    HELD_OUT_PERCENT,
    HELD_OUT_PIECE_BYTES,
    HELD_OUT_SHARE,
    KNOWN_DOCUMENTS,
    SPLITS,
    Piece,
    Sample,
    by_split,
    pieces,
    split_of,
)
from .text import LONG_BYTES, PIECE_BYTES
from .tokenizer import END_OF_TEXT, KINDS, Bytes, Encoder, dtype_of

SAMPLE_BYTES = 16 * 2**20
"""Of the training text, what a BPE is trained on (assumption; its word counts are held in memory)."""
BATCH_BYTES = 2**20
"""Text that is encoded at a time."""
FORMAT = 2
"""Part of the name of the shards; one more whenever the same text gives other shards for a reason not among the rules."""


def open_shards(config: DataConfig, watch: Watch = unwatched) -> Shards:
    """The source's shards, written on the first call and found by content hash afterwards.

    The cache is $LPANAS_CACHE or ~/.cache/lpanas. Raises UserError: no such files, no text, not UTF-8, damaged.
    """
    if config.source == "shards":
        shards = read_shards(Path(config.shards or "").expanduser())
        check_ids(shards, watch)
        return shards
    found = parts(config, watch)
    content = _content(config, found)
    folder = cache() / content
    if not folder.exists():
        _write(folder, content, config, found, watch)
    try:
        return read_shards(folder)
    except UserError as error:
        raise UserError(f"{error}; remove the folder {folder}, and it is made anew") from None


def content_of(config: DataConfig, watch: Watch = unwatched) -> str:
    """What names the content of the source's shards, without making any. Raises UserError as open_shards does."""
    if config.source == "shards":
        return read_shards(Path(config.shards or "").expanduser()).content
    return _content(config, parts(config, watch))


def prepare(config: DataConfig, folder: Path, watch: Watch = unwatched) -> Shards:
    """The source's shards in a folder of one's own; a folder that holds them already is left as it is.

    Raises UserError as open_shards does, and when the folder holds anything else or cannot be one.
    """
    if config.source == "shards":
        raise UserError("source: shards are prepared already")
    folder, held = free_place(folder)
    if held and META not in held:
        raise UserError(f"--out {folder}: holds '{held[0]}'; expected a new or empty folder")
    found = parts(config, watch)
    content = _content(config, found)
    if not held:
        _write(folder, content, config, found, watch)
    shards = read_shards(folder)
    if shards.content != content:
        raise UserError(f"--out {folder}: holds shards of another text or tokenizer; expected a new or empty folder")
    return shards


def _content(config: DataConfig, found: list[Part]) -> str:
    """The name of the shards: a hash of the parts' digests and of all that decides how text becomes tokens."""
    held_out = (HELD_OUT_PERCENT, HELD_OUT_BYTES, HELD_OUT_PIECE_BYTES, HELD_OUT_SHARE)
    rules: list[object] = [FORMAT, *held_out, KNOWN_DOCUMENTS, LONG_BYTES, PIECE_BYTES, _kind(config)]
    if config.tokenizer == "bytes":
        rules += [END_OF_TEXT]
    elif config.tokenizer == "bpe":
        rules += [config.vocab_size, SAMPLE_BYTES, metadata.version("tokenizers")]
    else:
        rules += [tokenizers.identity(_tokenizer_path(config), config.end_of_text)]
    digest = hashlib.sha256(repr(rules).encode())
    for part in found:
        digest.update(part.digest)
    return digest.hexdigest()[:16]


def _kind(config: DataConfig) -> str:
    return config.tokenizer if config.tokenizer in KINDS else "file"


def _tokenizer_path(config: DataConfig) -> Path:
    return Path(config.tokenizer).expanduser()


def _encoder(config: DataConfig, found: list[Part], watch: Watch) -> Encoder:
    if config.tokenizer == "bytes":
        return Bytes()
    if config.tokenizer != "bpe":
        return tokenizers.read_tokenizer(_tokenizer_path(config), config.end_of_text)
    with Sample(SAMPLE_BYTES) as sample:
        for text in texts(config, found, watch, "sampling text for the tokenizer"):
            if split_of(hashlib.sha256(text).digest()) == "train":
                for piece in pieces(text):
                    for _ in sample.push(hashlib.sha256(piece.text).digest(), piece.text):
                        pass
        watch("training the tokenizer", 0, 0)
        return tokenizers.train_bpe((text for _, text in sample.placed()), config.vocab_size or 0)


def _write(folder: Path, content: str, config: DataConfig, found: list[Part], watch: Watch) -> None:
    """Write the shards beside their place and move them there whole."""
    try:
        with draft_of(folder) as draft:
            encoder = _encoder(config, found, watch)
            written = _write_splits(draft, encoder, by_split(texts(config, found, watch, "writing tokens")))
            if not sum(written.text_bytes.values()):
                raise UserError(f"data: no text in {config.name}")
            if _content(config, found) != content:
                raise UserError(f"data.tokenizer: {config.tokenizer} was changed while it was read; start again")
            encoder.save(draft)
            if written.exact:
                encoder.token_bytes.tofile(draft / TOKEN_BYTES)
            (draft / META).write_text(_meta(config, encoder, written, content).model_dump_json(indent=1) + "\n")
            move(draft, folder, META)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from None


@dataclass
class Written:
    """What has become of the text so far."""

    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    text_bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    exact: bool = True
    """Whether each batch's tokens stand for just as many bytes as its text has."""


def _write_splits(draft: Path, encoder: Encoder, found: Iterable[tuple[str, Piece]]) -> Written:
    """The tokens of the pieces, a file a split."""
    written = Written()
    files = {split: draft / f"{split}.bin" for split in SPLITS}
    for path in files.values():
        path.touch()
    for split, batch in _batches(found):
        ids = encoder.encode([piece.text for piece in batch], [piece.ends for piece in batch])
        with open(files[split], "ab") as file:
            ids.tofile(file)
        size = sum(len(piece.text) for piece in batch)
        written.tokens[split] += len(ids)
        written.text_bytes[split] += size
        written.exact = written.exact and int(encoder.token_bytes[ids].sum(dtype=np.int64)) == size
    return written


def _meta(config: DataConfig, encoder: Encoder, written: Written, content: str) -> Meta:
    return Meta(
        tokens=written.tokens,
        text_bytes=written.text_bytes,
        vocab_size=encoder.vocab_size,
        dtype=dtype_of(encoder.vocab_size),
        tokenizer=_kind(config),
        end_of_text=encoder.end,
        source=config.name.encode("utf-8", "backslashreplace").decode(),  # a file's name may be any bytes
        token_bytes=written.exact,
        content=content,
    )


def _batches(found: Iterable[tuple[str, Piece]]) -> Iterator[tuple[str, list[Piece]]]:
    """Pieces of one split in lists of about BATCH_BYTES."""
    held, size, of = list[Piece](), 0, "train"
    for split, piece in found:
        if held and (split != of or size >= BATCH_BYTES):
            yield of, held
            held, size = list[Piece](), 0
        of = split
        held.append(piece)
        size += len(piece.text)
    if held:
        yield of, held


def cache() -> Path:
    """The folder of what is kept from one call to the next."""
    return Path(os.environ.get("LPANAS_CACHE") or Path.home() / ".cache" / "lpanas")
