"""Where runs execute: local worker processes, each with its device."""

import multiprocessing as mp
import os
import selectors
import signal
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Protocol, Self

import torch

from ..lpa.config import UserError
from ..lpa.shards import read_shards
from ..lpa.train_config import TrainConfig
from . import mps as mps_service
from . import nursery
from .proxy import failed, run_proxy
from .record import Advanced, Fault, Job, Message, Record

EXIT_SECONDS = 5.0
"""From the end of a worker's pipe to its own end (assumption; measured: milliseconds)."""


@dataclass(frozen=True)
class Setup:
    """What every worker is told when it starts."""

    config: TrainConfig
    """The proxy's training; each job brings its model and seed."""
    shards: Path
    """The folder of token shards."""
    checkpoints: Path | None = None
    """Where each run has a folder with what it can go on from; none: a run that is tried again starts anew."""


@dataclass(eq=False)
class Worker:
    """A process, its end of the pipe, and the job that it holds."""

    process: mp.process.BaseProcess
    pipe: Connection
    slot: int
    job: Job | None = None
    used: bool = False
    """Whether it has ever had one."""
    silent: float = 0.0
    """Seconds that the driver has listened to it in vain."""

    def hold(self, job: Job | None) -> None:
        """Take a job, or have none."""
        self.job, self.used, self.silent = job, True, 0.0


@dataclass(frozen=True)
class Seat:
    """A worker as others see it."""

    worker: str
    device: str
    run: str | None
    """What it trains."""


class Executor(Protocol):
    """What the driver needs of a place where runs execute."""

    @property
    def idle(self) -> int:
        """Workers without a job."""
        ...

    @property
    def seats(self) -> tuple[Seat, ...]:
        """The workers, in a lasting order."""
        ...

    def submit(self, job: Job) -> None:
        """Hand a job to an idle worker."""

    def answer(self, run: str, go_on: bool) -> None:
        """Tell a run that waits at a rung whether it goes on."""

    def wait(self, seconds: float | None = None) -> Iterator[Message]:
        """What the workers have to tell, as soon as one has anything, or nothing after `seconds`."""
        ...


class LocalExecutor:
    """Worker processes on this machine: one thread each on a CPU, a GPU each where there are any, or a share of one.

    A worker that dies, that says nothing for too long or whose run meets an error costs that run, which comes back as a Fault,
    and is replaced.
    """

    def __init__(
        self, setup: Setup, workers: int | None = None, per_gpu: int = 1, hung_minutes: float = 10.0, mps: bool = False
    ) -> None:
        self.setup, self.hung_seconds, self.opened = setup, 60 * hung_minutes, ExitStack()
        self.device, self.threads = setup.config.resolve_device().type, 1
        size = seats_here(self.device, workers, per_gpu)
        self.workers, self.selector = list[Worker](), selectors.DefaultSelector()
        self.environment = self.opened.enter_context(mps_service.serving(mps and self.device == "cuda"))
        try:
            for slot in range(size):
                self.workers.append(self._start(slot))
        except BaseException:  # Ctrl-C
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def idle(self) -> int:
        """Workers without a job."""
        return sum(worker.job is None for worker in self.workers)

    @property
    def seats(self) -> tuple[Seat, ...]:
        """The workers, by their slots."""
        ours = sorted(self.workers, key=lambda worker: worker.slot)
        return tuple(Seat(str(one.slot), self._device(one.slot), one.job.run if one.job else None) for one in ours)

    @property
    def jobs(self) -> list[Job]:
        """What is being trained."""
        return [worker.job for worker in self.workers if worker.job is not None]

    def submit(self, job: Job) -> None:
        """Hand a job to an idle worker, a fresh one where there is one."""
        idle = [worker for worker in self.workers if worker.job is None]
        worker = min(idle, key=lambda worker: worker.used)
        if not worker.process.is_alive():
            worker = self._replace(worker)
        worker.hold(job)
        with suppress(OSError):  # it has died: wait() reports that
            worker.pipe.send(job)

    def answer(self, run: str, go_on: bool) -> None:
        """Tell a run that waits at a rung whether it goes on."""
        worker = next(worker for worker in self.workers if worker.job is not None and worker.job.run == run)
        with suppress(OSError):  # it has died: wait() reports that
            worker.pipe.send(go_on)

    def wait(self, seconds: float | None = None) -> Iterator[Message]:
        """What the workers have to tell, as soon as one has anything, or nothing after `seconds`.

        Only what it waits here counts as a worker's silence, and of that no more than it meant to wait: a search that was
        itself stopped for an hour (Ctrl-Z), or that was busy, kills nobody.
        """
        began, most = time.monotonic(), min([self.hung_seconds, *([] if seconds is None else [seconds])])
        ready = {key.data for key, _ in self.selector.select(most)}
        listened = min(time.monotonic() - began, most)
        for worker in list(self.workers):
            if worker not in self.workers:  # replaced meanwhile, by submit()
                continue
            if worker in ready:
                yield from self._told(worker)
            elif worker.job is not None:
                worker.silent += listened
                if worker.silent >= self.hung_seconds:
                    self._replace(worker)
                    yield lost(worker.job, f"no progress for {self.hung_seconds / 60:g} minutes")

    def _told(self, worker: Worker) -> Iterator[Message]:
        """All that a worker has told by now."""
        worker.silent = 0.0
        try:
            while worker.pipe.poll():
                message: Message = worker.pipe.recv()
                if isinstance(message, Fault):
                    self._replace(worker)  # an error may have left a GPU's context broken
                    yield message
                    return
                if isinstance(message, Record):
                    worker.hold(None)
                yield message
        except (EOFError, OSError):
            worker.process.join(EXIT_SECONDS)
            self._replace(worker)
            if worker.job is not None:
                yield lost(worker.job, f"the worker process ended ({cause_of(worker.process.exitcode)})")

    def close(self) -> None:
        """End every worker, in the middle of a run if need be."""
        for worker in self.workers:
            worker.process.kill()  # a stopped process would not hear another signal
        for worker in self.workers:
            worker.process.join()
            worker.pipe.close()
        self.selector.close()
        self.opened.close()

    def _device(self, slot: int) -> str:
        return f"GPU {gpu_of(slot)}" if self.device == "cuda" else "cpu"

    def _replace(self, worker: Worker) -> Worker:
        """End a worker and put a fresh one into its place."""
        worker.process.kill()
        worker.process.join()
        self.selector.unregister(worker.pipe)
        worker.pipe.close()
        fresh = self._start(worker.slot)
        self.workers[self.workers.index(worker)] = fresh
        return fresh

    def _start(self, slot: int) -> Worker:
        nursery.start()  # anew, if it was killed
        ours, theirs = nursery.CONTEXT.Pipe()
        lease = gpu_of(slot) if self.device == "cuda" else None
        process = nursery.CONTEXT.Process(
            target=_work, args=(theirs, self.setup, lease, self.environment), name=f"lpanas worker {slot}", daemon=True
        )
        process.start()
        theirs.close()
        worker = Worker(process, ours, slot)
        self.selector.register(ours, selectors.EVENT_READ, worker)
        return worker


def lost(job: Job, reason: str) -> Fault:
    """A run of which nothing but its job is left."""
    return Fault(failed(job, reason))


def cause_of(exitcode: int | None) -> str:
    """How a process ended: a signal's name, or its exit code."""
    return signal.Signals(-exitcode).name if exitcode is not None and exitcode < 0 else f"exit code {exitcode}"


def _work(pipe: Connection, setup: Setup, lease: str | None, environment: dict[str, str]) -> None:
    """A worker's life: take a job, train it, tell; until the pipe closes. lease: the GPU that it may see, or none; environment:
    what it has besides the driver's."""
    os.environ.update(environment)
    begin_work(lease)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the driver has gone
        try:
            shards = read_shards(setup.shards)
        except UserError as error:
            pipe.send(lost(pipe.recv(), str(error)))
            return
        while True:
            job: Job = pipe.recv()
            _train(pipe, run_proxy(job, setup.config, shards, setup.checkpoints and setup.checkpoints / job.run))


def begin_work(lease: str | None, threads: int = 1) -> None:
    """The first act of a forked process: it ends with the driver, and has its GPU, or so many threads. lease: see _work."""
    nursery.end_with_parent()
    threading.Thread(target=_end_with_driver, daemon=True).start()
    if lease is None:
        torch.set_num_threads(threads)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = lease


def _train(pipe: Connection, run: Generator[Message, bool | None]) -> None:
    """Tell all that a run tells, and let it hear the driver's word at its rungs."""
    message = next(run)
    while not isinstance(message, (Fault, Record)):
        pipe.send(message)
        message = run.send(pipe.recv() if isinstance(message, Advanced) and message.at_rung else None)
    pipe.send(message)


def _end_with_driver() -> None:
    """A driver that is killed cannot end its workers: they see it go, and go."""
    parent = mp.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def seats_here(device: str, workers: int | None, per_gpu: int) -> int:
    """Workers of a search on this machine. device: cpu or cuda; workers, per_gpu: as the space has them."""
    return workers or (torch.cuda.device_count() * per_gpu if device == "cuda" else cores())


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_of(slot: int) -> str:
    """The GPU of a slot: among those that CUDA_VISIBLE_DEVICES leaves to us, one after the other."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    return devices[slot % len(devices)]
