"""A folder of results -> the space and the records in it, of a search or of a confirmation."""

import gzip
import shlex
import zlib
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from ..lpa.config import UserError, one_line, read_yaml
from . import live
from .folder import DATABASE, RECORDS, SPACE, WORDS, storage_url, study_in
from .ledger import open_ledger
from .measured import Texts
from .presets import parse_space
from .record import Record
from .space import Space


@dataclass(frozen=True)
class Stored:
    """What is in a folder of results."""

    space: Space
    """As it was run."""
    records: list[Record]
    measured: Texts
    """What its storage says was measured before its first run; nothing where there is no storage."""


def read_folder(folder: Path, url: str | None, of: str) -> Stored:
    """A search's folder, or a confirmation's: from its storage, or from records.jsonl where there is none. Raises UserError."""
    space, (name, kind) = read_space(folder), study_in(folder, url)
    if kind != of:
        raise UserError(f"{folder}: holds a {WORDS[kind]}; expected a {WORDS[of]}")
    if url or (folder / DATABASE).exists():
        with closing(open_ledger(space, url or storage_url(folder), name, of=of, create=False)) as ledger:
            records = [record for kind in ledger.studies for record in ledger.records(kind)]
            return Stored(space, records, ledger.measured)
    kept = [path for path in (folder / RECORDS, folder / f"{RECORDS}.gz") if path.exists()]
    if not kept:
        raise UserError(f"{folder}: there is neither {DATABASE} nor {RECORDS}; give --storage")
    return Stored(space, read_records(kept[0]), {})


def read_space(folder: Path) -> Space:
    """The resolved space in a folder of results. Raises UserError."""
    try:
        if not (folder / SPACE).is_file():
            raise UserError(f"{folder}: {no_study(folder)}")
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from None
    return parse_space(read_yaml(folder / SPACE), str(folder / SPACE))


def no_study(folder: Path) -> str:
    """What is to be said of a folder without a study, in which a search may be measuring what it needs before its first run."""
    with suppress(UserError):
        if (moment := live.read(folder)) is not None and moment.phase == "measuring":
            return f"holds no study yet; its driver is {moment.said or moment.phase} (lpanas watch {shlex.quote(str(folder))})"
    return f"holds no study (there is no {SPACE} in it)"


def read_records(path: Path) -> list[Record]:
    """The records of a records.jsonl, or of one that is packed (.gz). Raises UserError."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as lines:
            return [Record.parse_json(line, f"{path}:{n}") for n, line in enumerate(lines, 1)]
    except (OSError, EOFError, UnicodeError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {one_line(error)}") from None
