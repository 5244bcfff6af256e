"""One candidate -> one short training run -> Record."""

import resource
import shutil
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path

import torch

from ..lpa.checkpoint import Reached
from ..lpa.config import UserError, one_line
from ..lpa.data import Shards
from ..lpa.guard import DivergedError
from ..lpa.metrics import device_name
from ..lpa.train import Progress, reached, train
from ..lpa.train_config import TrainConfig
from .record import Advanced, Fault, Job, Measured, Message, Record, Status, Trained

TELL_SECONDS = 1.0
"""Between two words of a run on how far it has come."""


def run_proxy(job: Job, config: TrainConfig, shards: Shards, folder: Path | None = None) -> Generator[Message, bool | None]:
    """Train a job's model as `config` says: an Advanced at every evaluation, Trained in between, and its Record or a Fault
    last. One that is sent False at a rung stops there. folder: gets a checkpoint at every rung; a run that finds one there
    goes on from it, tells again what it has shown so far, and asks again at that rung.

    A run that diverges, or that no attempt could train (UserError), is a record with its reason; one that runs out of memory or
    meets an error of torch's is a Fault.
    """
    try:
        yield from _run(job, config, shards, folder)
    except UserError as error:
        yield failed(job, str(error))


def failed(job: Job, reason: str) -> Record:
    """Of a run of which nothing but its job is left."""
    return Record(**{name: getattr(job, name) for name in Job.model_fields}, status="failed", reason=reason)


def _run(job: Job, config: TrainConfig, shards: Shards, folder: Path | None) -> Generator[Message, bool | None]:
    """See run_proxy. Raises UserError."""
    started, clock = time.time(), time.perf_counter()  # a worker's first run makes its GPU's context, which takes seconds
    config = as_trained(job, config)
    start = _start(job, config, shards, folder)
    device = config.checked_device()
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


def peak_memory_bytes(device: torch.device) -> int:
    """The most that was ever in use: on a GPU as torch allocated it, on a CPU the process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
