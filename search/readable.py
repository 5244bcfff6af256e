"""Where an axis of losses may end without squashing most of them: for drawings and for a terminal."""

import math
from collections.abc import Sequence

import numpy as np

from .results import Results
from .space import Space

FENCE = 3.0
"""Of the distance between the quartiles: what lies farther above the upper one is far out (Tukey 1977)."""


def guessing(space: Space) -> float:
    """The loss of a proxy that has learnt nothing, nats: ln(vocab_size). What lies above it tells of no choice."""
    return math.log(space.proxy.model.vocab_size)


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
