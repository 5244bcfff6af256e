"""The non-dominated set and its knee: pure functions of (n, m) arrays in which every column is to be small."""

import numpy as np


def non_dominated(points: np.ndarray) -> np.ndarray:
    """Which rows no other row dominates. points: (n, m) -> (n,) bool.

    A row dominates another when it is nowhere larger and somewhere smaller; so equal rows stay together, and a row with a
    NaN is never on the front nor keeps another from it.
    """
    known = ~np.any(np.isnan(points), axis=1)
    if points.shape[1] == 2:
        known[known] = _lowest_so_far(points[known])
        return known
    no_larger, smaller = np.ones((len(points),) * 2, bool), np.zeros((len(points),) * 2, bool)
    for column in points.T:  # (n, n): row i against row j
        no_larger &= column[:, None] <= column[None, :]
        smaller |= column[:, None] < column[None, :]
    return known & ~np.any(no_larger & smaller, axis=0)  # a comparison with NaN is false, so such a row dominates none


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
    does not count, nor do rows with a NaN. points: (n, m); reference: (m,). By slices along the last column."""
    inside = points[np.all(points < reference, axis=1)]  # a comparison with NaN is false
    front = inside[non_dominated(inside)]
    if not len(front):
        return 0.0
    if front.shape[1] == 1:
        return float(reference[0] - front.min())
    front = front[front[:, -1].argsort(kind="stable")]
    depths = np.diff(front[:, -1], append=reference[-1])
    slices = (hypervolume(front[: n + 1, :-1], reference[:-1]) * depth for n, depth in enumerate(depths) if depth > 0)
    return sum(slices, 0.0)
