"""What matters: the importance of each choice of a space for the loss and for the costs, drawn."""

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .figure import Figure, digits
from .importance_rows import MOST, importance_rows, signed
from .importance_words import WORDS, importance_words
from .page import LAYOUT, LEGEND, plain
from .results import Results

PANELS = {
    "loss_nats": "<b>loss</b><br>nats",
    "flops_per_token": "<b>FLOPs</b><br>of dense",
    "params": "<b>params</b><br>of dense",
    "memory_bytes": "<b>memory</b><br>of dense",
    "step_seconds": "<b>step time</b><br>of dense",
}
"""What a panel's axis is called: four of them are as wide as a phone."""
SIGNS = {"+": ("#E69F00", "▲"), "-": ("#56B4E9", "▼"), "": ("#999999", "")}
"""Colour and symbol of what raises and what lowers; of Okabe and Ito's palette those that no sublayers have."""
ROW = 64
"""Pixels of a choice: its name, the effects, the bars."""
BAR = 0.22
"""Where in its row the bar is."""
MARK = {"symbol": "line-ns", "size": 8, "line": {"width": 2.5, "color": "#1a1a1a"}}
BEHIND = {"bgcolor": "rgba(255,255,255,0.8)", "borderpad": 0}
"""Of words, as lines run behind them."""


def _sign(effect: float) -> str:
    return "" if math.isnan(effect) or not round(effect, 4) else "+" if effect > 0 else "-"


def importance_figure(found: Results) -> Figure:
    """A panel an outcome, a row a choice: a bar as long as its spread, its effect above and the mark of chance on it."""
    rows = importance_rows(found)
    figure = go.Figure()
    if rows["spread"].notna().any():
        figure = _panels(rows[rows["choice"].isin(rows["choice"].unique()[:MOST])])
    return Figure("importance", "What matters", " ".join(importance_words(found, rows)), rows, figure)


def _panels(rows: pd.DataFrame) -> go.Figure:
    """All of them, side by side, with the choices' names across."""
    outcomes = list(dict.fromkeys(rows["outcome"]))
    widths = [1.7 if outcome == "loss_nats" and len(outcomes) > 2 else 1 for outcome in outcomes]  # its words are longer
    figure = make_subplots(cols=len(outcomes), shared_yaxes=True, horizontal_spacing=0.04, column_widths=widths)
    notes = list(_names(rows[rows["outcome"] == outcomes[0]]))
    for column, outcome in enumerate(outcomes, 1):
        its = rows[rows["outcome"] == outcome].reset_index(drop=True)
        _panel(figure, its, column, _end(rows, outcome))
        notes += _effects(its, column, short=column > 1 and len(outcomes) > 2)
    figure.add_traces(list(_legend(rows)))
    figure.update_xaxes(nticks=4 if len(outcomes) < 3 else 3, rangemode="tozero", tickangle=0, tickfont={"size": 10})
    figure.update_xaxes(showgrid=True, zeroline=True, zerolinecolor="#666666")
    count = rows["choice"].nunique()
    figure.update_yaxes(range=[count - 0.4, -0.6], visible=False)
    figure.update_layout(
        **LAYOUT,
        annotations=notes,  # at once: one by one they take ten times as long
        height=ROW * count + 130,
        margin={"l": 10, "r": 14, "t": 6, "b": 112},
        legend=LEGEND,
    )
    return figure


def _panel(figure: go.Figure, rows: pd.DataFrame, column: int, end: float) -> None:
    """The bars of one outcome and their axis."""
    for trace in _bars(rows):
        figure.add_trace(trace, row=1, col=column)
    figure.update_xaxes(title={"text": _title(rows.iloc[0]), "font": {"size": 12}}, range=[0, end], col=column)


def _title(row: pd.Series) -> str:
    """Of an outcome's axis."""
    rung = float(row["rung"])
    return PANELS[row["outcome"]] if math.isnan(rung) else f"<b>loss</b>, nats, at<br>{rung:,.0f} tokens"


def _names(rows: pd.DataFrame) -> Iterator[dict[str, object]]:
    """Of the choices, with their ends, each above its row."""
    for y, row in enumerate(rows.to_dict("records")):
        text = f"<b>{plain(row['choice'])}</b> {plain(row['first'])} → {plain(row['last'])}"
        place = {"x": 0, "xref": "paper", "xanchor": "left", "y": y - 0.32, "yref": "y"}
        yield {**place, "text": text, "showarrow": False, "font": {"size": 13}, **BEHIND}


def _end(rows: pd.DataFrame, outcome: str) -> float:
    """Of a panel's axis; the costs have one scale."""
    its = rows[(rows["outcome"] == "loss_nats") == (outcome == "loss_nats")]
    return 1.08 * max([*its["spread"].dropna().tolist(), *its["chance"].dropna().tolist()], default=0.0) or 1.0


def _bars(rows: pd.DataFrame) -> Iterator[go.Bar | go.Scatter]:
    """The bars, pale when chance makes as long ones, and the marks of chance."""
    drawn = rows.assign(y=rows.index + BAR)[rows["spread"].notna()].to_dict("records")
    marker = {
        "color": [SIGNS[_sign(row["effect"])][0] for row in drawn],
        "opacity": [0.45 if row["spread"] <= row["chance"] else 1.0 for row in drawn],
        "line": {"width": 1, "color": "#444444"},
    }
    yield go.Bar(
        x=digits([row["spread"] for row in drawn], 6), y=[row["y"] for row in drawn], width=0.2, orientation="h",
        marker=marker, hovertext=[_hover(row) for row in drawn], hoverinfo="text", showlegend=False,
    )  # fmt: skip
    marked = [row for row in drawn if not math.isnan(row["chance"])]
    yield go.Scatter(
        x=digits([row["chance"] for row in marked], 6), y=[row["y"] for row in marked], mode="markers", marker=MARK,
        hoverinfo="skip", cliponaxis=False, showlegend=False,
    )  # fmt: skip


def _legend(rows: pd.DataFrame) -> Iterator[go.Bar | go.Scatter]:
    """Of what there is."""
    signs = {_sign(row["effect"]) for row in rows[rows["spread"].notna()].to_dict("records")}
    for sign, words in (("+", "raises"), ("-", "lowers"), ("", "neither, or unknown")):
        if sign in signs:
            colour, symbol = SIGNS[sign]
            yield go.Bar(x=[None], y=[None], name=f"{symbol} {words}".strip(), marker={"color": colour})
    if rows["chance"].notna().any():
        yield go.Scatter(x=[None], y=[None], mode="markers", marker=MARK, name="by chance (95 %)")


def _hover(row: dict[Any, Any]) -> str:
    share = "" if math.isnan(row["share"]) else f", {100 * row['share']:.0f} % of what choices do"
    chance = "" if math.isnan(row["chance"]) else f"<br>by chance up to {row['chance']:.4f} {row['unit']} (95 %)"
    at = "" if math.isnan(row["rung"]) else f" after {row['rung']:,.0f} tokens"
    return (
        f"<b>{plain(row['choice'])}</b>: {WORDS[row['outcome']]}{at}<br>"
        f"spread {row['spread']:.4f} {row['unit']}{share}{chance}<br>"
        f"{plain(row['first'])} → {plain(row['last'])}: {signed(row['effect'])} {row['unit']}<br>"
        f"{plain(row['levels'])}{'<br>' + plain(row['note']) if row['note'] else ''}"
    )


def _effects(rows: pd.DataFrame, column: int, short: bool) -> Iterator[dict[str, object]]:
    """Above each bar its effect, or why there is none; where there is little room, that there is none."""
    axes = {"xref": f"x{column}", "yref": f"y{column}"} if column > 1 else {"xref": "x", "yref": "y"}
    base: dict[str, object] = {
        **axes,
        "x": 0,
        "xanchor": "left",
        "showarrow": False,
        "align": "left",
        "font": {"size": 12},
        **BEHIND,
    }
    for y, row in enumerate(rows.to_dict("records")):
        if math.isnan(row["effect"]):
            text = "\u2013" if short else f"<i>{plain(row['note'])}</i>"
        else:
            text = f"{SIGNS[_sign(row['effect'])][1]} {signed(row['effect'])}".strip()
            text = f"({text})" if row["spread"] <= row["chance"] else text
        yield base | {"y": y - 0.02, "text": text}
