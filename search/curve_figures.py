"""Learning curves: what is drawn of a search's candidates, and the drawing."""

import math
from collections.abc import Iterator

import pandas as pd
import plotly.graph_objects as go

from .figure import LOSS, Figure, digits, some_of, span
from .page import COLOURS, LAYOUT, LEGEND, LOW_RANK, SYMBOLS
from .readable import readable
from .record import Record
from .results import Results

CURVES = 200
"""Learning curves that are drawn besides the arms' and the front's: a browser draws thousands slowly, and nobody tells them
apart (assumption)."""
ENDS = {
    "pruned": ("stopped at a rung", "triangle-down"),
    "diverged": ("diverged", "x"),
    "failed": ("failed", "cross-open"),
}
"""How a curve ends whose run is not complete: the name and the symbol."""
TICKS = [digit * 10**power for power in range(13) for digit in (1, 2, 5)]
"""Of the axis of tokens."""
TOKENS = "tokens trained on (tokens), logarithmic"
COLUMNS = ["run", "arm", "sublayers", "status", "tokens", "loss_nats"]


def curves(found: Results) -> tuple[list[Record], int]:
    """The candidates whose curves are drawn, by number, and how many there are: of more than CURVES the arms, the front and
    CURVES others, evenly spread over the search. One that was taken up again is a part of the later curve."""
    taken_up = {record.continues for record in found.records}
    drawn = [record for record in found.records if record.curve and record.run not in taken_up]
    return some_of(found, drawn, CURVES), len(drawn)


def curve_rows(found: Results) -> pd.DataFrame:
    """A row an evaluation of the curves that are drawn: tokens trained until then, and the validation loss."""
    rows = [
        (record.run, record.arm or "", record.target.placement.sublayers, record.status, tokens, loss)
        for record in curves(found)[0]
        for tokens, loss in record.curve
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def curves_figure(found: Results) -> Figure:
    """Validation loss against tokens trained, a line a candidate."""
    rows, drawing = curve_rows(found), go.Figure()
    name, title = "curves", "Learning curves"
    known = rows[rows["loss_nats"].map(math.isfinite)]
    if known.empty:
        return Figure(name, title, "No candidate has come to an evaluation with a finite loss.", rows, drawing)
    top = max(
        readable(losses.tolist(), found.space) for losses in (known["loss_nats"], known.groupby("run")["loss_nats"].max())
    )
    ends = span(float(known["loss_nats"].min()), top)
    for trace in [*_lines(known), *_ends(known), *_legend(known)]:
        drawing.add_trace(trace)
    drawing.update_layout(
        **LAYOUT,
        height=520,
        margin={"l": 60, "r": 16, "t": 34, "b": 120},
        xaxis={
            "title": "tokens trained on (tokens), logarithmic",
            "type": "log",
            "tickvals": TICKS,
            "tickformat": "~s",
            "zeroline": False,
        },
        yaxis={"title": LOSS, "range": list(ends), "zeroline": False},
        legend=LEGEND,
    )
    for tokens in found.space.rungs:
        drawing.add_vline(tokens, line_width=1, line_dash="dot", line_color="#666666", layer="below")
        drawing.add_annotation(x=math.log10(tokens), y=1, yref="paper", yanchor="bottom", text=f"{tokens:,}", showarrow=False)
    return Figure(name, title, " ".join(_reading(found, rows, ends[1])), rows, drawing)


def _lines(rows: pd.DataFrame) -> Iterator[go.Scatter]:
    """The curves of the same look as one trace, with a gap after each: hundreds of traces are drawn slowly. The arms last,
    above the others."""
    for is_arm, of_kind in rows.groupby(rows["arm"] != ""):
        for sublayers, its in of_kind.groupby("sublayers"):
            columns = {"tokens": list[int | None](), "loss": list[float | None](), "run": list[str | None]()}
            for run, curve in its.groupby("run", sort=False):
                columns["tokens"] += [*curve["tokens"].tolist(), None]
                columns["loss"] += [*digits(curve["loss_nats"]), None]
                columns["run"] += [*[str(run)] * len(curve), None]
            yield go.Scatter(
                x=columns["tokens"],
                y=columns["loss"],
                customdata=columns["run"],
                mode="lines+markers" if is_arm else "lines",
                showlegend=False,
                opacity=1.0 if is_arm else 0.35,
                line={"color": COLOURS[str(sublayers)], "width": 3 if is_arm else 1},
                marker={"symbol": SYMBOLS[str(sublayers)], "size": 8},
                hovertemplate="%{text}<br>%{x:,} tokens, %{y:.4f} nats<extra></extra>",
            )


def _ends(rows: pd.DataFrame) -> Iterator[go.Scatter]:
    """The last points: of runs that were stopped, diverged or failed, and of others that are no line or are to be told apart
    without their colours."""
    last = rows[rows["arm"] == ""].groupby("run", sort=False).tail(1)
    for (status, sublayers), its in last.groupby(["status", "sublayers"]):
        _, symbol = ENDS.get(str(status), ("", SYMBOLS[str(sublayers)]))
        yield go.Scatter(
            x=its["tokens"].tolist(),
            y=digits(its["loss_nats"]),
            customdata=its["run"].tolist(),
            mode="markers",
            showlegend=False,
            opacity=0.75,
            marker={"symbol": symbol, "size": 9 if status in ENDS else 5, "color": COLOURS[str(sublayers)]},
            hovertemplate="%{text}<br>%{x:,} tokens, %{y:.4f} nats<extra></extra>",
        )


def _legend(rows: pd.DataFrame) -> Iterator[go.Scatter]:
    """What colours and symbols mean."""
    nowhere = {"x": [None], "y": [None]}
    for sublayers in COLOURS:
        if (rows["sublayers"] == sublayers).any():
            look = {"marker": {"symbol": SYMBOLS[sublayers], "size": 8}, "line": {"color": COLOURS[sublayers], "width": 2}}
            yield go.Scatter(**nowhere, mode="lines+markers", name=LOW_RANK[sublayers], **look)
    for status, (name, symbol) in ENDS.items():
        if (rows["status"] == status).any():
            yield go.Scatter(**nowhere, mode="markers", name=name, marker={"symbol": symbol, "size": 9, "color": "#666666"})


def _reading(found: Results, rows: pd.DataFrame, end: float) -> Iterator[str]:
    """How the figure is read."""
    drawn, (_, of) = rows["run"].nunique(), curves(found)
    if (rows["arm"] != "").any():
        yield "Strong lines: the reference arms, with a mark at each evaluation."
    if drawn < of:
        yield f"Of {of:,} candidates the arms, the front and {CURVES} others are drawn, evenly spread over the search."
    if found.space.rungs:
        yield "Dotted lines: the rungs, where a run that is clearly behind is stopped; one that is taken up again is one curve."
    if unseen := sum(not record.curve for record in found.records):
        yield f"{unseen:,} ended before their first evaluation."
    above = rows[~(rows["loss_nats"] <= end)]
    if len(above):
        runs, worst = above["run"].nunique(), above["loss_nats"].max()
        yield f"{runs:,} of {drawn:,} curves go above the figure, up to {worst:.4g} nats."
