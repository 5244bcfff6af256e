"""Which texts a model reads: DataConfig; the files behind it, named by their content; their documents in order."""

import hashlib
import os
import sysconfig
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from .config import Config, Count, UserError, one_line
from .paths import below, files_of
from .text import LONG_BYTES, Heard, documents, kind, library
from .tokenizer import BYTE_VOCAB, KINDS

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
    """Files, folders, or globs (`~` and `**` work; relative to where the command is started): .jsonl and .parquet hold a
    document a row, any other file is one; each also .gz or .zst. A file above 2 MiB that has no rows is cut into documents."""
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
        if not all(self.text):
            raise ValueError("text: expected the names of files, folders or globs, found an empty one")
        if (self.source == "hf") != bool(self.dataset):
            raise ValueError("dataset: 'source: hf' and a dataset's name go together")
        if (self.source == "shards") != bool(self.shards):
            raise ValueError("shards: 'source: shards' and a folder go together")
        if self.split is not None and self.source != "hf":
            raise ValueError("split: only 'source: hf' has parts")
        if self.tokenizer not in KINDS and self.tokenizer.lower() in KINDS:
            raise ValueError(f"tokenizer: found '{self.tokenizer}', did you mean '{self.tokenizer.lower()}'?")
        if (self.tokenizer == "bpe") != (self.vocab_size is not None):
            raise ValueError("vocab_size: 'tokenizer: bpe' and its number of tokens go together")
        if self.end_of_text is not None and self.tokenizer in KINDS:
            raise ValueError("end_of_text: only a tokenizer.json needs it")
        if self.source == "shards" and self.tokenizer != "bytes":
            raise ValueError("tokenizer: 'source: shards' holds tokens already")
        return self

    @property
    def is_bytes(self) -> bool:
        """Whether tokens are bytes; not of shards, which say themselves what theirs are."""
        return self.source != "shards" and self.tokenizer == "bytes"

    @property
    def name(self) -> str:
        """The source in a few words."""
        names = {"stdlib": "the standard library", "hf": self.dataset, "shards": self.shards}
        return names.get(self.source) or ", ".join(self.text)


@dataclass(frozen=True)
class Seen:
    """A file as it was when its content was named."""

    path: Path
    size: int
    """Bytes on disk."""
    changed: int
    """When it was last written, in ns."""

    @classmethod
    def now(cls, path: Path) -> Self:
        """The file as it is. Raises UserError."""
        try:
            status = path.stat()
        except OSError as error:
            raise UserError(f"data.text: {path} cannot be read: {error.strerror}") from None
        return cls(path, status.st_size, status.st_mtime_ns)

    def check(self) -> None:
        """Raises UserError when the file is not what it was: its tokens would bear the name of another text."""
        if Seen.now(self.path) != self:
            raise UserError(f"data.text: {self.path} was changed while it was read; start again when it is complete")


@dataclass(frozen=True)
class Part:
    """A file, or a dataset, by its content."""

    digest: bytes
    """32 bytes; of a short text file the SHA-256 of its text, which is also that of its only document."""
    files: tuple[Seen, ...]
    """One, or those of the dataset: none where it is not local."""
    dataset: bool = False

    @property
    def size(self) -> int:
        """Bytes on disk; 0 where nobody knows."""
        return sum(file.size for file in self.files)


def parts(config: DataConfig, watch: Watch = unwatched) -> list[Part]:
    """What the source is made of, equal files once, in the order of their digests. Raises UserError: no such files."""
    if config.source == "hf" and not _local(config):
        return [Part(hashlib.sha256(repr(_builder_identity(config)).encode()).digest(), (), dataset=True)]
    files = [Seen.now(path) for path in _files(config)]
    whole, done, found = sum(file.size for file in files), 0, dict[bytes, Part]()
    for file in files:
        watch("comparing files", done, whole)
        digest = _digest(file, config)
        done += file.size
        if digest is not None:
            found[digest] = Part(digest, (file,))
    ordered = [found[digest] for digest in sorted(found)]
    if config.source == "hf":
        key = hashlib.sha256(repr((config.split, config.text_field)).encode() + b"".join(part.digest for part in ordered))
        return [Part(key.digest(), tuple(files), dataset=True)]
    return ordered


def texts(config: DataConfig, found: list[Part], watch: Watch = unwatched, what: str = "reading") -> Iterator[bytes]:
    """The documents of the parts, in order, each file's in its own; none is held longer than its turn.

    Raises UserError when a file is no longer what `parts` has named.
    """
    done, whole = 0, sum(part.size for part in found)
    for part in found:
        yield from _part_texts(config, part, lambda position, done=done: watch(what, done + position, whole))
        for file in part.files:
            file.check()
        done += part.size
    watch(what, whole, whole)


def _part_texts(config: DataConfig, part: Part, heard: Heard) -> Iterator[bytes]:
    return _dataset_texts(config) if part.dataset else documents(part.files[0].path, config.text_field, heard)


def _digest(file: Seen, config: DataConfig) -> bytes | None:
    """The digest of a file; None leaves it out: an empty one, or one of the library in an older encoding."""
    inner, zipped = kind(file.path)
    try:
        if not (inner or zipped) and file.size <= LONG_BYTES:
            text = file.path.read_bytes()
            if not text or (config.source == "stdlib" and not _is_utf8(text)):
                return None
            return hashlib.sha256(text).digest()
        with open(file.path, "rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"data.text: {file.path} cannot be read: {error.strerror}") from None
    field = config.text_field if inner else ""
    return hashlib.sha256(f"{inner}{zipped} {field} {content}".encode()).digest()


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
        return below(Path(config.dataset or "").expanduser())
    return sorted({path for word in config.text for path in files_of(word)})


def _is_no_source(name: str) -> bool:
    """Whether a file or folder of the standard library is left out: tests, other people's packages, and what was made when
    Python was built there (it differs from machine to machine)."""
    left_out = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
    return name in left_out or name.startswith(("_sysconfigdata", "config-"))


def _local(config: DataConfig) -> bool:
    return os.path.isdir(os.path.expanduser(config.dataset or ""))


def _builder_identity(config: DataConfig) -> tuple[Any, ...]:
    """What names a dataset of the hub without reading it: the library's hash of its files' versions."""
    builder = _datasets(config, "load_dataset_builder")
    return (config.dataset, config.split, config.text_field, builder.config_id, builder.hash)


def _dataset_texts(config: DataConfig) -> Iterator[bytes]:
    rows = _datasets(config, "load_dataset", split=config.split or "train", streaming=True)
    with _using_datasets(config):
        for number, row in enumerate(rows, 1):
            text = row.get(config.text_field)
            if not isinstance(text, str):
                found = f"'{config.text_field}' in row {number}; its columns: {', '.join(row)}"
                raise UserError(f"data.dataset: {config.dataset} has no text in {found}")
            if text:
                yield text.encode("utf-8")


def _datasets(config: DataConfig, function: str, **options: Any) -> Any:
    name = str(Path(config.dataset or "").expanduser()) if _local(config) else config.dataset
    datasets = library("datasets", "'source: hf' needs the datasets library", "hf")
    with _using_datasets(config):
        return getattr(datasets, function)(name, **options)


@contextmanager
def _using_datasets(config: DataConfig) -> Generator[None]:
    """What goes wrong in the library (of the network, of the hub, of damaged files) as one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"data.dataset: {config.dataset} cannot be read: {one_line(error)}") from None
