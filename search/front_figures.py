"""Loss against cost: what is drawn of a search's candidates, and the drawing."""

from collections.abc import Iterator

import pandas as pd
import plotly.graph_objects as go

from .figure import LOSS, SHARES, Figure, digits, span
from .page import COLOURS, LAYOUT, LEGEND, LOW_RANK, SYMBOLS
from .readable import highest
from .results import Results

KINDS = {
    "front": ("on the front", "", 13, 1.0),
    "tied": ("tied with the front", "", 8, 0.75),
    "behind": ("behind it", "-open", 8, 0.75),
    "limited": ("above a limit", "-open-dot", 8, 0.75),
}
"""Of candidates: the name, what becomes of the symbol of their sublayers, its size in pixels and its opacity."""
PAPERS = {"attention": "attention (LPA's choice)"}
"""What an arm is called where there is room."""
COLUMNS = ["run", "arm", "sublayers", "kind", "share", "loss_nats", "perplexity", "bits_per_byte", "label"]


def front_rows(found: Results, cost: str) -> pd.DataFrame:
    """A row a complete candidate: its kind, its cost as a share of dense, its loss, and what is written at it."""
    kinds = _kinds(found)
    rows = [
        {
            "run": record.run,
            "arm": record.arm or "",
            "sublayers": record.target.placement.sublayers,
            "kind": kinds.get(record.run, "behind" if record.feasible else "limited"),
            "share": found.relative(record, cost),
            "loss_nats": record.loss_nats,
            "perplexity": record.perplexity,
            "bits_per_byte": record.bits_per_byte,
            "label": ", ".join(_label(found, record.run, record.arm)),
        }
        for record in found.complete
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _kinds(found: Results) -> dict[str, str]:
    return {one.run: kind for kind, of in (("front", found.front), ("tied", found.tied_with_front)) for one in of}


def _label(found: Results, run: str, arm: str | None) -> Iterator[str]:
    if arm is not None:
        yield PAPERS.get(arm, arm)
    if found.winner is not None and run == found.winner.run:
        yield "winner"


def front_figure(found: Results, cost: str) -> Figure:
    """Loss against a cost: candidates by the sublayers that hold low rank, arms and winner named, the noise about dense."""
    rows, drawing = front_rows(found, cost), go.Figure()
    name, title = f"front_{cost}", f"Loss against {cost}"
    if rows.empty:
        return Figure(name, title, "No candidate has been trained to its end.", rows, drawing)
    low, top, band = float(rows["loss_nats"].min()), highest(found), found.band or ()
    ends = [low, top, *(end for end in band if end <= top + (top - low))]
    ends = span(min(ends), max(ends))
    for trace in [*_front(found, rows), *_candidates(rows), *_winner(rows), *_legend(found, rows)]:
        drawing.add_trace(trace)
    if band:
        drawing.add_hrect(*band, fillcolor="#888888", opacity=0.15, line_width=0, layer="below")
    drawing.update_layout(
        **LAYOUT,
        annotations=list(_labels(rows, ends[1])),
        height=560,
        margin={"l": 60, "r": 16, "t": 24, "b": 130},
        xaxis={"title": SHARES[cost], "tickformat": ".2f", "range": _shares(found, rows, cost), "zeroline": False},
        yaxis={"title": LOSS, "range": list(ends), "zeroline": False},
        legend=LEGEND,
    )
    _lines(drawing, found, cost)
    return Figure(name, title, " ".join(_reading(found, rows, ends[1])), rows, drawing)


def _shares(found: Results, rows: pd.DataFrame, cost: str) -> list[float]:
    """The ends of the axis: every candidate and the limit; fixed, as a mark that is drawn later would move them."""
    limit = [found.space.limit(cost) / found.space.dense_costs[cost]] if cost in found.space.limits else []
    ends = [*rows["share"], *(share for share in limit if share <= 1.5 * rows["share"].max())]
    edge = 0.04 * (max(ends) - min(ends)) or 0.02
    return [min(ends) - edge, max(ends) + edge]


def _candidates(rows: pd.DataFrame) -> Iterator[go.Scatter]:
    for kind in reversed(KINDS):  # the front is drawn last, above the others
        _, suffix, size, opacity = KINDS[kind]
        for sublayers, its in rows[rows["kind"] == kind].groupby("sublayers"):
            colour = COLOURS[str(sublayers)]
            yield go.Scatter(
                x=digits(its["share"]),
                y=digits(its["loss_nats"]),
                mode="markers",
                showlegend=False,
                marker={
                    "color": colour,
                    "symbol": SYMBOLS[str(sublayers)] + suffix,
                    "size": size,
                    "opacity": opacity,
                    "line": {"width": 1.5 if suffix else 1, "color": colour if suffix else "white"},
                },
                customdata=its["run"].tolist(),
                hovertemplate="%{text}<br>%{y:.4f} nats, %{x:.3f} x dense<extra></extra>",
            )


def _front(found: Results, rows: pd.DataFrame) -> Iterator[go.Scatter]:
    """Of two objectives what the front dominates has a line; of more its members have none in common."""
    line = rows[rows["kind"] == "front"].sort_values("share")
    if len(found.space.objectives) == 2:
        yield go.Scatter(
            x=digits(line["share"]), y=digits(line["loss_nats"]), mode="lines", name="front", hoverinfo="skip",
            line={"color": "#666666", "shape": "hv", "width": 1.5}, showlegend=False,
        )  # fmt: skip


def _winner(rows: pd.DataFrame) -> Iterator[go.Scatter]:
    """A ring about it."""
    its = rows[rows["label"].str.endswith("winner")]
    ring = {"symbol": "circle-open", "size": 22, "color": "#1a1a1a", "line": {"width": 1.5}}
    yield go.Scatter(
        x=digits(its["share"]), y=digits(its["loss_nats"]), mode="markers", marker=ring, hoverinfo="skip", showlegend=False
    )


def _legend(found: Results, rows: pd.DataFrame) -> Iterator[go.Scatter]:
    """What colours and symbols, fillings and the band mean."""
    nowhere = {"x": [None], "y": [None], "mode": "markers"}
    for sublayers in COLOURS:
        if (rows["sublayers"] == sublayers).any():
            marker = {"color": COLOURS[sublayers], "symbol": SYMBOLS[sublayers], "size": 10}
            yield go.Scatter(**nowhere, name=LOW_RANK[sublayers], marker=marker)
    for kind, (name, suffix, size, opacity) in KINDS.items():
        if (rows["kind"] == kind).any():
            line = {"width": 1.5 if suffix else 0, "color": "#666666"}
            marker = {"color": "#666666", "symbol": f"circle{suffix}", "size": size, "opacity": opacity, "line": line}
            yield go.Scatter(**nowhere, name=name, marker=marker)
    if found.band:
        band = {"symbol": "square", "size": 14, "color": "#888888", "opacity": 0.3}
        yield go.Scatter(**nowhere, name="not told from dense by one run", marker=band)


def _labels(rows: pd.DataFrame, end: float) -> Iterator[dict[str, object]]:
    """Annotations at arms and winner: on the side where there is room, the winner's below. What lies above the end of the
    axis, nats, has its own at the upper edge, with its loss."""
    middle = (rows["share"].min() + rows["share"].max()) / 2
    look = {"arrowhead": 0, "arrowwidth": 1, "font": {"size": 12}, "bgcolor": "rgba(255,255,255,0.75)", "borderpad": 1}
    for row in rows[rows["label"] != ""].to_dict("records"):
        left = row["share"] > middle
        above = row["loss_nats"] > end
        text = row["label"] + (f" (above: {row['loss_nats']:.4g})" if above else "")
        aside = {"ax": -18 if left else 18, "ay": 26 if above or row["label"].endswith("winner") else -26}
        side = {"xanchor": "right" if left else "left"}
        yield {"x": row["share"], "y": min(row["loss_nats"], end), "text": text, **look, **aside, **side}


def _lines(drawing: go.Figure, found: Results, cost: str) -> None:
    """The knee's cost and loss, and the largest cost that the space allows."""
    if found.winner is not None and found.winner.loss_nats is not None:
        knee = {"line_width": 1, "line_dash": "dot", "line_color": "#8a8a8a"}  # above, as a line of the grid may lie there
        drawing.add_vline(found.relative(found.winner, cost), **knee)
        drawing.add_hline(found.winner.loss_nats, **knee)
    if cost in found.space.limits:
        share = found.space.limit(cost) / found.space.dense_costs[cost]
        words = {"annotation_text": f"limit {share:.3g}", "annotation_position": "bottom right", "annotation_textangle": -90}
        drawing.add_vline(share, line_width=1.5, line_dash="dash", line_color="#444444", **words)


def _reading(found: Results, rows: pd.DataFrame, end: float) -> Iterator[str]:
    """How the figure is read."""
    yield "Down and to the left is better."
    if (count := len(found.space.objectives)) > 2:
        yield f"The front is that of all {count} objectives: a point of it may look dominated in one picture."
    if found.band:
        yield "In the grey band a single run does not tell a candidate from dense."
    if found.noise is not None:
        yield "Tied: within that noise of the front."
    if found.winner is not None:
        what = "the knee" if found.winner_words.endswith("knee of the front") else "the winner"
        yield f"Dotted lines: {what}."
    if (above := int((rows["loss_nats"] > end).sum())) > 0:
        yield f"{above} of {len(rows)} candidates lie above the figure, at up to {rows['loss_nats'].max():.4g} nats."
