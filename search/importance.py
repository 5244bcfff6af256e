"""How much each choice of a space does to a number, by an additive model over the levels of all choices.

    y = constant + the sum over the choices of effect[its level] + the rest (interaction and noise)

The effects are deviations from the mean over a choice's levels. They are least squares' on a column a level, of the smallest
norm where the points do not tell levels apart. A level that no point has, and a choice that varies together with others only,
have none. A choice's importance is its share of the variance that the model has when every level is drawn evenly and by itself
of the others: the variance of its effects over its levels, of their sum over the choices (functional analysis of variance, as
of Hutter et al., ICML 2014, of an additive model).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

SHUFFLES = 1000
"""How often the numbers are dealt out anew (assumption: a quantile of 95 % lies between those of 93.6 and 96.4 %)."""
QUANTILE = 0.95
ROUNDING = 1e-7
"""Of the numbers' size; what is smaller is no noise and no effect (assumption)."""


@dataclass(frozen=True)
class Effects:
    """Of each choice; NaN for what the points do not tell."""

    by_level: Mapping[str, np.ndarray]
    """(levels,) In y's unit."""
    spread: Mapping[str, float]
    """Their standard deviation over the levels that were seen, in y's unit."""
    share: Mapping[str, float]
    """Of the variance over all choices."""
    r2: float
    """The share of the points' variance that the model explains; NaN when they have none."""


@dataclass(frozen=True)
class Design:
    """What n points of a space tell of its levels."""

    levels: Mapping[str, Sequence[str]]
    """Of each choice, all that the space has."""
    points: Sequence[Mapping[str, str]]

    @cached_property
    def columns(self) -> np.ndarray:
        """(n, all levels) Whether a point has a level."""
        own = [[point[name] == level for name, its in self.levels.items() for level in its] for point in self.points]
        return np.array(own, float).reshape(len(self.points), sum(map(len, self.levels.values())))

    @cached_property
    def places(self) -> dict[str, np.ndarray]:
        """The columns of each choice's levels that were seen."""
        seen = np.flatnonzero(self.columns.sum(axis=0))
        return {name: seen[(seen >= first) & (seen < first + len(self.levels[name]))] for name, first in self._firsts.items()}

    @property
    def coefficients(self) -> int:
        """Of the model: the constant, and one less than the levels seen for each choice."""
        return 1 + sum(max(len(places) - 1, 0) for places in self.places.values())

    @property
    def least(self) -> int:
        """Points that the model asks for."""
        return self.coefficients + 2

    @cached_property
    def known(self) -> list[str]:
        """The choices of which two levels or more were seen, and told apart from every other choice."""
        told = self._inverse @ self._centred
        return [
            name
            for name, places in self.places.items()
            if len(places) > 1 and np.allclose(told[places], _centring(places, len(told)), atol=1e-7)
        ]

    def effects(self, y: np.ndarray) -> Effects:
        """The model fitted to numbers. y: (n,)"""
        rest = _centred(y)
        fitted = self._inverse @ rest
        own = {name: fitted[self.places[name]] for name in self.known}
        spread = {name: float(its.std()) for name, its in own.items()}
        total = sum(its**2 for its in spread.values())
        variance = float(rest @ rest)
        return Effects(
            by_level={name: self._by_level(name, own.get(name)) for name in self.levels},
            spread={name: spread.get(name, np.nan) for name in self.levels},
            share={name: spread[name] ** 2 / total if name in spread and total else np.nan for name in self.levels},
            r2=1 - float(np.sum((rest - self._centred @ fitted) ** 2)) / variance if variance else np.nan,
        )

    def chance(self, y: np.ndarray, seed: int = 0) -> dict[str, float]:
        """The spread of each choice that is known below which it stays in QUANTILE of the cases when the choice does nothing.

        The permutation of Freedman and Lane (1983): what the model without the choice leaves of y is dealt out to the points
        anew and the whole model is fitted to that; as Winkler et al. (2014) advise, with a ratio in which the size of the noise
        cancels, the spread over the root of what the whole model leaves. So what another choice does is no chance.

        y: (n,), n from `least` on. In simulated studies (7 choices of 4 levels, 24 points, which are the least, to 100; drawn
        evenly, unevenly, or by a search that prefers good ones) 4 to 7 % of choices without effect were above their marks; so
        among many some are. Interaction counts as noise (with a large one 7 to 10 %), and noise as alike at all points: of a
        choice of which a level in 1 of 15 points has three times the noise, a third were.
        """
        rest = _centred(y)
        floor = ROUNDING * float(np.linalg.norm(rest)) or 1.0
        noise = max(float(np.linalg.norm(_outside(rest, self._basis))), floor)
        order = np.lexsort([rest, *self.columns.T])  # so that the points' order changes nothing
        dealt = np.random.default_rng(seed).permuted(np.tile(order, (SHUFFLES, 1)), axis=1)
        marks = {name: noise * self._ratio(name, rest, order, dealt, floor) for name in self.known}
        return {name: max(mark, ROUNDING * float(rest.std())) for name, mark in marks.items()}

    def _ratio(self, name: str, rest: np.ndarray, order: np.ndarray, dealt: np.ndarray, floor: float) -> float:
        """The QUANTILE of a choice's spread, over the norm of what the model leaves. dealt: (shuffles, n) To the points in
        an order, whose number each gets."""
        left = _outside(rest, _basis(np.delete(self._centred, self.places[name], axis=1)))
        inside = self._basis[order].T @ left[dealt].T  # (rank, shuffles)
        spread = (self._inverse[self.places[name]] @ self._basis @ inside).std(axis=0)
        noise = np.sqrt(np.maximum(left @ left - np.sum(inside**2, axis=0), floor**2))
        return float(np.quantile(spread / noise, QUANTILE))

    def _by_level(self, name: str, effects: np.ndarray | None) -> np.ndarray:
        every = np.full(len(self.levels[name]), np.nan)
        if effects is not None:
            every[self.places[name] - self._firsts[name]] = effects
        return every

    @cached_property
    def _firsts(self) -> dict[str, int]:
        """The column of each choice's first level."""
        sizes = [len(its) for its in self.levels.values()]
        return {name: sum(sizes[:number]) for number, name in enumerate(self.levels)}

    @cached_property
    def _centred(self) -> np.ndarray:
        return self.columns - self.columns.mean(axis=0) if len(self.points) else self.columns

    @cached_property
    def _inverse(self) -> np.ndarray:
        """(all levels, n) Numbers -> effects of the smallest norm. Those of a choice add up to 0, as its columns do."""
        return np.linalg.pinv(self._centred, rcond=1e-9)

    @cached_property
    def _basis(self) -> np.ndarray:
        return _basis(self._centred)


def _basis(columns: np.ndarray) -> np.ndarray:
    """(n, rank) Orthonormal, of what the columns span."""
    vectors, values, _ = np.linalg.svd(columns, full_matrices=False)
    return vectors[:, values > 1e-9 * values.max(initial=0.0)]


def _outside(y: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """(n,) What a fit leaves."""
    return y - basis @ (basis.T @ y)


def _centring(places: np.ndarray, columns: int) -> np.ndarray:
    """(places, columns) Takes effects to their deviations from the choice's mean."""
    matrix = np.zeros((len(places), columns))
    matrix[:, places] = np.eye(len(places)) - 1 / len(places)
    return matrix


def _centred(y: np.ndarray) -> np.ndarray:
    """Exactly 0 for equal numbers."""
    return y - y.mean() if len(y) and np.ptp(y) else np.zeros(len(y))
