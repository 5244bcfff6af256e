"""What a confirmation says, as types: every number of its page and of verdict.json, which conclude.py finds in its records."""

from dataclasses import dataclass

from .claim import Direction, Verdict
from .finding import Effect
from .protocol import Control, Match, VersusFamily
from .statistics import Interval

Ends = tuple[float, float]


def ends(interval: Interval | None) -> Ends | None:
    """Of an interval, nats."""
    return None if interval is None else (interval.low, interval.high)


@dataclass(frozen=True)
class SizeShape:
    """A size of the ladder: its dense arm."""

    name: str
    d_model: int
    d_ff: int
    n_layers: int
    params: int
    body_params: int
    flops_per_token: int
    tokens: int
    """Training tokens of a run."""


@dataclass(frozen=True)
class Tried:
    """A learning rate of an arm's sweep."""

    lr: float
    factor: float
    """Of the proxy's."""
    losses_nats: tuple[float | None, ...]
    """Validation loss of each seed; None where it diverged or failed."""
    mean_nats: float | None
    """None where any has diverged, or all failed."""


@dataclass(frozen=True)
class WholeSteps:
    """The time of a step of an arm's target over that of the dense one's: whole steps, in pairs."""

    ratio: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True)
class ArmResult:
    """An arm at a size, as one model there and one at the target: what is made equal by one match is often equal by another,
    too. Where the two differ at the target alone, each has its own costs, and both have the same runs. Or a control."""

    size: str
    arm: str
    matches: tuple[Match, ...]
    control: Control | None
    name: str
    """In words, within its size."""
    placement: str
    """Of what was trained."""
    ranks: str
    d_ff: int
    body_params: int
    flops_per_token: int
    """Of what was trained, as body_params is."""
    target_costs: dict[str, int | float]
    tried: tuple[Tried, ...]
    """Ascending rates."""
    lr: float | None
    """The best one by them on validation, at which the arm is judged; None when none has been chosen yet, or none trains."""
    at_edge: bool
    """The best one is the lowest or the highest that the protocol allowed to try."""
    bowl_nats: float | None
    """Validation loss that the parabola foretells at lr; None where there is none, and lr is a rate that was tried."""
    rate_missed_nats: float | None
    """By how much the loss at lr exceeds that at the arm's best rate on average, as the sweep is noisy, by std_nats."""
    seeds: tuple[int, ...]
    """That decide, in order, those of runs that failed left out."""
    losses_nats: tuple[float, ...]
    """Test loss of each; of one that diverged that of guessing, ln(vocab_size)."""
    diverged: tuple[int, ...]
    failed: tuple[int, ...]
    """Seeds."""
    mean_nats: float | None
    std_nats: float | None
    whole_steps: WholeSteps | None = None
    """Of the target at equal step_seconds, by which its width was found."""
    target_d_ff: int | None = None
    """Of what target_costs are of; None in what an older version has written."""

    @property
    def step_seconds(self) -> float | None:
        """Of a step of the target: the sum of its pieces; None where these are no cost, or not all known."""
        return self.target_costs.get("step_seconds")


@dataclass(frozen=True)
class ComparisonResult:
    """Arm A against arm B at a size: test loss of A less that of B."""

    family: VersusFamily
    size: str
    matches: tuple[Match, ...]
    """At which the two models are these."""
    a: str
    b: str
    direction: Direction
    text: str
    """`attention better than dense`"""
    seeds: tuple[int, ...]
    differences_nats: tuple[float, ...]
    left_out: tuple[int, ...]
    """Seeds of which a run failed."""
    verdict: Verdict
    effect: Effect
    n: int
    mean_nats: float | None
    std_nats: float | None
    ppl_percent: float | None
    t_nats: Ends | None
    """95 %, Student's, as if the seeds had been fixed beforehand."""
    t_ppl_percent: Ends | None
    bca_nats: Ends | None
    """95 %, bootstrap."""
    repeated_nats: Ends | None
    """Of coverage 1 - 2 alpha at every look together."""
    t_p: float | None
    sign_flip_p: float | None
    """One-sided p of what confirms, as if there were one look and one comparison."""
    confirm_p: float
    """With the looks accounted for."""
    confirm_p_holm: float
    """And with the other comparisons of the family at this size; confirmed when at most alpha."""
    refute_p: float
    refute_p_holm: float
    more_seeds: int | None
    """Of one that is not settled: how many would, as things stand; None when more than there is sense in."""


@dataclass(frozen=True)
class ControlResult:
    """A difference that says whether an effect is placement; estimated, not judged."""

    size: str
    control: Control | None
    """None: the effect itself, beside which the others are read."""
    a: str
    b: str
    n: int
    mean_nats: float | None
    ppl_percent: float | None
    t_nats: Ends | None
    says: str
    """What it is read for."""


@dataclass(frozen=True)
class ClaimResult:
    """The whole claim at a match and a size."""

    size: str
    match: Match
    verdict: Verdict
    """Confirmed when each of its comparisons is, refuted when any is."""
    why: str


@dataclass(frozen=True)
class Moved:
    """A comparison of the claim from a size to the next."""

    text: str
    small_nats: float | None
    large_nats: float | None
    """Mean differences; None with fewer than two seeds."""
    small_verdict: Verdict
    large_verdict: Verdict
    change_nats: float | None
    change_interval_nats: Ends | None
    """95 %, Welch's, of the difference of two means with deviations of their own."""


@dataclass(frozen=True)
class LadderStep:
    """How the arms' order and the claim's effects move between two neighbouring sizes, at one match or several."""

    matches: tuple[Match, ...]
    small: str
    large: str
    arms: tuple[str, ...]
    seeds: tuple[int, int]
    spearman: float | None
    spearman_interval: Ends | None
    """95 %, from the seeds."""
    same: int
    reversed: int
    undecided: int
    """Pairs of arms whose order is surely the same at both sizes, surely the other way round, or not sure."""
    moved: tuple[Moved, ...]


@dataclass(frozen=True)
class Confirmation:
    """What the records of a confirmation say."""

    name: str
    alpha: float
    matters_ppl_percent: float
    matters_nats: float
    runs: int
    tokens: int
    """Trained on in all of them."""
    next_offset: int
    """confirm.seeds.offset of another confirmation that shares no seed with this one."""
    winner_is: str | None
    """The arm that the search's winner is, if it is one."""
    finished: bool
    """Nothing more is asked for: all is settled, or the most seeds are there."""
    sizes: tuple[SizeShape, ...]
    arms: tuple[ArmResult, ...]
    comparisons: tuple[ComparisonResult, ...]
    claims: tuple[ClaimResult, ...]
    controls: tuple[ControlResult, ...]
    ladder: tuple[LadderStep, ...]
    step_times: str = ""
    """What step_seconds are the sum of, and on what it was measured; nothing where they are no cost."""
    dense_step_seconds: float | None = None
    """Of a step of the dense target."""

    def step_share(self, one: ArmResult) -> float | None:
        """The step_seconds of an arm over those of the dense target, where both are known."""
        return one.step_seconds / self.dense_step_seconds if one.step_seconds and self.dense_step_seconds else None
