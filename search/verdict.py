"""A confirmation's folder -> what its records say -> records.jsonl, verdict.json and the page."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter

from ..lpa.config import UserError
from ..lpa.files import replace_text
from . import arm_times, widths
from .conclude import conclude
from .confirmation import Confirmation
from .folder import RECORDS
from .ledger import CONFIRM
from .record import Record
from .space import Space
from .stored import read_folder
from .variants import variants

VERDICT = "verdict.json"


def read_verdict(folder: Path, url: str | None = None) -> tuple[Space, list[Record], Confirmation]:
    """The space of a confirmation's folder, its records, and what they say by now. Raises UserError."""
    stored = read_folder(folder, url, CONFIRM)
    space, records = arm_times.kept(stored.space, folder, stored.measured), stored.records
    timed = widths.kept(space, folder, stored.measured)
    return space, records, conclude(space, variants(space, widths.by_arm(timed)), records, widths.timed(timed))


def last_verdict(folder: Path) -> Confirmation | None:
    """What a confirmation's folder said when it was last written; None where there is none. Raises UserError."""
    path = folder / VERDICT
    try:
        return TypeAdapter(Confirmation).validate_json(path.read_bytes()) if path.exists() else None
    except (OSError, ValueError):
        raise UserError(f"{path}: cannot be read; lpanas report {folder} makes it anew from the records") from None


def write_verdict(found: Confirmation, space: Space, records: Sequence[Record], place: Path) -> dict[str, object]:
    """records.jsonl, a line a run, verdict.json and verdict.html; the paths of the latter two, by what they are."""
    from .verdict_page import write_page  # plotly, which looking at a confirmation does not need

    replace_text(place / RECORDS, "".join(record.model_dump_json() + "\n" for record in records))
    path = place / VERDICT
    replace_text(path, json.dumps(asdict(found), indent=1, allow_nan=False) + "\n")
    return {"verdict": path, "page": write_page(found, space, place)}
