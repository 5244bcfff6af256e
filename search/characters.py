"""The front in a terminal: loss against cost, drawn in characters. Which cell holds what, then the text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .readable import highest
from .results import Results

LINES = 12
LEAST, MOST = 50, 100
"""Columns of the whole drawing; in a narrower terminal there is none."""
LABEL = 9
"""Columns of the numbers at the left, with the space after them."""
LETTERS = {"dense": "D", "attention": "A", "ffn": "F", "both": "B"}
WORDS = {
    "W": "winner",
    **{letter: arm for arm, letter in LETTERS.items()},
    "*": "front",
    "o": "tied with it",
    "·": "others",
    "█": "not told from dense by one run",
}
"""What each character stands for; the earlier one shows where several fall into one cell. The last stands at the axis."""
ORDER, REST = list(WORDS), "o·"
"""REST: of neither the front nor the arms."""
ASCII = str.maketrans({"·": ".", "█": "#", "│": "|", "┤": "+", "└": "+", "─": "-"})


class Point(NamedTuple):
    """A candidate of a drawing."""

    share: float
    """Of the dense target's cost."""
    loss_nats: float
    mark: str


@dataclass(frozen=True)
class Cells:
    """A scatter as cells; line 0 is the highest."""

    columns: int
    lines: int
    shares: tuple[float, float]
    """At the middle of the first column and of the last."""
    losses_nats: tuple[float, float]
    """At the middle of the lowest line and of the highest."""
    marks: dict[tuple[int, int], str]
    """(line, column) -> what shows there."""
    band: range
    """The lines of the losses that are not told from dense; empty without noise."""
    above: tuple[str, ...]
    """The marks of the candidates above the highest line."""


def marks(found: Results) -> dict[str, str]:
    """What each complete candidate is marked with, by its run's name."""
    known = dict.fromkeys((record.run for record in found.complete), "·")
    known |= dict.fromkeys((record.run for record in found.tied_with_front), "o")
    known |= dict.fromkeys((record.run for record in found.front), "*")
    known |= {record.run: LETTERS[arm] for arm, record in found.arms.items() if record.run in known}
    return known | ({found.winner.run: "W"} if found.winner else {})


def points(found: Results) -> list[Point]:
    """The complete candidates."""
    known, cost = marks(found), found.costs[0]
    return [
        Point(found.relative(record, cost), record.loss_nats, known[record.run])
        for record in found.complete
        if record.loss_nats is not None
    ]


def cells(points: Sequence[Point], columns: int, lines: int, high: float, band: tuple[float, float] | None = None) -> Cells:
    """Where the points fall, of which one or more have a loss of at most `high`. band: the lowest and the highest loss that is
    not told from dense."""
    inside = [point for point in points if point.loss_nats <= high]
    low, high = min(point.loss_nats for point in inside), max(point.loss_nats for point in inside)
    left, right = min(point.share for point in inside), max(point.share for point in inside)
    shown: dict[tuple[int, int], str] = {}
    for point in inside:
        place = _step(point.loss_nats, high, low, lines), _step(point.share, left, right, columns)
        shown[place] = min(point.mark, shown.get(place, point.mark), key=ORDER.index)
    above = tuple(point.mark for point in points if not point.loss_nats <= high)
    return Cells(columns, lines, (left, right), (low, high), shown, _band(band, high, low, lines), above)


def _band(band: tuple[float, float] | None, high: float, low: float, lines: int) -> range:
    if band is None or band[0] > high or band[1] < low:
        return range(0)
    return range(_step(min(band[1], high), high, low, lines), _step(max(band[0], low), high, low, lines) + 1)


def _step(value: float, first: float, last: float, steps: int) -> int:
    """Which of so many evenly spaced values, from first to last, is the nearest; the middle one when those are equal."""
    return steps // 2 if first == last else round((value - first) / (last - first) * (steps - 1))


def text(drawn: Cells, cost: str) -> list[str]:
    """The lines of a drawing: losses at the left, shares below, then what the characters stand for."""
    levels, lines = _levels(drawn), ["loss_nats"]
    for line in range(drawn.lines):
        axis = "█" if line in drawn.band else "┤" if line in levels else "│"
        row = "".join(drawn.marks.get((line, column), " ") for column in range(drawn.columns))
        lines.append(f"{levels.get(line, ''):>{LABEL - 1}} {axis}{row}".rstrip())
    lines.append(" " * LABEL + "└" + "─" * drawn.columns)
    return [*lines, _below(drawn, f"{cost} x dense"), *_key(drawn)]


def _levels(drawn: Cells) -> dict[int, str]:
    """The losses that are written at the axis, by line: the highest, one in the middle and the lowest."""
    (low, high), last, middle = drawn.losses_nats, drawn.lines - 1, drawn.lines // 2
    if low == high:
        return {middle: _number(low)}
    return {line: _number(high + (low - high) * line / last) for line in (0, middle, last)}


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.2g}"


def _below(drawn: Cells, title: str) -> str:
    """The shares at both ends, the axis's name between them."""
    left, right = (f"{share:.3f}" for share in drawn.shares)
    if drawn.shares[0] == drawn.shares[1]:
        return " " * (LABEL + 1) + f"{left} {title}".center(drawn.columns).rstrip()
    return " " * (LABEL + 1) + left + title.center(drawn.columns - len(left) - len(right)) + right


def _key(drawn: Cells) -> list[str]:
    """What stands in the drawing, and how many candidates do not."""
    there = {*drawn.marks.values(), *("█" if drawn.band else "")}
    lines = [", ".join(f"{mark} {words}" for mark, words in WORDS.items() if mark in there)]
    if drawn.above:
        named = [mark for mark in ORDER if mark in drawn.above and mark not in REST]
        among = f" ({', '.join(named)} among them)" if named else ""
        verb = "candidate lies" if len(drawn.above) == 1 else "candidates lie"
        lines.append(f"{len(drawn.above)} {verb} above {_number(drawn.losses_nats[1])} nats{among}")
    return lines


def front_lines(found: Results, width: int, encoding: str) -> list[str]:
    """The drawing of a study for a terminal of so many columns, in ASCII where its encoding has no more; nothing where there
    is nothing to draw, or no room for it."""
    if width < LEAST or not found.complete:
        return []
    drawn = cells(points(found), min(MOST, width) - LABEL - 1, LINES, highest(found), found.band)
    return [written(line, encoding) for line in text(drawn, found.costs[0])]


def written(line: str, encoding: str) -> str:
    """A line as a terminal of this encoding can show it."""
    return line if "utf" in encoding.lower() else line.translate(ASCII)
