"""Several studies -> one page: their fronts in one picture, their winners in one table."""

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from ..lpa.config import UserError
from ..lpa.files import replace_text
from .compare import Comparison
from .compare_rows import front_rows, pairs, study_rows, winner_rows
from .compare_words import cautions, headline, volumes
from .figure import LOSS, SHARES, Figure, digits, span
from .page import COLOURS, FURTHER, LAYOUT, LEGEND, SYMBOLS, check_place, div, plain, rendered
from .readable import readable
from .space import Space

LOOKS = (*((COLOURS[arm], SYMBOLS[arm]) for arm in ("attention", "ffn", "both")), *FURTHER[:4], (COLOURS["dense"], "star"))
"""Colour and symbol of each study."""
DASHES = ("solid", "dash", "dot", "dashdot")
MARKER = "/* lpanas: studies side by side */"
"""In the style of a page, by which it is known as one of ours."""
HEAD = 1 << 16
"""Bytes of a page before its plotly.js, and more."""
DELTA = "loss less the own dense arm's (delta_nats)"


def check_page(page: Path) -> None:
    """Raises UserError, before any work, when a page could not be written, or would replace something else than such a page."""
    check_place(page, "--out")
    try:
        if os.path.lexists(page) and not (page.is_file() and MARKER.encode() in _head(page)):
            raise UserError(f"--out {page}: holds something else than such a page; expected a new name")
    except OSError as error:
        raise UserError(f"--out {page}: cannot be read: {error.strerror}") from None


def _head(page: Path) -> bytes:
    with open(page, "rb") as file:
        return file.read(HEAD)


def write_comparison(compared: Comparison, page: Path) -> Path:
    """The page; its path. Raises UserError when it cannot be written."""
    text = rendered(
        "compare.html",
        name=", ".join(study.label for study in compared.studies),
        marker=MARKER,
        compared=compared,
        headline=headline(compared),
        cautions=cautions(compared),
        volumes=volumes(compared),
        figures=[(figure, div(figure.drawing)) for figure in front_figures(compared)],
        studies=study_rows(compared),
        winners=winner_rows(compared),
        pairs=pairs(compared),
    )
    try:
        replace_text(page, text)
    except OSError as error:
        raise UserError(f"--out {page}: cannot be written: {error.strerror}") from None
    return page


def front_figures(compared: Comparison) -> list[Figure]:
    """The fronts against each cost."""
    return [front_figure(compared, cost) for cost in compared.costs]


def front_figure(compared: Comparison, cost: str) -> Figure:
    """The fronts of all studies against a cost, each with a colour, a symbol and a dash of its own."""
    rows, drawing = front_rows(compared, cost), go.Figure()
    for number, study in enumerate(compared.studies):
        _draw(drawing, study.label, rows[rows["study"] == study.label], number)
    drawing.update_layout(
        **LAYOUT,
        height=480 + 12 * len(compared.studies),
        xaxis={"title": {"text": SHARES[cost], "font": {"size": 12}}, "tickformat": ".2f"},
        yaxis={"title": {"text": LOSS if compared.comparable else DELTA, "font": {"size": 12}}},
        legend=LEGEND,
        margin={"l": 70, "r": 15, "t": 15, "b": 70 + 12 * len(compared.studies)},
    )
    above = _cut(drawing, rows["value"].tolist(), compared.studies[0].found.space)
    if not compared.comparable and len(rows):
        drawing.add_hline(0, line={"color": "#666666", "dash": "dot", "width": 1})
    return Figure(f"fronts_{cost}", f"Loss against {cost}", _reading(rows, above), rows, drawing)


def _draw(drawing: go.Figure, label: str, rows: pd.DataFrame, number: int) -> None:
    """A study: its front as steps, what is on it in other objectives than these two beside, a dense arm that is not on it."""
    (colour, symbol), dash = LOOKS[number], DASHES[number % len(DASHES)]
    is_dense = rows["what"] == "dense"
    kinds = {
        "lines+markers": (rows[rows["is_step"]].sort_values(["share", "value"]), f"{symbol}-open"),
        "markers": (rows[~rows["is_step"] & ~is_dense], f"{symbol}-open"),
        "dense": (rows[is_dense], f"{symbol}-open-dot"),
    }
    for mode, (its, shape) in kinds.items():
        won = its["what"] == "winner"
        if len(its):
            drawing.add_scatter(
                x=digits(its["share"]), y=digits(its["value"]), text=_texts(label, its),
                mode=mode.replace("dense", "markers"), name=plain(label), legendgroup=str(number),
                showlegend=mode == "lines+markers", hovertemplate="%{text}<extra></extra>",
                line={"color": colour, "dash": dash, "shape": "hv", "width": 2},
                marker={
                    "color": colour, "symbol": [symbol if one else shape for one in won], "line": {"width": 2},
                    "size": [17 if one else 9 for one in won],
                },
            )  # fmt: skip


def _texts(label: str, rows: pd.DataFrame) -> list[str]:
    """What is to be said of each row's candidate."""
    kinds = {"winner": "winner", "dense": "dense, not on the front", "front": "front"}
    deltas = [f", {delta:+.4f} against its dense" if delta == delta else "" for delta in rows["delta_nats"].astype(float)]
    heads = [f"<b>{plain(label)}</b>: {run} ({kinds[what]})" for run, what in zip(rows["run"], rows["what"], strict=True)]
    losses = [f"{loss:.4f} nats{delta}" for loss, delta in zip(rows["loss_nats"], deltas, strict=True)]
    shares = [f"{share:.3f} x dense" for share in rows["share"]]
    return ["<br>".join(parts) for parts in zip(heads, map(plain, rows["placement"]), losses, shares, strict=True)]


def _cut(drawing: go.Figure, values: Sequence[float], space: Space) -> int:
    """Let no outlier squash the axis; how many lie above it."""
    low, end = span(min(values), readable(values, space)) if values else (0.0, 0.0)
    if above := sum(value > end for value in values):
        drawing.update_yaxes(range=[low, end])
    return above


def _reading(rows: pd.DataFrame, above: int) -> str:
    if rows.empty:
        return "No study has a candidate on a front that can be drawn."
    words = "Left and below is better. A line is what a study's front reaches; large and filled: its winner"
    words += "; with a dot inside: a dense arm that is not on its front" if (rows["what"] == "dense").any() else ""
    return f"{words}." + (f" {above} of the points lie above the picture." if above else "")
