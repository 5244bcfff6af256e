"""How a confirmation's effects and the arms' order move with the size, drawn like its other curves."""

import math

import pandas as pd
import plotly.graph_objects as go

from .confirmation import Confirmation
from .forest import at_equal, short
from .page import plain
from .verdict_figures import arms, bars, lay_out, styles, together

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def effect_rows(found: Confirmation) -> pd.DataFrame:
    """A row a comparison of the claim, size and match (those that are the same at all sizes as one), with its mean difference
    and its interval, nats; of two seeds or more."""
    claim = [one for one in found.comparisons if one.family == "claim"]
    rows = [
        {
            "matches": at_equal(its),
            "size": one.size,
            "text": one.text,
            "a": one.a,
            "b": one.b,
            "n": one.n,
            "mean": one.mean_nats,
            "low": one.t_nats[0] if one.t_nats else math.nan,
            "high": one.t_nats[1] if one.t_nats else math.nan,
        }
        for its in together(found, claim)
        for one in claim
        if its[0] in one.matches and one.mean_nats is not None
    ]
    return pd.DataFrame(rows, columns=["matches", "size", "text", "a", "b", "n", "mean", "low", "high"])


def effect_figures(found: Confirmation) -> list[go.Figure]:
    """The claim's effects against the size, a panel a match, a line a comparison."""
    rows, style = effect_rows(found), styles(found)
    return [_effects(str(match), its, found, style) for match, its in rows.groupby("matches", sort=False)]


def _effects(match: str, rows: pd.DataFrame, found: Confirmation, style: dict[str, tuple[str, str]]) -> go.Figure:
    """Each comparison in the colour and symbol of what it is against, a little beside the others."""
    figure = go.Figure()
    matters = found.matters_nats
    figure.add_hrect(-matters, matters, fillcolor="#888888", opacity=0.15, line_width=0, layer="below")
    figure.add_hline(0, line_width=1, line_color="#444444")
    places = {shape.name: place for place, shape in enumerate(found.sizes)}
    texts, firsts = list(dict.fromkeys(rows["text"])), list(dict.fromkeys(rows["a"]))
    for number, (text, its) in enumerate(rows.groupby("text", sort=False)):
        colour, symbol = style[its["b"].iloc[0]]
        its = its.assign(word=plain(str(text)), named=its["size"].map(plain))
        figure.add_scatter(
            x=its["size"].map(places) + 0.06 * (number - (len(texts) - 1) / 2), y=its["mean"], mode="lines+markers",
            name=_versus(its.iloc[0]), line={"color": colour, "dash": DASHES[firsts.index(its["a"].iloc[0]) % len(DASHES)]},
            marker={"symbol": symbol, "size": 10},
            error_y=bars(its),
            customdata=its[["word", "named", "n", "low", "high"]],
            hovertemplate="<b>%{customdata[0]}</b>, %{customdata[1]}<br>%{y:+.5f} nats, n %{customdata[2]}"
            "<br>95 %: %{customdata[3]:+.5f} to %{customdata[4]:+.5f}<extra></extra>",
        )  # fmt: skip
    lay_out(figure, match, "size", "difference in test loss (loss_nats)")
    _sizes(figure, found)
    return figure


def _versus(row: pd.Series) -> str:
    """`attention better than dense`, long names cut."""
    text, a, b = (str(row[name]) for name in ("text", "a", "b"))
    return plain(f"{short(a)}{text[len(a) : -len(b)]}{short(b)}")


def _sizes(figure: go.Figure, found: Confirmation, edge: float = 0.35) -> None:
    """The axis of sizes."""
    names = [plain(short(shape.name)) for shape in found.sizes]
    figure.update_xaxes(tickvals=list(range(len(names))), ticktext=names, range=[-edge, len(names) - 1 + edge])


def rank_rows(found: Confirmation) -> pd.DataFrame:
    """A row an arm, size and match: its mean test loss, nats, and its rank there, 1 the lowest; of the sizes that have losses
    and the arms that have them at all of those."""
    rows = list[dict[str, object]]()
    for its in together(found, arms(found)):
        here = [one for one in arms(found) if its[0] in one.matches and one.mean_nats is not None]
        sizes = {one.size for one in here}
        whole = [one for one in here if sum(other.arm == one.arm for other in here) == len(sizes)]
        for size in dict.fromkeys(one.size for one in whole):
            ordered = sorted((one for one in whole if one.size == size), key=lambda one: one.mean_nats or 0.0)
            rows += [
                {"matches": at_equal(its), "size": size, "arm": one.arm, "mean": one.mean_nats, "rank": rank}
                for rank, one in enumerate(ordered, 1)
            ]
    return pd.DataFrame(rows, columns=["matches", "size", "arm", "mean", "rank"])


def rank_figures(found: Confirmation) -> list[go.Figure]:
    """The arms by rank at each size, a panel a match, a line an arm with its loss."""
    rows, style = rank_rows(found), styles(found)
    return [_ranks(str(match), its, found, style) for match, its in rows.groupby("matches", sort=False)]


def _ranks(match: str, rows: pd.DataFrame, found: Confirmation, style: dict[str, tuple[str, str]]) -> go.Figure:
    figure = go.Figure()
    places = {shape.name: place for place, shape in enumerate(found.sizes)}
    for arm, its in rows.groupby("arm", sort=False):
        colour, symbol = style[str(arm)]
        words = [f"{plain(short(str(arm), 16))}<br>{mean:.4f}" for mean in its["mean"]]
        figure.add_scatter(
            x=its["size"].map(places), y=its["rank"], mode="lines+markers+text", text=words, textposition="bottom center",
            textfont={"size": 11, "color": "#1a1a1a"}, name=plain(short(str(arm), 18)), showlegend=False,
            line={"color": colour}, marker={"symbol": symbol, "size": 12}, hoverinfo="skip",
        )  # fmt: skip
    count = int(rows["rank"].max())
    lay_out(figure, match, "size", "rank of the mean test loss", height=110 + 58 * count)
    figure.update_yaxes(range=[count + 0.75, 0.6], tickvals=list(range(1, count + 1)))
    figure.update_layout(margin_b=50)
    _sizes(figure, found)
    return figure
