"""A figure of a search in two steps: what is drawn, as a table, and the drawing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import pandas as pd
import plotly.graph_objects as go

from ..lpa.placement import parse_rank
from .record import Record
from .results import Results
from .space import Space

LOSS = "validation loss of the proxy (loss_nats)"
COSTS = {
    "flops_per_token": "training FLOPs a token",
    "params": "parameters",
    "memory_bytes": "training memory",
    "step_seconds": "time of a step",
}
"""What each cost is called."""
SHARES = {cost: f"{words} at the target,<br>share of dense ({cost})" for cost, words in COSTS.items()}
"""The title of each cost's axis."""
EDGE = 0.05
"""Of an axis's length, what is left free below what it has to show, and twice that above, where marks have names
(assumption)."""


@dataclass(frozen=True)
class Figure:
    """What is drawn, how it is read, and the drawing.

    A point or line of a drawing that stands for a run has its name in `customdata`, one a point, so that the page can mark
    the run everywhere, and a hovertemplate that begins with `%{text}`: the page puts there what is to be said of the run.
    Text from a record or a space goes through page.plain.
    """

    name: str
    """Of its files, and of its place on the page."""
    title: str
    words: str
    """How it is read, a sentence or two in plain text."""
    rows: pd.DataFrame
    """What is drawn, a row a mark, units in the columns' names."""
    drawing: go.Figure
    """Without a title, made with page.LAYOUT; its legend below it, so that it can be as narrow as a phone."""


def titled(figure: Figure, found: Results) -> go.Figure:
    """The drawing under its title, with what is to be said of each run: for where there is no page around it."""
    drawing = go.Figure(figure.drawing).update_layout(title=figure.title, margin_t=60, dragmode="zoom")
    said = {record.run: _said(found, record) for record in found.records}
    for trace in drawing.select_traces(lambda trace: str(trace.hovertemplate or "").startswith("%{text}")):
        trace.update(text=[said.get(run, run or "") for run in trace.customdata])
    return drawing


def _said(found: Results, record: Record) -> str:
    words = f"<b>{record.run}</b> {record.arm or ''}<br>{record.placement}, d_ff {record.target.d_ff}"
    delta = found.delta(record)
    if delta is None or record.arm == "dense":
        return words
    return f"{words}<br>{delta:+.4f} nats against dense {found.against_dense(record)}"


def digits(values: Iterable[float], significant: int = 7) -> list[float]:
    """As many digits as a drawing shows: a page of thousands of records has no room for more."""
    return [float(f"{value:.{significant}g}") for value in values]


def span(low: float, top: float) -> tuple[float, float]:
    """The ends of an axis that shows all from low to top: what lies above its end is not in the figure."""
    edge = EDGE * (top - low) or EDGE
    return low - edge, top + 2 * edge


def some_of(found: Results, records: Sequence[Record], most: int) -> list[Record]:
    """In their order: the arms, the front, and of the others so many at most, evenly spread."""
    chosen = {record.run for record in (*found.arms.values(), *found.front)}
    others = [record.run for record in records if record.run not in chosen]
    chosen |= {others[place * len(others) // most] for place in range(most)} if len(others) > most else set(others)
    return [record for record in records if record.run in chosen]


def varied(space: Space) -> dict[str, list[str]]:
    """The choices that have more than one level, and these: ranks from dense to the lowest, others as in the space."""
    return {
        name: sorted(levels, key=_falling) if name.startswith("rank ") else list(levels)
        for name, levels in space.choices.items()
        if len(levels) > 1
    }


def _falling(rank: str) -> Fraction:
    return -(parse_rank(rank) or Fraction(2))
