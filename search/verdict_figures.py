"""The curves of a confirmation's page, each in two steps: what is drawn, as a table, and the drawing. A panel is a figure
of its own, so that a page sets them side by side or one below the other as it has room.

Names in the tables are the user's own; the drawing escapes them.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .confirmation import ArmResult, ComparisonResult, Confirmation, Ends
from .forest import at_equal, short
from .page import LAYOUT, LEGEND, looks, plain
from .protocol import Match
from .statistics import t_interval

VALID, TEST = "validation loss (loss_nats)", "test loss (loss_nats)"
COSTS = {
    "flops_per_token": ("training FLOPs", "share of dense (flops_per_token)"),
    "body_params": ("parameters of the body", "share of dense (params)"),
    "step_seconds": ("a step of the target", "share of dense (step_seconds)"),
}
"""What a panel is named after, and its axis. The first two are of what was trained."""
CONTROLS = {"": ("solid", ""), "scaled": ("dot", "-open"), "init": ("dash", "-open-dot"), "warmup": ("dashdot", "-dot")}
"""The line of a control, and what becomes of its arm's symbol."""
HEIGHT = 400
"""Pixels of a panel."""


def matches(found: Confirmation) -> list[Match]:
    """All that there are, in their order."""
    return list(dict.fromkeys(match for one in found.arms for match in one.matches))


def together(found: Confirmation, of: Sequence[ArmResult | ComparisonResult]) -> list[tuple[Match, ...]]:
    """The matches; those that the same of these are at, as one."""
    groups = dict[tuple[int, ...], list[Match]]()
    for match in matches(found):
        groups.setdefault(tuple(place for place, one in enumerate(of) if match in one.matches), []).append(match)
    return [tuple(its) for its in groups.values()]


def arms(found: Confirmation, size: str | None = None) -> list[ArmResult]:
    """Those of a size, or all; without controls."""
    return [one for one in found.arms if one.control is None and size in (None, one.size)]


def styles(found: Confirmation) -> dict[str, tuple[str, str]]:
    """Colour and symbol of each arm."""
    return looks([one.arm for one in found.arms])


def mean_and_ends(losses: Sequence[float]) -> tuple[float, Ends]:
    """The mean, and its interval of 95 % (Student's t); NaN for what is not defined. (seeds,) nats."""
    x = np.array(losses)
    interval = t_interval(x) if len(x) > 1 else None
    return float(x.mean()) if len(x) else math.nan, (interval.low, interval.high) if interval else (math.nan, math.nan)


# learning rates


MEAN, JUDGED = -1, -2
"""In place of a seed: the mean of a rate, and the rate at which an arm is judged."""


def rate_rows(found: Confirmation) -> pd.DataFrame:
    """A row a run of a sweep, its seeds counted from 0; one of seed MEAN for the mean of each rate; and one of seed JUDGED for
    the rate at which the arm is judged, with the loss that is foretold there; by size and panel. `loss_nats` is NaN for a run
    that diverged or failed, and for the mean of a rate at which any has diverged."""
    rows = [
        {
            "size": size,
            "panel": panel,
            "arm": one.arm,
            "control": one.control or "",
            "name": one.name if one.control else one.arm,
            "lr": lr,
            "seed": seed,
            "loss_nats": math.nan if loss is None else loss,
        }
        for size, panel, its in _rate_panels(found)
        for one in its
        for lr, seed, loss in _points(one)
    ]
    return pd.DataFrame(rows, columns=["size", "panel", "arm", "control", "name", "lr", "seed", "loss_nats"])


def _points(one: ArmResult) -> Iterator[tuple[float, int, float | None]]:
    """Rate, seed as in rate_rows, and loss."""
    for tried in one.tried:
        yield tried.lr, MEAN, tried.mean_nats
        yield from ((tried.lr, seed, loss) for seed, loss in enumerate(tried.losses_nats))
    if one.lr is not None:
        there = next((tried.mean_nats for tried in one.tried if tried.lr == one.lr), None)
        yield one.lr, JUDGED, there if one.bowl_nats is None else one.bowl_nats


def _rate_panels(found: Confirmation) -> Iterator[tuple[str, str, list[ArmResult]]]:
    for shape in found.sizes:
        here = arms(found, shape.name)
        for its in together(found, here):
            yield shape.name, at_equal(its), [one for one in here if its[0] in one.matches]
        yield shape.name, "controls", [one for one in found.arms if one.size == shape.name and one.control is not None]


def rate_figures(found: Confirmation) -> list[go.Figure]:
    """Validation loss against the learning rate: a panel a size and match, and one of a size's controls. Those of a size have
    one axis of losses."""
    rows, style = rate_rows(found), styles(found)
    return [
        _rates(f"{size}, {panel}", its, style, rows[rows["size"] == size]["loss_nats"])
        for (size, panel), its in rows.groupby(["size", "panel"], sort=False)
    ]


def _rates(title: str, rows: pd.DataFrame, style: dict[str, tuple[str, str]], of_size: pd.Series) -> go.Figure:
    figure = go.Figure()
    low, high = (float(of_size.min()), float(of_size.max())) if of_size.notna().any() else (0.0, 1.0)
    edge = 0.05 * (high - low) or 0.05
    top = high + 2 * edge
    for number, (name, its) in enumerate(rows.groupby("name", sort=False)):
        for trace in _rate_curve(str(name), its, style[its["arm"].iloc[0]], top):
            figure.add_trace(trace.update(legendgroup=str(number)))
    if rows["loss_nats"].isna().any():
        figure.add_annotation(text="diverged or failed", xref="paper", x=0, xanchor="left", y=top, yshift=10, showarrow=False)
    rates = sorted(set(rows[rows["seed"] == MEAN]["lr"]))
    lay_out(figure, title, "learning rate (lr)", VALID)
    figure.update_xaxes(type="log", tickvals=rates, ticktext=[f"{rate:.3g}" for rate in rates])
    figure.update_yaxes(range=[low - edge, top + 2 * edge])
    return figure


def _rate_curve(name: str, rows: pd.DataFrame, style: tuple[str, str], top: float) -> Iterator[go.Scatter]:
    """The means, the runs, those that were lost at the top, and the rate that was chosen."""
    colour, symbol = style
    control = rows["control"].iloc[0]
    dash, suffix = CONTROLS[control]
    label = plain(short(rows["arm"].iloc[0], 18)) + (f", {control}" if control else "")
    means, runs = rows[rows["seed"] == MEAN].sort_values("lr"), rows[rows["seed"] >= 0]
    yield go.Scatter(
        x=means["lr"],
        y=means["loss_nats"],
        mode="lines+markers",
        name=label,
        line={"color": colour, "dash": dash},
        marker={"symbol": symbol + suffix, "size": 9},
        text=[plain(name)] * len(means),
        hovertemplate="<b>%{text}</b><br>rate %{x:.4g}<br>mean %{y:.4f} nats<extra></extra>",
    )
    ended, lost, best = runs[runs["loss_nats"].notna()], runs[runs["loss_nats"].isna()], rows[rows["seed"] == JUDGED]
    dots = {"mode": "markers", "showlegend": False, "hoverinfo": "skip"}
    yield go.Scatter(x=ended["lr"], y=ended["loss_nats"], marker={"color": colour, "size": 5, "opacity": 0.55}, **dots)
    cross = {"symbol": "x-thin", "size": 10, "line": {"width": 2, "color": colour}}
    yield go.Scatter(x=lost["lr"], y=[top] * len(lost), marker=cross, **dots)
    ring = {"symbol": "circle-open", "size": 19, "color": colour, "line": {"width": 2}}
    yield go.Scatter(x=best["lr"], y=best["loss_nats"], marker=ring, **dots)


def bars(rows: pd.DataFrame) -> dict[str, object]:
    """Of errors, from `low` to `high`; none where there is no interval."""
    up, down = (rows["high"] - rows["mean"]).fillna(0), (rows["mean"] - rows["low"]).fillna(0)
    return {"type": "data", "array": up, "arrayminus": down, "width": 4, "thickness": 1.5}


def lay_out(figure: go.Figure, title: str, x: str, y: str, height: int = HEIGHT) -> None:
    """A panel: its title, a user's text, and those of its axes."""
    figure.update_layout(
        title={"text": plain(title), "font": {"size": 15}, "x": 0.02},
        **LAYOUT,
        height=height,
        margin={"l": 60, "r": 16, "t": 44, "b": 110},
        xaxis={"title": x, "zeroline": False},
        yaxis={"title": y, "zeroline": False},
        legend=LEGEND,
    )


# costs


def known_costs(found: Confirmation) -> list[str]:
    """Those of COSTS that are known."""
    return [cost for cost in COSTS if cost != "step_seconds" or found.dense_step_seconds is not None]


def _share(found: Confirmation, one: ArmResult, cost: str) -> float | None:
    """Of the dense arm's cost."""
    if cost == "step_seconds":
        return found.step_share(one)
    dense = next(shape for shape in found.sizes if shape.name == one.size)
    return getattr(one, cost) / getattr(dense, cost)


def cost_rows(found: Confirmation, cost: str) -> pd.DataFrame:
    """A row an arm that has a loss and this cost: its mean test loss with its interval, nats, and its cost as a share of dense.
    cost: of COSTS."""
    first = matches(found)[0]
    rows = [
        {
            "size": one.size,
            "arm": one.arm,
            "matches": at_equal(one.matches),
            "first": first in one.matches,
            "share": share,
            "n": len(one.losses_nats),
            "mean": mean,
            "low": low,
            "high": high,
        }
        for one in arms(found)
        for mean, (low, high) in [mean_and_ends(one.losses_nats)]
        if one.losses_nats and (share := _share(found, one, cost)) is not None
    ]
    return pd.DataFrame(rows, columns=["size", "arm", "matches", "first", "share", "n", "mean", "low", "high"])


def cost_figures(found: Confirmation) -> list[go.Figure]:
    """Test loss against each cost, a panel a size: the models of an arm joined, the first match filled."""
    style = styles(found)
    return [
        _costs(f"{size}, {words}", its, axis, style)
        for cost in known_costs(found)
        for words, axis in [COSTS[cost]]
        for size, its in cost_rows(found, cost).groupby("size", sort=False)
    ]


def _costs(title: str, rows: pd.DataFrame, axis: str, style: dict[str, tuple[str, str]]) -> go.Figure:
    figure = go.Figure()
    for arm, its in rows.groupby("arm", sort=False):
        colour, symbol = style[str(arm)]
        its = its.sort_values("share").assign(word=plain(str(arm)))
        symbols = [symbol if first else f"{symbol}-open" for first in its["first"]]
        figure.add_scatter(
            x=its["share"], y=its["mean"], mode="lines+markers", name=plain(short(str(arm), 18)),
            line={"color": colour, "width": 1, "dash": "dot"},
            marker={"symbol": symbols, "size": 11, "line": {"width": 1.5, "color": colour}},
            error_y=bars(its),
            customdata=its[["word", "matches", "n", "low", "high"]],
            hovertemplate="<b>%{customdata[0]}</b>, %{customdata[1]}<br>%{x:.4f} x dense<br>mean %{y:.4f} nats, "
            "n %{customdata[2]}<br>95 %: %{customdata[3]:.4f} to %{customdata[4]:.4f}<extra></extra>",
        )  # fmt: skip
    lay_out(figure, title, axis, TEST)
    figure.update_xaxes(tickformat=".2f")
    return figure
