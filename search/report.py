"""Results -> figures -> one page."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from ..lpa.config import dump_yaml
from ..lpa.coordinates import Coordinate
from ..lpa.files import replace_text
from .page import COLOURS, SYMBOLS, rendered
from .proxy import Record
from .results import Results, write_tables

CURVES = 200
"""Learning curves that are drawn besides the arms' and the front's: a browser draws thousands slowly, and nobody tells them
apart (assumption)."""
AXES = {
    "loss_nats": "validation loss of the proxy (loss_nats)",
    "flops_per_token": "training FLOPs a token at the target, share of dense (flops_per_token)",
    "params": "parameters of the target, share of dense (params)",
    "memory_bytes": "training memory of the target, share of dense (memory_bytes)",
}


def write_report(found: Results, out: Path) -> Path:
    """records.jsonl, front.csv and report.html into the study's folder; the page's path."""
    write_tables(found, out)
    figures = [front_figure(found, cost) for cost in found.costs] + [curves_figure(found)]
    page = rendered(
        "report.html",
        name=found.space.name,
        found=found,
        figures=[figure.to_html(full_html=False, include_plotlyjs=False) for figure in figures],
        rows=found.table([*found.records, *found.seeds]).to_dict("records"),
        space=dump_yaml(found.space),
    )
    path = out / "report.html"
    replace_text(path, page)
    return path


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
        xaxis={"title": AXES[cost], "tickformat": ".2f"}, yaxis={"title": AXES["loss_nats"]}, legend={"title": "low rank in"},
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


def curves(found: Results) -> tuple[list[Record], int]:
    """The candidates whose curves are drawn, by number, and how many there are: of more than CURVES the arms, the front and
    CURVES others, evenly spread over the search."""
    drawn = [record for record in found.records if record.curve]
    chosen = {record.run for record in (*found.arms.values(), *found.front)}
    others = [record.run for record in drawn if record.run not in chosen]
    chosen |= {others[place * len(others) // CURVES] for place in range(CURVES)} if len(others) > CURVES else set(others)
    return [record for record in drawn if record.run in chosen], len(drawn)


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
        xaxis={"title": "tokens trained (tokens)"}, yaxis={"title": AXES["loss_nats"]},
    )  # fmt: skip
    return figure


def coordinates_figure(rows: Sequence[Coordinate]) -> go.Figure:
    """The scale of each activation against the width, a panel a learning-rate rule: level lines carry a rate across widths."""
    rules = list(dict.fromkeys(row.lr_rule for row in rows))
    figure = make_subplots(cols=len(rules), shared_yaxes=True, subplot_titles=[f"lr_rule: {rule}" for rule in rules])
    for column, rule in enumerate(rules, 1):
        for place, colour in zip(dict.fromkeys(row.place for row in rows), cycle(qualitative.Safe), strict=False):
            line = [row for row in rows if (row.lr_rule, row.place) == (rule, place)]
            scale = {"x": [row.width for row in line], "y": [row.rms for row in line]}
            figure.add_scatter(**scale, name=place, showlegend=column == 1, line_color=colour, row=1, col=column)
    figure.update_xaxes(type="log", title="width (d_model)", tickvals=sorted({row.width for row in rows}))
    figure.update_yaxes(type="log")
    figure.update_yaxes(title="root mean square after the steps", col=1)
    figure.update_layout(title="Scale of the activations against the width", template="plotly_white")
    return figure
