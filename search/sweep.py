"""The learning rate of an arm, from the runs at the rates that were tried.

The rate is where a parabola, fitted to the mean losses over the logarithm of the rate, has its lowest point. To take the lowest
mean as it is errs by a whole step as soon as noise says so, for all seeds that decide then: where half or twice the best rate
costs one standard deviation of a run, a quarter of simulated studies found an arm better that was not so at its best rate
(tests/benchmarks/README.md). Near its lowest point a smooth curve is a parabola, and all runs of the sweep have their say.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .variants import Variant

REACH = 2
"""Rates on either side of the best that a parabola is fitted to: farther off no curve is one (assumption)."""


@dataclass(frozen=True, eq=False)
class Cell:
    """A run that the protocol asks for."""

    variant: Variant
    factor: float
    """Of the proxy's learning rate."""
    seed: int

    @cached_property
    def key(self) -> str:
        """What is trained: cells with equal keys are one run."""
        return f"{self.variant.trained(self.factor)} {self.seed}"


@dataclass(frozen=True)
class Rate:
    """A learning rate of an arm, and what the sweep's seeds have come to there."""

    factor: float
    losses: tuple[float, ...]
    """Validation loss, nats, of each seed in order: infinite where it diverged, NaN where it failed."""

    @property
    def mean_nats(self) -> float:
        """Over the seeds that did not fail; infinite where there is none."""
        kept = [loss for loss in self.losses if not math.isnan(loss)]
        return sum(kept) / len(kept) if kept else math.inf


@dataclass(frozen=True)
class Sweep:
    """The learning rates of an arm."""

    rates: tuple[Rate, ...]
    """Those that all seeds have ended at, ascending."""
    wanted: tuple[Cell, ...]
    """Runs that it still needs."""

    @property
    def best(self) -> Rate | None:
        """The rate of the lowest mean; None as long as runs are wanted, and when no rate trains."""
        best = min(self.rates, key=lambda rate: rate.mean_nats, default=None)
        return best if best is not None and not self.wanted and math.isfinite(best.mean_nats) else None

    @property
    def at_edge(self) -> bool:
        """Whether the best rate is the lowest or the highest that was tried."""
        return self.best is not None and self.best in (self.rates[0], self.rates[-1])

    @cached_property
    def bowl(self) -> "Bowl | None":
        """Of the best rate and up to REACH others on either side; None where there is no best one, it lies at an edge, a
        neighbour of it does not train, or the means do not bend upwards."""
        best = self.best
        if best is None or self.at_edge:
            return None
        place = self.rates.index(best)
        if not all(math.isfinite(self.rates[near].mean_nats) for near in (place - 1, place + 1)):
            return None
        near = [rate for rate in self.rates[max(0, place - REACH) : place + REACH + 1] if math.isfinite(rate.mean_nats)]
        found = Bowl(tuple(math.log(rate.factor) for rate in near), tuple(rate.mean_nats for rate in near))
        return found if found.bends[0] > 1e-9 else None

    @property
    def factor(self) -> float | None:
        """At which the arm is judged, of the proxy's rate, to three digits: the parabola's lowest point, but no farther than a
        neighbour of the best rate; that one itself where there is no parabola."""
        best = self.best
        if best is None or self.bowl is None:
            return None if best is None else best.factor
        place = self.rates.index(best)
        low, high = self.rates[place - 1].factor, self.rates[place + 1].factor
        return float(f"{min(max(math.exp(self.bowl.lowest), low), high):.3g}")


@dataclass(frozen=True)
class Bowl:
    """The parabola a x^2 + b x + c, by least squares through three points or more."""

    logs: tuple[float, ...]
    """x: of the factor."""
    means: tuple[float, ...]
    """Validation loss, nats."""

    @cached_property
    def weights(self) -> np.ndarray:
        """(3, points): the means' weights in a, in b and in c."""
        return np.linalg.pinv(np.vander(self.logs, 3))

    @cached_property
    def bends(self) -> tuple[float, float, float]:
        """a, b, c."""
        a, b, c = self.weights @ np.array(self.means)
        return float(a), float(b), float(c)

    @property
    def lowest(self) -> float:
        """x of the lowest point."""
        a, b, _ = self.bends
        return -b / (2 * a)

    def at(self, factor: float) -> float:
        """The loss that it foretells, nats."""
        a, b, c = self.bends
        return a * math.log(factor) ** 2 + b * math.log(factor) + c

    def missed_nats(self, error_nats: float) -> float:
        """By how much the loss at its lowest point exceeds that at the best rate on average, when each mean has such a standard
        error: the delta method, if the loss is a parabola there."""
        a, b, _ = self.bends
        slopes = (self.weights[0] * b - self.weights[1] * a) / (2 * a * a)  # of the lowest point's x, by each mean
        return a * float(slopes @ slopes) * error_nats**2
