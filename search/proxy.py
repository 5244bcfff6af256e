"""One candidate -> one short training run -> Record."""

import math
import resource
import shutil
import sys
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field

from ..lpa.checkpoint import Curve, Reached
from ..lpa.config import Config, Count, UserError, one_line
from ..lpa.data import Shards
from ..lpa.guard import DivergedError
from ..lpa.model_config import ModelConfig
from ..lpa.optim import OptimConfig
from ..lpa.train import Progress, reached, train
from ..lpa.train_config import TrainConfig
from .budget import Listed

TELL_SECONDS = 1.0
"""Between two words of a run on how far it has come."""

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


def run_proxy(job: Job, config: TrainConfig, shards: Shards, folder: Path | None = None) -> Generator[Message, bool | None]:
    """Train a job's model as `config` says: an Advanced at every evaluation, Trained in between, and its Record or a Fault
    last. One that is sent False at a rung stops there. folder: gets a checkpoint at every rung; a run that finds one there
    goes on from it, tells again what it has shown so far, and asks again at that rung.

    A run that diverges is a record with its reason; one that runs out of memory or meets an error of torch's is a Fault.
    """
    started, clock = time.time(), time.perf_counter()  # a worker's first run makes its GPU's context, which takes seconds
    config = as_trained(job, config)
    start = _start(job, config, shards, folder)
    device = config.resolve_device()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    status: Status = "complete"
    reason, out_of_memory, told = "", False, 0
    now, speed = Progress(0, 0, None, None, 0.0), Speed()
    try:
        for now in _progress(config, shards, folder, start):
            goes_on: bool | None = True
            for tokens, loss in now.curve[told:]:
                goes_on = yield Advanced(job.run, tokens, loss, at_rung=tokens == now.tokens and tokens in job.rungs)
            told = max(told, len(now.curve))
            if goes_on is False:
                status, reason = "pruned", f"behind at {now.tokens:,} tokens"
                break
            if (rate := speed(now.tokens)) is not None:
                yield Trained(job.run, now.tokens, rate)
    except DivergedError as error:
        status, reason = "diverged", str(error)
    except (MemoryError, RuntimeError) as error:
        status, reason, out_of_memory = "failed", one_line(error, 300), is_out_of_memory(error)
    loss = now.curve[-1][1] if status == "complete" else None
    bits = None if loss is None else shards.bits_per_byte(loss, "valid", job.model.context, config.data.valid_tokens)
    record = Record(
        **{name: getattr(job, name) for name in Job.model_fields},
        status=status,
        reason=f"out of memory: {reason}" if out_of_memory else reason,
        loss_nats=loss,
        bits_per_byte=bits,
        test_loss_nats=now.test_loss_nats if status == "complete" else None,
        tokens=now.tokens,
        tokens_before=min(start.step * config.batch_tokens, job.continues_at),
        curve=now.curve,
        measured=Measured(
            device=device_name(device),
            started=started,
            seconds=time.perf_counter() - clock,
            train_seconds=now.seconds,
            peak_memory_bytes=peak_memory_bytes(device),
        ),
    )
    if device.type == "cuda":
        torch.cuda.empty_cache()
    yield Fault(record, out_of_memory) if status == "failed" else record


def as_trained(job: Job, config: TrainConfig) -> TrainConfig:
    """The training of a job, evaluated at its rungs; config: that of the space's proxy."""
    if job.recipe is not None:
        config = config.change(**dict(job.recipe), test=True)
    changes: dict[str, object] = {"model": job.model, "seed": job.seed, "microbatch": job.microbatch or config.microbatch}
    return config.change(**changes, eval_steps=tuple(tokens // config.batch_tokens for tokens in job.rungs))


def _start(job: Job, config: TrainConfig, shards: Shards, folder: Path | None) -> Reached:
    """Where a run goes on from: what is in its folder, or was left by the stopped run that it takes up again. What cannot be
    used there (a torn checkpoint, another study's) is removed."""
    if folder is None:
        return Reached()
    if job.continues is not None and not folder.exists():
        with suppress(OSError):  # nothing was left: it starts anew
            (folder.parent / job.continues).rename(folder)
    try:
        return reached(folder, config, shards)
    except UserError:
        shutil.rmtree(folder, ignore_errors=True)
        return Reached()


def _progress(config: TrainConfig, shards: Shards, folder: Path | None, start: Reached) -> Iterator[Progress]:
    """What train() yields with a checkpoint at every rung; first of all where it goes on from, if it does."""
    if start.step:
        yield Progress(start.step, start.step * config.batch_tokens, None, None, 0.0, start.curve)
    yield from train(config, shards, folder, config.eval_steps)


class Speed:
    """Tokens a second, told at most once in so many seconds."""

    def __init__(self) -> None:
        self.since: float | None = None
        self.tokens = 0

    def __call__(self, tokens: int) -> float | None:
        """The speed since it was last told, or nothing."""
        now, since = time.monotonic(), self.since
        if since is not None and now - since < TELL_SECONDS:
            return None
        speed = None if since is None else (tokens - self.tokens) / (now - since)
        self.since, self.tokens = now, tokens
        return speed


def is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether a device's or the host's memory was too small, in the words of torch's allocators."""
    words = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def device_name(device: torch.device) -> str:
    """`cpu`, or the GPU's product name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def peak_memory_bytes(device: torch.device) -> int:
    """The most that was ever in use: on a GPU as torch allocated it, on a CPU the process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
