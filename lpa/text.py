"""One file -> its documents, streamed: text and source code, .jsonl, .parquet, each also .gz or .zst."""

import gzip
import json
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from pydantic_core import from_json

from .config import UserError, nearest, one_line

LONG_BYTES = 2 * 2**20
"""A text file longer than this (many a corpus is one file) is cut into documents of its own (an assumption)."""
PIECE_BYTES = 64 * 2**10
"""At most so long, at line ends where there are any, else before spaces."""
LINE_BYTES = 64 * 2**20
"""The longest line of a .jsonl file that is read."""
CHUNK_BYTES = 2**20
ZSTD_CHUNK_BYTES = 4096
"""Small, as nothing else bounds what a piece decompresses to: blocks of 4 bytes or more give up to 128 KiB each."""
PARQUET_ROWS = 16
"""Rows at a time, each of which may be a long text."""


Heard = Callable[[int], None]
"""Told at which byte of the file the reading is."""


def documents(path: Path, field: str, heard: Heard = lambda position: None) -> Iterator[bytes]:
    """The documents of a file in their order, as UTF-8; empty ones are left out. A row is one document, however long it is.

    Raises UserError with the file (and line or row): not UTF-8, not JSON, no text in `field`, damaged, a library missing.
    """
    inner, zipped = kind(path)
    if inner == ".jsonl":
        found = _json_texts(path, field, zipped, heard)
    elif inner == ".parquet":
        found = _parquet_texts(path, field, zipped, heard)
    else:
        found = _plain_texts(path, zipped, heard)
    yield from filter(None, found)


def kind(path: Path) -> tuple[str, str]:
    """(".jsonl", ".parquet" or "" for text, ".gz", ".zst" or "") of a file's name."""
    zipped = path.suffix.lower() if path.suffix.lower() in {".gz", ".zst"} else ""
    inner = (path.with_suffix("") if zipped else path).suffix.lower()
    return {".ndjson": ".jsonl", ".jsonl": ".jsonl", ".parquet": ".parquet"}.get(inner, ""), zipped


def cut(chunks: Iterable[bytes], long: int = LONG_BYTES, size: int = PIECE_BYTES) -> Iterator[bytes]:
    """A text that comes in chunks: whole up to `long` bytes, otherwise in pieces of at most `size`."""
    held, cutting = b"", False
    for chunk in chunks:
        held += chunk
        cutting = cutting or len(held) > long
        first = 0
        while cutting and len(held) - first > size:
            last = _piece_end(held, first, first + size)
            yield held[first:last]
            first = last
        held = held[first:]
    if held:
        yield held


def _piece_end(text: bytes, first: int, last: int) -> int:
    """Where a piece from `first` to at most `last` ends: after a line, else before a space, else between characters."""
    if line := text.rfind(b"\n", first, last) + 1:
        return line
    if (space := text.rfind(b" ", first + 1, last)) > 0:
        return space
    while text[last] & 0xC0 == 0x80 and last > first + 1:
        last -= 1
    return last


def _plain_texts(path: Path, zipped: str, heard: Heard) -> Iterator[bytes]:
    with _reading(path):
        for text in cut(_chunks(path, zipped, heard)):
            try:
                text.decode("utf-8")
            except UnicodeDecodeError:
                raise UserError(f"data.text: {path} is not UTF-8") from None
            yield text


def _json_texts(path: Path, field: str, zipped: str, heard: Heard) -> Iterator[bytes]:
    with _reading(path):
        for number, line in enumerate(_lines(path, zipped, heard), 1):
            if line and not line.isspace():
                yield _json_text(line, field, f"data.text: {path}:{number}")


def _json_text(line: bytes, field: str, where: str) -> bytes:
    try:
        row = _parsed(line)
        if isinstance(row, dict) and isinstance(row.get(field), str):
            return row[field].encode("utf-8")
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON: {error.msg} at column {error.colno}") from None
    except UnicodeDecodeError:
        raise UserError(f"{where}: not UTF-8") from None
    except UnicodeEncodeError:
        raise UserError(f"{where}: '{field}' holds half of a surrogate pair, which is no text") from None
    except RecursionError:
        raise UserError(f"{where}: not JSON that can be read: nested too deep") from None
    except ValueError:
        raise UserError(f"{where}: not JSON that can be read: a number of too many digits") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object with the text field '{field}', found a {type(row).__name__}")
    if field not in row:
        raise UserError(f"{where}: no text field '{field}', {nearest(field, list(row))}")
    raise UserError(f"{where}: expected text in '{field}', found a {type(row[field]).__name__}")


def _parsed(line: bytes) -> Any:
    """As json.loads, whose messages tell more, in half the time."""
    try:
        return from_json(line)
    except ValueError:
        return json.loads(line)


def _lines(path: Path, zipped: str, heard: Heard) -> Iterator[bytes]:
    held = b""
    for chunk in _chunks(path, zipped, heard):
        *lines, held = (held + chunk).split(b"\n")
        yield from lines
        if len(held) > LINE_BYTES:
            raise UserError(f"data.text: {path}: a line is longer than {LINE_BYTES:,} bytes")
    yield held


def _parquet_texts(path: Path, field: str, zipped: str, heard: Heard) -> Iterator[bytes]:
    parquet = library("pyarrow.parquet", f"{path} needs pyarrow", "data")
    arrow = import_module("pyarrow")
    with _reading(path), _seekable(path, zipped, heard) as file:
        try:
            table = parquet.ParquetFile(file, pre_buffer=False, buffer_size=CHUNK_BYTES)
            if field not in table.schema_arrow.names:
                raise UserError(f"data.text: {path}: no column '{field}', {nearest(field, table.schema_arrow.names)}")
            row, size = 0, path.stat().st_size
            for batch in table.iter_batches(PARQUET_ROWS, columns=[field], use_threads=False):
                for text in batch.column(0).to_pylist():
                    if not isinstance(text, str):
                        raise UserError(f"data.text: {path}: expected text in '{field}', found {text!r:.40} in row {row + 1}")
                    yield text.encode("utf-8")
                    row += 1
                heard(size * row // table.metadata.num_rows)
        except (arrow.ArrowException, UnicodeDecodeError) as error:
            raise UserError(f"data.text: {path} is damaged: {one_line(error)}") from None


@contextmanager
def _seekable(path: Path, zipped: str, heard: Heard) -> Iterator[IO[bytes]]:
    """The file, decompressed to an unnamed file of the system where it is compressed."""
    if not zipped:
        with open(path, "rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as file:
        for chunk in _chunks(path, zipped, heard):
            file.write(chunk)
        file.seek(0)
        yield file


def _chunks(path: Path, zipped: str, heard: Heard) -> Iterator[bytes]:
    """The bytes of a file, decompressed."""
    if zipped == ".zst":
        yield from _zstd_chunks(path, heard)
        return
    with open(path, "rb") as raw, gzip.GzipFile(fileobj=raw) if zipped else raw as file:
        # a buffer that is mostly given back leaves gaps on the heap, 50 MiB of them after many small files
        size = CHUNK_BYTES if zipped else min(CHUNK_BYTES, path.stat().st_size + 4096)
        while chunk := file.read(size):
            heard(raw.tell())
            yield chunk


def _zstd_chunks(path: Path, heard: Heard) -> Iterator[bytes]:
    """Frame by frame, as only that way is a frame noticed that has no end."""
    zstandard = library("zstandard", f"{path} needs zstandard", "data")
    with open(path, "rb") as file:
        frame, left = None, b""
        try:
            while chunk := left or file.read(ZSTD_CHUNK_BYTES):
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                heard(file.tell())
                yield frame.decompress(chunk)
                left = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
        except zstandard.ZstdError as error:
            raise UserError(f"data.text: {path} is damaged: {one_line(error)}") from None
    if frame is not None:
        raise UserError(f"data.text: {path} is damaged: it ends in the middle of a frame")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What can be wrong with a file as one line."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"data.text: {path} is damaged: {one_line(error)}") from None
    except OSError as error:
        raise UserError(f"data.text: {path} cannot be read: {error.strerror or error}") from None


def library(name: str, what: str, extra: str) -> Any:
    """A library that only some sources need. Raises UserError with the command that installs it."""
    try:
        return import_module(name)
    except ImportError:
        raise UserError(f"data: {what}: pip install 'lpanas[{extra}]'") from None
