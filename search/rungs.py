"""Multi-objective successive halving: whether a run goes on past a rung. Pure functions; every column is to be small.

After Schmucker et al. 2021 (arXiv 2106.12639), asynchronous by stopping: a newcomer is judged among all that ever reached the
rung, at once, and nobody waits for anybody.
"""

import math
from collections.abc import Iterator
from itertools import islice

import numpy as np

from .pareto import non_dominated


def rung_steps(steps: int, eta: int, count: int) -> tuple[int, ...]:
    """The steps after which a run of so many is judged: steps / eta^count, ..., steps / eta. Raises ValueError when they are
    not all different steps before the end."""
    found = tuple(round(steps / eta**power) for power in range(count, 0, -1))
    if len({0, *found, steps}) < count + 2:
        reason = "two of them, or one and an end, fall together; expected fewer rungs, a smaller eta or more steps"
        raise ValueError(f"{count} rungs of eta {eta} in {steps} steps: {reason}")
    return found


def goes_on(points: np.ndarray, feasible: np.ndarray, newcomer: int, eta: int, doubt: float = 0.0) -> bool:
    """Whether the run of row `newcomer` is among the best 1/eta of all rows of its rung, itself included.

    points: (n, m), the loss first, of all runs that ever came to this rung; feasible: (n,) bool. With fewer than eta rows
    everybody goes on. `doubt`: a difference in loss, in nats, that may be chance; the newcomer has the benefit of it (which may
    move it inside a front to where others are nearer: so it is judged as it is, too).
    """
    if len(points) < eta:
        return True
    return any(newcomer in _best(points, feasible, newcomer, gift, math.ceil(len(points) / eta)) for gift in (0.0, doubt))


def _best(points: np.ndarray, feasible: np.ndarray, newcomer: int, gift: float, count: int) -> Iterator[int]:
    """The first so many rows in the order, when the newcomer's loss were lower by `gift`."""
    judged = points.copy()
    judged[newcomer, 0] -= gift
    return islice(_ordered(judged, feasible), count)


def order(points: np.ndarray, feasible: np.ndarray) -> np.ndarray:
    """The rows from best to worst: feasible ones first, then front by front, inside a front spread over it; rows that are not
    finite come last. points: (n, m), the loss first; feasible: (n,) bool -> (n,) int."""
    return np.array(list(_ordered(points, feasible)), dtype=int)


def _ordered(points: np.ndarray, feasible: np.ndarray) -> Iterator[int]:
    """The same, one after the other."""
    known = np.all(np.isfinite(points), axis=1)
    for group in (known & feasible, known & ~feasible):
        rest = np.flatnonzero(group)
        while len(rest):
            first = non_dominated(points[rest])
            front = rest[first]
            yield from front[spread(points[front])].tolist()
            rest = rest[~first]
    yield from np.flatnonzero(~known).tolist()


def spread(front: np.ndarray) -> np.ndarray:
    """The rows of a front in farthest-point order: the lowest first column, then again and again the row farthest from all
    those taken, each column scaled to [0, 1]; the earlier one of equals. (n, m) -> (n,) int."""
    low, high = front.min(axis=0), front.max(axis=0)
    scaled = (front - low) / np.where(high > low, high - low, 1.0)
    taken = [int(np.lexsort(scaled.T[::-1])[0])]
    nearest = np.full(len(front), np.inf)
    for _ in range(len(front) - 1):
        nearest = np.minimum(nearest, np.linalg.norm(scaled - scaled[taken[-1]], axis=1))
        nearest[taken] = -1.0
        taken.append(int(nearest.argmax()))
    return np.array(taken, dtype=int)
