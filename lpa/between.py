"""Of the many widths of an FFN and sizes of a tensor that a space may have, few are measured: which, and what stands in for the
others."""

import math
from collections.abc import Iterator

from .model_config import ModelConfig

WIDEN_BY = 2**0.25
"""From one width of the FFN that is measured to the next: 1, 1.19, 1.41, ... times the dense one. In between a line
(assumption, checked on whole steps by tests/benchmarks/step_table.py)."""
ALIGNED = 8
"""Widths on the line are multiples of this, 16 bytes of bfloat16, or of ffn_multiple where that asks for more: the fast matmuls
of a GPU read whole 16 bytes. The dense width, which may be none, is measured apart from the line."""
GROW_BY = 4
"""From one size of a weight whose update is measured to the next."""


def aligned(config: ModelConfig) -> int:
    """What the widths on the line are multiples of."""
    return math.lcm(ALIGNED, config.ffn_multiple)


def line(dense: int, multiple: int) -> Iterator[int]:
    """The measured widths that have a line through them: from the last multiple up to the dense one on, without end."""
    width, times = max(1, dense // multiple) * multiple, 1.0
    while True:
        yield width
        times *= WIDEN_BY
        width = max(width // multiple + 1, round(dense * times / multiple)) * multiple


def widths(dense: int, multiple: int, widest: int) -> list[int]:
    """The widths that are measured for FFNs from the dense one to the widest: the dense one and some on the line, two at least
    and the last no narrower than the widest."""
    if widest <= dense:
        return [dense]
    known = line(dense, multiple)
    found = [next(known), next(known)]
    while found[-1] < widest:
        found.append(next(known))
    return list(dict.fromkeys([dense, *found]))


def between_widths(d_ff: int, dense: int, multiple: int) -> dict[int, float]:
    """The measured widths that stand in for one, with their shares: the dense one for itself; of others the two on both sides,
    or the first two."""
    if d_ff == dense:
        return {dense: 1.0}
    known = line(dense, multiple)
    low, high = next(known), next(known)
    while high < d_ff:
        low, high = high, next(known)
    share = (d_ff - low) / (high - low)
    return {width: its for width, its in ((low, 1 - share), (high, share)) if its}


def grown(least: int, most: int) -> list[int]:
    """The measured sizes of a tensor from one to another."""
    found, size = list[int](), 1
    while size <= most:
        found += [size] if size >= least else []
        size *= GROW_BY
    return found


def between_sizes(size: int) -> list[tuple[int, float]]:
    """The measured sizes of a tensor that stand in for one, with their shares."""
    high = 1
    while high < size:
        high *= GROW_BY
    if high == size:
        return [(high, 1.0)]
    low = high // GROW_BY
    share = (size - low) / (high - low)
    return [(low, 1 - share), (high, share)]
