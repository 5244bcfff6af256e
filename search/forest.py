"""A forest plot of a confirmation's differences: what is drawn, as a table, and the drawing.

Names in the tables are the user's own; the drawing escapes them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .confirmation import Confirmation, Ends
from .page import LAYOUT, LEGEND, plain
from .statistics import ppl_percent

NAME = 16
"""Characters of an arm's name in a figure: two of them and what is between are as wide as a phone (measured)."""
LINE = 56
"""Characters of a row's words that a phone has room for (measured)."""
ROW, TALL_ROW = 46, 62
"""Pixels of a row: its words, in a line or two, and its interval below them."""
VERDICTS = {"confirmed": ("#009E73", "circle"), "refuted": ("#D55E00", "x"), "inconclusive": ("#666666", "diamond-open")}
CONTROLS = {"effect": ("#000000", "circle"), "control": ("#0072B2", "square")}
"""Colour and symbol of each kind of row, told apart without colour, too."""
COLUMNS = ["group", "label", "note", "kind", "n", "mean", "ppl_percent", "t_low", "t_high", "looks_low", "looks_high"]
KNOWN = ["mean", "t_low", "t_high", "looks_low", "looks_high"]


def at_equal(matches: tuple[str, ...]) -> str:
    """In words."""
    return f"equal {' and '.join(matches)}"


def short(name: str, most: int = NAME) -> str:
    """Of a name that is long, both ends."""
    return name if len(name) <= most else f"{name[: most - most // 2 - 1]}…{name[len(name) - most // 2 :]}"


def comparison_rows(found: Confirmation) -> pd.DataFrame:
    """A row a comparison: by size, match and family. All but n in nats; NaN for what is not known."""
    rows = [
        {
            "group": f"{short(one.size)}, {at_equal(one.matches)}{' (beside)' if one.family == 'beside' else ''}",
            "label": f"{short(one.a)}{one.text[len(one.a) : -len(one.b)]}{short(one.b)}",
            "note": one.verdict if one.n > 1 else "no interval yet",
            "kind": one.verdict,
            "n": one.n,
            "mean": _number(one.mean_nats),
            "ppl_percent": _number(one.ppl_percent),
            **_ends("t", one.t_nats),
            **_ends("looks", one.repeated_nats),
        }
        for one in found.comparisons
    ]
    return _grouped(rows)


def control_rows(found: Confirmation) -> pd.DataFrame:
    """A row a control's difference, likewise."""
    rows = [
        {
            "group": short(one.size),
            "label": one.says,
            "note": f"{short(one.a, 34)} less {short(one.b, 34)}",
            "kind": "effect" if one.control is None else "control",
            "n": one.n,
            "mean": _number(one.mean_nats),
            "ppl_percent": _number(one.ppl_percent),
            **_ends("t", one.t_nats),
            **_ends("looks", None),
        }
        for one in found.controls
    ]
    return _grouped(rows)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _ends(name: str, interval: Ends | None) -> dict[str, float]:
    low, high = interval or (math.nan, math.nan)
    return {f"{name}_low": low, f"{name}_high": high}


def _grouped(rows: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """The rows of a group together, groups in the order of their first rows; `y` counts them and the groups' own lines."""
    order = {group: place for place, group in enumerate(dict.fromkeys(row["group"] for row in rows))}
    rows = sorted(rows, key=lambda row: order[row["group"]])
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.assign(y=[place + 1 + order[row["group"]] for place, row in enumerate(rows)])


def span(rows: pd.DataFrame, matters: float) -> Ends:
    """What the axis shows, nats: zero, what matters, every mean and every interval; but not beyond three times the largest
    mean and four times what matters, as an interval of two seeds dwarfs all others."""
    means = [abs(float(mean)) for mean in rows["mean"] if not math.isnan(mean)]
    most = max([4 * matters, *(3 * mean for mean in means)])
    ends = [float(end) for name in KNOWN for end in rows[name] if not math.isnan(end)]
    low, high = max(-most, min([-2 * matters, *ends])), min(most, max([2 * matters, *ends]))
    edge = 0.04 * (high - low)
    return low - edge, high + edge


def percent_ticks(low: float, high: float, most: int = 9) -> list[float]:
    """Round changes of perplexity, per cent, between two differences, nats: so many at most, or those of the widest step."""
    first, last = ppl_percent(low), ppl_percent(high)
    steps = (scale * 10.0**power for power in range(-6, 9) for scale in (1, 2, 5))
    step = next(step for step in steps if (last - first) / step < most)
    return [float(f"{step * n:.6g}") for n in range(math.ceil(first / step), math.floor(last / step) + 1)]


def forest_figure(rows: pd.DataFrame, kinds: Mapping[str, tuple[str, str]], matters: float) -> go.Figure:
    """Means with their intervals, a line at zero, the band of what does not matter; as high as it has rows."""
    low, high = span(rows, matters)
    figure = go.Figure([*_intervals(rows, kinds, low, high), *_means(rows, kinds), *_legend(rows, matters)])
    figure.add_vrect(-matters, matters, fillcolor="#888888", opacity=0.15, line_width=0, layer="below")
    figure.add_vline(0, line_width=1, line_color="#444444")
    bottom = float(rows["y"].max()) + 0.7 if len(rows) else 0.5
    ticks = percent_ticks(low, high)
    figure.update_layout(
        **LAYOUT,
        annotations=list(_words(rows)),
        height=(TALL_ROW if _is_tall(rows) else ROW) * (bottom + 0.6) + 190,
        margin={"l": 8, "r": 80, "t": 60, "b": 130},
        xaxis={"title": "test loss of A less that of B (loss_nats)", "range": [low, high], "zeroline": False, "nticks": 7},
        xaxis2={
            "title": "the same in perplexity (%)", "side": "top", "overlaying": "x", "range": [low, high], "showgrid": False,
            "tickvals": [math.log1p(tick / 100) for tick in ticks], "zeroline": False,
            "ticktext": [f"{tick:+g}" if tick else "0" for tick in ticks],
        },
        yaxis={"range": [bottom, -0.6], "visible": False, "fixedrange": True},
        legend=LEGEND,
    )  # fmt: skip
    return figure


def _intervals(rows: pd.DataFrame, kinds: Mapping[str, tuple[str, str]], low: float, high: float) -> Iterator[go.Scatter]:
    """A line an interval, up to the edges of the axis, with an arrow where it goes on."""
    for kind, group in rows.groupby("kind", sort=False):
        colour = kinds[str(kind)][0]
        for name, width in (("looks", 1.5), ("t", 6)):
            known = group[group[f"{name}_low"].notna()]
            first, last = known[f"{name}_low"], known[f"{name}_high"]
            at = known["y"] + 0.18
            x = np.column_stack([first.clip(low, high), last.clip(low, high), np.full(len(known), np.nan)])
            y = np.column_stack([at, at, at])
            line = {"width": width, "color": colour}
            shown = {"mode": "lines", "hoverinfo": "skip", "showlegend": False, "opacity": 1 if name == "looks" else 0.55}
            yield go.Scatter(x=x.ravel(), y=y.ravel(), line=line, connectgaps=False, **shown)
            for edge, beyond, symbol in ((low, first < low, "triangle-left"), (high, last > high, "triangle-right")):
                arrows = {"mode": "markers", "hoverinfo": "skip", "showlegend": False, "cliponaxis": False}
                marker = {"symbol": symbol, "size": 9, "color": colour}
                yield go.Scatter(x=[edge] * int(beyond.sum()), y=at[beyond], marker=marker, **arrows)


def _means(rows: pd.DataFrame, kinds: Mapping[str, tuple[str, str]]) -> Iterator[go.Scatter]:
    for kind, (colour, symbol) in kinds.items():
        its = rows[(rows["kind"] == kind) & rows["mean"].notna()]
        if its.empty:
            continue
        line = {"width": 2 if symbol.endswith("open") else 1, "color": colour}
        numbers = [its[name] for name in ("n", "mean", "ppl_percent", "t_low", "t_high", "looks_low", "looks_high")]
        yield go.Scatter(
            x=its["mean"],
            y=its["y"] + 0.18,
            mode="markers",
            name=kind,
            marker={"color": colour, "symbol": symbol, "size": 12, "line": line},
            customdata=np.column_stack([its["label"].map(plain), its["note"].map(plain), *numbers]),
            hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<br>%{customdata[3]:+.5f} nats, %{customdata[4]:+.2f} %, "
            "n %{customdata[2]}<br>95 %: %{customdata[5]:+.5f} to %{customdata[6]:+.5f}"
            "<br>with looks: %{customdata[7]:+.5f} to %{customdata[8]:+.5f}<extra></extra>",
        )


def _legend(rows: pd.DataFrame, matters: float) -> Iterator[go.Scatter]:
    """What the lines and the band are; and the upper axis, which is drawn for a trace only."""
    nowhere = {"x": [None], "y": [None]}
    yield go.Scatter(**nowhere, mode="lines", name="95 % (t)", line={"width": 6, "color": "#999999"})
    if rows["looks_low"].notna().any():
        yield go.Scatter(**nowhere, mode="lines", name="with looks", line={"width": 1.5, "color": "#666666"})
    band = {"symbol": "square", "size": 14, "color": "#888888", "opacity": 0.3}
    yield go.Scatter(**nowhere, mode="markers", name=f"does not matter (±{matters:.4f})", marker=band)
    yield go.Scatter(**nowhere, xaxis="x2", showlegend=False)


def _is_tall(rows: pd.DataFrame) -> bool:
    """Whether the words of a row need a second line."""
    return any(len(label) + len(note) > LINE for label, note in zip(rows["label"], rows["note"], strict=True))


def _words(rows: pd.DataFrame) -> Iterator[dict[str, object]]:
    """Annotations: a line above each group, words above each interval, n and the mean at its right."""
    behind = {"bgcolor": "rgba(255,255,255,0.75)", "borderpad": 0}  # lines run behind the words where there is little room
    base = {"xref": "paper", "showarrow": False, "align": "left", "xanchor": "left"} | behind
    for group, its in rows.groupby("group", sort=False):
        yield base | {"x": 0, "y": its["y"].min() - 0.95, "text": f"<b>{plain(str(group))}</b>", "font": {"size": 13}}
    between = "<br>" if _is_tall(rows) else " · "
    for row in rows.to_dict("records"):
        text = f"{plain(row['label'])}<span style='color:#666666;font-size:11px'>{between}{plain(row['note'])}</span>"
        at = {"y": row["y"] + 0.18, "yshift": 8}
        yield base | at | {"x": 0, "yanchor": "bottom", "text": text, "font": {"size": 12}}
        percent = "" if math.isnan(row["ppl_percent"]) else f"<br>{row['ppl_percent']:+.2f} %"
        n = f"n {row['n']}{percent}"
        yield base | at | {"x": 1, "xshift": 12, "yanchor": "top", "text": n, "font": {"size": 11}}
