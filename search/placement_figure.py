"""A placement as a picture: layers by projections, rank as shade."""

import pandas as pd
import plotly.graph_objects as go

from ..lpa.linear import matmul_params
from ..lpa.model_config import ModelConfig
from .figure import COSTS, Figure
from .page import LAYOUT
from .record import Record
from .results import Results

ROW, MOST_ROW = 26, 640
"""Pixels of a layer, and of all of them together."""
SHADES = ((0.0, "#08306b"), (0.5, "#6baed6"), (0.999, "#c6dbef"), (1.0, "#ffffff"))
"""Of a rank as a share of full rank: the lower the darker, and white is dense."""
COLUMNS = ["layer", "projection", "fraction", "rank", "params", "params_saved"]


def placement_rows(model: ModelConfig) -> pd.DataFrame:
    """A row a layer and projection: its rank, as a fraction of full rank too (nothing where it is dense), its parameters and
    those that it saves against one that is dense."""
    rows = []
    for layer in range(model.n_layers):
        for name in model.projections:
            d_in, d_out = model.projection(name)
            rank = model.rank(layer, name)
            params, dense = matmul_params(d_in, d_out, rank), matmul_params(d_in, d_out, None)
            fraction = None if rank is None else rank / min(d_in, d_out)
            rows.append((layer, name, fraction, rank, params, dense - params))
    return pd.DataFrame(rows, columns=COLUMNS).astype({"rank": "Int64"})


def placement_figure(found: Results) -> Figure:
    """The winner at the target."""
    title, winner = "The winner's placement", found.winner
    if winner is None:
        return Figure("placement", title, "There is no winner.", pd.DataFrame(columns=COLUMNS), go.Figure())
    rows = placement_rows(winner.target)
    return Figure(
        "placement", title, f"{winner.run} at the target. {saved_words(found, winner)}", rows, _drawing(winner.target, rows)
    )


def _drawing(model: ModelConfig, rows: pd.DataFrame) -> go.Figure:
    """A line a layer, a column a projection."""
    row = min(ROW, MOST_ROW / model.n_layers)
    return go.Figure(_cells(model, rows, has_ranks=row > 12)).update_layout(
        **LAYOUT,
        height=row * model.n_layers + 90,
        margin={"l": 60, "r": 16, "t": 40, "b": 16},
        xaxis={"side": "top", "fixedrange": True, "showgrid": False, "title": "projection"},
        yaxis={"autorange": "reversed", "fixedrange": True, "showgrid": False, "zeroline": False, "title": "layer"},
        plot_bgcolor="#bbbbbb",
    )


def _cells(model: ModelConfig, rows: pd.DataFrame, *, has_ranks: bool) -> go.Heatmap:
    """A cell a projection of a layer, with its rank where there is room for it."""
    wide = {name: rows.pivot(index="layer", columns="projection", values=name)[list(model.projections)] for name in COLUMNS[2:]}
    ranks = wide["rank"].astype("object").where(wide["rank"].notna(), "dense")
    return go.Heatmap(
        z=wide["fraction"].fillna(1.0).to_numpy(float).tolist(),
        x=list(model.projections),
        y=list(range(model.n_layers)),
        text=ranks.to_numpy().tolist() if has_ranks else None,
        texttemplate="%{text}" if has_ranks else None,
        customdata=wide["params_saved"].to_numpy(int).tolist(),
        hovertemplate="layer %{y}, %{x}<br>%{z:.3g} of full rank<br>saves %{customdata:,} parameters<extra></extra>",
        colorscale=[list(shade) for shade in SHADES],
        zmin=0.0, zmax=1.0, xgap=2, ygap=1, showscale=False,
    )  # fmt: skip


def saved_words(found: Results, record: Record) -> str:
    """What a candidate saves at the target, and what becomes of it."""
    wider = record.target.d_ff - found.space.target.model.d_ff
    if record.target.placement.sublayers == "dense" and not wider:
        return "It is the dense target."
    parts: list[str] = []
    for name, dense in found.space.dense_costs.items():
        less = dense - record.costs[name]
        what = {"memory_bytes": "bytes of training memory", "step_seconds": "seconds of a step"}.get(name, COSTS[name])
        amount = f"{abs(less):.4g}" if name == "step_seconds" else f"{abs(less):,}"
        parts.append(f"{amount} {what} ({abs(less) / dense:.1%}) {'saved' if less >= 0 else 'more'}")
    width = f" after an FFN wider by {wider:,} (d_ff {record.target.d_ff:,})" if wider else ""
    return f"Against the dense target{width}: {', '.join(parts)}."
