"""Steps of the target timed, and each arm's FFN made as wide as takes the dense arm's time: in a process of its own, on the
device that runs train on. The driver never touches a GPU."""

from dataclasses import dataclass

import torch

from ..lpa.config import Config, UserError
from ..lpa.cost import cost, rebalance
from ..lpa.kernels import each_shape_by_itself, resolved
from ..lpa.model_config import ModelConfig
from ..lpa.step_time import Stepper
from ..lpa.train import is_bfloat16
from ..lpa.train_config import TrainConfig
from .apart import Say, Work, apart
from .equal_time import FIRST, SECONDS, Grid, Pair, Ratio, equal_width, measure
from .protocol import WITHIN
from .proxy import device_name

WHERE = "confirm.matches: step_seconds"


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


class Timed(Config):
    """An arm as wide as takes the dense arm's time."""

    d_ff: int
    dense_seconds: float
    """Of a step of the dense arm: the median over the pairs."""
    seconds: float
    """Of this arm's."""
    ratio: float
    """The median of the pairs' ratios, this arm's over the dense one's."""
    ratio_low: float
    ratio_high: float
    """Ends of its interval."""
    pairs: int
    """Of steps, one right after the other."""


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
    config = task.config
    recomputes = config.activation_checkpointing
    size = cost(config.model, config.microbatch or config.batch_size, recomputes=recomputes).memory_bytes
    return (
        f"the dense target and an arm of it do not fit in memory together ({size / 2**30:.1f} GiB for the dense one; "
        f"{error}); a smaller target.microbatch or a larger device is needed"
    )


def timings(task: Task, say: Say) -> Timings:
    """Measure in this process. Raises UserError."""
    with each_shape_by_itself(resolved(task.config.kernels, task.config.resolve_device())):
        return _timings(task, say)


def _timings(task: Task, say: Say) -> Timings:
    device = task.config.resolve_device()
    say("a step of the dense arm")
    dense = Stepper(task.config)
    check_speed(dense.first_seconds(), device_name(device))
    dense.warm_up()
    found = dict[ModelConfig, Timed]()  # arms that are one model have one width
    for arm, placed in task.arms.items():
        if placed not in found:
            found[placed] = _timed(task, dense, arm, placed, say)
    return Timings(
        device=device_name(device),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        precision="bfloat16" if is_bfloat16(task.config, device) else "float32",
        arms={arm: found[placed] for arm, placed in task.arms.items()},
    )


def check_speed(seconds: float, device: str) -> None:
    """Raises UserError when the fewest pairs would take too long. seconds: of a microbatch."""
    whole = 2 * 2 * FIRST * seconds  # two microbatches a step, two steps a pair
    if whole > SECONDS:
        raise UserError(
            f"a microbatch of the target takes {seconds:.1f} s on {device}, so that {FIRST} pairs of steps take {whole:.0f} s, "
            f"and {SECONDS:.0f} s are allowed; a smaller target.microbatch or a faster device is needed"
        )


def _timed(task: Task, dense: Stepper, arm: str, placed: ModelConfig, say: Say) -> Timed:
    """The width of an arm. Raises UserError."""

    def ratio(d_ff: int) -> Ratio:
        other = Stepper(task.config.change(model=placed.change(d_ff=d_ff)))
        other.warm_up()

        def heard(ratio: Ratio) -> None:
            say(f"{arm} at d_ff {d_ff}, {ratio.pairs:,} pairs: {ratio.value:.4f} ± {ratio.half:.4f} of the dense arm's time")

        try:
            return measure(Pairs(dense, other), heard, task.within)
        except UserError as error:
            raise UserError(f"{arm} at d_ff {d_ff}: {error}") from None

    guess = rebalance(placed, "flops").d_ff
    grid = Grid(placed.d_ff, placed.ffn_multiple, lambda d_ff: _is_model(placed, d_ff))
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


def _is_model(placed: ModelConfig, d_ff: int) -> bool:
    try:
        placed.change(d_ff=d_ff)
    except ValueError:  # a rank that saves nothing at this width
        return False
    return True


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
