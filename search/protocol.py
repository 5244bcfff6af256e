"""What a confirmation compares, how, and how sure it wants to be: the `confirm` section of a space, fixed before its runs."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ..lpa.config import Config, Count, nearest
from .budget import ARMS, Listed
from .claim import Direction, Plan
from .statistics import FLIPS_MOST, Test

Match = Literal["width", "params", "flops", "step_seconds"]
Control = Literal["scaled", "init", "warmup"]
VersusFamily = Literal["claim", "beside"]
WITHIN = 0.005
"""What a match may miss, as a share of the dense arm's."""
WINNER = "winner"
"""The arm that the search has found."""
VERBS: dict[str, Direction] = {"better than": "better", "no worse than": "no worse", "equivalent to": "equivalent"}
BUDGET_KEYS = ("confirm.tokens", "confirm.minutes", "confirm.timing_minutes")
"""What may change between two calls on one confirmation."""


def missed(d_ff: int, off: float, what: str, within: float = WITHIN) -> str:
    """The nearest width is not near enough. off: from the dense arm's, as a share."""
    return (
        f"the nearest FFN, d_ff {d_ff}, has {off:+.2%} of the dense arm's {what}, and {within:.1%} may be missing; "
        f"a wider or deeper model has finer steps"
    )


@dataclass(frozen=True)
class Versus:
    """Arm A against arm B."""

    a: str
    direction: Direction
    b: str

    @property
    def text(self) -> str:
        """As the protocol says it."""
        verb = next(verb for verb, direction in VERBS.items() if direction == self.direction)
        return f"{self.a} {verb} {self.b}"


def parse_versus(text: str) -> Versus:
    """`attention better than dense`, `winner no worse than dense`, `ffn equivalent to both`. Raises ValueError."""
    match = re.fullmatch(rf"(\S+) ({'|'.join(VERBS)}) (\S+)", " ".join(str(text).split()))
    if not match:
        raise ValueError(f"expected 'A better than B', 'A no worse than B' or 'A equivalent to B', found '{text}'")
    if match[1] == match[3]:
        raise ValueError(f"'{text}' compares an arm with itself")
    return Versus(match[1], VERBS[match[2]], match[3])


VersusText = Annotated[str, BeforeValidator(lambda text: parse_versus(text).text)]


class Size(Config):
    """A proxy's size, one rung of the ladder: the space's proxy with these set otherwise."""

    name: str
    model: dict[str, Any] = {}
    """Keys of the model, or a named shape: `{shape: cpu-128}`. The learning rate is carried to its width by lr_rule, and the
    placements are those of the arms."""
    tokens: Annotated[Count, Field(gt=0)] | None = None
    """Training tokens of a run; the proxy's when left out."""
    batch_size: Annotated[int, Field(gt=0)] | None = None
    microbatch: Annotated[int, Field(gt=0)] | None = None


class Seeds(Config):
    """Which seeds, and how many. Those of the sweeps come first, the others decide."""

    offset: Annotated[int, Field(gt=0)] = 1000
    """What the first one lies above the space's seed, so that the search has seen none of them."""
    sweep: Annotated[int, Field(gt=0)] = 2
    """Of each learning rate that is tried."""
    first: Annotated[int, Field(ge=2)] = 5
    """At the first look at the comparisons. The controls have as many."""
    every: Annotated[int, Field(gt=0)] = 1
    """From a look to the next."""
    most: Annotated[int, Field(ge=2)] = 12
    """At the last look: the error is spread over all looks up to it, and it cannot be raised later."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.first > self.most:
            raise ValueError(f"first: expected at most {self.most}, which is most; found {self.first}")
        return self


class Protocol(Config):
    """What is compared, at which match and size, by how many seeds, and what counts as shown."""

    arms: tuple[str, ...] = (*ARMS, WINNER)
    """The arms that are trained: the four reference arms, the search's winner, and names of `placements`."""
    placements: dict[str, Listed] = {}
    """Further arms by name: `{thin: {ranks: {attention: 1/8}}}`; their rebalance is the match's."""
    claim: tuple[VersusText, ...] = ("attention better than dense", "attention better than ffn", "attention better than both")
    """What is tested, every part of it at every match, with Holm's correction over all of them at a size. Seeds are added
    until all are settled."""
    beside: tuple[VersusText, ...] = ("winner better than dense",)
    """Comparisons that are judged likewise, in a family of their own, but for which no seeds are added."""
    matches: tuple[Match, ...] = ("width", "params", "flops")
    """What is made equal between the arms, each its own comparison, by the width of the FFN: nothing but the width; the body's
    parameters; the training FLOPs; the measured time of a training step of the target."""
    controls: tuple[Control, ...] = ("scaled", "init", "warmup")
    """Whether it is placement: dense with attention's initial weights scaled by 1/sqrt(3) (left out where the proxy's
    initialisation is not the matched one); dense and attention with the authors' initialisation (with the matched one where
    the proxy has theirs); dense and attention without a warm-up (with one of 5 % where the proxy has none). At the first
    match."""
    sizes: tuple[Size, ...] = ()
    """The ladder, smallest first; the proxy alone when left out."""
    lr_factors: tuple[Annotated[float, Field(gt=0)], ...] = (0.5, 1.0, 2.0)
    """The learning rates that every arm is tried at, over proxy.optim.lr; three or more, ascending."""
    lr_extend: Annotated[int, Field(ge=0)] = 3
    """Further rates beyond an end at which the best one lies, one after the other."""
    seeds: Seeds = Seeds()
    alpha: Annotated[float, Field(gt=0, le=0.25)] = 0.05
    """The chance of a false confirmation among the comparisons of a size, and that of a false refutation."""
    matters_ppl_percent: Annotated[float, Field(gt=0)] = 1.0
    """The smallest effect that matters, as a change of test perplexity, per cent."""
    test: Test = "t"
    """What decides: Student's t of the paired differences, or their sign flips, which need many more seeds."""
    power: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """The chance of settling a comparison that the advice of more seeds is made for."""
    tokens: Annotated[Count, Field(gt=0)] | None = None
    """Training tokens of all runs together; no run starts that could exceed them."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """No new run starts after this long."""

    timing_minutes: Annotated[float, Field(gt=0)] = 30.0
    """The widths of equal step_seconds are measured for so long at most, all arms together (assumption)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key in ("arms", "matches", "controls", "claim", "beside", "lr_factors"):
            if len(set(getattr(self, key))) < len(getattr(self, key)):
                raise ValueError(f"{key}: one stands twice")
        if len(self.lr_factors) < 3:
            raise ValueError(f"lr_factors: expected three or more, found {len(self.lr_factors)}")
        if list(self.lr_factors) != sorted(self.lr_factors):
            raise ValueError(f"lr_factors: expected them ascending, found {', '.join(map(str, self.lr_factors))}")
        names = [size.name for size in self.sizes]
        if len(set(names)) < len(names):
            raise ValueError("sizes: a name stands twice")
        if not self.claim:
            raise ValueError("claim: expected a comparison, found none")
        if not self.matches:
            raise ValueError("matches: expected one or more, found none")
        if self.test == "sign flip" and self.seeds.most > FLIPS_MOST:
            raise ValueError(f"seeds.most: expected at most {FLIPS_MOST} for sign flips, found {self.seeds.most}")
        self._check_names()
        return self

    def _check_names(self) -> None:
        for name in self.placements:
            if name in ARMS or not re.fullmatch(r"[^\s/]+", name):
                raise ValueError(f"placements: expected a word that is no reference arm's name, found '{name}'")
        known = (*ARMS, WINNER, *self.placements)
        for name in self.arms:
            if name not in known:
                raise ValueError(f"arms: found '{name}', {nearest(name, known)}")
        families: tuple[VersusFamily, ...] = ("claim", "beside")
        for key in families:
            for name in (name for one in self.versus(key) for name in (one.a, one.b)):
                if name not in self.arms and not (name == WINNER and key == "beside"):
                    raise ValueError(f"{key}: '{name}' is not among arms, {nearest(name, self.arms)}")
        if self.controls and not {"dense", "attention"} <= set(self.arms):
            raise ValueError("controls: they are of dense and attention, which arms leaves out")

    def versus(self, key: VersusFamily) -> list[Versus]:
        """The comparisons of a family."""
        return [parse_versus(text) for text in getattr(self, key)]

    @cached_property
    def plan(self) -> Plan:
        """When the comparisons are looked at, and how often they may err."""
        seeds = self.seeds
        return Plan(seeds.first, seeds.every, seeds.most, self.alpha, self.test, self.power)

    @property
    def matters_nats(self) -> float:
        """The smallest effect that matters, as a difference in loss."""
        return math.log1p(self.matters_ppl_percent / 100)

    def sweep_seeds(self, seed: int) -> Sequence[int]:
        """Those of the sweeps. seed: the space's."""
        return range(seed + self.seeds.offset, seed + self.seeds.offset + self.seeds.sweep)

    def seed(self, seed: int, number: int) -> int:
        """The number-th of those that decide, 0-based. seed: the space's."""
        return seed + self.seeds.offset + self.seeds.sweep + number
