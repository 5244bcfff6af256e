"""The one training loop: proxy runs, confirmation and full training all run it."""

import contextlib
import hashlib
import time
from collections.abc import Collection, Generator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import keeper as keeping
from .checkpoint import Reached
from .config import UserError, dump_yaml
from .cost import flops_per_token
from .data import Batches, Shards, near, sent, valid_batches
from .distributed import ALONE, World
from .files import replace_text
from .graph import Add, Graphed, free
from .guard import DivergedError, Guard, finite
from .keeper import Keeper
from .kernels import compilations, resolved
from .logs import UNLOGGED, Logs
from .metrics import Machine, Metrics, Progress, Speed, peak_flops
from .model import Block, Decoder, fill, outline
from .optim import optimizer, schedule, set_rate
from .parts import average_next, whole
from .shards import keep_tokenizer
from .train_config import TrainConfig

CHECKPOINT, CONFIG = "checkpoint.pt", "config.yaml"


def train(
    config: TrainConfig,
    shards: Shards,
    out: Path | None = None,
    only_at: Collection[int] | None = None,
    world: World = ALONE,
    logs: Logs = UNLOGGED,
    guard: Guard | None = None,
) -> Generator[Progress]:
    """Train a model from its config, one yield a step. With `out`, the config, metrics, checkpoints and the data's tokenizer go
    there, and what a checkpoint there has done is not done again; closing the iterator early leaves a checkpoint to go on from,
    or raises DivergedError.

    only_at: steps; with them the folder serves to go on from and for nothing else: it gets a checkpoint after these steps, no
    config and no metrics, and a checkpoint that cannot be written (the disk is full) is left out.

    world: the processes that train together. All take the same steps of the same batches, and end the iterator at the same one.

    logs: what else is told of each line of metrics, in folders beside it.

    guard: the device's own way when left out.

    Raises DivergedError, and UserError when `out` holds the checkpoint of another config or of other data, or when it cannot be
    written; then it says which checkpoint is whole.
    """
    device = config.resolve_device()
    model = fresh(config, device, world)
    adamw = optimizer(model, config.optim)
    spare, fingerprint = only_at is not None, config.fingerprint(shards.content)
    machine = Machine.of(config, device, world.size, precision(config, device))
    keeper = Keeper(out and out / CHECKPOINT, fingerprint, model, adamw, machine.precision, spare=spare, world=world)
    with world.together():
        add = adder(model, config, device, world)
        score = scorer(model, config, add)
        begun = keeper.load()
    done, curve, losses = begun.step, begun.curve, list(begun.pending)
    told = out if world.is_first and not spare else None
    with keeper.writing():
        metrics = Metrics(told, done, speed(config, device, world.size, done), machine, begun.seconds)
        if told is not None:
            replace_text(told / CONFIG, dump_yaml(config))
            if not config.data.is_bytes:
                keep_tokenizer(shards, told, anew=not done)
            metrics.logs = logs.open(told, config, done, metrics.rows)
    part = world.part(config.batch_size)
    whole_split = Batches(shards.split("train"), config.model.context, config.batch_size, config.seed, part)
    batches = near(whole_split, range(done, config.steps), device)
    guard = guard or Guard(device)
    due = _eval_steps(config)
    started = time.perf_counter()

    def here() -> Reached:
        return Reached(done, curve, losses, seconds=begun.seconds + time.perf_counter() - started)

    try:
        for number in range(done, config.steps):
            share = schedule(config.optim, number, config.steps)
            loss, norm = step(model, adamw, batches(number), config, number, share, world, guard, add)
            losses.append(loss)
            done = number + 1

            train_loss = valid_loss = test_loss = None
            if logged := done % config.log_every == 0 or done in due:
                guard.check()
                train_loss = finite(torch.stack(losses).mean().item(), "training loss", done)
                losses.clear()
            if done in due:
                valid_loss = finite(evaluate(model, shards, "valid", config, world, score), "validation loss", done)
                curve = (*curve, (done * config.batch_tokens, valid_loss))
            if config.test and done == config.steps:
                test_loss = finite(evaluate(model, shards, "test", config, world, score), "test loss", done)
            seconds, slope = time.perf_counter() - started, (config.optim.lr * share, norm.item()) if logged else (None, None)
            progress = Progress(done, done * config.batch_tokens, train_loss, valid_loss, seconds, curve, test_loss, *slope)
            if logged:
                with keeper.writing():
                    metrics.write(progress)
            if _keeps(config, done) if only_at is None else done in only_at:
                guard.check()
                keeper.save(here())
            yield progress
        keeper.finish()
    except (GeneratorExit, DivergedError, UserError) as ending:  # which all processes have; another error is one's own
        try:
            if isinstance(ending, GeneratorExit):
                guard.check()
                keeper.save(here())
        finally:
            keeper.finish()
        raise
    finally:
        metrics.close()
        free(add, score)


def fresh(config: TrainConfig, device: torch.device, world: World = ALONE) -> Decoder:
    """The model that a training starts with, or this process's part of it."""
    model = outline(config.model)
    model.use(config.kernels, device)
    for block in model.blocks:
        assert isinstance(block, Block)
        block.recomputes = config.activation_checkpointing
    return fill(world.shard(model, device, is_bfloat16(config, device)), device, config.seed)


def speed(config: TrainConfig, device: torch.device, processes: int, done: int) -> Speed:
    """What tells a training's speed, from `done` steps on."""
    peak, compiles = peak_flops(device) if is_bfloat16(config, device) else None, resolved(config.kernels, device) != "plain"
    count = compilations if compiles else int
    return Speed(flops_per_token(config.model), peak and peak * processes, done * config.batch_tokens, count=count)


def reached(out: Path, config: TrainConfig, shards: Shards) -> Reached:
    """How far a checkpoint in `out` has come. Raises UserError when it is another config's, or on other data."""
    return keeping.reached(out / CHECKPOINT, config.fingerprint(shards.content))


def step(
    model: Decoder,
    adamw: torch.optim.AdamW,
    batch: tuple[Tensor, Tensor],
    config: TrainConfig,
    number: int,
    share: float,
    world: World = ALONE,
    guard: Guard | None = None,
    add: Add | None = None,
) -> tuple[Tensor, Tensor]:
    """One step, from a batch to new weights; the batch's mean loss and the norm of its gradient. batch: inputs and targets,
    (batch, context) each, of which a process of many has its own part; number: the step's, 0-based; share: of the peak rate.
    What is dropped out is a function of (seed, number) and of the process, too. guard: one that waits when left out; add:
    accumulate. Raises DivergedError in every process before any weight is changed."""
    if config.model.dropout:
        torch.manual_seed(_step_seed(config.seed, number, world.rank))
    device = next(model.parameters()).device
    inputs, targets = (sent(half, device) for half in batch)
    loss = world.mean(add(inputs, targets) if add else accumulate(model, inputs, targets, config))
    norm = whole(gradient_norm(model))
    (guard or Guard(device, waits=True)).see(loss, norm, number, adamw)
    update(model, adamw, config, share, norm)
    return loss, norm


def gradient_norm(model: nn.Module) -> Tensor:
    """Of the whole gradient."""
    return nn.utils.get_total_norm(one.grad for one in model.parameters() if one.grad is not None)


def update(model: nn.Module, adamw: torch.optim.AdamW, config: TrainConfig, share: float, norm: Tensor) -> None:
    """From a batch's gradient to new weights; the gradient is gone then. share: of the peak rate; norm: the gradient's."""
    if config.optim.clip is not None:
        nn.utils.clip_grads_with_norm_(model.parameters(), config.optim.clip, norm)
    set_rate(adamw, share)
    adamw.step()
    adamw.zero_grad(set_to_none=True)


def adder(model: Decoder, config: TrainConfig, device: torch.device, world: World) -> Add:
    """What adds a batch's gradient. Raises UserError for a CUDA graph where there can be none."""
    add = partial(accumulate, model, config=config)
    if not config.cuda_graph:
        return add
    config.check_graph(device, world.size)
    return Graphed(add, list(model.parameters()))


def scorer(model: Decoder, config: TrainConfig, add: Add) -> Add:
    """What gives a batch's mean loss alone: as a graph, in the memory of that which adds gradients, where that is one."""
    score = partial(mean_loss, model, config=config)
    return Graphed(score, beside=add) if isinstance(add, Graphed) else score


def mean_loss(model: Decoder, inputs: Tensor, targets: Tensor, config: TrainConfig) -> Tensor:
    """Of a batch that fits in memory. inputs, targets: (batch, context)."""
    with autocast(config, inputs.device):
        return model.loss(inputs, targets)


def accumulate(model: Decoder, inputs: Tensor, targets: Tensor, config: TrainConfig) -> Tensor:
    """Add one batch's gradient, microbatch by microbatch; the batch's mean loss. inputs, targets: (batch, context)."""
    whole = len(inputs)
    size = min(config.microbatch or whole, whole)
    total = torch.zeros((), device=inputs.device)
    for first in range(0, whole, size):
        loss = mean_loss(model, inputs[first : first + size], targets[first : first + size], config) * (size / whole)
        average_next(model, config.average_every == "microbatch" or first + size == whole)
        loss.backward()
        total += loss.detach()
    return total


@torch.no_grad()
def evaluate(
    model: Decoder, shards: Shards, split: str, config: TrainConfig, world: World = ALONE, score: Add | None = None
) -> float:
    """Mean loss in nats a token over the fixed windows of a split; many processes share them. score: mean_loss when None."""
    device = next(model.parameters()).device
    score = score or partial(mean_loss, model, config=config)
    total, tokens = torch.zeros((), device=device, dtype=torch.float64), 0
    model.eval()
    share = config.batch_size // world.size
    size = min(config.microbatch or share, share)
    batches = valid_batches(shards.split(split), config.model.context, config.data.valid_tokens, size)
    for (inputs, targets), counts in world.deal(batches):
        loss = score(sent(inputs, device), sent(targets, device)) * targets.numel()
        if counts:
            total += loss
            tokens += targets.numel()
    model.train()
    return world.total(total).item() / world.total(torch.tensor(tokens, device=device)).item()


def is_bfloat16(config: TrainConfig, device: torch.device) -> bool:
    """Whether activations are bfloat16: where the config asks for it, or where `auto` finds a GPU that has it."""
    if config.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return config.precision == "bfloat16"


def precision(config: TrainConfig, device: torch.device) -> str:
    """What activations are computed in, in the config's words."""
    return "bfloat16" if is_bfloat16(config, device) else "float32"


def autocast(config: TrainConfig, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 autocast, or nothing."""
    wanted = is_bfloat16(config, device)
    return torch.autocast(device.type, dtype=torch.bfloat16) if wanted else contextlib.nullcontext()


def _eval_steps(config: TrainConfig) -> set[int]:
    even = {max(1, round(config.steps * (number + 1) / config.evals)) for number in range(config.evals)}
    return even | set(config.eval_steps)


def _keeps(config: TrainConfig, step: int) -> bool:
    return step % config.checkpoint_every == 0 or step == config.steps


def _step_seed(seed: int, step: int, rank: int) -> int:
    whose = f":{rank}" if rank else ""
    return int.from_bytes(hashlib.sha256(f"{seed}:{step}:dropout{whose}".encode()).digest()[:7], "big")
