"""The FFN's width at which a training step takes as long as the dense arm's: how sure a ratio of times is, and the way to the
width. Nothing here has a clock: what a step takes, others say."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist, median, quantiles

from ..lpa.config import UserError
from .protocol import WITHIN, missed

COVERAGE = 0.99
"""Of a ratio's interval at a look. With the looks there are, the last one missed the truth in 0.3 to 3.3 % of 300 simulated
measurements (noise of 1 and 3 % a pair, truths from 0.97 to 1.0075)."""
FIRST, GROWTH = 8, 1.5
"""Pairs of steps at the first look (fewer have no such interval), and how many times as many at the next."""
PAIRS = 10_000
"""At the last look (assumption)."""
FFN_SHARE = 0.5
"""Of a step's time, for the first guess at how it changes with the width (assumption; what is measured corrects it)."""
WIDEST = 8
"""Times the dense width, at most."""

Pair = tuple[float, float]
"""Seconds of a step of the dense arm and of one of the other, one right after the other."""


def median_interval(values: Sequence[float], coverage: float) -> tuple[float, float]:
    """Of the median of what the values are drawn from, whatever that is: two order statistics, by the sign test. Infinite where
    there are too few values for the coverage."""
    n, below, term, number = len(values), 0, 1, 0
    most = int((1 - coverage) / 2 * 2**60) * 2**n >> 60  # of the 2^n signs, in either tail
    while below + term <= most:
        below, term, number = below + term, term * (n - number) // (number + 1), number + 1
    ordered = sorted(values)
    return (ordered[number - 1], ordered[n - number]) if number else (-math.inf, math.inf)


@dataclass(frozen=True)
class Ratio:
    """The time of a step over that of the dense arm's."""

    value: float
    """The median over the pairs."""
    low: float
    high: float
    """Ends of its interval."""
    pairs: int = 0
    dense_seconds: float = 0.0
    seconds: float = 0.0
    """Medians."""

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> "Ratio":
        """What pairs of steps say."""
        ratios = [one / dense for dense, one in pairs]
        seconds = (median(side) for side in zip(*pairs, strict=True))
        return cls(median(ratios), *median_interval(ratios, COVERAGE), len(pairs), *seconds)

    @property
    def half(self) -> float:
        """Of the interval, its longer side."""
        return max(self.value - self.low, self.high - self.value)

    def is_equal(self, within: float) -> bool:
        """Whether the times count as equal."""
        return abs(self.value - 1) <= within

    def is_settled(self, within: float) -> bool:
        """Whether the whole interval says whether they do, or it is so narrow that its middle may."""
        inside = self.low >= 1 - within and self.high <= 1 + within
        outside = self.high < 1 - within or self.low > 1 + within
        return inside or outside or self.half <= within / 2


def pairs_needed(ratios: Sequence[float], within: float = WITHIN) -> float:
    """About how many pairs settle a ratio near 1 where pairs differ as these do, taken as normal: the interval of a median is
    then sqrt(pi / 2) times as long as that of a mean. (n,) ratios of pairs, n >= 2."""
    low, _, high = quantiles(ratios, n=4)
    normal = NormalDist()
    deviation = (high - low) / (2 * normal.inv_cdf(0.75))
    return max(FIRST, math.pi / 2 * (normal.inv_cdf((1 + COVERAGE) / 2) * deviation / (within / 2)) ** 2)


def _never() -> bool:
    return False


def measure(
    pair: Callable[[], Pair], say: Callable[[Ratio], object], within: float = WITHIN, is_late: Callable[[], bool] = _never
) -> Ratio:
    """As many pairs as the ratio needs to be settled. pair: takes two more steps; say: hears what is known at each look;
    within: what may be missing of 1; is_late: whether no further pair may be taken.

    Raises UserError when the times differ too much from one pair to the next.
    """
    pairs, look = [pair()], FIRST
    while True:
        while len(pairs) < look and not is_late():
            pairs.append(pair())
        found = Ratio.of(pairs)
        say(found)
        if found.is_settled(within):
            return found
        if look == PAIRS or is_late():
            seconds = sum(map(sum, pairs))
            raise UserError(
                f"the machine is too noisy: by {len(pairs):,} pairs of steps in {seconds:.0f} s the ratio to the dense arm's "
                f"time is {found.value:.4f} ± {found.half:.4f}, and ± {within / 2:.4f} is needed"
            )
        look = min(PAIRS, int(look * GROWTH))


@dataclass(frozen=True)
class Grid:
    """The widths that an FFN may be given: multiples of a step, as rebalance's are."""

    dense: int
    step: int
    """ModelConfig's ffn_multiple."""
    is_model: Callable[[int], bool]
    """Whether there is a model of this width: its ranks save something there."""

    def width(self, place: int) -> int:
        """d_ff, the place-th of them."""
        return place * self.step

    def place(self, d_ff: int) -> int:
        """The place of a width, or of the next narrower one."""
        return d_ff // self.step


@dataclass
class _Way:
    """Places that are known to lie below and above the one that is sought, and what was measured."""

    grid: Grid
    low: int
    high: int
    """Both measured, or beyond the widths that there are."""
    ratios: dict[int, Ratio] = field(default_factory=dict)
    move: int = 0
    """From the last place to the next, while there is nothing on the other side yet."""
    on_line: bool = False

    def next(self) -> int | None:
        """Where to measure next, strictly between the two; None when there is no model there."""
        one_sided = not (self.low in self.ratios and self.high in self.ratios)
        here = self.high if self.high in self.ratios else self.low
        place = self.near(self._beyond(here) if one_sided else self._between())
        self.move = place - here if place is not None else 0
        return place

    def near(self, aim: int) -> int | None:
        """The nearest place strictly between the two that there is a model at."""
        inside = sorted(range(self.low + 1, self.high), key=lambda place: abs(place - aim))
        return next((place for place in inside if self.grid.is_model(self.grid.width(place))), None)

    def _between(self) -> int:
        """Where the line through the two comes to 1, and every other time their middle: where times have steps, lines may come
        no nearer."""
        self.on_line = not self.on_line
        if not self.on_line:
            return (self.low + self.high) // 2
        a, b = self.ratios[self.low].value, self.ratios[self.high].value
        return round(self.low + (1 - a) / (b - a) * (self.high - self.low))

    def _beyond(self, place: int) -> int:
        """On from the only side that was measured, by the slope of the last two places, and two to eight times as far as the
        last time."""
        value = self.ratios[place].value
        if self.move:
            slope = (value - self.ratios[place - self.move].value) / self.move
            least, most = 2 * abs(self.move), 8 * abs(self.move)
        else:
            slope = FFN_SHARE * value / self.grid.width(place) * self.grid.step
            least, most = 1, WIDEST * self.grid.dense
        far = round(abs(1 - value) / slope) if slope > 0 else most
        return place + min(max(far, least), most) * (1 if value < 1 else -1)


def equal_width(ratio: Callable[[int], Ratio], guess: int, grid: Grid, within: float = WITHIN) -> tuple[int, Ratio]:
    """The first width found whose step takes as long as the dense arm's, and their ratio; from a guess on, by lines and halves.

    ratio: of a width, settled. Times are taken to grow with the width, also in steps. Raises ValueError when there is none,
    with the nearest width that was measured.
    """
    way = _Way(grid, 0, max(1, grid.place(WIDEST * grid.dense)) + 1)
    place = way.near(grid.place(guess))
    while place is not None:
        found = way.ratios[place] = ratio(grid.width(place))
        if found.is_equal(within):
            return grid.width(place), found
        if found.value < 1:
            way.low = place
        else:
            way.high = place
        place = way.next()
    if not way.ratios:
        raise ValueError(f"no multiple of ffn_multiple, {grid.step}, is a width at which its ranks save anything")
    nearest = min(way.ratios, key=lambda place: abs(way.ratios[place].value - 1))
    raise ValueError(missed(grid.width(nearest), way.ratios[nearest].value - 1, "step_seconds", within))
