"""How far a search had come after so many tokens and hours: what is drawn, and the drawing."""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .figure import Figure, digits, span
from .page import COLOURS, LAYOUT, LEGEND, LOW_RANK, SYMBOLS
from .pareto import hypervolume_history
from .readable import guessing, readable
from .record import Record
from .results import Results
from .timeline import clock

BEYOND = 0.1
"""Of each objective's span, how far beyond its worst value the corner lies up to which hypervolume counts: so that value
counts, too (assumption)."""
HYPERVOLUME, BEST = "hypervolume", "best_loss_nats"
TITLES = {
    HYPERVOLUME: "share of the last<br>hypervolume (hypervolume)",
    BEST: "lowest validation loss<br>of the proxy (loss_nats)",
    "tokens": "tokens trained on in all runs (tokens)",
}


def progress_rows(found: Results) -> pd.DataFrame:
    """A row a run that ended, noise seeds included, in the order of their ends: the tokens that all runs have trained on by
    then; the hours since the first one started, NaN where that is not known; `hypervolume`, that of the feasible complete
    candidates so far as a share of the last one, or `best_loss_nats` where the loss is the only objective; and whether it was
    this run that made it better."""
    runs = _by_end(found)
    first = min((one.measured.started for one, _ in runs if one.measured is not None), default=math.nan)
    values, is_best = _values(found, [one for one, _ in runs]), len(found.space.objectives) == 1
    before = np.append(math.nan if is_best else 0.0, values[:-1])[: len(values)]
    table = {
        "run": [one.run for one, _ in runs],
        "arm": [one.arm or "" for one, _ in runs],
        "sublayers": [one.target.placement.sublayers for one, _ in runs],
        "tokens": np.cumsum([one.tokens - one.tokens_before for one, _ in runs], dtype=int),
        "hours": [(end - first) / 3600 for _, end in runs],
        BEST if is_best else HYPERVOLUME: values,
        "better": ~np.isnan(values) & (values != before),
    }
    return pd.DataFrame(table)


def _values(found: Results, runs: Sequence[Record]) -> np.ndarray:
    """After each run the hypervolume so far as a share of the last one, or the best loss, nats, NaN before the first. (n,)."""
    counted, points = {one.run for one in _counted(found)}, np.full((len(runs), len(found.space.objectives)), math.nan)
    for place, one in enumerate(runs):
        if one.run in counted:
            points[place] = _point(found, one)
    if points.shape[1] == 1:
        return np.fmin.accumulate(points[:, 0])
    if not counted:
        return np.zeros(len(runs))
    values = hypervolume_history(points, _corner(found))
    return values / (values.max() or 1.0)


def _by_end(found: Results) -> list[tuple[Record, float]]:
    """All runs by the time of their end, Unix, seconds. One whose time is not known (NaN) comes after the one before it by
    number."""
    known, last = list[tuple[float, Record, float]](), -math.inf
    for one in (*found.records, *found.seeds):
        end = math.nan if one.measured is None else one.measured.started + one.measured.seconds
        last = last if math.isnan(end) else end
        known.append((last, one, end))
    return [(one, end) for _, one, end in sorted(known, key=lambda its: its[0])]


def _counted(found: Results) -> list[Record]:
    """The candidates that hypervolume is made of."""
    return [one for one in found.complete if one.feasible and _finite([one])]


def _finite(records: Iterable[Record]) -> list[float]:
    """Their losses, nats, that are numbers."""
    return [one.loss_nats for one in records if one.loss_nats is not None and math.isfinite(one.loss_nats)]


def _point(found: Results, record: Record) -> list[float]:
    """The objectives, costs as shares of dense."""
    loss = math.nan if record.loss_nats is None else record.loss_nats
    return [loss if name == "loss_nats" else found.relative(record, name) for name in found.space.objectives]


def _corner(found: Results) -> np.ndarray:
    """The point up to which hypervolume counts, (objectives,): beyond the worst loss of the front and of the arms, but for
    losses far out and arms worse than guessing, which would make all else small; and beyond the dearest candidate's costs.
    There is a candidate that counts."""
    costs = np.array([_point(found, one)[1:] for one in _counted(found)])
    arms = [loss for loss in _finite(found.arms.values()) if loss <= guessing(found.space)]
    losses = [_finite(found.front), *([arms] if arms else [])]
    worst = max(readable(its, found.space) for its in losses)
    return np.array([_beyond([*(min(its) for its in losses), worst]), *map(_beyond, costs.T)])


def _beyond(values: Sequence[float] | np.ndarray) -> float:
    """Farther than the largest of these."""
    low, high = float(min(values)), float(max(values))
    return high + BEYOND * ((high - low) or 1.0)


def progress_figure(found: Results) -> Figure:
    """Hypervolume, or the best loss where there is no other objective, against tokens and against hours."""
    rows = progress_rows(found)
    value = BEST if BEST in rows else HYPERVOLUME
    name, title = "hypervolume", f"{'Best loss' if value == BEST else 'Hypervolume'} against tokens and time"
    if not rows["better"].any():
        words = "No candidate within the limits has been trained to its end with a finite loss."
        return Figure(name, title, words, rows, go.Figure())
    return Figure(name, title, " ".join(_reading(found, rows, value)), rows, _drawn(found, rows, value))


def _drawn(found: Results, rows: pd.DataFrame, value: str) -> go.Figure:
    """A panel of tokens and below it one of hours, where any are known."""
    axes = ["tokens", "hours"] if rows["hours"].notna().any() else ["tokens"]
    drawing = make_subplots(rows=len(axes), shared_yaxes="all", vertical_spacing=0.25)
    for place, axis in enumerate(axes, 1):
        unit, an_hour = clock(float(rows["hours"].max())) if axis == "hours" else (axis, 1.0)
        known = rows.assign(at=an_hour * rows[axis]).dropna(subset=[axis, value])
        for trace in _steps(known, unit, value, has_legend=place == 1):
            drawing.add_trace(trace, row=place, col=1)
        words = TITLES.get(unit, f"{unit} since the first start")
        drawing.update_xaxes(title=words, rangemode="tozero", zeroline=False, row=place)
    drawing.update_xaxes(tickformat="~s", row=1)
    drawing.update_yaxes(title={"text": TITLES[value], "font_size": 12}, range=_range(found, rows, value), zeroline=False)
    return drawing.update_layout(
        **LAYOUT,
        height=80 + 260 * len(axes),
        margin={"l": 70, "r": 16, "t": 24, "b": 120},
        legend=LEGEND,
    )


def _range(found: Results, rows: pd.DataFrame, value: str) -> list[float]:
    """Of the axis: a best loss that was huge at first would squash all later ones."""
    if value == HYPERVOLUME:
        return [0.0, 1.05]
    values = rows[value].dropna()
    return list(span(float(values.min()), readable(values.tolist(), found.space)))


def _steps(rows: pd.DataFrame, unit: str, value: str, *, has_legend: bool) -> Iterator[go.Scatter]:
    """The steps as a line on to the last run, and on each the run that has made it."""
    line = rows[rows["better"] | (rows["at"] == rows["at"].max())]
    yield go.Scatter(
        x=digits(line["at"]), y=digits(line[value]), mode="lines", showlegend=False, hoverinfo="skip",
        line={"color": "#666666", "shape": "hv", "width": 1.5},
    )  # fmt: skip
    for sublayers in COLOURS:
        its = rows[rows["better"] & (rows["sublayers"] == sublayers)]
        if len(its):
            yield go.Scatter(
                x=digits(its["at"]),
                y=digits(its[value]),
                customdata=its["run"].tolist(),
                mode="markers",
                name=LOW_RANK[sublayers],
                legendgroup=sublayers,
                showlegend=has_legend,
                marker={"color": COLOURS[sublayers], "symbol": SYMBOLS[sublayers], "size": 9},
                hovertemplate=f"%{{text}}<br>%{{y:.4f}} after %{{x:.4~s}} {unit}<extra></extra>",
            )


def _reading(found: Results, rows: pd.DataFrame, value: str) -> Iterator[str]:
    """How the figure is read."""
    if value == BEST:
        yield "The lowest loss so far, as the loss is the only objective; a mark is the run that brought it."
        if above := int((rows["better"] & (rows[BEST] > _range(found, rows, BEST)[1])).sum()):
            yield f"{above:,} of the first marks lie above the figure, at up to {rows[BEST].max():.4g} nats."
    else:
        corner = _corner(found)
        places = zip(found.space.objectives, corner, strict=True)
        parts = [f"{place:.4g} {'nats' if name == 'loss_nats' else f'x dense in {name}'}" for name, place in places]
        yield f"How much of loss and cost the candidates so far dominate, up to {', '.join(parts)}:"
        yield "the worst loss of the front and the reference arms, the dearest candidate's cost, and a tenth of the span more."
        if beyond := sum(not one.loss_nats < corner[0] for one in found.front if one.loss_nats is not None):
            yield f"{beyond:,} of the {len(found.front):,} on the front lie beyond, far out, and count nothing."
        yield "A mark is a run that has added to it."
    yield "Tokens count noise seeds and runs that were stopped."
    if rows["hours"].notna().any():
        yield "The time between calls counts, too."
    if unknown := int(rows["hours"].isna().sum()):
        yield f"Of {unknown:,} runs the time is not known."
