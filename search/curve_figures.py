"""Learning curves: what is drawn of a search's candidates, and the drawing."""

import plotly.graph_objects as go

from .figure import LOSS, some_of
from .page import COLOURS
from .proxy import Record
from .results import Results

CURVES = 200
"""Learning curves that are drawn besides the arms' and the front's: a browser draws thousands slowly, and nobody tells them
apart (assumption)."""


def curves(found: Results) -> tuple[list[Record], int]:
    """The candidates whose curves are drawn, by number, and how many there are: of more than CURVES the arms, the front and
    CURVES others, evenly spread over the search."""
    drawn = [record for record in found.records if record.curve]
    return some_of(found, drawn, CURVES), len(drawn)


def curves_figure(found: Results) -> go.Figure:
    """Validation loss against tokens trained, a line a candidate."""
    figure = go.Figure()
    drawn, of = curves(found)
    for record in drawn:
        sublayers = record.target.placement.sublayers
        figure.add_scatter(
            x=[tokens for tokens, _ in record.curve],
            y=[loss for _, loss in record.curve],
            mode="lines+markers" if record.arm else "lines",
            name=record.arm or record.run,
            showlegend=record.arm is not None,
            opacity=1.0 if record.arm else 0.35,
            line={"color": COLOURS[sublayers], "width": 3 if record.arm else 1},
            hovertemplate=f"<b>{record.run}</b> {record.placement}<br>%{{x:,}} tokens, %{{y:.4f}} nats<extra></extra>",
        )
    some = f": the arms, the front and {CURVES} others of {of:,}" if len(drawn) < of else ""
    figure.update_layout(
        title=f"Learning curves{some}", template="plotly_white", height=480,
        xaxis={"title": "tokens trained (tokens)"}, yaxis={"title": LOSS},
    )  # fmt: skip
    return figure
