"""A figure of a search in two steps: what is drawn, as a table, and the drawing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

LOSS = "validation loss of the proxy (loss_nats)"
SHARES = {
    "loss_nats": LOSS,
    "flops_per_token": "training FLOPs a token at the target,<br>share of dense (flops_per_token)",
    "params": "parameters of the target,<br>share of dense (params)",
    "memory_bytes": "training memory of the target,<br>share of dense (memory_bytes)",
}
"""The title of each objective's axis."""


@dataclass(frozen=True)
class Figure:
    """What is drawn, how it is read, and the drawing.

    A point or line of a drawing that stands for a run has its name in `customdata`, one a point, so that the page can mark
    the run everywhere, and a hovertemplate that begins with `%{text}`: the page puts there what is to be said of the run.
    Text from a record or a space goes through page.plain.
    """

    name: str
    """Of its files, and of its place on the page."""
    title: str
    words: str
    """How it is read, a sentence or two in plain text."""
    rows: pd.DataFrame
    """What is drawn, a row a mark, units in the columns' names."""
    drawing: go.Figure
    """Without a title, made with page.LAYOUT; its legend below it, so that it can be as narrow as a phone."""


def titled(figure: Figure) -> go.Figure:
    """The drawing under its title, for where nothing else says what it is."""
    return go.Figure(figure.drawing).update_layout(title=figure.title, margin_t=60)


FENCE = 3.0
"""Of the distance between the quartiles: what lies farther above the upper one is left above a figure (Tukey 1977: far out)."""


def ceiling(losses: Sequence[float], always: Iterable[float] = ()) -> float:
    """The largest loss that a figure has to show: the largest of all but those far above the rest, which would squash it, and
    of those that are always shown. losses: at least one."""
    low, high = np.quantile(losses, [0.25, 0.75])
    usual = [loss for loss in losses if loss <= high + FENCE * (high - low)]
    return max([*usual, *always])


def digits(values: Iterable[float], significant: int = 7) -> list[float]:
    """As many digits as a drawing shows: a page of thousands of records has no room for more."""
    return [float(f"{value:.{significant}g}") for value in values]
