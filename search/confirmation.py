"""The records of a confirmation -> its files."""

from collections.abc import Sequence
from pathlib import Path

from ..lpa.files import replace_text
from .folder import RECORDS
from .proxy import Record


def write_records(records: Sequence[Record], place: Path) -> None:
    """records.jsonl, a line a run."""
    replace_text(place / RECORDS, "".join(record.model_dump_json() + "\n" for record in records))
