"""The noise of a proxy, from several seeds of one arm, and the smallest difference that it can resolve."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from .record import Record


@dataclass(frozen=True)
class Noise:
    """Of single runs that differ by their seed alone."""

    n: int
    """Seeds."""
    mean_nats: float
    std_nats: float
    """With n - 1 degrees of freedom."""
    resolvable_nats: float
    """The smallest difference between two single runs that is not yet chance: t(0.975, n - 1) sqrt(2) std."""


def measure(losses_nats: Sequence[float]) -> Noise | None:
    """The noise of the seeds of one arm; None for fewer than two."""
    n = len(losses_nats)
    if n < 2:
        return None
    std = float(np.std(losses_nats, ddof=1))
    resolvable = float(stdtrit(n - 1, 0.975)) * math.sqrt(2) * std
    return Noise(n, float(np.mean(losses_nats)), std, resolvable)


def at(seeds: Iterable[Record], tokens: int) -> Noise | None:
    """The noise of the seeds of one arm at a token count, or at the nearest one that all of them were evaluated at."""
    curves = [dict(record.curve) for record in seeds if record.curve]
    shared = set[int]().union(*curves).intersection(*curves)
    nearest = min(shared, key=lambda there: (abs(there - tokens), there), default=None)
    return None if nearest is None else measure([curve[nearest] for curve in curves])
