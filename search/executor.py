"""Where runs execute: local worker processes, each with its device."""

import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Protocol, Self

import torch

from ..lpa.shards import read_shards
from ..lpa.train import TrainConfig
from . import nursery
from .proxy import Advanced, Job, Record, run_proxy


@dataclass(frozen=True)
class Setup:
    """What every worker is told when it starts."""

    config: TrainConfig
    """The proxy's training; each job brings its model and seed."""
    shards: Path
    """The folder of token shards."""


@dataclass
class Worker:
    """A process, its end of the pipe, and the job that it holds."""

    process: mp.process.BaseProcess
    pipe: Connection
    slot: int
    job: Job | None = None


class Executor(Protocol):
    """What the driver needs of a place where runs execute."""

    @property
    def idle(self) -> int:
        """Workers without a job."""
        ...

    def submit(self, job: Job) -> None:
        """Hand a job to an idle worker."""

    def answer(self, run: str, go_on: bool) -> None:
        """Tell a run that waits at a rung whether it goes on."""

    def wait(self, seconds: float | None = None) -> Iterator[Advanced | Record]:
        """What the workers have to tell, as soon as one has anything, or nothing after `seconds`."""
        ...


class LocalExecutor:
    """Worker processes on this machine: one thread each on a CPU, a GPU each where there are any.

    A worker that dies costs the run it held, which comes back as a failed record, and is replaced.
    """

    def __init__(self, setup: Setup, workers: int | None = None) -> None:
        self.setup = setup
        nursery.start()
        self.device = setup.config.resolve_device().type
        size = workers or (torch.cuda.device_count() if self.device == "cuda" else _cores())
        self.workers = [self._start(slot) for slot in range(size)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def idle(self) -> int:
        """Workers without a job."""
        return sum(worker.job is None for worker in self.workers)

    @property
    def jobs(self) -> list[Job]:
        """What is being trained."""
        return [worker.job for worker in self.workers if worker.job is not None]

    def submit(self, job: Job) -> None:
        """Hand a job to an idle worker."""
        place = next(place for place, worker in enumerate(self.workers) if worker.job is None)
        if not self.workers[place].process.is_alive():
            self.workers[place] = self._start(self.workers[place].slot)
        worker = self.workers[place]
        worker.job = job
        with suppress(OSError):  # it has died: wait() reports that
            worker.pipe.send(job)

    def answer(self, run: str, go_on: bool) -> None:
        """Tell a run that waits at a rung whether it goes on."""
        worker = next(worker for worker in self.workers if worker.job is not None and worker.job.run == run)
        with suppress(OSError):  # it has died: wait() reports that
            worker.pipe.send(go_on)

    def wait(self, seconds: float | None = None) -> Iterator[Advanced | Record]:
        """What the workers have to tell, as soon as one has anything, or nothing after `seconds`."""
        ready = wait([worker.pipe for worker in self.workers], seconds)
        for place, worker in enumerate(self.workers):
            if worker.pipe not in ready:
                continue
            try:
                message = worker.pipe.recv()
            except (EOFError, OSError):
                worker.process.join()
                self.workers[place] = self._start(worker.slot)
                if worker.job is not None:
                    yield lost(worker.job, worker.process.exitcode)
                continue
            if isinstance(message, Record):
                worker.job = None
            yield message

    def close(self) -> None:
        """End every worker, in the middle of a run if need be."""
        for worker in self.workers:
            worker.process.terminate()
        for worker in self.workers:
            worker.process.join()
            worker.pipe.close()

    def _start(self, slot: int) -> Worker:
        ours, theirs = nursery.CONTEXT.Pipe()
        lease = _lease(slot) if self.device == "cuda" else None
        process = nursery.CONTEXT.Process(
            target=_work, args=(theirs, self.setup, lease), name=f"lpanas worker {slot}", daemon=True
        )
        process.start()
        theirs.close()
        return Worker(process, ours, slot)


def lost(job: Job, exitcode: int | None) -> Record:
    """The record of a run whose worker died."""
    cause = signal.Signals(-exitcode).name if exitcode is not None and exitcode < 0 else f"exit code {exitcode}"
    fields = {name: getattr(job, name) for name in Job.model_fields}
    return Record(**fields, status="failed", reason=f"the worker process ended ({cause})")


def _work(pipe: Connection, setup: Setup, lease: str | None) -> None:
    """A worker's life: take a job, train it, tell; until the pipe closes. lease: the GPU that it may see, or none."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if lease is None:
        torch.set_num_threads(1)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = lease
    shards = read_shards(setup.shards)
    with suppress(EOFError):  # the driver has gone
        while True:
            status = _train(pipe, run_proxy(pipe.recv(), setup.config, shards))
            if lease is not None and status == "failed":
                return  # an error may have left the GPU's context broken: the next run gets a fresh process


def _train(pipe: Connection, run: Generator[Advanced | Record, bool | None]) -> str:
    """Tell all that a run tells, and let it hear the driver's word at its rungs; how it ended."""
    message = next(run)
    while isinstance(message, Advanced):
        pipe.send(message)
        message = run.send(pipe.recv() if message.at_rung else None)
    pipe.send(message)
    return message.status


def _end_with_parent() -> None:
    """A driver that is killed cannot end its workers: they see it go, and go."""
    parent = mp.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _lease(slot: int) -> str:
    """The GPU of a slot: among those that CUDA_VISIBLE_DEVICES leaves to us, one after the other."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    return devices[slot % len(devices)]
