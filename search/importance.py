"""How much each choice of a space does to a number, by an additive model over the levels of all choices.

    y = constant + the sum over the choices of effect[its level] + the rest (interaction and noise)

The effects are deviations from the mean over a choice's levels. They are least squares' on a column a level, of the smallest
norm where the points do not tell levels apart. A level that no point has, and a choice that varies together with others only,
have none. A choice's importance is its share of the variance that the model has when every level is drawn evenly and by itself
of the others: the variance of its effects over its levels, of their sum over the choices (functional analysis of variance, as
of Hutter et al., ICML 2014, of an additive model).
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import helmert, solve_triangular

SHUFFLES = (200, 1000)
"""How often the numbers are dealt out anew, at least and at most (assumption: a quantile of 95 % lies between those of 92 and
98 %, and of 93.6 and 96.4 %)."""
PRODUCTS = 1e10
"""Multiplications for which there are more shuffles than the fewest: some tenths of a second (assumption)."""
QUANTILE = 0.95
ROUNDING = 1e-7
"""Of the numbers' size; what is smaller is no noise and no effect (assumption)."""
DEALING = 200
"""Multiplications that last as long as dealing out a number (measured)."""
HALVED = 2**17
"""Numbers of a basis above which chance has them in single precision: it leaves much of that many points (assumption)."""
SINGULAR = 1e-10
"""Of the largest eigenvalue; what is smaller is a rounded 0 (assumption)."""


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
        found = np.zeros((len(self.points), sum(map(len, self.levels.values()))))
        for name, first in self._firsts.items():
            place = {level: first + number for number, level in enumerate(self.levels[name])}
            found[range(len(self.points)), [place[point[name]] for point in self.points]] = 1.0
        return found

    @cached_property
    def places(self) -> dict[str, np.ndarray]:
        """The columns of each choice's levels that were seen."""
        seen = np.flatnonzero(self.columns.sum(axis=0))
        return {name: seen[(seen >= first) & (seen < first + len(self.levels[name]))] for name, first in self._firsts.items()}

    def seen(self, name: str) -> list[str]:
        """The levels of a choice that points have."""
        return [self.levels[name][place - self._firsts[name]] for place in self.places[name]]

    @property
    def rank(self) -> int:
        """Of the model, its constant aside: the degrees of freedom that it takes from the points."""
        return self._whitening.shape[1]

    @property
    def enough(self) -> bool:
        """Whether there are the points that the model asks for: two more than its rank with the constant."""
        return len(self.points) >= self.rank + 3

    @property
    def least(self) -> int:
        """Points that the model asks for. As long as there are too few, which do not tell what its rank will be, those that it
        asks for at the most with the levels seen."""
        return 3 + (self.rank if self.enough else sum(self._coefficients))

    @cached_property
    def known(self) -> list[str]:
        """The choices of which two levels or more were seen, and told apart from every other choice: on them the projection to
        what the points tell is the centring. (What it takes from them to others is then 0, as it is its own square.)"""
        if self.rank == sum(self._coefficients):
            return [name for name, its in self.places.items() if len(its) > 1]
        told = self._centred.T @ self._basis  # (all levels, rank)
        own = {name: (told[its], self._whitening[its], len(its)) for name, its in self.places.items() if len(its) > 1}
        return [name for name, (a, b, count) in own.items() if np.allclose(a @ b.T, np.eye(count) - 1 / count, atol=1e-9)]

    def effects(self, y: np.ndarray) -> Effects:
        """The model fitted to numbers. y: (n,)"""
        rest = _centred(y)
        fitted = self._fitted(rest)
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

    def chance(self, y: np.ndarray, seed: int = 0, names: Collection[str] | None = None) -> dict[str, float]:
        """The spread of each choice that is known (and among `names`) below which it stays in QUANTILE of the cases when the
        choice does nothing.

        The permutation of Freedman and Lane (1983): what the model without the choice leaves of y is dealt out to the points
        anew and the whole model is fitted to that; as Winkler et al. (2014) advise, with a ratio in which the size of the noise
        cancels, the spread over the root of what the whole model leaves. So what another choice does is no chance.

        y: (n,) of points that are `enough`. In simulated studies (7 choices of 4 levels, 24 points, which are the least, to
        100; drawn evenly, unevenly, or by a search that prefers good ones) 4 to 7 % of choices without effect were above their
        marks; so among many some are. Interaction counts as noise (with a large one 7 to 10 %), and noise as alike at all
        points: of a choice of which a level in 1 of 15 points has three times the noise, a third were.
        """
        rest = _centred(y)
        floor = ROUNDING * float(np.linalg.norm(rest)) or 1.0
        noise = max(float(np.linalg.norm(self._left(rest))), floor)
        known = [name for name in self.known if names is None or name in names]
        shuffles = int(np.clip(PRODUCTS / max(len(y) * (self.rank + DEALING) * len(known), 1), *SHUFFLES))
        dealt, basis = self._dealt(rest, shuffles, seed), self._basis
        basis = basis.astype(np.float32 if basis.size > HALVED else np.float64)
        marks = {name: noise * self._ratio(name, rest, dealt, basis, floor) for name in known}
        return {name: max(mark, ROUNDING * float(rest.std())) for name, mark in marks.items()}

    def _dealt(self, rest: np.ndarray, shuffles: int, seed: int) -> np.ndarray:
        """(shuffles, n) Whose number each point gets; the points' order changes nothing."""
        order = np.lexsort([rest, *self.columns.T])
        dealt = np.random.default_rng(seed).permuted(np.tile(order, (shuffles, 1)), axis=1)
        return dealt[:, np.argsort(order)]

    def _ratio(self, name: str, rest: np.ndarray, dealt: np.ndarray, basis: np.ndarray, floor: float) -> float:
        """The QUANTILE of a choice's spread, over the norm of what the model leaves.

        The model without the choice leaves what the whole one leaves and, of what that explains, the part in the span of the
        rows that take numbers to the choice's effects: those give 0 for whatever the other choices can do.
        """
        its = self._rows(name)
        alone = _basis(its.T)
        left = self._left(rest) + alone @ (alone.T @ rest)
        numbers = left.astype(basis.dtype).take(dealt)
        spread = (numbers @ its.T.astype(basis.dtype)).std(axis=1)
        noise = np.sqrt(np.maximum(left @ left - np.sum((numbers @ basis) ** 2, axis=1), floor**2))
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

    @property
    def _coefficients(self) -> list[int]:
        """Of each choice: one less than its levels that were seen."""
        return [max(len(places) - 1, 0) for places in self.places.values()]

    @cached_property
    def _centred(self) -> np.ndarray:
        return self.columns - self.columns.mean(axis=0) if len(self.points) else self.columns

    @cached_property
    def _whitening(self) -> np.ndarray:
        """(all levels, rank) Times its transpose, the pseudoinverse of the columns' products with each other."""
        counts = self._coefficients
        contrasts = np.zeros((self.columns.shape[1], sum(counts)))  # of the levels of a choice
        for places, count, end in zip(self.places.values(), counts, np.cumsum(counts), strict=True):
            contrasts[places, end - count : end] = helmert(count + 1).T[: len(places)]
        return contrasts @ _whitening(self._centred @ contrasts)

    @cached_property
    def _basis(self) -> np.ndarray:
        """(n, rank) Orthonormal, of what the columns span."""
        return self._centred @ self._whitening

    def _fitted(self, y: np.ndarray) -> np.ndarray:
        """(all levels,) The effects of the smallest norm. Those of a choice add up to 0, as its columns do."""
        return self._whitening @ (self._basis.T @ y)

    def _rows(self, name: str) -> np.ndarray:
        """(levels seen, n) What takes numbers to a choice's effects."""
        return self._whitening[self.places[name]] @ self._basis.T

    def _left(self, y: np.ndarray) -> np.ndarray:
        """(n,) What the fit leaves."""
        return y - self._basis @ (self._basis.T @ y)


def _basis(columns: np.ndarray) -> np.ndarray:
    """(n, rank) Orthonormal, of what the columns span."""
    vectors, values, _ = np.linalg.svd(columns, full_matrices=False)
    return vectors[:, values > 1e-9 * values.max(initial=0.0)]


def _whitening(columns: np.ndarray) -> np.ndarray:
    """(p, rank) Times its transpose, the pseudoinverse of the (p, p) products of (n, p) columns, which is much faster than by
    singular values: from a triangle when there are no fewer points than columns, and these are independent."""
    if len(columns) < columns.shape[1]:
        values, vectors = _eigen(columns @ columns.T)
        return columns.T @ (vectors / values)
    products = columns.T @ columns
    with suppress(np.linalg.LinAlgError):
        triangle = np.linalg.cholesky(products)
        pivots = np.diag(triangle) ** 2
        if np.all(pivots > SINGULAR * pivots.max(initial=0.0)):
            return solve_triangular(triangle, np.eye(len(triangle)), lower=True).T
    values, vectors = _eigen(products)
    return vectors / np.sqrt(values)


def _eigen(products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rank,) Eigenvalues that are not 0, and their vectors, (p, rank)."""
    values, vectors = np.linalg.eigh(products)
    kept = values > SINGULAR * values.max(initial=0.0)
    return values[kept], vectors[:, kept]


def _centred(y: np.ndarray) -> np.ndarray:
    """Exactly 0 for equal numbers."""
    return y - y.mean() if len(y) and np.ptp(y) else np.zeros(len(y))
