"""Documents -> token shards in a folder, written beside its place; found again by content hash."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import tokenizer as tokenizers
from .config import UserError
from .shards import META, Meta, Shards, check_ids, read_shards
from .sources import DataConfig, Part, Watch, parts, texts, unwatched
from .splits import HELD_OUT_PERCENT, SPLITS, Sample, by_split, split_of
from .tokenizer import END_OF_TEXT, Bytes, Encoder, dtype_of

SAMPLE_BYTES = 16 * 2**20
"""Of the training text, what a BPE is trained on (assumption; its word counts are held in memory)."""
BATCH_BYTES = 2**20
"""Text that is encoded at a time."""
DRAFT = ".draft-"


def open_shards(config: DataConfig, watch: Watch = unwatched) -> Shards:
    """The source's shards, written on the first call and found by content hash afterwards.

    The cache is $LPANAS_CACHE or ~/.cache/lpanas. Raises UserError: no such files, no text, not UTF-8, damaged.
    """
    if config.source == "shards":
        shards = read_shards(Path(config.shards or "").expanduser())
        check_ids(shards, watch)
        return shards
    found = parts(config, watch)
    folder = _cache() / _content(config, found)
    if not folder.exists():
        _write(folder, config, found, watch)
    return read_shards(folder)


def prepare(config: DataConfig, folder: Path, watch: Watch = unwatched) -> Shards:
    """The source's shards in a folder of one's own; a folder that holds them already is left as it is.

    Raises UserError as open_shards does, and when the folder holds anything else.
    """
    if config.source == "shards":
        raise UserError("source: shards are prepared already")
    try:
        held = sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []
    except OSError as error:
        raise UserError(f"--out {folder}: {error.strerror}") from None
    if held and META not in held:
        raise UserError(f"--out {folder}: holds '{held[0]}'; expected a new or empty folder")
    found = parts(config, watch)
    if held and read_shards(folder).content != _content(config, found):
        raise UserError(f"--out {folder}: holds shards of another text or tokenizer; expected a new or empty folder")
    if not held:
        _write(folder, config, found, watch)
    return read_shards(folder)


def _content(config: DataConfig, found: list[Part]) -> str:
    """The name of the shards: a hash of the parts' digests and of how text becomes tokens."""
    rules = f"bytes {END_OF_TEXT} {HELD_OUT_PERCENT}"
    if config.tokenizer == "bpe":
        rules = f"bpe {config.vocab_size} {SAMPLE_BYTES} {HELD_OUT_PERCENT}"
    elif config.tokenizer != "bytes":
        rules = f"file {tokenizers.identity(_tokenizer_path(config), config.end_of_text)} {HELD_OUT_PERCENT}"
    digest = hashlib.sha256(rules.encode())
    for part in found:
        digest.update(part.digest)
    return digest.hexdigest()[:16]


def _tokenizer_path(config: DataConfig) -> Path:
    return Path(config.tokenizer).expanduser()


def _encoder(config: DataConfig, found: list[Part], watch: Watch) -> Encoder:
    if config.tokenizer == "bytes":
        return Bytes()
    if config.tokenizer != "bpe":
        return tokenizers.read_tokenizer(_tokenizer_path(config), config.end_of_text)
    sample = Sample(SAMPLE_BYTES)
    for text in texts(config, found, watch, "sampling text for the tokenizer"):
        digest = hashlib.sha256(text).digest()
        if split_of(digest) == "train":
            for _ in sample.push(digest, text):
                pass
    watch("training the tokenizer", 0, 0)
    return tokenizers.train_bpe(sample.texts(), config.vocab_size or 0)


def _write(folder: Path, config: DataConfig, found: list[Part], watch: Watch) -> None:
    """Write the shards beside their place and move them there whole."""
    try:
        with _draft(folder) as draft:
            encoder = _encoder(config, found, watch)
            encoder.save(draft)
            tokens, text_bytes = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
            files = {split: draft / f"{split}.bin" for split in SPLITS}
            for path in files.values():
                path.touch()
            for split, batch in _batches(by_split(texts(config, found, watch, "writing tokens"))):
                ids = encoder.encode(batch)
                with open(files[split], "ab") as file:
                    ids.tofile(file)
                tokens[split] += len(ids)
                text_bytes[split] += sum(map(len, batch))
            kind = config.tokenizer if config.tokenizer in ("bytes", "bpe") else "file"
            meta = Meta(
                tokens=tokens,
                text_bytes=text_bytes,
                vocab_size=encoder.vocab_size,
                dtype=dtype_of(encoder.vocab_size),
                tokenizer=kind,
                end_of_text=encoder.end,
                source=config.name,
                content=_content(config, found),
            )
            (draft / META).write_text(meta.model_dump_json(indent=1) + "\n")
            _move(draft, folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from None


def _batches(documents: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, list[bytes]]]:
    """Documents of one split in lists of about BATCH_BYTES."""
    held, size, of = list[bytes](), 0, "train"
    for split, text in documents:
        if held and (split != of or size >= BATCH_BYTES):
            yield of, held
            held, size = list[bytes](), 0
        of = split
        held.append(text)
        size += len(text)
    if held:
        yield of, held


def _move(draft: Path, folder: Path) -> None:
    try:
        draft.rename(folder)
    except OSError:
        if not (folder / META).exists():  # otherwise another process was faster with the same content
            raise


@contextmanager
def _draft(folder: Path) -> Generator[Path]:
    """A hidden folder beside the place, gone at the end. What killed processes have left there is removed: a living one holds
    the lock of its draft."""
    place = folder.absolute().parent
    place.mkdir(parents=True, exist_ok=True)
    with _locked(place):
        for left in place.glob(f"{DRAFT}*"):
            try:
                with _locked(left, fcntl.LOCK_NB):
                    shutil.rmtree(left, ignore_errors=True)
            except OSError:
                continue
        draft = Path(tempfile.mkdtemp(dir=place, prefix=DRAFT))
        lock = os.open(draft, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        draft.chmod(0o777 & ~_umask())
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        os.close(lock)


@contextmanager
def _locked(folder: Path, flag: int = 0) -> Generator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | flag)
        yield
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _cache() -> Path:
    return Path(os.environ.get("LPANAS_CACHE") or Path.home() / ".cache" / "lpanas")
