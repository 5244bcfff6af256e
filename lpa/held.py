"""Short parts timed on a GPU that is held until all of them are enqueued, so that its own time is what is timed: in a training
the host runs ahead, and a short part on an idle GPU takes as long as the host does to start its kernels."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch

from .config import UserError
from .step_time import timed

LEAST, MOST = 2e-3, 0.5
"""Seconds that a GPU is held at first and at most (assumptions): a piece of a step is enqueued in 1 to 4 ms."""
CYCLES = 20_000_000
"""That a GPU waits while it is asked how many it counts in a second: about 10 ms."""


@dataclass(frozen=True)
class Run:
    """Parts done one right after the other."""

    device: list[float]
    """Seconds of each on the device."""
    host: list[float]
    """Seconds in which the host enqueued each; 0 where host and device are one."""
    enqueued: float
    """Seconds from the moment that the device was held until all was enqueued."""
    held: float
    """Seconds that it was held."""

    @property
    def is_of_device(self) -> bool:
        """Whether the device had all that it was to do before it began, and so never waited for the host."""
        return self.enqueued < self.held


class Held:
    """Runs of parts whose device is held as long as their enqueueing takes."""

    def __init__(self, run: Callable[[float], Run]) -> None:
        """run: does the parts once, on a device that is held for so many seconds."""
        self.run, self.seconds = run, LEAST

    def __call__(self) -> Run:
        """One more; what the device had to wait for is done again, and the device held twice as long. Raises UserError where
        it would be held for more than MOST."""
        while True:
            its = self.run(self.seconds)
            if its.is_of_device:
                return its
            if self.seconds >= MOST:
                raise UserError(
                    f"a GPU that was held for {its.held:.2g} s had not got all kernels of a piece by then: the host took "
                    f"{its.enqueued:.2g} s; a host with less to do is needed"
                )
            self.seconds = min(MOST, 2 * self.seconds)


def held(device: torch.device, before: Callable[[], None], parts: Sequence[Callable[[], None]]) -> Held:
    """Runs of parts, each after what comes before and is not timed. Parts that wait for the device cannot be held; one
    that enqueues more than a GPU's queue takes, about a thousand kernels, is such a part."""

    def run(seconds: float) -> Run:
        before()
        if device.type != "cuda":
            return Run(timed(device, parts), [0.0] * len(parts), 0.0, math.inf)
        return _on_gpu(device, parts, seconds)

    return Held(run)


def _on_gpu(device: torch.device, parts: Sequence[Callable[[], None]], seconds: float) -> Run:
    cycles = int(seconds * _cycles_per_second(device))
    torch.cuda.synchronize(device)
    begun, *events = (torch.cuda.Event(enable_timing=True) for _ in range(len(parts) + 2))
    started = time.perf_counter()
    begun.record()
    torch.cuda._sleep(cycles)
    events[0].record()
    marks = [time.perf_counter()]
    for part, event in zip(parts, events[1:], strict=True):
        part()
        event.record()
        marks.append(time.perf_counter())
    torch.cuda.synchronize(device)
    return Run(
        device=[before.elapsed_time(after) / 1e3 for before, after in pairwise(events)],
        host=[after - before for before, after in pairwise(marks)],
        enqueued=marks[-1] - started,
        held=begun.elapsed_time(events[0]) / 1e3,
    )


@cache
def _cycles_per_second(device: torch.device) -> float:
    """Of what torch.cuda._sleep counts, now: the clock may change, so what was held is measured each time."""
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(2):  # the first loads the kernel
        torch.cuda.synchronize(device)
        begun.record()
        torch.cuda._sleep(CYCLES)
        ended.record()
        torch.cuda.synchronize(device)
    return CYCLES / (begun.elapsed_time(ended) / 1e3)
