"""Results -> figures -> report.html."""

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..lpa.config import dump_yaml
from ..lpa.files import replace_text
from . import summary
from .choices_figure import choices_figure
from .curve_figures import curves_figure
from .evidence import Confirmed, confirmation, of_record
from .figure import Figure
from .folder import calls
from .front_figures import front_figure
from .importance_figures import importance_figure
from .page import CONFIG, rendered, text_of
from .placement_figure import placement_figure
from .progress_figures import progress_figure
from .record import Record
from .results import Results, write_tables
from .timeline import timeline_figure
from .wording import claim, headline

SIGNIFICANT = 9
"""Digits of a number in the page's data."""
FEW = 12
"""Runs that are named of those that ended badly for the same reason."""
SCRIPT = ("report.js", "report_figures.js", "report_table.js", "report_selected.js")
ROWS = 100
"""Of the table that are shown at first: a browser needs seconds for thousands (assumption)."""


@dataclass(frozen=True)
class Exported:
    """A training config that was exported."""

    path: str
    head: str
    """Its first line."""
    command: str
    """That trains it."""


def figures(found: Results) -> list[Figure]:
    """All of a search, in the order of its page."""
    others = (placement_figure, importance_figure, curves_figure, progress_figure, choices_figure, timeline_figure)
    return [*(front_figure(found, cost) for cost in found.costs), *(draw(found) for draw in others)]


def write_report(found: Results, out: Path, note: str = "") -> Path:
    """records.jsonl, front.csv and report.html into the study's folder; the page's path. note: on a search that still runs."""
    write_tables(found, out)
    path = out / "report.html"
    replace_text(path, page(found, out, note))
    return path


def page(found: Results, out: Path, note: str = "") -> str:
    """The page of a study whose folder is `out`."""
    records, drawn = [*found.records, *found.seeds], figures(found)
    verdict, unread = confirmation(out)
    return rendered(
        "report.html",
        name=found.space.name,
        note=note,
        found=found,
        searched=summary.searched(found.space),
        summary=summary.summary(found),
        belief=summary.belief(found),
        words=summary.WORDS,
        ended=summary.ended(found),
        verdict=verdict and _verdict(verdict, found),
        unread=unread,
        exported=exported(out),
        commands={name: f"lpanas {name} {shlex.quote(str(out.absolute()))}" for name in ("confirm", "export", "report")},
        figures={figure.name: figure for figure in drawn},
        drawings=drawings(drawn),
        config=CONFIG,
        asked=[one for one in found.records if one.arm is not None or one.listed is not None],
        rows=[found.row(record) for record in records],
        most=ROWS,
        data=data(found, records),
        lost=lost(records),
        few=FEW,
        calls=[call | {"command": _command(call.get("command"))} for call in calls(out)],
        space=dump_yaml(found.space),
        script="\n".join(map(text_of, SCRIPT)),
    )


@dataclass(frozen=True)
class Lost:
    """Runs that ended badly for the same reason."""

    status: str
    reason: str
    runs: list[str]


def lost(records: Sequence[Record]) -> list[Lost]:
    """What ended badly, the most frequent reason first."""
    groups = dict[tuple[str, str], list[str]]()
    for one in records:
        if one.status in ("diverged", "failed"):
            groups.setdefault((one.status, one.reason), []).append(one.run)
    return sorted((Lost(*of, runs) for of, runs in groups.items()), key=lambda its: -len(its.runs))


def drawings(of: Sequence[Figure]) -> dict[str, object]:
    """What plotly.js draws, by the figures' names."""
    return {figure.name: json.loads(figure.drawing.to_json() or "{}") for figure in of}


def _command(words: object) -> str:
    """A call's, as a shell takes it."""
    return shlex.join(map(str, words)) if isinstance(words, list) else str(words or "")


def _verdict(confirmed: Confirmed, found: Results) -> dict[str, object]:
    """Its words, and what it says of the search's winner, if that is one of its arms."""
    best = found.winner
    of_winner = of_record(confirmed, found, best) if best is not None else list[str]()
    return {"headline": headline(confirmed.verdict), "claim": claim(confirmed.verdict), "of_winner": of_winner}


def data(found: Results, records: Sequence[Record]) -> dict[str, object]:
    """What the page's script knows of each run: the table's columns and rows, to nine digits, and each placement's picture."""
    rows = [{name: _plain(value) for name, value in found.row(record).items()} for record in records]
    return {
        "columns": list(rows[0]) if rows else [],
        "rows": [list(row.values()) for row in rows],
        "pictures": [picture(record) for record in records],
        "bits_per_byte_per_nat": bits_per_nat(found.complete),
    }


def bits_per_nat(complete: Sequence[Record]) -> float | None:
    """bits_per_byte of a loss of one nat a token, which is the same for all: they are evaluated on the same windows."""
    told = [(one.bits_per_byte, one.loss_nats) for one in complete]
    return next((bits / nats for bits, nats in told if bits and nats), None)


def _plain(value: object) -> object:
    """A value of JSON: what is no number there is nothing."""
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT}g}") if math.isfinite(value) else None
    return value


def picture(record: Record) -> list[tuple[int, list[float | None]]]:
    """A placement at the target: (layers, [rank as a share of full rank, or nothing where it is dense, a projection]) of every
    run of layers that are alike."""
    model = record.target
    found: list[tuple[int, list[float | None]]] = []
    for first, count in model.placement.alike:
        ranks = [(model.rank(first, name), min(model.projection(name))) for name in model.projections]
        found.append((count, [None if rank is None else round(rank / full, 4) for rank, full in ranks]))
    return found


def exported(out: Path) -> list[Exported]:
    """The training configs that lie in a study's folder."""
    found = []
    for path in sorted((out / "export").glob("*/train.yaml")) + sorted((out / "export").glob("*/*/train.yaml")):
        try:
            with path.open(encoding="utf-8", errors="replace") as lines:
                head = lines.readline().strip("# \n")
        except OSError:
            continue
        found.append(Exported(str(path), head, f"lpanas train {shlex.quote(str(path.absolute()))}"))
    return found
