"""Many workers at a time: how long the driver makes them wait for a decision.

    python tests/benchmarks/many_workers.py [--workers 64] [--seconds 20] [--trials 600] [--set key=value] [--storage URL]

Runs the driver as `lpanas search` does, with its storage (SQLite in a temporary folder, or a server's), its executor and the
file that `lpanas watch` reads, on the preset `projections`. Only training is made up: threads of another process hold the
workers' ends of the pipes, report every 100 ms for about `seconds` a run (half to one and a half times that), with losses from
a formula, wait for the driver's word at the rung and for a job when they have none. Prints how long they waited: median, 95 %
and 99 % of each kind, arms and noise seeds included, and how many came in under 100 ms (aimed at: 95 %).
"""

import argparse
import math
import multiprocessing as mp
import selectors
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

import numpy as np
from lpanas.lpa.placement import parse_rank
from lpanas.search import live, study
from lpanas.search.executor import LocalExecutor, Worker
from lpanas.search.folder import driven
from lpanas.search.presets import load_space
from lpanas.search.record import Advanced, Job, Measured, Record, Trained

REPORT = 0.1
"""Seconds between two reports of a worker."""
LIMIT = 0.1
"""Seconds that a decision may take."""


def curve(job: Job, whole: int) -> list[tuple[int, float]]:
    """Losses that grow with what was cut, with some noise, and fall as a power of the tokens, at ten counts and the rungs."""
    cut = sum(math.log2(1 / float(rank)) for rank in map(parse_rank, list(job.params.values())[:-2]) if rank)
    end = 1.6 + 0.01 * cut + Random(f"{job.run} {job.seed}").gauss(0, 0.005)
    return [(at, end * (at / whole) ** -0.05) for at in sorted({*job.rungs, *(whole * tenth // 10 for tenth in range(1, 11))})]


def work(pipe: Connection, whole: int, seconds: float, waited: dict[str, list[float]]) -> None:
    """A worker's life without training. waited: seconds by the kind of decision."""
    kind, asked = "first job", time.perf_counter()
    while True:
        job: Job | None = pipe.recv()
        if job is None:
            return
        waited[kind].append(time.perf_counter() - asked)
        for message in train(job, whole, seconds * Random(job.run).uniform(0.5, 1.5)):
            asked = time.perf_counter()
            pipe.send(message)
            if isinstance(message, Advanced) and message.at_rung:
                goes_on = pipe.recv()
                waited["rung"].append(time.perf_counter() - asked)
                if not goes_on:
                    asked = time.perf_counter()
                    pipe.send(record(job, [point for point in curve(job, whole) if point[0] <= message.tokens], whole))
                    break
        kind = "next job"


def train(job: Job, whole: int, seconds: float) -> Iterator[Advanced | Trained | Record]:
    """What a run would tell, one message every REPORT."""
    points = curve(job, whole)
    ahead, began = list(points), time.perf_counter()
    while ahead:
        time.sleep(REPORT)
        tokens = int(whole * (time.perf_counter() - began) / seconds)
        if tokens < ahead[0][0]:
            yield Trained(job.run, tokens, whole / seconds)
        else:
            at, loss = ahead.pop(0)
            yield Advanced(job.run, at, loss, at_rung=at in job.rungs)
    yield record(job, points, whole)


def record(job: Job, points: list[tuple[int, float]], whole: int) -> Record:
    """Of a run that ended after these points."""
    tokens, loss = points[-1]
    end = {"status": "complete", "loss_nats": loss} if tokens == whole else {"status": "pruned", "reason": "behind"}
    measured = Measured(device="none", started=time.time(), seconds=1.0, train_seconds=1.0, peak_memory_bytes=0)
    return Record(**dict(job), **end, tokens=tokens, curve=tuple(points), measured=measured)


def work_all(pipes: list[Connection], whole: int, seconds: float, told: Connection) -> None:
    """All workers, a thread each, until each has been told that there is no more."""
    waited: dict[str, list[float]] = {"first job": [], "rung": [], "next job": []}
    threads = [threading.Thread(target=work, args=(pipe, whole, seconds, waited)) for pipe in pipes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told.send(waited)


class Simulated(LocalExecutor):
    """The local executor with workers that do not train."""

    def __init__(self, workers: int, whole: int, seconds: float) -> None:
        ours, theirs = zip(*(mp.Pipe() for _ in range(workers)), strict=True)
        self.told, told = mp.Pipe()
        process = mp.get_context("spawn").Process(target=work_all, args=(theirs, whole, seconds, told))
        process.start()
        self.device, self.hung_seconds, self.services, self.faults = "cpu", 600.0, {}, []
        self.workers = [Worker(process, pipe, slot) for slot, pipe in enumerate(ours)]
        self.selector = selectors.DefaultSelector()
        for worker in self.workers:
            self.selector.register(worker.pipe, selectors.EVENT_READ, worker)

    def finish(self) -> dict[str, list[float]]:
        """End the workers; what they waited."""
        for worker in self.workers:
            worker.pipe.send(None)
        return self.told.recv()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--trials", type=int, default=600)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--storage")
    args = parser.parse_args()
    space = load_space("projections", [f"search.trials={args.trials}", *args.settings])
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / f"many-workers-{time.time_ns()}"
        folder.mkdir()
        executor = Simulated(args.workers, space.proxy.steps * space.proxy.batch_tokens, args.seconds)
        began, cpu = time.perf_counter(), time.process_time()
        with driven(folder, space, "made up", args.storage) as ledger, live.written(folder) as watch:
            state = study.search(space, ledger, executor, watch)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    waited = executor.finish()
    stopped = sum(record.status == "pruned" for record in state.records)
    print(f"{state.done} runs ({stopped} stopped) on {args.workers} workers in {seconds:.0f} s")
    print(f"the driver took {cpu / seconds:.0%} of a core")
    kinds = {**waited, "all": [one for times in waited.values() for one in times]}
    for kind, times in kinds.items():
        middle, most, nearly = (1000 * np.quantile(times, share) for share in (0.5, 0.95, 0.99))
        quantiles = f"median {middle:.1f} ms, 95 % {most:.0f} ms, 99 % {nearly:.0f} ms"
        print(f"{kind:10} {len(times):5}: {quantiles}; {np.mean(np.array(times) < LIMIT):.1%} in under 100 ms")


if __name__ == "__main__":
    main()
