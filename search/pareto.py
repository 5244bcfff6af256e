"""The non-dominated set and its knee: pure functions of (n, m) arrays in which every column is to be small."""

import numpy as np

SOME = 64
"""Rows up to which all pairs are compared at once, which is faster then (measured)."""


def non_dominated(points: np.ndarray) -> np.ndarray:
    """Which rows no other row dominates. points: (n, m) -> (n,) bool.

    A row dominates another when it is nowhere larger and somewhere smaller; so equal rows stay together, and a row with a
    NaN is never on the front nor keeps another from it.
    """
    known = ~np.any(np.isnan(points), axis=1)
    if points.shape[1] == 2:
        known[known] = _lowest_so_far(points[known])
        return known
    if len(points) > SOME:
        known[known] = _culled(points[known])
        return known
    no_larger, smaller = np.ones((len(points),) * 2, bool), np.zeros((len(points),) * 2, bool)
    for column in points.T:  # (n, n): row i against row j
        no_larger &= column[:, None] <= column[None, :]
        smaller |= column[:, None] < column[None, :]
    return known & ~np.any(no_larger & smaller, axis=0)  # a comparison with NaN is false, so such a row dominates none


def _culled(points: np.ndarray) -> np.ndarray:
    """The non-dominated rows, by striking out what each of them dominates. (n, m), no NaN -> (n,) bool."""
    found, rest = np.zeros(len(points), bool), np.lexsort(points.T[::-1])  # what dominates a row comes before it
    while len(rest):
        first, others = points[rest[0]], points[rest]
        found[rest[np.all(others == first, axis=1)]] = True
        rest = rest[np.any(others < first, axis=1)]
    return found


def _lowest_so_far(points: np.ndarray) -> np.ndarray:
    """The non-dominated rows of two columns, by sorting: all pairs of thousands take long. (n, 2), no NaN -> (n,) bool."""
    by_first = np.lexsort((points[:, 1], points[:, 0]))
    first, second = points[by_first].T
    begins = np.append(True, first[1:] != first[:-1])[: len(first)]  # of those with an equal first column
    group, lowest = begins.cumsum() - 1, second[begins]
    before = np.append(np.inf, np.minimum.accumulate(lowest))[group]
    found = np.zeros(len(points), bool)
    found[by_first] = (second == lowest[group]) & ((second < before) | (group == 0))
    return found


def knee(points: np.ndarray) -> int:
    """The row with the best balance: each column is scaled to [0, 1] over the front, and the row with the smallest sum is
    taken, the earlier one of equals. points: (n, m), a front.

    For two objectives that is the row farthest below the line through the front's ends.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    return int(((points - low) / span).sum(axis=1).argmin())


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """The volume between the points and a reference that is worse than they: what lies in no box from a row to the reference
    does not count, nor do rows with a NaN. points: (n, m); reference: (m,). From four columns on by slices along the last."""
    inside = points[np.all(points < reference, axis=1)]  # a comparison with NaN is false
    front = inside[non_dominated(inside)]
    if not len(front):
        return 0.0
    if front.shape[1] == 1:
        return float(reference[0] - front.min())
    front = front[front[:, -1].argsort(kind="stable")]
    if front.shape[1] == 2:
        return float(-(np.diff(front[:, 0], prepend=reference[0]) * (reference[1] - front[:, 1])).sum())
    if front.shape[1] == 3:
        return _below(front, reference)
    depths = np.diff(front[:, -1], append=reference[-1])
    slices = (hypervolume(front[: n + 1, :-1], reference[:-1]) * depth for n, depth in enumerate(depths) if depth > 0)
    return sum(slices, 0.0)


def _below(points: np.ndarray, reference: np.ndarray) -> float:
    """The hypervolume of three columns, as a landscape: the first two make a grid, above each of its cells stands the highest
    of the rows that are nowhere behind it. (n, 3), all below the reference."""
    n, order = len(points), points[:, :2].argsort(axis=0)
    place = order.argsort(axis=0)
    heights = np.zeros((n, n))
    heights[place[:, 0], place[:, 1]] = reference[2] - points[:, 2]
    heights = np.maximum.accumulate(np.maximum.accumulate(heights, axis=0), axis=1)
    widths, lengths = (np.diff(points[order[:, column], column], append=reference[column]) for column in (0, 1))
    return float(widths @ heights @ lengths)


def hypervolume_history(points: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The hypervolume of the first row, of the first two, and so on. points: (n, m); reference: (m,) -> (n,).

    A newcomer adds its box to the reference less what the front before it dominates of that, which is the hypervolume of that
    front clipped to the box (the exclusive hypervolume of While, Bradstreet and Barone 2012, doi 10.1109/TEVC.2010.2077298).
    """
    front, volume, history = np.empty((0, len(reference))), 0.0, np.empty(len(points))
    for number, point in enumerate(points):
        if np.all(point < reference) and not np.any(np.all(front <= point, axis=1)):
            volume += float(np.prod(reference - point)) - hypervolume(np.maximum(front, point), reference)
            front = np.vstack([front[~np.all(point <= front, axis=1)], point])
        history[number] = volume
    return history
