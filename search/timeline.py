"""Which worker trained what and when: what is drawn, and the drawing."""

import re
from collections.abc import Iterator

import pandas as pd
import plotly.graph_objects as go

from .figure import Figure, digits
from .forest import short
from .page import FURTHER, LAYOUT, LEGEND, plain
from .results import Results

PAUSE_SECONDS = 60.0
"""Nobody trains for so long only between two calls (assumption)."""
LOOKS = {
    "complete": ("trained to the end", FURTHER[2][0], ""),
    "pruned": ("stopped at a rung", FURTHER[1][0], "/"),
    "diverged": ("diverged", FURTHER[0][0], "x"),
    "failed": ("failed", FURTHER[3][0], "-"),
}
"""Of a bar by status: the name, the colour and the pattern."""
NAME = 18
"""Characters of a lane's name that a phone has room for (assumption)."""
HEIGHT, MOST = 34, 640
"""Pixels of a lane where there are few, and of all where there are many."""
COLUMNS = ["run", "arm", "status", "lane", "worker", "device", "call", "begin_hours", "end_hours"]


def clock(hours: float) -> tuple[str, float]:
    """What so long a time is shown in, and how many of it an hour has."""
    return ("minutes", 60.0) if hours < 2 else ("hours", 1.0)


def timeline_rows(found: Results) -> pd.DataFrame:
    """A row a run whose time is known, noise seeds included, in the order of their starts: begin and end since the first one
    started, the call that trained it, counted from 0 (as PAUSE_SECONDS tells), and its lane: its worker where the record says
    which, and otherwise one of as few of its device's as no two runs of which overlap."""
    runs = sorted(
        ((one.measured, one) for one in (*found.records, *found.seeds) if one.measured), key=lambda its: its[0].started
    )
    first = last = runs[0][0].started if runs else 0.0
    call, free, rows = 0, dict[str, list[float]](), list[tuple[object, ...]]()
    for measured, one in runs:
        begin, end = measured.started, measured.started + measured.seconds
        call += begin - last > PAUSE_SECONDS
        last = max(last, end)
        lane = measured.worker or f"{measured.device}, lane {_packed(free.setdefault(measured.device, []), begin, end)}"
        where = (lane, measured.worker, measured.device, call)
        rows.append((one.run, one.arm or "", one.status, *where, (begin - first) / 3600, (end - first) / 3600))
    return pd.DataFrame(rows, columns=COLUMNS)


def _packed(free: list[float], begin: float, end: float) -> int:
    """The first lane that is free from `begin` on, counted from 1, and taken until `end`. free: since when each lane is."""
    place = next((place for place, since in enumerate(free) if since <= begin), len(free))
    free[place : place + 1] = [end]
    return place + 1


def busy(rows: pd.DataFrame) -> float:
    """The share of the lanes' time in which they trained: of a call's lanes, from its first start to its last end; 1 when that
    is no time at all."""
    calls = rows.groupby("call").agg(lanes=("lane", "nunique"), begin=("begin_hours", "min"), end=("end_hours", "max"))
    there = float((calls["lanes"] * (calls["end"] - calls["begin"])).sum())
    return float((rows["end_hours"] - rows["begin_hours"]).sum()) / there if there else 1.0


def _cuts(rows: pd.DataFrame) -> pd.DataFrame:
    """By call: when it begins, and the hours of the pauses until then."""
    begin, end = rows.groupby("call")["begin_hours"].min(), rows.groupby("call")["end_hours"].max()
    return pd.DataFrame({"begin": begin, "paused": (begin - end.cummax().shift()).fillna(0.0).cumsum()})


def timeline_figure(found: Results) -> Figure:
    """A lane a worker, a bar a run."""
    rows, drawing = timeline_rows(found), go.Figure()
    name, title = "timeline", "What the workers did"
    if rows.empty:
        return Figure(name, title, "Of no run is it known when it was trained.", rows, drawing)
    cuts, lanes = _cuts(rows), sorted(rows["lane"].unique(), key=_natural)
    unit, an_hour = clock(float(rows["end_hours"].max() - cuts["paused"].max()))
    for trace in _bars(rows, cuts, lanes, unit, an_hour):
        drawing.add_trace(trace)
    for start in (cuts["begin"] - cuts["paused"]).tolist()[1:]:
        drawing.add_vline(an_hour * start, line_width=1, line_dash="dot", line_color="#1a1a1a")
    names = [plain(short(lane, NAME)) for lane in lanes]
    since = f"{unit} since the first start{', without pauses' if len(cuts) > 1 else ''}"
    drawing.update_layout(
        **LAYOUT,
        height=160 + min(HEIGHT * len(lanes), MOST),
        margin={"l": 20, "r": 16, "t": 16, "b": 120},
        barmode="overlay",
        bargap=0.15,
        xaxis={"title": {"text": since, "font_size": 12}, "zeroline": False},
        yaxis={"tickvals": list(range(len(lanes))), "ticktext": names, "range": [len(lanes) - 0.5, -0.5], "automargin": True},
        legend=LEGEND,
    )
    return Figure(name, title, " ".join(_reading(found, rows, cuts)), rows, drawing)


def _natural(name: str) -> list[str | int]:
    """`actor 10` comes after `actor 9`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", name)]


def _bars(rows: pd.DataFrame, cuts: pd.DataFrame, lanes: list[str], unit: str, an_hour: float) -> Iterator[go.Bar]:
    """A trace a status. Edges would leave nothing of bars that are very narrow."""
    edge = int(len(rows) <= 100 * len(lanes))
    begin, place = rows["begin_hours"] - rows["call"].map(cuts["paused"]), {lane: place for place, lane in enumerate(lanes)}
    for status, (name, colour, pattern) in LOOKS.items():
        its = rows[rows["status"] == status]
        if len(its):
            yield go.Bar(
                orientation="h",
                base=digits(an_hour * begin[its.index]),
                x=digits(an_hour * (its["end_hours"] - its["begin_hours"])),
                y=[place[lane] for lane in its["lane"]],
                customdata=its["run"].tolist(),
                name=name,
                marker={
                    "color": colour,
                    "line": {"width": edge, "color": "white"},
                    "pattern": {"shape": pattern, "fgcolor": "#1a1a1a", "bgcolor": colour, "size": 6, "solidity": 0.3},
                },
                hovertemplate=f"%{{text}}<br>%{{x:.3g}} {unit} from %{{base:.4g}} on<extra></extra>",
            )


def _reading(found: Results, rows: pd.DataFrame, cuts: pd.DataFrame) -> Iterator[str]:
    """How the figure is read."""
    yield f"A bar is a run: of one that was tried again its last attempt. The lanes were busy for {busy(rows):.0%} of the time"
    yield "from the first start to the last end of a call."
    if len(cuts) > 1:
        paused, what = float(cuts["paused"].max()), "pause" if len(cuts) == 2 else "pauses"
        unit, an_hour = clock(paused)
        yield f"{len(cuts) - 1} {what} between calls, {an_hour * paused:.3g} {unit} in all, cut out at the dotted lines."
    if unplaced := int((rows["worker"] == "").sum()):
        of = f"all {unplaced:,} runs" if unplaced == len(rows) else f"{unplaced:,} of {len(rows):,} runs"
        yield f"Which worker trained a run is not known ({of}):"
        yield "those of a device are in as few lanes as their overlaps allow."
    if untimed := len(found.records) + len(found.seeds) - len(rows):
        yield f"Not shown: {untimed:,} whose time is not known."
