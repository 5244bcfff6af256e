"""The activations across widths, drawn."""

from collections.abc import Sequence
from itertools import cycle

import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from ..lpa.coordinates import Coordinate


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
