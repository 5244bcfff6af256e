"""Steps of the target timed, and each arm's FFN made as wide as takes the dense arm's time: in a process of its own, on the
device that runs train on. The driver never touches a GPU."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from ..lpa.config import Config, UserError
from ..lpa.cost import rebalance, training_cost
from ..lpa.files import replace_text
from ..lpa.kernels import each_shape_by_itself, resolved
from ..lpa.metrics import device_name
from ..lpa.model_config import ModelConfig
from ..lpa.piece_time import Seconds
from ..lpa.step_table import Under, check_under, under
from ..lpa.step_time import Stepper
from ..lpa.train import precision
from ..lpa.train_config import TrainConfig
from .apart import Beforehand, Say, Work, apart
from .equal_time import COVERAGE, FIRST, Grid, Pair, Ratio, equal_width, measure, pairs_needed
from .protocol import WITHIN

WHERE = "confirm.matches: step_seconds"
PROBES, MORE_PROBES, PROBE_SECONDS = 12, 60, 3.0
"""Pairs of dense steps by whose differences it is foretold how long all takes; up to so many more within these seconds."""
CLOSE, ROUGH = 2, 5
"""Widths of an arm that are measured to the last, and those of which a few pairs say enough (1 to 3, and 3 to 4, of the arms of
a toy)."""
LONG = 1.0
"""Minutes from which on it is said beforehand how many it will take."""
SURELY = 3.0
"""Times what is allowed: more than that is refused before it begins, as what is foretold is half or twice as much at times."""


@dataclass(frozen=True)
class Task:
    """What is to be measured."""

    config: TrainConfig
    """Of the dense target; its batch_size and microbatch say what a step is, its device where."""
    arms: dict[str, ModelConfig]
    """The low-rank arms of the target, as wide as the dense one."""
    threads: int
    """On a CPU."""
    within: float = WITHIN
    """What a ratio of times may miss of 1."""
    minutes: float = 30.0
    """What all of it may take."""
    under: Under | None = None
    """Of the study's table of step times, if it has one: nothing is measured under something else."""
    part: Path | None = None
    """The file that keeps each arm as soon as it is measured, for who goes on after a stop."""


Times = Annotated[float, Field(ge=0, le=1e12)]
"""A ratio of two times."""


class Timed(Config):
    """An arm as wide as takes the dense arm's time."""

    d_ff: Annotated[int, Field(ge=1)]
    dense_seconds: Seconds
    """Of a step of the dense arm: the median over the pairs."""
    seconds: Seconds
    """Of this arm's."""
    ratio: Times
    """The median of the pairs' ratios, this arm's over the dense one's."""
    ratio_low: Times
    ratio_high: Times
    """Ends of its interval."""
    pairs: Annotated[int, Field(ge=1)]
    """Of steps, one right after the other."""


class Part(Config):
    """What is known of a measurement that has not come to its end."""

    of: str
    """A hash of all that it depends on but the arm."""
    arms: dict[str, Timed]
    """By the arm's model, as JSON."""


class Timings(Config):
    """All that was measured, and on what."""

    device: str
    """`cpu`, or the GPU's product name."""
    torch: str
    """Its version."""
    threads: int
    """Of torch on the CPU."""
    precision: str
    """Of activations."""
    arms: dict[str, Timed]


def measured(task: Task, say: Say) -> Timings:
    """Measure in a fresh process. say: hears in a line how far it is. Raises UserError when it cannot be done here."""
    return apart(Work(WHERE, timings, _too_large), task, say, task.config.device == "cuda", task.threads)


def _too_large(task: Task, error: str) -> str:
    size = training_cost(task.config, 2 if task.config.device == "cuda" else 4).memory_bytes
    return (
        f"the dense target and an arm of it do not fit in memory together ({size / 2**30:.1f} GiB for the dense one; "
        f"{error}); a smaller target.microbatch or a larger device is needed"
    )


def timings(task: Task, say: Say) -> Timings:
    """Measure in this process. Raises UserError."""
    try:
        check_under(_of_whole_steps(task.under, under(task.config)), task.config)
    except UserError as error:
        raise UserError(f"{error}; confirm it there, or without step_seconds among the matches") from None
    with each_shape_by_itself(resolved(task.config.kernels, task.config.resolve_device())):
        return _timings(task, say)


def _of_whole_steps(there: Under | None, here: Under) -> Under | None:
    """What pieces were measured under, for steps that are timed whole: these do not depend on the pieces' version, and what an
    older version did not write down is no difference."""
    if there is None or there.version == here.version:
        return there
    unsaid = {name: getattr(here, name) for name in ("triton", "cuda", "driver") if not getattr(there, name)}
    return there.change(version=here.version, **unsaid)


def _timings(task: Task, say: Say) -> Timings:
    device, found = task.config.resolve_device(), known(task)
    names = dict[ModelConfig, str]()  # arms that are one model have one width
    for arm, placed in task.arms.items():
        names.setdefault(placed, arm)
    if left := {placed: arm for placed, arm in names.items() if placed not in found}:
        _measure(task, left, found, say)
    return Timings(
        device=device_name(device),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        precision=precision(task.config, device),
        arms={arm: found[placed] for arm, placed in task.arms.items()},
    )


def _measure(task: Task, names: Mapping[ModelConfig, str], found: dict[ModelConfig, Timed], say: Say) -> None:
    """Find the widths of some arms, and keep each. names: of the arms; found: gets what is found. Raises UserError."""
    device, began = device_name(task.config.resolve_device()), time.monotonic()
    say("a step of the dense arm")
    dense, before = Stepper(task.config), len(found)
    check_speed(dense.first_seconds(), device, task.minutes, min(2, dense.microbatches))
    dense.warm_up()
    minutes = _foretold(dense, len(names), task.within)
    check_noise(minutes, device, task.minutes)
    if minutes > LONG:
        say(Beforehand(foretelling(minutes, task.minutes)))
    for number, (placed, arm) in enumerate(names.items(), before + 1):

        def heard(line: str, number: int = number) -> None:
            say(f"arm {number} of {before + len(names)}, {(time.monotonic() - began) / 60:.1f} min so far: {line}")

        found[placed] = _timed(task, dense, arm, placed, heard, lambda: time.monotonic() - began > 60 * task.minutes)
        _keep(task, found)


def known(task: Task) -> dict[ModelConfig, Timed]:
    """The arms that were measured before a stop, under the same in all that widths depend on; none where that is not read."""
    if task.part is not None:
        with suppress(OSError, UnicodeDecodeError, UserError):
            part = Part.parse_json(task.part.read_text(encoding="utf-8"), str(task.part))
            if part.of == _hash(task):
                keys = {placed.model_dump_json(): placed for placed in task.arms.values()}
                return {keys[key]: its for key, its in part.arms.items() if key in keys}
    return {}


def _keep(task: Task, found: Mapping[ModelConfig, Timed]) -> None:
    if task.part is not None:
        with suppress(OSError):  # it is measured again after a stop
            part = Part(of=_hash(task), arms={placed.model_dump_json(): its for placed, its in found.items()})
            replace_text(task.part, part.model_dump_json(indent=1) + "\n", sync=False)


def _hash(task: Task) -> str:
    of_steps = under(task.config).model_dump_json(exclude={"version"})  # that of pieces
    its = (task.config.model_dump_json(), of_steps, f"{task.within} {COVERAGE}")
    return sha256(" ".join(its).encode()).hexdigest()


def check_speed(seconds: float, device: str, minutes: float, microbatches: int = 2) -> None:
    """Raises UserError when the fewest pairs would take longer than is allowed. seconds: of a microbatch; microbatches: of a
    step that are computed."""
    fewest = PROBES + FIRST
    whole = 2 * microbatches * fewest * seconds / 60  # two steps a pair
    if whole > minutes:
        raise UserError(
            f"a microbatch of the target takes {seconds:.1f} s on {device}, so that {fewest} pairs of steps take {whole:.0f} "
            f"min, and {minutes:g} are allowed (confirm.timing_minutes); a smaller target.microbatch or a faster device is "
            "needed"
        )


def _foretold(dense: Stepper, arms: int, within: float) -> float:
    """About how many minutes the widths of so many arms take, by how much dense steps differ from each other."""
    began, pair, pairs = time.monotonic(), Pairs(dense, dense), list[Pair]()
    while len(pairs) < PROBES or (len(pairs) < MORE_PROBES and time.monotonic() - began < PROBE_SECONDS):
        pairs.append(pair())
    needed = ROUGH * FIRST + CLOSE * pairs_needed([one / other for one, other in pairs], within)
    return arms * needed * (time.monotonic() - began) / len(pairs) / 60


def foretelling(foretold: float, minutes: float) -> str:
    """How long the widths take, in words. foretold: minutes, roughly; minutes: that are allowed."""
    short = ", which may not suffice" if foretold > minutes else ""
    return f"about {foretold:.0f} min, at most {minutes:g} (confirm.timing_minutes){short}"


def check_noise(foretold: float, device: str, minutes: float) -> None:
    """Raises UserError when the widths would surely take longer than is allowed. foretold: minutes, roughly."""
    if foretold > SURELY * minutes:
        raise UserError(
            f"dense steps differ so much from each other on {device} that it would take about {foretold:,.0f} min, and "
            f"{minutes:g} are allowed (confirm.timing_minutes); a quieter machine is needed, or matches without step_seconds"
        )


def _timed(task: Task, dense: Stepper, arm: str, placed: ModelConfig, say: Say, is_late: Callable[[], bool]) -> Timed:
    """The width of an arm. Raises UserError."""

    def ratio(d_ff: int) -> Ratio:
        other = Stepper(task.config.change(model=placed.change(d_ff=d_ff)))
        other.warm_up()

        def heard(ratio: Ratio) -> None:
            say(f"{arm} at d_ff {d_ff}, {ratio.pairs:,} pairs: {ratio.value:.4f} ± {ratio.half:.4f} of the dense arm's time")

        try:
            return measure(Pairs(dense, other), heard, task.within, is_late)
        except UserError as error:
            late = f", when the {task.minutes:g} min of confirm.timing_minutes had passed" if is_late() else ""
            raise UserError(f"{arm} at d_ff {d_ff}{late}: {error}") from None

    guess = rebalance(placed, "flops").d_ff
    grid = Grid(placed.d_ff, placed.ffn_multiple, lambda d_ff: placed.wide(d_ff) is not None)
    try:
        d_ff, its = equal_width(ratio, guess, grid, task.within)
    except ValueError as error:
        raise UserError(f"{arm} at the target: {error}") from None
    return Timed(
        d_ff=d_ff,
        dense_seconds=its.dense_seconds,
        seconds=its.seconds,
        ratio=its.value,
        ratio_low=its.low,
        ratio_high=its.high,
        pairs=its.pairs,
    )


class Pairs:
    """A step of the dense arm and one of another; which of them goes first alternates, so that neither gains by it."""

    def __init__(self, dense: Stepper, other: Stepper) -> None:
        self.steppers, self.turn = (dense, other), False

    def __call__(self) -> Pair:
        """The seconds of each."""
        dense, other = self.steppers
        self.turn = not self.turn
        if self.turn:
            return dense.step_seconds(), other.step_seconds()
        seconds = other.step_seconds()
        return dense.step_seconds(), seconds
