"""What each choice of a space does to the loss and to the costs, as a table."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from .figure import varied
from .importance import Design, Effects
from .importance_losses import losses
from .results import Results

APART = "not told apart"
MOST = 32
"""Choices whose marks of chance are sought, and that are drawn: nobody reads more of them (assumption)."""
COLUMNS = [
    "outcome", "unit", "rung", "choice", "first", "last", "effect", "spread", "share", "chance", "levels", "note", "n", "least",
    "rank", "r2",
]  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What is explained by the choices."""

    name: str
    rung: int | None
    design: Design
    y: np.ndarray
    """(n,)"""

    @property
    def is_loss(self) -> bool:
        """Which has noise, and what chance does."""
        return self.name == "loss_nats"

    @cached_property
    def effects(self) -> Effects | None:
        """None of too few points."""
        return self.design.effects(self.y) if self.design.enough else None

    def order(self, choice: str) -> float:
        """What does most first, what is not known last."""
        spread = math.nan if self.effects is None else self.effects.spread[choice]
        return 1.0 if math.isnan(spread) else -spread

    def rows(self, choices: Sequence[str]) -> Iterator[dict[str, Any]]:
        """One a choice."""
        chance = self.design.chance(self.y, names=choices[:MOST]) if self.is_loss and self.effects else {}
        for choice in choices:
            yield self._row(choice) | {"chance": chance.get(choice, math.nan)}

    def _row(self, choice: str) -> dict[str, Any]:
        its, effects = self.design.levels[choice], self.effects
        by_level = np.full(len(its), np.nan) if effects is None else effects.by_level[choice]
        return {
            "outcome": self.name,
            "unit": "nats" if self.is_loss else "of dense",
            "rung": math.nan if self.rung is None else self.rung,
            "choice": choice,
            "first": its[0],
            "last": its[-1],
            "effect": by_level[-1] - by_level[0],
            "spread": effects.spread[choice] if effects else math.nan,
            "share": effects.share[choice] if effects else math.nan,
            "levels": ", ".join(f"{level} {signed(value)}" for level, value in zip(its, by_level, strict=True)),
            "note": self._note(choice),
            "n": len(self.y),
            "least": self.design.least,
            "rank": self.design.rank,
            "r2": effects.r2 if effects else math.nan,
        }

    def _note(self, choice: str) -> str:
        """Why a choice, or one of its levels, has no number."""
        seen = self.design.seen(choice)
        if len(seen) < 2:
            return f"{f'only {seen[0]}' if seen else 'nothing'} was run"
        if self.effects is None:
            return f"{len(self.y):,} runs, {self.design.least:,} needed"
        if math.isnan(self.effects.spread[choice]):
            return APART
        unseen = [level for level in self.design.levels[choice] if level not in seen]
        return f"no run at {', '.join(unseen)}" if unseen else ""


def importance_rows(found: Results) -> pd.DataFrame:
    """A row an outcome (loss_nats, then each cost) and choice of the space, what does most to the loss first.

    rung: the tokens after which the loss was taken; NaN for its end, and for a cost. effect: the last level's less the first
    one's, in the unit. spread: the standard deviation over the levels, in the unit. share: of the model's variance. chance:
    what 95 % of the loss's spreads stay below when the choice does nothing, of the first MOST choices. note: why there is no
    number. n, least: points, and how many the model asks for. rank: how many of their n - 1 degrees of freedom it takes. r2:
    what it explains.
    """
    outcomes = list(_outcomes(found))
    choices = sorted(varied(found.space), key=lambda choice: [one.order(choice) for one in outcomes])
    return pd.DataFrame([row for one in outcomes for row in one.rows(choices)], columns=COLUMNS)


def _outcomes(found: Results) -> Iterator[Outcome]:
    """The runs inside of the space that tell of each, and their numbers."""
    its, levels = losses(found), varied(found.space)
    design = Design(levels, [record.params for record in its.runs])
    told = design if len(its.told) == len(its.runs) else Design(levels, [record.params for record in its.told])
    yield Outcome("loss_nats", its.rung, told, np.array([its.nats[record.run] for record in its.told]))
    for cost in found.costs:
        yield Outcome(cost, None, design, np.array([found.relative(record, cost) for record in its.runs]))


def signed(value: float, decimals: int = 4) -> str:
    """With its sign; a dash for what is not known."""
    return "\u2013" if math.isnan(value) else f"{round(value, decimals) + 0.0:+.{decimals}f}".replace("-", "\u2212")
