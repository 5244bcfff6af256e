"""How long a training step takes, measured: the parts of one, as the training loop has them."""

import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from .kernels import resolved
from .optim import optimizer
from .train import accumulate, fresh, gradient_norm, update
from .train_config import TrainConfig

WARMUP = 3
"""Steps before the first that counts (assumption): kernels are chosen, memory is taken, AdamW's moments are made."""


class Stepper:
    """A model that takes steps and says how long each took.

    Of a step's microbatches two are computed, the first and one that adds to its gradient, and the second stands for all
    others. The learning rate is 0: the weights stay as drawn, so that no number of steps brings overflows, which take other
    times. Tokens are random.
    """

    def __init__(self, config: TrainConfig) -> None:
        """config: the training; its batch_size and microbatch say what a step is."""
        micro = config.microbatch or config.batch_size
        self.config, self.microbatches = config.change(batch_size=micro), config.batch_size // micro
        self.device = config.resolve_device()
        self.model = fresh(config, self.device)
        self.adamw = optimizer(self.model, config.optim)
        stream = torch.Generator().manual_seed(config.seed)
        shape = (2, micro, config.model.context)
        self.inputs, self.targets = torch.randint(config.model.vocab_size, shape, generator=stream).to(self.device)

    def first_seconds(self) -> float:
        """Of one forward and backward pass of one microbatch: the very first, or the first after a compiler's work."""
        if resolved(self.config.kernels, self.device) != "plain":
            self._accumulate()
        seconds = sum(timed(self.device, [self._accumulate]))
        self.adamw.zero_grad(set_to_none=True)
        return seconds

    def warm_up(self) -> None:
        """Take the steps that do not count."""
        for _ in range(WARMUP):
            self.step_seconds()

    def step_seconds(self) -> float:
        """Of one more step, all microbatches and the update."""
        more = [self._accumulate] if self.microbatches > 1 else []
        return of_step(timed(self.device, [self._accumulate, *more, self._update]), self.microbatches)

    def _accumulate(self) -> None:
        accumulate(self.model, self.inputs, self.targets, self.config)

    def _update(self) -> None:
        update(self.model, self.adamw, self.config, share=0.0, norm=gradient_norm(self.model))


def of_step(seconds: Sequence[float], microbatches: int) -> float:
    """Seconds of a step, from those of its first microbatch, of one of all others where there are any, and of the update."""
    first, *others, last = seconds
    return first + (microbatches - 1) * sum(others) + last


def timed(device: torch.device, parts: Sequence[Callable[[], None]]) -> list[float]:
    """Do one after the other; the seconds of each.

    On a GPU by its own clock, and nothing waits between two parts, as nothing does in training. One thread on a CPU counts the
    time that it has a core, which is what a step takes on a core of its own: with 6 processes on 2 cores the ratio of two steps
    then varied a third as much as by the clock.
    """
    if device.type != "cuda":
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        marks = [clock()]
        for part in parts:
            part()
            marks.append(clock())
        return [after - before for before, after in pairwise(marks)]
    torch.cuda.synchronize(device)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(len(parts) + 1)]
    events[0].record()
    for part, event in zip(parts, events[1:], strict=True):
        part()
        event.record()
    torch.cuda.synchronize(device)
    return [before.elapsed_time(after) / 1e3 for before, after in pairwise(events)]
