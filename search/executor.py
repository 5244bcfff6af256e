"""Where runs execute: local worker processes, each with its device."""

import multiprocessing as mp
import os
import selectors
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol, Self

from ..lpa.config import UserError
from ..lpa.shards import read_shards
from ..lpa.train_config import TrainConfig
from . import nursery
from .leased import EXIT_SECONDS, begin_work, cause_of, gpu_of, seats_here
from .mps import OurService, Service, serving
from .proxy import failed, run_proxy
from .record import Advanced, Fault, Job, Message, Record


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
        self.faults = list[Fault]()
        """Of runs that were lost with a service that their workers shared, not yet told."""
        leases = [gpu_of(slot) for slot in range(size)] if self.device == "cuda" else []
        self.services = self.opened.enter_context(serving(mps, leases))
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
        if self.faults:
            seconds = 0.0
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
        while self.faults:
            yield self.faults.pop(0)

    def _told(self, worker: Worker) -> Iterator[Message]:
        """All that a worker has told by now."""
        worker.silent = 0.0
        try:
            while worker in self.workers and worker.pipe.poll():  # submit() may replace it meanwhile
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
        try:
            for service in {id(its): its for its in self.services.values()}.values():
                service.release([worker.process.pid for worker in self.workers if self._service(worker.slot) is service])
        finally:
            for worker in self.workers:
                worker.process.kill()  # a stopped process would not hear another signal
            for worker in self.workers:
                worker.process.join()
                worker.pipe.close()
        self.selector.close()
        self.opened.close()

    def _device(self, slot: int) -> str:
        return f"GPU {gpu_of(slot)}" if self.device == "cuda" else "cpu"

    def _service(self, slot: int) -> Service | None:
        """Through which the worker there shares its GPU."""
        return self.services.get(gpu_of(slot)) if self.services else None

    def _replace(self, worker: Worker) -> Worker:
        """End a worker and put a fresh one into its place. Where its work on a shared GPU cannot be ended first, so are the
        service and all who share it: their runs are faults. Raises UserError when there can be no other service."""
        service = self._service(worker.slot)
        if service is None or service.release([worker.process.pid]):
            return self._exchange([worker])[0]
        if not isinstance(service, OurService):
            print(f"lpanas: worker {worker.slot} was killed at work for a service that others may share", file=sys.stderr)
            return self._exchange([worker])[0]
        others = [one for one in self.workers if one is not worker and self._service(one.slot) is service]
        reason = f"the GPU was shared with a worker that could not be ended apart (worker {worker.slot})"
        self.faults += [lost(one.job, reason) for one in others if one.job is not None]
        return self._exchange([worker, *others], service.restart)[0]

    def _exchange(self, workers: Sequence[Worker], between: Callable[[], object] = lambda: None) -> list[Worker]:
        """End workers and put fresh ones into their places. between: called when they have ended."""
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()
            self.selector.unregister(worker.pipe)
            worker.pipe.close()
        between()
        fresh = [self._start(worker.slot) for worker in workers]
        for old, new in zip(workers, fresh, strict=True):
            self.workers[self.workers.index(old)] = new
        return fresh

    def _start(self, slot: int) -> Worker:
        nursery.start()  # anew, if it was killed
        ours, theirs = nursery.CONTEXT.Pipe()
        lease = gpu_of(slot) if self.device == "cuda" else None
        service = self._service(slot)
        told = service.environment if service else {}
        process = nursery.CONTEXT.Process(
            target=_work, args=(theirs, self.setup, lease, told), name=f"lpanas worker {slot}", daemon=True
        )
        process.start()
        theirs.close()
        worker = Worker(process, ours, slot)
        self.selector.register(ours, selectors.EVENT_READ, worker)
        return worker


def lost(job: Job, reason: str) -> Fault:
    """A run of which nothing but its job is left."""
    return Fault(failed(job, reason))


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


def _train(pipe: Connection, run: Generator[Message, bool | None]) -> None:
    """Tell all that a run tells, and let it hear the driver's word at its rungs."""
    message = next(run)
    while not isinstance(message, (Fault, Record)):
        pipe.send(message)
        message = run.send(pipe.recv() if isinstance(message, Advanced) and message.at_rung else None)
    pipe.send(message)
