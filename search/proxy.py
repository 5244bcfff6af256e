"""One candidate -> one short training run -> Record."""

import math
import resource
import sys
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from ..lpa.config import Config, one_line
from ..lpa.data import Shards
from ..lpa.model import ModelConfig
from ..lpa.train import DivergedError, TrainConfig, train
from .budget import Listed


class Refusal(Config):
    """A proposal that is not trained."""

    params: dict[str, str]
    why: str
    """`repeated: trial-7`, or the limit that it breaks: `params`."""


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
    costs: dict[str, int]
    """At the target, by name."""
    feasible: bool = True
    """Whether the costs keep to the space's limits (only arms and listed placements are trained when they do not)."""
    listed: Listed | None = None
    """The user's words, if it is a placement that was asked for."""
    rungs: tuple[int, ...] = ()
    """Tokens at which the driver is asked whether the run goes on."""
    continues: str | None = None
    """The stopped run of the same model that it takes up again."""
    refused: tuple[Refusal, ...] = ()
    """Proposals that were not trained, since the job before this one."""

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
    started: float
    """Unix time, seconds."""
    seconds: float
    """Of the whole run, building and validation included."""
    train_seconds: float
    """Of the training loop, validation included."""
    peak_memory_bytes: int
    """Of the worker process, or allocated on the GPU."""


class Record(Job):
    """A run that has ended, however it ended."""

    status: Literal["complete", "pruned", "diverged", "failed"]
    """pruned: stopped at a rung."""
    reason: str = ""
    """Why, when it is not complete."""
    loss_nats: float | None = None
    """Validation loss at the end, nats a token."""
    bits_per_byte: float | None = None
    """The same as bits a byte of text."""
    tokens: int = 0
    """Trained on, however it ended."""
    tokens_before: int = 0
    """Of these, what the stopped run had trained on that it took up again; 0 when it had to start anew."""
    curve: tuple[tuple[int, float], ...] = ()
    """(tokens, validation loss_nats) at every evaluation."""
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
class Known:
    """A run, under way or ended, and what it has shown so far."""

    job: Job
    losses: Mapping[int, float]
    """Validation loss, nats, by tokens trained on."""
    ended: bool

    @property
    def stopped(self) -> bool:
        """Whether it ended at a rung."""
        return isinstance(self.job, Record) and self.job.status == "pruned"

    def values(self, objectives: Iterable[str], tokens: int) -> list[float]:
        """Its objectives after so many tokens, at which it was evaluated."""
        return [self.losses[tokens] if name == "loss_nats" else float(self.job.costs[name]) for name in objectives]


def run_proxy(job: Job, config: TrainConfig, shards: Shards) -> Generator[Advanced | Record, bool | None]:
    """Train a job's model as `config` says: an Advanced at every evaluation, and its Record last. One that is sent False at
    a rung stops there.

    A run that diverges, runs out of memory or meets an error of torch's is a record with its reason.
    """
    config = config.change(model=job.model, seed=job.seed)
    config = config.change(eval_steps=tuple(tokens // config.batch_tokens for tokens in job.rungs))
    device = config.resolve_device()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started, clock = time.time(), time.perf_counter()
    curve: list[tuple[int, float]] = []
    status: Literal["complete", "pruned", "diverged", "failed"] = "complete"
    reason, train_seconds, tokens = "", 0.0, 0
    try:
        for progress in train(config, shards):
            train_seconds, tokens = progress.seconds, progress.tokens
            if progress.valid_loss_nats is not None:
                curve.append((tokens, progress.valid_loss_nats))
                if (yield Advanced(job.run, tokens, progress.valid_loss_nats, tokens in job.rungs)) is False:
                    status, reason = "pruned", f"behind at {tokens:,} tokens"
                    break
    except DivergedError as error:
        status, reason = "diverged", str(error)
    except (torch.OutOfMemoryError, MemoryError) as error:
        status, reason = "failed", f"out of memory: {one_line(error, 300)}"
    except RuntimeError as error:
        status, reason = "failed", one_line(error, 300)
    peak = peak_memory_bytes(device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    loss = curve[-1][1] if status == "complete" else None
    bits = None if loss is None else shards.bits_per_byte(loss, "valid", job.model.context, config.data.valid_tokens)
    yield Record(
        **job.model_dump(exclude={"model", "target"}),
        model=job.model,
        target=job.target,
        status=status,
        reason=reason,
        loss_nats=loss,
        bits_per_byte=bits,
        tokens=tokens,
        curve=tuple(curve),
        measured=Measured(
            device=device_name(device),
            started=started,
            seconds=time.perf_counter() - clock,
            train_seconds=train_seconds,
            peak_memory_bytes=peak,
        ),
    )


def device_name(device: torch.device) -> str:
    """`cpu`, or the GPU's product name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def peak_memory_bytes(device: torch.device) -> int:
    """The most that was ever in use: on a GPU as torch allocated it, on a CPU the process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
