"""How sure a sum of pieces is, as far as the repetitions of each piece tell.

The median of n repetitions has about 1.2533 / sqrt(n) times the standard deviation of one (of a normal distribution), and the
distance of the quartiles is 1.349 of these deviations. Pieces are taken as independent of each other, and so are repetitions.
What lies between pieces, and a machine that is slower for minutes, is in none of this.
"""

import math
from collections.abc import Mapping

from .model_config import ModelConfig
from .pieces import pieces
from .step_table import StepTable

SURE = 1.96 * 1.2533 / 1.349
"""Half of a 95 % interval of a median, as a share of its quartiles' distance, but for the root of n."""
NOISY = 0.1
"""Distance of the quartiles, as a share of the median, above which a machine is called noisy: 12 to 15 % where a process had 37
to 39 % of a core (tests/benchmarks/README.md)."""


def half(table: StepTable, model: ModelConfig, dense: ModelConfig, batch_size: int) -> float | None:
    """Of a 95 % interval of a step's seconds, as a share of them; None where the host's seconds count, whose spread is not
    kept. dense: the dense twin. Raises KeyError."""
    its = _seconds(table, model, dense, batch_size)
    return None if its is None else _root(table, its)


def half_of_ratio(table: StepTable, model: ModelConfig, dense: ModelConfig, batch_size: int) -> float | None:
    """The same of the ratio to the dense step: what both have takes part in it by the difference of its shares alone."""
    mine, other = (_seconds(table, one, dense, batch_size) for one in (model, dense))
    if mine is None or other is None:
        return None
    whole, beside = sum(mine.values()), sum(other.values())
    return _root(table, {key: mine.get(key, 0.0) / whole - other.get(key, 0.0) / beside for key in mine | other}, 1.0)


def spread(table: StepTable, dense: ModelConfig, batch_size: int) -> float:
    """The distance of a piece's quartiles as a share of its median: the mean over the dense step's pieces, by their seconds."""
    its = _seconds(table, dense, dense, batch_size, by_device=True)
    return sum(seconds * table.pieces[key].spread for key, seconds in its.items()) / sum(its.values()) if its else 0.0


def _seconds(
    table: StepTable, model: ModelConfig, dense: ModelConfig, batch_size: int, by_device: bool = False
) -> dict[str, float] | None:
    """Seconds of a step that each piece takes, by its key; None where the host's are more. by_device: even then."""
    device, host = table.sums(model, dense.d_ff, batch_size)
    if not device or (host > device and not by_device):
        return None
    further = batch_size // table.under.microbatch - 1
    counts = {piece.key: count for piece, count in pieces(model, dense.d_ff).items()}
    return {key: count * (table.pieces[key].first + further * table.pieces[key].more) for key, count in counts.items()}


def _root(table: StepTable, weights: Mapping[str, float], whole: float | None = None) -> float:
    """Half of the interval of a sum, as a share of the whole. weights: of each piece's relative error."""
    errors = (weight * table.pieces[key].spread / math.sqrt(table.pieces[key].n) for key, weight in weights.items())
    return SURE * math.hypot(*errors) / (sum(weights.values()) if whole is None else whole)
