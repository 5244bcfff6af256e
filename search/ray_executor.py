"""Where runs execute on a Ray cluster: an actor a worker, with the resources that the space asks for."""

import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch

from ..lpa.config import UserError, one_line
from ..lpa.shards import read_shards
from . import ray_cluster
from .budget import Budget
from .executor import Seat, Setup, lost
from .nursery import end_with_parent
from .proxy import run_proxy
from .ray_cluster import RayActorError, RayError, RayTaskError, ray
from .record import Advanced, Fault, Job, Message, Record

MOST_STARTS = 3
"""Actors of one worker that may die in a row before one has started (assumption)."""
START_SECONDS = 60.0
"""An actor needs to start and import, at most, when there is room for it (assumption; measured: 3 s on an idle machine)."""
GET_SECONDS = 30.0
"""To fetch an answer that is there (assumption; measured: milliseconds)."""


class Trainer:
    """An actor: one run at a time, told a message a call."""

    def __init__(self, threads: int, has_gpu: bool) -> None:
        end_with_parent()  # its node's raylet; stopped (SIGSTOP) it would not see it go
        if not has_gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
            torch.set_num_threads(threads)

    def open(self, setup: Setup, content: str) -> str:
        """Get ready on this node. Returns what is wrong with it in a line, or nothing."""
        try:
            setup.config.checked_device()
            self.setup, self.shards = setup, read_shards(setup.shards)
        except UserError as error:
            return str(error)
        return "" if self.shards.content == content else f"{setup.shards}: other token shards than the driver's"

    def take(self, job: Job) -> None:
        """Take a job; step() trains it."""
        folder = self.setup.checkpoints and self.setup.checkpoints / job.run
        self.run: Generator[Message, bool | None] = run_proxy(job, self.setup.config, self.shards, folder)

    def step(self, go_on: bool | None) -> Message:
        """The run's next message. go_on: the driver's word, where the last one asked for it."""
        return self.run.send(go_on)


@dataclass(eq=False)
class Worker:
    """An actor and what it has been asked: `pending` is its answer."""

    actor: Any
    pending: Any
    state: Literal["placing", "idle", "taking", "training"] = "placing"
    job: Job | None = None
    silent: float = 0.0
    """Seconds that the driver has listened to it in vain."""
    starts: int = 1
    """Actors in a row, none of which has come to work yet but the last."""


class RayExecutor:
    """Actors on the cluster at RAY_ADDRESS, which goes on without us, or on a Ray of our own, which ends with us.

    An actor that dies, alone or with its node, says nothing for too long or whose run meets an error costs that run, which
    comes back as a Fault, and is replaced. A job that no actor has room for waits for the next that has.
    """

    def __init__(self, setup: Setup, budget: Budget, say: Callable[[str], object]) -> None:
        """say: is told in a line what a user may want to mend. Raises UserError: no cluster there, or no room on it."""
        checkpoints = setup.checkpoints and setup.checkpoints.absolute()  # an actor has a working folder of its own
        self.setup = replace(setup, shards=setup.shards.absolute(), checkpoints=checkpoints)
        self.say, self.hung_seconds = say, 60 * budget.hung_minutes
        self.content = read_shards(setup.shards).content
        self.waiting: list[Job] = []
        self.workers: list[Worker] = []
        self.homeless = 0.0  # seconds without any actor that has a place
        self.told_homeless = False
        self.reaper = ray_cluster.connect((budget.workers or 0) * budget.resources.num_cpus)
        try:
            self.nodes = ray_cluster.Nodes()
            self.need = ray_cluster.need(setup.config, budget, self.nodes.living)
            room = ray_cluster.room(self.need, self.nodes.living)
            self.actors = self._actors()
            self.workers = [self._begin() for _ in range(budget.workers or max(1, room))]
            while all(worker.state == "placing" for worker in self.workers):
                for _ in self.wait(1.0):
                    pass
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def device(self) -> str:
        """The kind of device that runs train on."""
        return "cuda" if self.need["GPU"] else "cpu"

    @property
    def threads(self) -> int:
        """Of an actor that trains on a CPU."""
        return max(1, int(self.need["CPU"]))

    @property
    def jobs(self) -> list[Job]:
        """What is being trained, or waits for an actor."""
        return [*(worker.job for worker in self.workers if worker.job is not None), *self.waiting]

    @property
    def idle(self) -> int:
        """Actors without a job; one when there is no job at all: it waits until there is an actor again."""
        free = sum(worker.state == "idle" for worker in self.workers) - len(self.waiting)
        return max(free, 0 if self.jobs else 1)

    @property
    def seats(self) -> tuple[Seat, ...]:
        """The actors, with or without a place on the cluster, in a lasting order."""
        share = "a GPU" if self.need["GPU"] == 1 else f"{self.need['GPU']:g} of a GPU"
        device = f"Ray, {share}" if self.need["GPU"] else "Ray, cpu"
        return tuple(
            Seat(f"actor {number}", device, worker.job.run if worker.job else None)
            for number, worker in enumerate(self.workers)
        )

    def submit(self, job: Job) -> None:
        """Hand a job to an idle actor, or to the next that is."""
        self.waiting.append(job)
        self._hand_out()

    def answer(self, run: str, go_on: bool) -> None:
        """Tell a run that waits at a rung whether it goes on."""
        worker = next(worker for worker in self.workers if worker.job is not None and worker.job.run == run)
        worker.pending = worker.actor.step.remote(go_on)

    def wait(self, seconds: float | None = None) -> Iterator[Message]:
        """What the actors have to tell, as soon as one has anything, or nothing after `seconds`.

        As with local workers, only what it waits here counts as an actor's silence. Raises UserError when no worker has a place
        on the cluster any more, and none can have one.
        """
        began, most = time.monotonic(), min([self.hung_seconds, *([] if seconds is None else [seconds])])
        asked = {worker.pending: worker for worker in self.workers if worker.pending is not None}
        if asked and ray.wait(list(asked), timeout=most)[0]:
            ready = set(ray.wait(list(asked), num_returns=len(asked), timeout=0)[0])
        else:
            ready = set()
        listened = min(time.monotonic() - began, most)
        for ref, worker in asked.items():
            if ref in ready:
                yield from self._told(worker)
            elif worker.state in ("taking", "training"):
                worker.silent += listened
                if worker.silent >= self.hung_seconds:
                    yield self._lose(worker, f"no progress for {self.hung_seconds / 60:g} minutes")
        self._hand_out()
        self._look_for_room(listened)

    def close(self) -> None:
        """End every actor, in the middle of a run if need be, and leave the cluster, or end it when it is ours."""
        for worker in self.workers:
            with suppress(RayError):
                ray.kill(worker.actor)
        ray_cluster.leave(self.reaper)

    def _told(self, worker: Worker) -> Iterator[Message]:
        """What an actor has answered, or how it ended."""
        worker.silent = 0.0
        try:
            told = ray.get(worker.pending, timeout=GET_SECONDS)
        except RayError as error:
            yield from self._ended(worker, error)
            return
        if worker.state == "placing":
            self._placed(worker, told)
        elif worker.state == "taking":
            worker.state, worker.pending = "training", worker.actor.step.remote(None)
        elif isinstance(told, Fault):
            self._replace(worker)  # an error may have left a GPU's context broken
            yield told
        elif isinstance(told, Record):
            worker.state, worker.job, worker.pending = "idle", None, None
            yield told
        else:
            asks = isinstance(told, Advanced) and told.at_rung
            worker.pending = None if asks else worker.actor.step.remote(None)
            yield told

    def _ended(self, worker: Worker, error: RayError) -> Iterator[Message]:
        """An actor has died or raised an error."""
        reason = ray_cluster.cause(error)
        if worker.state == "placing":
            if worker.starts == MOST_STARTS or isinstance(error, RayTaskError):
                self._drop(worker, reason)
            else:
                self._replace(worker).starts = worker.starts + 1
        elif worker.state == "taking" and isinstance(error, RayActorError):  # it had died before, without a run
            self.waiting[:0] = [worker.job] if worker.job else []
            self._replace(worker)
        else:
            yield self._lose(worker, f"the worker ended ({reason})")

    def _lose(self, worker: Worker, reason: str) -> Fault:
        job = worker.job
        assert job is not None
        self._replace(worker)
        return lost(job, reason)

    def _placed(self, worker: Worker, problem: str) -> None:
        """An actor has its place, and finds there what it needs or not."""
        if problem:
            self._drop(worker, problem)
        else:
            worker.state, worker.starts, worker.pending = "idle", 1, None

    def _hand_out(self) -> None:
        """Give the jobs that wait to the actors that are idle."""
        for worker in self.workers:
            if self.waiting and worker.state == "idle":
                worker.job, worker.state, worker.silent = self.waiting.pop(0), "taking", 0.0
                worker.pending = worker.actor.take.remote(worker.job)

    def _begin(self) -> Worker:
        actor = self.actors.remote(self.threads, self.device == "cuda")
        return Worker(actor, actor.open.remote(self.setup, self.content))

    def _replace(self, worker: Worker) -> Worker:
        """End an actor and begin a fresh one in its stead."""
        with suppress(RayError):
            ray.kill(worker.actor)
        fresh = self._begin()
        self.workers[self.workers.index(worker)] = fresh
        return fresh

    def _drop(self, worker: Worker, reason: str) -> None:
        """Do without a worker that cannot work where Ray places it. Raises UserError when it was the last."""
        with suppress(RayError):
            ray.kill(worker.actor)
        self.workers.remove(worker)
        if not self.workers:
            raise UserError(f"no worker could start on the Ray cluster, the last one: {reason}")
        self.say(f"a worker could not start on the Ray cluster: {reason}")

    def _look_for_room(self, listened: float) -> None:
        """Raises UserError when no actor has a place, and none has had one for too long or can have one."""
        self.nodes.look(listened)
        if any(worker.state != "placing" for worker in self.workers):
            self.homeless, self.told_homeless = 0.0, False
            return
        self.homeless += listened
        if ray.get_runtime_context().get_node_id() not in self.nodes.living:  # without its node a driver can begin nothing
            raise UserError("the Ray cluster has given up the node of this search; the same command goes on from another")
        patience = max(self.hung_seconds, START_SECONDS)
        line = "no worker finds a place on the Ray cluster, which others use or which does not answer"
        if not ray_cluster.room(self.need, self.nodes.living):
            line = ray_cluster.too_small(self.need, self.nodes.living)
            patience = 0.0 if self.reaper else self.hung_seconds
            if patience and not self.told_homeless:
                self.say(f"{line}; waiting for one")
                self.told_homeless = True
        if self.homeless >= patience:
            raise UserError(line)

    def _actors(self) -> Any:
        """The class of actors, none of which Ray may begin again by itself: it would not know the run."""
        resources = {"num_cpus": self.need["CPU"], "num_gpus": self.need["GPU"]}
        try:
            return ray.remote(**resources, max_restarts=0, max_task_retries=0)(Trainer)
        except ValueError as error:
            raise UserError(f"search.resources: {one_line(error)}") from None
