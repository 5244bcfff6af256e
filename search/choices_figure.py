"""Every candidate as a line through its choices, its costs and its loss (parallel coordinates), as a table and drawn.

The axes lie one below the other: so their names and levels are read on a phone as on a wide screen.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from .figure import COSTS, Figure, some_of, varied
from .page import COLOURS, LAYOUT, LEGEND, SYMBOLS, plain
from .readable import readable
from .record import Record
from .results import Results

LINES = 300
"""Drawn besides the arms' and the front's: of more nobody follows one (assumption)."""
BEST = 4
"""One line in so many, those of the lowest losses, is drawn strongly."""
SPREAD = 0.5
"""The part of the way from a level to the next over which a level's lines are spread."""
END = 0.08
"""The part of the loss's axis that is kept for losses far out."""
ROW = 72
"""Pixels from an axis to the next."""
NAMES = {"loss_nats": "validation loss, nats"} | {cost: f"{words}, share of dense" for cost, words in COSTS.items()}
"""Of the axes that are no choices, short enough for a phone."""
COLUMNS = ["run", "sublayers", "loss_nats", "best", "axis", "level", "value", "place"]


@dataclass(frozen=True)
class Axis:
    """A choice with its levels, or a number with the ends of its axis."""

    name: str
    levels: Sequence[str] = ()
    low: float = math.nan
    high: float = math.nan
    beyond: tuple[float, ...] = ()
    """Numbers above the high end, which all lie at the very end."""

    def place(self, value: float) -> float:
        """A number's, from 0 to 1; in the middle when all are one."""
        if value > self.high:
            return 1.0
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return share * (1 - END if self.beyond else 1)


def lines(found: Results) -> tuple[list[Record], int]:
    """The complete candidates inside the space that are drawn, the highest loss first, and how many there are."""
    inside = [record for record in found.complete if record.params]
    return sorted(some_of(found, inside, LINES), key=lambda record: -_loss(record)), len(inside)


def axes(found: Results, records: Sequence[Record]) -> list[Axis]:
    """The choices of more than one level, each cost, the loss."""
    losses = [_loss(record) for record in records]
    high = readable(losses, found.space) if losses else math.nan
    numbers = {cost: [found.relative(record, cost) for record in records] for cost in found.costs}
    return [
        *(Axis(name, levels) for name, levels in varied(found.space).items()),
        *(Axis(cost, low=min(shares), high=max(shares)) for cost, shares in numbers.items() if shares),
        *([Axis("loss_nats", (), min(losses), high, tuple(loss for loss in losses if loss > high))] if losses else []),
    ]


def choice_rows(found: Results) -> pd.DataFrame:
    """A row a vertex: of each line that is drawn, the highest loss first, each axis in its order.

    level: of a choice. value: of a number, a share of dense or nats. place: along the axis, from 0 to 1.
    best: whether its loss is among the lowest of the lines, one in BEST.
    """
    records, _ = lines(found)
    of = [_along(found, axis, records) for axis in axes(found, records)]
    best = len(records) - math.ceil(len(records) / BEST)
    rows = [
        {"run": its.run, "sublayers": its.target.placement.sublayers, "loss_nats": _loss(its), "best": number >= best}
        | on[number]
        for number, its in enumerate(records)
        for on in of
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _loss(record: Record) -> float:
    return math.nan if record.loss_nats is None else record.loss_nats


def _along(found: Results, axis: Axis, records: Sequence[Record]) -> list[dict[str, object]]:
    """Where each line crosses an axis. Those of a level lie side by side, the lowest loss first. records: highest first."""
    if not axis.levels:
        values = [_loss(its) if axis.name == "loss_nats" else found.relative(its, axis.name) for its in records]
        return [{"axis": axis.name, "level": "", "value": value, "place": axis.place(value)} for value in values]
    of_level = {level: [its.run for its in records[::-1] if its.params[axis.name] == level] for level in axis.levels}
    at = dict[str, float]()
    for number, runs in enumerate(of_level.values()):
        for place, run in enumerate(runs):
            beside = SPREAD * ((place + 0.5) / len(runs) - 0.5)
            at[run] = (number + 0.5 + beside) / len(axis.levels)
    return [{"axis": axis.name, "level": its.params[axis.name], "value": math.nan, "place": at[its.run]} for its in records]


def choices_figure(found: Results) -> Figure:
    """A line a candidate, the lowest losses on top and stronger, in the colour and with the symbol of its sublayers."""
    rows, (records, of) = choice_rows(found), lines(found)
    figure = go.Figure()
    if records:
        along = axes(found, records)
        figure.add_traces(list(_lines(rows)))
        figure.update_layout(
            **LAYOUT,
            annotations=[note for y, axis in enumerate(along) for note in _names(axis, y)],
            shapes=[shape for y, axis in enumerate(along) for shape in _rails(axis, y)],
            height=ROW * len(along) + 90,
            margin={"l": 12, "r": 12, "t": 8, "b": 60},
            xaxis={"range": [-0.01, 1.01], "visible": False, "fixedrange": True},
            yaxis={"range": [len(along) - 0.5, -0.5], "visible": False, "fixedrange": True},
            legend=LEGEND,
            hovermode="closest",
        )
    return Figure("choices", "Choices, costs and loss of each candidate", _reading(records, of), rows, figure)


def _lines(rows: pd.DataFrame) -> Iterator[go.Scatter]:
    """The faint ones before the strong ones, the sublayers with the lowest loss last; the legend's entries before all."""
    order = list(dict.fromkeys(rows["sublayers"][::-1]))[::-1]
    for sublayers in order:
        yield go.Scatter(x=[None], y=[None], **_look(sublayers, 2))
    for best, opacity, width in ((False, 0.3, 0.8), (True, 0.95, 1.6)):
        for sublayers in order:
            its = rows[(rows["sublayers"] == sublayers) & (rows["best"] == best)]
            if len(its):
                x, y, runs = _strung(its)
                shown = {"opacity": opacity, "showlegend": False, "hovertemplate": "%{text}<extra></extra>"}
                yield go.Scatter(x=x, y=y, customdata=runs, **shown, **_look(sublayers, width))


def _look(sublayers: str, width: float) -> dict[str, Any]:
    line, marker = {"color": COLOURS[sublayers], "width": width}, {"symbol": SYMBOLS[sublayers], "size": 6}
    return {"mode": "lines+markers", "line": line, "marker": marker, "name": sublayers, "legendgroup": sublayers}


def _strung(rows: pd.DataFrame) -> tuple[list[float | None], list[int | None], list[str | None]]:
    """Vertices of line after line, with a gap after each."""
    x, y, runs = list[float | None](), list[int | None](), list[str | None]()
    for run, its in rows.groupby("run", sort=False):
        x += [*(round(place, 4) for place in its["place"].tolist()), None]
        y += [*range(len(its)), None]
        runs += [*[str(run)] * len(its), None]
    return x, y, runs


def _rails(axis: Axis, y: int) -> Iterator[dict[str, Any]]:
    """A line along the axis, or one a level, as wide as its lines are spread."""
    n = len(axis.levels)
    ends = [((place + 0.5 - SPREAD / 2) / n, (place + 0.5 + SPREAD / 2) / n) for place in range(n)]
    if not n:
        ends = [(0, 1 - END), (1 - END / 8, 1)] if axis.beyond else [(0, 1)]
    for low, high in ends:
        line = {"color": "#bbbbbb", "width": 5}
        yield {"type": "line", "x0": low, "x1": high, "y0": y, "y1": y, "line": line, "layer": "below"}


def _names(axis: Axis, y: int) -> Iterator[dict[str, Any]]:
    """Above the axis its name, below it its levels or its ends."""
    base = {"showarrow": False, "y": y, "bgcolor": "rgba(255,255,255,0.85)", "borderpad": 1}
    name = NAMES.get(axis.name, axis.name)
    yield base | {"x": 0, "xanchor": "left", "yshift": 16, "text": f"<b>{plain(name)}</b>", "font": {"size": 12}}
    for place, level in enumerate(axis.levels):
        yield base | {"x": (place + 0.5) / len(axis.levels), "yshift": -16, "text": plain(level), "font": {"size": 11}}
    if not axis.levels:
        for x, anchor, text in _ends(axis):
            yield base | {"x": x, "xanchor": anchor, "yshift": -16, "text": text, "font": {"size": 11}}


def _ends(axis: Axis) -> list[tuple[float, str, str]]:
    """Where, and what, is written below an axis of numbers."""
    decimals = 4 if axis.name == "loss_nats" else 3
    low, high = (f"{end:.{decimals}f}" for end in (axis.low, axis.high))
    if axis.beyond:
        return [(0.0, "left", low), (1.0, "right", f"{high} | {len(axis.beyond)} beyond, up to {max(axis.beyond):.4g}")]
    return [(0.0, "left", low), (1.0, "right", high)] if axis.low < axis.high else [(0.5, "center", low)]


def _reading(records: Sequence[Record], of: int) -> str:
    """How it is read, and what is not drawn."""
    if not records:
        return "There is no complete run inside the space."
    some = f" Of {of:,} candidates {len(records):,} are drawn: the arms, the front, and others evenly spread over the search."
    return (
        "A line a complete run inside the space, from its choices at the top through its costs to its loss at the bottom, the "
        "lowest at the left. The quarter with the lowest losses is drawn strongly; lines of the same level lie side "
        "by side there, the one of the lowest loss at the left." + (some if len(records) < of else "")
    )
