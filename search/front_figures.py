"""Loss against cost: what is drawn of a search's candidates, and the drawing."""

import pandas as pd
import plotly.graph_objects as go

from .figure import LOSS, SHARES
from .page import COLOURS, SYMBOLS
from .results import Results


def front_points(found: Results, cost: str) -> pd.DataFrame:
    """What the front's figure draws: a row a complete candidate."""
    table = found.table(found.complete)
    front = {record.run for record in found.front}
    return table.assign(share=table[f"{cost}_share"], on_front=[run in front for run in table["run"]])


def front_figure(found: Results, cost: str) -> go.Figure:
    """Loss against a cost: candidates by the sublayers that hold low rank, arms named, the noise band about dense."""
    figure = go.Figure()
    dense = found.arms.get("dense")
    if dense is not None and dense.loss_nats is not None and found.noise is not None:
        low, high = (dense.loss_nats + sign * found.noise.resolvable_nats for sign in (-1, 1))
        label = f"not told from dense by one run ({found.noise.n} seeds)"
        figure.add_hrect(low, high, fillcolor="#888888", opacity=0.15, line_width=0, annotation_text=label)
    if found.complete:
        points = front_points(found, cost)
        for sublayers, group in points.groupby("sublayers", sort=False):
            figure.add_trace(_markers(str(sublayers), group))
        line = points[points["on_front"]].sort_values("share")
        figure.add_scatter(
            x=line["share"], y=line["loss_nats"], mode="lines", name="front", hoverinfo="skip",
            line={"color": "#666666", "dash": "dot", "shape": "hv"},
        )  # fmt: skip
        for record in [*found.arms.values(), *([found.winner] if found.winner else [])]:
            _name(figure, found, record.run, points)
    figure.update_layout(
        title=f"Loss against {cost}", template="plotly_white", height=560,
        xaxis={"title": SHARES[cost], "tickformat": ".2f"}, yaxis={"title": LOSS}, legend={"title": "low rank in"},
    )  # fmt: skip
    return figure


def _markers(sublayers: str, group: pd.DataFrame) -> go.Scatter:
    return go.Scatter(
        x=group["share"],
        y=group["loss_nats"],
        mode="markers",
        name=sublayers,
        marker={
            "color": COLOURS[sublayers],
            "symbol": SYMBOLS[sublayers],
            "size": [13 if on else 9 for on in group["on_front"]],
            "opacity": [1.0 if on else 0.45 for on in group["on_front"]],
            "line": {"width": 1, "color": "white"},
        },
        customdata=group[["run", "placement", "d_ff", "perplexity", "delta_nats", "against_dense"]],
        hovertemplate="<b>%{customdata[0]}</b> %{customdata[1]}<br>d_ff %{customdata[2]}<br>loss %{y:.4f} nats, "
        "perplexity %{customdata[3]:.3f}<br>%{customdata[4]:+.4f} nats against dense (%{customdata[5]})<br>"
        "cost %{x:.3f} x dense<extra></extra>",
    )


def _name(figure: go.Figure, found: Results, run: str, points: pd.DataFrame) -> None:
    rows = points[points["run"] == run]
    if rows.empty:
        return
    row = rows.iloc[0]
    words = [row["arm"]] if row["arm"] else []
    if found.winner is not None and run == found.winner.run:
        words.append("winner (knee)")
    figure.add_annotation(x=row["share"], y=row["loss_nats"], text=", ".join(words), showarrow=True, arrowhead=0, ay=-28)
