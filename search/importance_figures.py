"""What matters: the importance of each choice of a space for the loss and for the costs, as a table and drawn."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .figure import Figure, guessing, varied
from .importance import Design
from .page import LAYOUT, plain
from .proxy import Record
from .results import Results

PANELS = {
    "loss_nats": "<b>loss</b><br>nats",
    "flops_per_token": "<b>FLOPs</b><br>of dense",
    "params": "<b>params</b><br>of dense",
    "memory_bytes": "<b>memory</b><br>of dense",
}
"""What a panel's axis is called: four of them are as wide as a phone."""
WORDS = {"loss_nats": "loss", "flops_per_token": "FLOPs", "params": "params", "memory_bytes": "memory"}
SIGNS = {"+": ("#E69F00", "▲"), "-": ("#56B4E9", "▼"), "": ("#999999", "")}
"""Colour and symbol of what raises and what lowers; of Okabe and Ito's palette those that no sublayers have."""
APART = "not told apart"
ROW = 64
"""Pixels of a choice: its name, the effects, the bars."""
BAR = 0.22
"""Where in its row the bar is."""
MARK = {"symbol": "line-ns", "size": 8, "line": {"width": 2.5, "color": "#1a1a1a"}}
BEHIND = {"bgcolor": "rgba(255,255,255,0.8)", "borderpad": 0}
"""Of words, as lines run behind them."""
COLUMNS = [
    "outcome", "unit", "choice", "first", "last", "effect", "spread", "share", "chance", "levels", "note", "n", "least", "r2",
]  # fmt: skip


def importance_rows(found: Results) -> pd.DataFrame:
    """A row an outcome (loss_nats, then each cost) and choice of the space, what does most to the loss first.

    effect: the last level's less the first one's, in the unit. spread: the standard deviation over the levels, in the unit.
    share: of the model's variance. chance: what 95 % of the loss's spreads stay below when the choice does nothing.
    note: why there is no number.
    n, least: points, and how many the model asks for. r2: what the model explains.
    """
    outcomes = ("loss_nats", *found.costs)
    of = {outcome: {row["choice"]: row for row in _of(found, outcome)} for outcome in outcomes}

    def least(choice: str) -> list[float]:
        spreads = [of[outcome][choice]["spread"] for outcome in outcomes]
        return [1.0 if math.isnan(spread) else -spread for spread in spreads]

    order = sorted(varied(found.space), key=least)
    return pd.DataFrame([of[outcome][choice] for outcome in outcomes for choice in order], columns=COLUMNS)


def _outcomes(found: Results, outcome: str) -> tuple[list[Record], list[float]]:
    """The records inside of the space that tell of an outcome, and their numbers."""
    if outcome == "loss_nats":
        told = [record for record in found.complete if record.params and _learnt(found, record)]
        return told, [record.loss_nats or 0.0 for record in told]
    told = [record for record in found.records if record.params]
    return told, [found.relative(record, outcome) for record in told]


def _learnt(found: Results, record: Record) -> bool:
    return record.loss_nats is not None and record.loss_nats <= guessing(found.space)


def _of(found: Results, outcome: str) -> Iterator[dict[str, Any]]:
    records, numbers = _outcomes(found, outcome)
    levels, is_loss = varied(found.space), outcome == "loss_nats"
    design, y = Design(levels, [record.params for record in records]), np.array(numbers)
    enough = len(y) >= design.least
    effects = design.effects(y)
    chance = design.chance(y) if enough and is_loss else {}
    for name, its in levels.items():
        by_level = effects.by_level[name] if enough else np.full(len(its), np.nan)
        yield {
            "outcome": outcome,
            "unit": "nats" if is_loss else "of dense",
            "choice": name,
            "first": its[0],
            "last": its[-1],
            "effect": by_level[-1] - by_level[0],
            "spread": effects.spread[name] if enough else math.nan,
            "share": effects.share[name] if enough else math.nan,
            "chance": chance.get(name, math.nan),
            "levels": ", ".join(f"{level} {_number(value)}" for level, value in zip(its, by_level, strict=True)),
            "note": _note(design, name, enough),
            "n": len(y),
            "least": design.least,
            "r2": effects.r2 if enough else math.nan,
        }


def _note(design: Design, name: str, enough: bool) -> str:
    """Why a choice, or one of its levels, has no number."""
    levels = design.levels[name]
    seen = {point[name] for point in design.points}
    if len(seen) < 2:
        return f"{'only ' + next(iter(seen)) if seen else 'nothing'} was run"
    if not enough:
        return f"{len(design.points)} runs, {design.least} needed"
    if name not in design.known:
        return APART
    unseen = [level for level in levels if level not in seen]
    return f"no run at {', '.join(unseen)}" if unseen else ""


def _number(value: float, decimals: int = 4) -> str:
    """With its sign; a dash for what is not known."""
    return "\u2013" if math.isnan(value) else f"{round(value, decimals) + 0.0:+.{decimals}f}".replace("-", "\u2212")


def _sign(effect: float) -> str:
    return "" if math.isnan(effect) or not round(effect, 4) else "+" if effect > 0 else "-"


def importance_figure(found: Results) -> Figure:
    """A panel an outcome, a row a choice: a bar as long as its spread, its effect above and the mark of chance on it."""
    rows = importance_rows(found)
    figure = go.Figure()
    if rows["spread"].notna().any():
        figure = _panels(rows)
    return Figure("importance", "What matters", " ".join(_words(found, rows)), rows, figure)


def _panels(rows: pd.DataFrame) -> go.Figure:
    outcomes, choices = list(dict.fromkeys(rows["outcome"])), list(dict.fromkeys(rows["choice"]))
    widths = [1.7 if outcome == "loss_nats" and len(outcomes) > 2 else 1 for outcome in outcomes]  # its words are longer
    figure = make_subplots(cols=len(outcomes), shared_yaxes=True, horizontal_spacing=0.04, column_widths=widths)
    for column, outcome in enumerate(outcomes, 1):
        its = rows[rows["outcome"] == outcome].assign(y=range(len(choices)))
        for trace in _bars(its):
            figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(title={"text": PANELS[outcome], "font": {"size": 12}}, range=[0, _end(rows, outcome)], col=column)
        for note in _effects(its, short=column > 1 and len(outcomes) > 2):
            figure.add_annotation(note, row=1, col=column)
    figure.add_traces(list(_legend(rows)))
    for y, row in enumerate(rows[rows["outcome"] == outcomes[0]].to_dict("records")):
        text = f"<b>{plain(row['choice'])}</b> {plain(row['first'])} → {plain(row['last'])}"
        figure.add_annotation(
            x=0, xref="paper", xanchor="left", y=y - 0.32, text=text, showarrow=False, font={"size": 13}, **BEHIND
        )
    figure.update_xaxes(
        rangemode="tozero",
        nticks=4 if len(outcomes) < 3 else 3,
        tickangle=0,
        showgrid=True,
        tickfont={"size": 10},
        zeroline=True,
        zerolinecolor="#666666",
    )
    figure.update_yaxes(range=[len(choices) - 0.4, -0.6], visible=False)
    figure.update_layout(
        **LAYOUT,
        height=ROW * len(choices) + 130,
        margin={"l": 10, "r": 14, "t": 6, "b": 112},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"},
    )
    return figure


def _end(rows: pd.DataFrame, outcome: str) -> float:
    """Of a panel's axis; the costs have one scale."""
    its = rows[rows["unit"] == rows[rows["outcome"] == outcome]["unit"].iloc[0]]
    longest = float(np.nanmax([*its["spread"], *its["chance"], 0.0]))
    return 1.08 * longest or 1.0


def _bars(rows: pd.DataFrame) -> Iterator[go.Bar | go.Scatter]:
    """The bars, pale when chance makes as long ones, and the marks of chance."""
    drawn = rows[rows["spread"].notna()].to_dict("records")
    marker = {
        "color": [SIGNS[_sign(row["effect"])][0] for row in drawn],
        "opacity": [0.45 if row["spread"] <= row["chance"] else 1.0 for row in drawn],
        "line": {"width": 1, "color": "#444444"},
    }
    yield go.Bar(
        x=[_short(row["spread"]) for row in drawn], y=[row["y"] + BAR for row in drawn], width=0.2, orientation="h",
        marker=marker, hovertext=[_hover(row) for row in drawn], hoverinfo="text", showlegend=False,
    )  # fmt: skip
    marked = [row for row in drawn if not math.isnan(row["chance"])]
    yield go.Scatter(
        x=[_short(row["chance"]) for row in marked], y=[row["y"] + BAR for row in marked], mode="markers", marker=MARK,
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


def _short(number: float) -> float:
    """Six digits, so that a page is not full of them."""
    return float(f"{number:.6g}")


def _hover(row: dict[Any, Any]) -> str:
    share = "" if math.isnan(row["share"]) else f", {100 * row['share']:.0f} % of what choices do"
    chance = "" if math.isnan(row["chance"]) else f"<br>by chance up to {row['chance']:.4f} {row['unit']} (95 %)"
    return (
        f"<b>{plain(row['choice'])}</b>: {WORDS[row['outcome']]}<br>spread {row['spread']:.4f} {row['unit']}{share}{chance}<br>"
        f"{plain(row['first'])} → {plain(row['last'])}: {_number(row['effect'])} {row['unit']}<br>"
        f"{plain(row['levels'])}{'<br>' + plain(row['note']) if row['note'] else ''}"
    )


def _effects(rows: pd.DataFrame, short: bool) -> Iterator[dict[str, object]]:
    """Above each bar its effect, or why there is none; where there is little room, that there is none."""
    base = {"x": 0, "xanchor": "left", "showarrow": False, "align": "left", "font": {"size": 12}, **BEHIND}
    for row in rows.to_dict("records"):
        if math.isnan(row["effect"]):
            text = "\u2013" if short else f"<i>{plain(row['note'])}</i>"
        else:
            text = f"{SIGNS[_sign(row['effect'])][1]} {_number(row['effect'])}".strip()
            text = f"({text})" if row["spread"] <= row["chance"] else text
        yield base | {"y": row["y"] - 0.02, "text": text}


def _words(found: Results, rows: pd.DataFrame) -> Iterator[str]:
    """How it is read, and how far to believe it."""
    if rows.empty:
        yield "The space has no choice with more than one level."
        return
    if rows["spread"].notna().any():
        yield (
            "An additive model of the choices' levels, fitted to the runs inside the space. A bar is the standard deviation "
            "over a choice's levels, all counting alike; above it stands the last level less the first: ▲ raises, ▼ lowers."
        )
    yield from _fits_words(rows)
    loss = rows[rows["outcome"] == "loss_nats"]
    if loss["chance"].notna().any():
        below = [str(row["choice"]) for row in loss.to_dict("records") if row["spread"] <= row["chance"]]
        yield (
            "The mark is what 95 % of fits stay below when the choice does nothing: what the other choices leave of the losses "
            f"is dealt out to the runs anew. Not told from chance (pale, in brackets): {', '.join(below) or 'none'}."
        )
    if out := sum(bool(record.params) and not _learnt(found, record) for record in found.complete):
        yield f"Left out: {out} whose loss is above that of guessing, {guessing(found.space):.2f} nats."


def _fits_words(rows: pd.DataFrame) -> Iterator[str]:
    """Of each outcome; of those that are alike in one."""
    alike = dict[str, list[str]]()
    for outcome, its in rows.groupby("outcome", sort=False):
        alike.setdefault(_fit_words(str(outcome), its), []).append(WORDS[str(outcome)])
    for fit, names in alike.items():
        together = ", ".join(names)
        yield f"{together[0].upper()}{together[1:]}: {fit}."


def _fit_words(outcome: str, rows: pd.DataFrame) -> str:
    """How many runs, and what the model says of their variance."""
    n, least, r2 = int(rows["n"].iloc[0]), int(rows["least"].iloc[0]), float(rows["r2"].iloc[0])
    if n < least:
        return f"{n} run{'s' * (n != 1)}, too few; the model asks for {least}"
    parts = [f"{n} runs"]
    if not math.isnan(r2):
        is_loss = outcome == "loss_nats"
        by_chance = f" ({100 * (least - 3) / (n - 1):.0f} % by chance)" if is_loss else ""
        rest = f"; the rest is interaction{' and noise' * is_loss}" if r2 < 0.995 else ""
        parts.append(f"{100 * r2:.0f} % of the variance explained{by_chance}{rest}")
    notes = [
        f"{row['choice']}: {row['note']}{' from other choices' * (row['note'] == APART)}"
        for row in rows.to_dict("records")
        if row["note"]
    ]
    return f"{', '.join(parts)}{'; ' + ', '.join(notes) if notes else ''}"
