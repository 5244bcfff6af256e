"""A figure of a search in two steps: what is drawn, as a table, and the drawing."""

from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

LOSS = "validation loss of the proxy (loss_nats)"
SHARES = {
    "loss_nats": LOSS,
    "flops_per_token": "training FLOPs a token at the target, share of dense (flops_per_token)",
    "params": "parameters of the target, share of dense (params)",
    "memory_bytes": "training memory of the target, share of dense (memory_bytes)",
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
