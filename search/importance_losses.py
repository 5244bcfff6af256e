"""Which loss of a search's runs tells of its choices.

A run that is stopped at a rung is stopped for its loss, so among those that came to the end what does much seems to do little.
No run has been chosen yet by its loss at the first rung.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .readable import guessing
from .record import Record
from .results import Results

PART = 0.02
"""Of the runs, that may have been stopped before: of a normal distribution without its highest 2 % effects are a tenth too
small, without its highest 10 % three tenths (its variance is 1 - z l - l^2, l = pdf(z) / cdf(z))."""
MISSING = {
    "pruned": "stopped",
    "diverged": "diverged",
    "failed": "failed",
    "complete": "not evaluated there",
    "above": "above that of guessing",
}
"""Why a run has no loss that tells of its choices."""


@dataclass(frozen=True)
class Losses:
    """Those that tell of the choices."""

    runs: Sequence[Record]
    """All inside of the space, one that was taken up again once."""
    rung: int | None
    """The tokens after which it is the loss; None for the end."""
    nats: Mapping[str, float]
    """Of each run that came there, and no higher than of guessing."""
    missing: Mapping[str, int]
    """Of the other runs, how many for each reason of MISSING."""

    @property
    def told(self) -> list[Record]:
        """The runs that have one."""
        return [record for record in self.runs if record.run in self.nats]

    @property
    def stops(self) -> list[int]:
        """The tokens at which runs were stopped that came to the rung."""
        return [record.tokens for record in self.runs if record.status == "pruned" and record.tokens >= (self.rung or 0)]


def losses(found: Results) -> Losses:
    """At the end, or at the last rung, which no more than PART of the runs were stopped before."""
    taken_up = {record.continues for record in found.records}
    runs = [record for record in found.records if record.params and record.run not in taken_up]
    rung = _rung(found, runs)
    came = _came(runs, rung)
    nats = {run: loss for run, loss in came.items() if loss <= guessing(found.space)}
    why = ("above" if record.run in came else record.status for record in runs if record.run not in nats)
    return Losses(runs, rung, nats, Counter(why))


def _rung(found: Results, runs: Sequence[Record]) -> int | None:
    """Where there are more losses than at the end."""
    for rung in (None, *reversed(found.space.rungs)):
        before = sum(record.status == "pruned" and (rung is None or record.tokens < rung) for record in runs)
        came = len(_came(runs, rung))
        if before <= PART * (before + came) and came >= len(_came(runs, None)):
            return rung
    return None


def _came(runs: Sequence[Record], rung: int | None) -> dict[str, float]:
    """The losses of the runs that came there, nats."""
    at = {record.run: record.loss_nats if rung is None else dict(record.curve).get(rung) for record in runs}
    return {run: loss for run, loss in at.items() if loss is not None}


def losses_words(its: Losses, guessing_nats: float) -> Iterator[str]:
    """Which loss it is and why, and which runs have none."""
    if its.rung is not None:
        later = " or later" * (max(its.stops, default=0) > its.rung)
        yield (
            f"The loss is that after {its.rung:,} tokens, as {len(its.stops):,} of {len(its.runs):,} "
            f"runs were stopped there{later}: "
            "those that came to the end were chosen by their loss and would show too small effects. "
            "What a choice does there need not be what it does at the end."
        )
    if its.missing:
        words = MISSING | {"pruned": f"stopped {'at a rung' if its.rung is None else 'before'}"}
        parts = [f"{its.missing[why]:,} {words[why]}" for why in words if why in its.missing]
        above = f" ({guessing_nats:.2f} nats)" * ("above" in its.missing)
        yield f"Runs without a loss to learn from: {', '.join(parts)}{above}."
