"""A run: the job before it is trained, what is told of it meanwhile, and its record."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field

from ..lpa.checkpoint import Curve
from ..lpa.config import Config, Count
from ..lpa.model_config import ModelConfig
from ..lpa.optim import OptimConfig
from .budget import Listed

Status = Literal["complete", "pruned", "diverged", "failed"]


class Refusal(Config):
    """A proposal that is not trained."""

    params: dict[str, str]
    why: str
    """`the model of trial-7`, or `above the limit of params`."""


class Recipe(Config):
    """How a run is trained where that is not as the space's proxy is."""

    optim: OptimConfig
    tokens: Annotated[Count, Field(gt=0)]
    batch_size: Annotated[int, Field(gt=0)]
    """Sequences a step."""
    microbatch: Annotated[int, Field(gt=0)] | None = None


def trained(model: ModelConfig, recipe: Recipe) -> str:
    """What a run trains, but for its seed, as text."""
    return f"{model.model_dump_json()} {recipe.model_dump_json()}"


class Job(Config):
    """A run before it is trained: what the driver writes down and hands to an executor."""

    run: str
    """Names it within its study: `trial-7` for a candidate, `noise-2` for another seed of the dense arm."""
    arm: str | None = None
    """The reference arm that it is, if any."""
    params: dict[str, str] = {}
    """The point of the space; empty for an arm outside of it."""
    seed: int
    """Of the initial weights and the batches."""
    model: ModelConfig
    """The proxy."""
    target: ModelConfig
    costs: dict[str, int | float]
    """At the target, by name."""
    feasible: bool = True
    """Whether the costs keep to the space's limits (only arms and listed placements are trained when they do not)."""
    listed: Listed | None = None
    """The user's words, if it is a placement that was asked for."""
    rungs: tuple[int, ...] = ()
    """Tokens at which the driver is asked whether the run goes on."""
    continues: str | None = None
    """The stopped run of the same model that it takes up again."""
    continues_at: int = 0
    """Tokens at which that one was stopped."""
    refused: tuple[Refusal, ...] = ()
    """Proposals that were not trained, since the job before this one."""
    attempts: tuple[str, ...] = ()
    """Why each earlier attempt at it failed, since the driver was last started."""
    microbatch: int | None = None
    """Sequences in one forward pass, where an attempt that ran out of memory made them fewer than the space's."""
    recipe: Recipe | None = None
    """Of a run of a confirmation, whose loss is also taken on the test split."""

    @cached_property
    def trained(self) -> str:
        """What is trained, of a run with a recipe, as text: runs with equal texts are one."""
        assert self.recipe is not None
        return f"{trained(self.model, self.recipe)} {self.seed}"

    @property
    def words(self) -> str:
        """What it is among the runs of its study: the placement, or its place in a protocol."""
        return self.placement if self.recipe is None else ", ".join([*self.params.values(), f"seed {self.seed}"])

    @property
    def placement(self) -> str:
        """The target's placement, with the activation between the factors where there is one."""
        text = self.target.placement.text
        if self.target.factor_activation != "none" and self.target.placement.sublayers != "dense":
            text += f", {self.target.factor_activation}"
        return text


class Measured(Config):
    """What depends on the machine and the moment, and so differs between two runs of one seed."""

    device: str
    worker: str = ""
    """Its worker and device, as the executor names them; empty where nobody noted it."""
    started: float
    """Unix time, seconds."""
    seconds: float
    """Of the last attempt, building, validation and what its device takes to start included."""
    train_seconds: float
    """Of its training loop, validation included."""
    peak_memory_bytes: int
    """Of the worker process, or allocated on the GPU."""


class Record(Job):
    """A run that has ended, however it ended."""

    status: Status
    """pruned: stopped at a rung."""
    reason: str = ""
    """Why, when it is not complete."""
    loss_nats: float | None = None
    """Validation loss at the end, nats a token."""
    bits_per_byte: float | None = None
    """The same as bits a byte of text."""
    test_loss_nats: float | None = None
    """On the test split at the end, nats a token, of a run of a confirmation."""
    tokens: int = 0
    """Trained on, however it ended."""
    tokens_before: int = 0
    """Of these, what the stopped run had trained on that it took up again; 0 when it had to start anew."""
    curve: Curve = ()
    measured: Measured | None = None
    """Nothing when the worker was lost."""

    @property
    def perplexity(self) -> float | None:
        """exp(loss_nats), a token; infinite where a float ends."""
        if self.loss_nats is None:
            return None
        return math.exp(self.loss_nats) if self.loss_nats < 709 else math.inf

    def values(self, objectives: Sequence[str]) -> list[float]:
        """Its objectives by name; NaN for the loss that a run without one has."""
        loss = math.nan if self.loss_nats is None else self.loss_nats
        return [loss if name == "loss_nats" else float(self.costs[name]) for name in objectives]


@dataclass(frozen=True)
class Advanced:
    """A run has come to an evaluation."""

    run: str
    tokens: int
    loss_nats: float
    at_rung: bool
    """Whether it waits to be told to go on or to stop."""


@dataclass(frozen=True)
class Trained:
    """How far a run has come, told at most about once a second."""

    run: str
    tokens: int
    tokens_per_second: float
    """Since the one before; validation included."""


@dataclass(frozen=True)
class Fault:
    """A run that failed for a cause that another attempt may not meet."""

    record: Record
    """What it is when there is no other attempt."""
    out_of_memory: bool = False


Message = Trained | Advanced | Fault | Record
"""What an executor tells of a run."""


@dataclass(frozen=True)
class Known:
    """A run, under way or ended, and what it has shown so far."""

    job: Job
    losses: Mapping[int, float]
    """Validation loss, nats, by tokens trained on."""
    ended: bool

    @property
    def reached(self) -> int:
        """Tokens at the last evaluation."""
        return max(self.losses, default=0)

    @property
    def stopped(self) -> bool:
        """Whether it ended at a rung."""
        return isinstance(self.job, Record) and self.job.status == "pruned"

    def values(self, objectives: Iterable[str], tokens: int) -> list[float]:
        """Its objectives after so many tokens, at which it was evaluated."""
        return [self.losses[tokens] if name == "loss_nats" else float(self.job.costs[name]) for name in objectives]
