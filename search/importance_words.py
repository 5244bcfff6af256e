"""What is said of the choices' importance: how it is read, and how far to believe it."""

import math
from collections.abc import Iterator, Sequence

import pandas as pd

from .importance_losses import losses, losses_words
from .importance_rows import APART, MOST
from .readable import guessing
from .results import Results

WORDS = {
    "loss_nats": "loss",
    "flops_per_token": "FLOPs",
    "params": "params",
    "memory_bytes": "memory",
    "step_seconds": "step time",
}
NAMED = 8
"""Choices that a sentence names (assumption)."""


def importance_words(found: Results, rows: pd.DataFrame) -> Iterator[str]:
    """Sentences on the rows."""
    if rows.empty:
        yield "The space has no choice with more than one level."
        return
    if rows["spread"].notna().any():
        yield (
            "An additive model of the choices' levels, fitted to the runs inside the space. A bar is the standard deviation "
            "over a choice's levels, all counting alike; above it stands the last level less the first: ▲ raises, ▼ lowers."
        )
        if (count := rows["choice"].nunique()) > MOST:
            yield f"Of {count:,} choices the {MOST} that do most are drawn."
    yield from losses_words(losses(found), guessing(found.space))
    yield from _fits_words(rows)
    loss = rows[(rows["outcome"] == "loss_nats") & rows["chance"].notna()]
    if len(loss):
        below = list(loss[loss["spread"] <= loss["chance"]]["choice"])
        yield (
            "The mark is what 95 % of fits stay below when the choice does nothing: what the other choices leave of the losses "
            f"is dealt out to the runs anew. Not told from chance (pale, in brackets): {_some(below) or 'none'}."
        )


def _some(words: Sequence[str], between: str = ", ") -> str:
    """The first ones, and how many more there are."""
    more = f"{between}and {len(words) - NAMED:,} more" if len(words) > NAMED else ""
    return f"{between.join(words[:NAMED])}{more}"


def _fits_words(rows: pd.DataFrame) -> Iterator[str]:
    """Of each outcome; of those that are alike in one."""
    alike = dict[str, list[str]]()
    for outcome, its in rows.groupby("outcome", sort=False):
        alike.setdefault(_fit_words(str(outcome), its), []).append(WORDS[str(outcome)])
    for fit, names in alike.items():
        together = ", ".join(names)
        yield f"{together[0].upper()}{together[1:]}: {fit}."


def _fit_words(outcome: str, rows: pd.DataFrame) -> str:
    """How many runs, and what the model says of their variance."""
    first = rows.iloc[0]
    n, least, rank, r2 = int(first["n"]), int(first["least"]), int(first["rank"]), float(first["r2"])
    if n < least:
        return f"{n:,} run{'s' * (n != 1)}, too few; the model asks for {least:,}"
    parts = [f"{n:,} runs"]
    if not math.isnan(r2):
        is_loss = outcome == "loss_nats"
        by_chance = f" ({100 * rank / (n - 1):.0f} % by chance)" if is_loss else ""
        rest = f"; the rest is interaction{' and noise' * is_loss}" if r2 < 0.995 else ""
        parts.append(f"{100 * r2:.0f} % of the variance explained{by_chance}{rest}")
    notes = [
        f"{row['choice']}: {row['note']}{' from other choices' * (row['note'] == APART)}"
        for row in rows.to_dict("records")
        if row["note"]
    ]
    return f"{', '.join(parts)}{'; ' + _some(notes) if notes else ''}"
