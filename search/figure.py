"""A figure of a search in two steps: what is drawn, as a table, and the drawing."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..lpa.placement import parse_rank
from .proxy import Record
from .results import Results
from .space import Space

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


def digits(values: Iterable[float], significant: int = 7) -> list[float]:
    """As many digits as a drawing shows: a page of thousands of records has no room for more."""
    return [float(f"{value:.{significant}g}") for value in values]


def some_of(found: Results, records: Sequence[Record], most: int) -> list[Record]:
    """In their order: the arms, the front, and of the others so many at most, evenly spread."""
    chosen = {record.run for record in (*found.arms.values(), *found.front)}
    others = [record.run for record in records if record.run not in chosen]
    chosen |= {others[place * len(others) // most] for place in range(most)} if len(others) > most else set(others)
    return [record for record in records if record.run in chosen]


def varied(space: Space) -> dict[str, list[str]]:
    """The choices that have more than one level, and these: ranks from dense to the lowest, others as in the space."""
    return {
        name: sorted(levels, key=_falling) if name.startswith("rank ") else list(levels)
        for name, levels in space.choices.items()
        if len(levels) > 1
    }


def _falling(rank: str) -> Fraction:
    return -(parse_rank(rank) or Fraction(2))


def guessing(space: Space) -> float:
    """The loss of a proxy that has learnt nothing, nats: ln(vocab_size). What lies above it tells of no choice."""
    return math.log(space.proxy.model.vocab_size)


FENCE = 3.0
"""Of the distance between the quartiles: what lies farther above the upper one is far out (Tukey 1977)."""


def readable(losses: Sequence[float], space: Space) -> float:
    """Where an axis of losses may end without squashing most of them, nats: at the highest that is neither above guessing nor
    far out. losses: at least one; of all of them, when all are above guessing."""
    learnt = [loss for loss in losses if loss <= guessing(space)] or losses
    lower, upper = np.quantile(learnt, (0.25, 0.75))
    return max(loss for loss in learnt if loss <= upper + FENCE * (upper - lower) or upper == lower)


def highest(found: Results) -> float:
    """The highest loss to draw of the complete candidates, nats: that up to which most can be told apart, of all or of the
    front, which may reach far above the others. There is at least one."""
    both = ([one.loss_nats for one in its if one.loss_nats is not None] for its in (found.complete, found.front))
    return max(readable(losses, found.space) for losses in both if losses)
