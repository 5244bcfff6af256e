"""Which texts a model reads: DataConfig; the files behind it, named by their content; their documents in order."""

import glob
import hashlib
import os
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from .config import Config, Count, UserError
from .text import LONG_BYTES, Heard, cut, documents, kind, library
from .tokenizer import BYTE_VOCAB

Watch = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done and how much there is."""


def unwatched(what: str, done: int, whole: int) -> None:
    """Nobody looks."""


class DataConfig(Config):
    """What text a model is trained on, and what its tokens are."""

    source: Literal["stdlib", "text", "hf", "shards"] = "stdlib"
    """stdlib: the source code of Python's own library, without its tests. text: the files that `text` names. hf: `dataset`,
    read with the datasets library. shards: tokens that `lpanas prepare` has written to the folder `shards`."""
    text: tuple[str, ...] = ()
    """Globs of files, or folders (`~` and `**` work; relative to where the command is started): .jsonl and .parquet hold a
    document a row, any other file is one; each also .gz or .zst. A text above 2 MiB is cut into documents at line ends."""
    dataset: str | None = None
    """A dataset's name, or a local folder that the datasets library reads."""
    split: str | None = None
    """The part of `dataset` that is read, `train` when left out; training, validation and test are all drawn from it."""
    shards: str | None = None
    """A folder with meta.json and train.bin, valid.bin, test.bin."""
    text_field: str = "text"
    """The field or column of .jsonl, .parquet and `dataset` that holds a document."""
    tokenizer: str = "bytes"
    """bytes: 0 to 255, and 256 after each document. bpe: trained on a fair sample of the source. Otherwise a tokenizer.json."""
    vocab_size: Annotated[Count, Field(ge=BYTE_VOCAB, le=2**24)] | None = None
    """Tokens of a `bpe`, end-of-text included."""
    end_of_text: str | None = None
    """The token of a tokenizer.json that ends a document; the first usual name in it when left out."""
    valid_tokens: Annotated[Count, Field(gt=0)] = 65_536
    """Validation reads the first windows of its split, without overlap, up to this many tokens."""
    max_epochs: Annotated[float, Field(gt=0)] | None = 1.0
    """A run that would read its text more often than this is refused; null: any number of times."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.source == "text") != bool(self.text):
            raise ValueError("text: 'source: text' and a list of globs go together")
        if (self.source == "hf") != bool(self.dataset):
            raise ValueError("dataset: 'source: hf' and a dataset's name go together")
        if (self.source == "shards") != bool(self.shards):
            raise ValueError("shards: 'source: shards' and a folder go together")
        if self.split is not None and self.source != "hf":
            raise ValueError("split: only 'source: hf' has parts")
        if (self.tokenizer == "bpe") != (self.vocab_size is not None):
            raise ValueError("vocab_size: 'tokenizer: bpe' and its number of tokens go together")
        if self.end_of_text is not None and self.tokenizer in ("bytes", "bpe"):
            raise ValueError("end_of_text: only a tokenizer.json needs it")
        if self.source == "shards" and self.tokenizer != "bytes":
            raise ValueError("tokenizer: 'source: shards' holds tokens already")
        return self

    @property
    def name(self) -> str:
        """The source in a few words."""
        names = {"stdlib": "the standard library", "hf": self.dataset, "shards": self.shards}
        return names.get(self.source) or ", ".join(self.text)


@dataclass(frozen=True)
class Part:
    """A file, or a dataset, by its content."""

    digest: bytes
    """32 bytes; of a short text file the SHA-256 of its text, which is also that of its only document."""
    path: Path | None
    """None: the dataset."""
    size: int
    """Bytes on disk; 0 where nobody knows."""


def parts(config: DataConfig, watch: Watch = unwatched) -> list[Part]:
    """What the source is made of, equal files once, in the order of their digests. Raises UserError: no such files."""
    if config.source == "hf" and not _local(config):
        return [Part(hashlib.sha256(repr(_builder_identity(config)).encode()).digest(), None, 0)]
    files = _files(config)
    whole, done, found = sum(path.stat().st_size for path in files), 0, dict[bytes, Part]()
    for path in files:
        watch("comparing files", done, whole)
        digest, size = _digest(path, config)
        done += size
        if digest is not None:
            found[digest] = Part(digest, path, size)
    ordered = [found[digest] for digest in sorted(found)]
    if config.source == "hf":
        key = hashlib.sha256(repr((config.split, config.text_field)).encode() + b"".join(part.digest for part in ordered))
        return [Part(key.digest(), None, 0)]
    return ordered


def texts(config: DataConfig, found: list[Part], watch: Watch = unwatched, what: str = "reading") -> Iterator[bytes]:
    """The documents of the parts, in order, each file's in its own; none is held longer than its turn."""
    done, whole = 0, sum(part.size for part in found)
    for part in found:
        yield from _part_texts(config, part, lambda position, done=done: watch(what, done + position, whole))
        done += part.size
    watch(what, whole, whole)


def _part_texts(config: DataConfig, part: Part, heard: Heard) -> Iterator[bytes]:
    return _dataset_texts(config) if part.path is None else documents(part.path, config.text_field, heard)


def _digest(path: Path, config: DataConfig) -> tuple[bytes | None, int]:
    """(digest, bytes) of a file; None leaves it out: an empty one, or one of the library in an older encoding."""
    inner, zipped = kind(path)
    try:
        size = path.stat().st_size
        if not (inner or zipped) and size <= LONG_BYTES:
            text = path.read_bytes()
            if not text or (config.source == "stdlib" and not _is_utf8(text)):
                return None, size
            return hashlib.sha256(text).digest(), size
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"data.text: {path} cannot be read: {error.strerror}") from None
    field = config.text_field if inner else ""
    return hashlib.sha256(f"{inner}{zipped} {field} {content}".encode()).digest(), size


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _files(config: DataConfig) -> list[Path]:
    if config.source == "stdlib":
        root = Path(sysconfig.get_paths()["stdlib"])
        return [path for path in sorted(root.rglob("*.py")) if not any(map(_is_no_source, path.relative_to(root).parts))]
    if config.source == "hf":
        return _below(Path(config.dataset or "").expanduser())
    files: set[Path] = set()
    for pattern in config.text:
        folder = Path(os.path.expanduser(pattern))
        named = map(Path, glob.glob(os.path.expanduser(pattern), recursive=True))
        found = _below(folder) if folder.is_dir() else [path for path in named if path.is_file()]
        if not found:
            raise UserError(f"data.text: no file matches '{pattern}'")
        files.update(found)
    return sorted(files)


def _below(folder: Path) -> list[Path]:
    """The files of a folder and its folders, hidden ones left out."""
    files = (path for path in folder.rglob("*") if not any(name.startswith(".") for name in path.relative_to(folder).parts))
    return sorted(path for path in files if path.is_file())


def _is_no_source(name: str) -> bool:
    """Whether a file or folder of the standard library is left out: tests, other people's packages, and what was made when
    Python was built there (it differs from machine to machine)."""
    left_out = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
    return name in left_out or name.startswith(("_sysconfigdata", "config-"))


def _local(config: DataConfig) -> bool:
    return Path(config.dataset or "").expanduser().is_dir()


def _builder_identity(config: DataConfig) -> tuple[Any, ...]:
    """What names a dataset of the hub without reading it: the library's hash of its files' versions."""
    builder = _datasets(config, "load_dataset_builder")
    return (config.dataset, config.split, config.text_field, builder.config_id, builder.hash)


def _dataset_texts(config: DataConfig) -> Iterator[bytes]:
    rows = _datasets(config, "load_dataset", split=config.split or "train", streaming=True)
    for number, row in enumerate(_said(config, rows), 1):
        text = row.get(config.text_field)
        if not isinstance(text, str):
            found = f"'{config.text_field}' in row {number}; its columns: {', '.join(row)}"
            raise UserError(f"data.dataset: {config.dataset} has no text in {found}")
        yield from cut([text.encode("utf-8")])


def _datasets(config: DataConfig, function: str, **options: Any) -> Any:
    name = str(Path(config.dataset or "").expanduser()) if _local(config) else config.dataset
    datasets = library("datasets", "'source: hf' needs the datasets library", "hf")
    return next(_said(config, (getattr(datasets, function)(name, **options) for _ in range(1))))


def _said(config: DataConfig, rows: Iterable[Any]) -> Iterator[Any]:
    """The rows; what goes wrong in the library (of the network, of the hub, of damaged files) as one line."""
    try:
        yield from rows
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"data.dataset: {config.dataset} cannot be read: {reason}") from None
