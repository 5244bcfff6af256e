"""Many processes, one training: who they are, what each of them reads, and what they agree on."""

import json
import os
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from .config import UserError
from .model import Decoder

T = TypeVar("T")

PATIENCE = timedelta(days=1)
"""How long a process waits for another's word: one prepares the data while the others wait (assumption)."""

SEEN_SECONDS = 90.0
"""After which a file that one machine has made is seen by another (NFS keeps what it knows of a folder for up to 60 s, by its
default, acdirmax)."""

ENDED = "lpanas ended"
"""A key."""

MEETING_SECONDS = 1800
"""How long the processes wait for each other at the start (torch's own default)."""


class SharedMistakeError(UserError):
    """A mistake that one process has found and all of them know of."""


@dataclass(frozen=True)
class World:
    """The processes of one training; alone when nothing else is said."""

    rank: int = 0
    """This process's, 0-based."""
    size: int = 1
    """Processes."""
    local_rank: int = 0
    """Among those of this machine."""
    control: dist.ProcessGroup | None = None
    """What words go over: gloo."""
    storage: dist.ProcessGroup | None = None
    """What checkpoints are agreed on over, in a thread of their own, whose messages must not cross the others'."""
    ledger: dist.Store | None = None
    """What outlives these processes when torchrun starts them again, and ends with it."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def check(self, batch_size: int, microbatch: int | None, device: torch.device) -> None:
        """Raises UserError when a batch does not divide among the processes, or there are too few GPUs."""
        share, left = divmod(batch_size, self.size)
        if left:
            raise UserError(f"batch_size: {batch_size} sequences do not divide among {self.size} processes")
        if microbatch and share % min(microbatch, share):
            raise UserError(f"microbatch: {microbatch} does not divide the {share} sequences of each of {self.size} processes")
        if device.type == "cuda" and self.local_rank >= (gpus := torch.cuda.device_count()):
            raise UserError(f"device: more processes than the {gpus} GPUs of this machine")

    def part(self, batch_size: int) -> slice:
        """Which sequences of a batch this process reads."""
        share = batch_size // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def mean(self, loss: Tensor) -> Tensor:
        """Over the processes."""
        return self.total(loss) / self.size if self.size > 1 else loss

    def total(self, value: Tensor) -> Tensor:
        """The sum over the processes."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def deal(self, items: Iterable[T]) -> Iterator[tuple[T, bool]]:
        """One item of every `size` for this process, and whether it counts: where the last are fewer than the processes, some
        do the last one again for nothing, as a model in shards needs all of them to run."""
        rest = iter(items)
        while group := list(islice(rest, self.size)):
            yield group[min(self.rank, len(group) - 1)], self.rank < len(group)

    def largest(self, number: int) -> int:
        """Over the processes."""
        if self.size == 1:
            return number
        value = torch.tensor(number)
        dist.all_reduce(value, dist.ReduceOp.MAX, self.control)
        return int(value)

    def first_says(self, value: T) -> T:
        """What the first process has; the others' may be a little older, as on a shared disk."""
        if self.size == 1:
            return value
        said = [value]
        dist.broadcast_object_list(said, 0, self.control)
        return said[0]

    def end(self, text: str, code: int) -> None:
        """Keep how these processes end, for those that torchrun starts after them: they would end alike."""
        if self.ledger is not None and self.is_first:
            self.ledger.set(ENDED, json.dumps([text, code]))

    def ended(self) -> tuple[str, int] | None:
        """How those before them ended, if by a mistake or because the training diverged."""
        said = "" if self.ledger is None else _said(self.ledger, ENDED)
        return tuple(json.loads(said)) if said else None

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier(self.control)

    def check_shared(self, folder: Path, seconds: float = SEEN_SECONDS) -> None:
        """Raises UserError when a process does not see in so many seconds what the first one writes in a folder: its machine
        has a disk of its own there, and a checkpoint's parts would never lie together."""
        if self.size == 1:
            return
        mark = folder / self.first_says(f".{uuid4().hex}.seen")
        if self.is_first:
            mark.touch()
        self.wait()
        try:
            with self.together():
                if not _appears(mark, seconds):
                    raise UserError(
                        f"--out {folder}: process {self.rank} does not see there what process 0 writes; expected a disk "
                        "that all machines share"
                    )
        finally:
            if self.is_first:
                mark.unlink()

    def first_then_others(self, call: Callable[[], T]) -> T:
        """What a call gives, made by one process of each machine before the others: what it leaves on disk, they find."""
        if self.local_rank:
            self.wait()
            return call()
        try:
            return call()
        finally:
            self.wait()

    @contextmanager
    def together(self) -> Generator[None]:
        """A mistake (UserError) of one process in this block is everybody's: SharedMistakeError at its end. Alone: as it is."""
        if self.size == 1:
            yield
            return
        mistake, found = None, [None] * self.size
        try:
            yield
        except UserError as error:
            mistake = str(error)
        dist.all_gather_object(found, mistake, self.control)
        if texts := [text for text in found if text is not None]:
            raise SharedMistakeError(texts[0])

    def shard(self, model: Decoder, device: torch.device, bfloat16: bool) -> Decoder:
        """The model, of which every process keeps a part (FSDP2): its weights, gradients and moments, block by block. It may be
        on the meta device. bfloat16: the blocks' weights are sent, and compute, in it. The others are sent in float32, as the
        residual stream that begins with them would be bfloat16, too, and is not on one process. All are kept, and gradients
        averaged, in float32."""
        if self.size == 1:
            return model
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard  # half a second that a single process saves

        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # which nobody writes to
        kinds = (torch.bfloat16, torch.float32) if bfloat16 else (None, None)
        blocks = MixedPrecisionPolicy(*kinds, cast_forward_inputs=False)
        mesh = dist.init_device_mesh(device.type, (self.size,))
        for block in model.blocks:
            fully_shard(block, mesh=mesh, mp_policy=blocks)
        fully_shard(model, mesh=mesh, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False))
        return model


ALONE = World()


@contextmanager
def joined() -> Generator[World]:
    """The processes that torchrun has started together with this one, or this one alone."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")
    if any(name not in os.environ for name in names):
        yield ALONE
        return
    rank, size, local_rank = (int(os.environ[name]) for name in names[:3])
    if size == 1:
        kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # by torchrun, which may start this process again
        yield World(ledger=next(rendezvous("env://"))[0] if kept else None)
        return
    if local_rank < torch.cuda.device_count():
        torch.cuda.set_device(local_rank)
    # without device_id, with which NCCL connects at once: for a training on CPUs, too, and in vain where a process has no GPU
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    ledger = next(rendezvous("env://"))[0]
    store = dist.PrefixStore(_attempt(ledger, rank, size), ledger)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    control, storage = (dist.new_group(backend="gloo", timeout=PATIENCE) for _ in range(2))
    assert isinstance(control, dist.ProcessGroup)
    assert isinstance(storage, dist.ProcessGroup)
    yield World(rank, size, local_rank, control, storage, ledger)
    dist.destroy_process_group()  # not after an error: the others may be gone, and the group's end waits for them


def _attempt(store: dist.Store, rank: int, size: int) -> str:
    """A name that only these processes know, agreed on with the first of them.

    torchrun keeps one store through its restarts, with the addresses of processes that are dead; torch 2.13 connects to those
    and waits. TORCHELASTIC_RESTART_COUNT does not tell attempts apart, as machines count their own failures alone.
    """
    mine, until = uuid4().hex, time.monotonic() + MEETING_SECONDS
    missing = set(range(1, size)) if rank == 0 else {rank}
    store.set(f"here {rank}", mine)
    while missing:
        for other in sorted(missing):
            here, named, heard = (_said(store, f"{word} {other}") for word in ("here", "named", "heard"))
            if rank == 0 and heard == mine:
                missing.discard(other)
            elif rank == 0 and here:
                store.set(f"named {other}", f"{here} {mine}")  # what is here may be a dead one's: it does not answer
            elif rank and named.startswith(mine):
                mine = named.split()[1]
                store.set(f"heard {rank}", mine)
                missing.clear()
        if time.monotonic() > until:
            raise TimeoutError(f"process {rank} of {size} waited in vain for {sorted(missing)}")
        time.sleep(0.02)
    return mine


def _appears(path: Path, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def _said(store: dist.Store, key: str) -> str:
    return store.get(key).decode() if store.check([key]) else ""
