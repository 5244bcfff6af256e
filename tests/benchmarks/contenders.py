"""What trains in tests/benchmarks/gpu.py, in turn: our own loop's step (other programs' are in others.py)."""

import gc
import math
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import torch
from clocks import Clocks
from lpanas.lpa.data import Batches, near
from lpanas.lpa.distributed import ALONE
from lpanas.lpa.guard import Guard
from lpanas.lpa.kernels import each_shape_by_itself
from lpanas.lpa.kernels import forget as forget_compiled
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.optim import OptimConfig, optimizer, schedule
from lpanas.lpa.step_time import timed
from lpanas.lpa.train import adder, fresh, step
from lpanas.lpa.train_config import TrainConfig
from lpanas.search.equal_time import COVERAGE, FIRST, Ratio

WARMUP, TOGETHER = 6, 3
"""Steps before the first that counts, which compile, capture and settle; steps timed as one."""
LONG_SECONDS = 0.1
"""Where one of the steps takes as long, each is timed by itself, of all."""
TOKENS = 2**22
"""Random ones that batches are cut from."""
STEPS = 1000
"""After which the batches come again."""

TOY = {"vocab_size": 264, "context": 32, "d_model": 32, "d_ff": 88, "n_heads": 2, "n_layers": 2, "rank_multiple": 4}


@dataclass(frozen=True)
class Asked:
    """What the command line says."""

    toy: bool
    seconds: float
    device: torch.device
    clocks: Clocks = field(default_factory=Clocks)


@dataclass
class Contender:
    """Something that trains: a call is one step."""

    step: Callable[[], object]
    tokens: int
    """A step."""
    first_seconds: float = 0.0
    """From nothing to the end of its first steps, compiling and all."""
    taken: list[float] = field(default_factory=list)
    """Seconds of steps."""
    failed: str = ""
    clocks: dict[str, Any] | None = None
    """Of the device while it was timed."""
    kernels: dict[str, float] = field(default_factory=dict)
    """Seconds of each in one step, by its name; empty where nobody asked or the profiler says nothing."""

    @property
    def seconds(self) -> float:
        """Of a step."""
        return median(self.taken)


Make = Callable[[], Contender]


def toy() -> ModelConfig:
    """For a CPU."""
    return ModelConfig.parse(TOY, "toy")


def training(model: ModelConfig, batch: int, asked: Asked, **more: Any) -> TrainConfig:
    """A step is one microbatch."""
    device: Any = asked.device.type
    return TrainConfig(model=model, optim=OptimConfig(lr=1e-4), tokens=10**9, batch_size=batch, device=device, **more)


def ours(config: TrainConfig, asked: Asked, tokens: np.ndarray | None = None) -> Contender:
    """Our loop's step: a batch cut where the tokens lie, forward, backward, guard, clipping, schedule, update. tokens: random
    ones when left out."""
    began = time.perf_counter()
    model = fresh(config, asked.device)
    adamw, add = optimizer(model, config.optim), adder(model, config, asked.device, ALONE)
    tokens = random_tokens(config, asked) if tokens is None else tokens
    steps = range(min(config.steps, STEPS))
    batches = near(Batches(tokens, config.model.context, config.batch_size, config.seed), steps, asked.device)
    guard = Guard(asked.device)
    numbers = iter(range(config.steps))

    def once() -> tuple[torch.Tensor, torch.Tensor]:
        number = next(numbers)
        share = schedule(config.optim, number, config.steps)
        return step(model, adamw, batches(number % STEPS), config, number, share, ALONE, guard, add)

    return warmed(Contender(once, config.batch_tokens), asked, began)


def random_tokens(config: TrainConfig, asked: Asked) -> np.ndarray:
    """(tokens,) uint16."""
    count = 2**14 if asked.toy else TOKENS
    return np.random.default_rng(0).integers(config.model.vocab_size, size=count, dtype=np.uint16)


def warmed(one: Contender, asked: Asked, began: float) -> Contender:
    """After what compiles, captures and settles."""
    for _ in range(WARMUP):
        one.step()
    if asked.device.type == "cuda":
        torch.cuda.synchronize()
    one.first_seconds = time.perf_counter() - began
    return one


def in_turn(makers: dict[str, Make], asked: Asked) -> dict[str, Contender]:
    """All on the device together, steps of each in turn until the time is over and there are as many rounds as an interval
    needs; one that fails is left, with its words."""
    found = {name: _made(make) for name, make in makers.items()}
    began = time.perf_counter()
    while going := [one for one in found.values() if not one.failed]:
        if time.perf_counter() >= began + asked.seconds and len(going[0].taken) >= FIRST:
            break
        together = 1 if max((one.taken[-1] for one in going if one.taken), default=0.0) >= LONG_SECONDS else TOGETHER
        for one in going:
            try:
                one.taken.append(step_seconds(one.step, together, asked.device))
            except Exception as error:
                one.failed, one.step = last_lines(error), lambda: None
                one.taken.clear()
    for one in found.values():
        one.clocks = asked.clocks.during(began, time.perf_counter())
    return found


def interval(ratio: Ratio) -> dict[str, Any]:
    """The ends of a ratio's, or none and why."""
    if math.isfinite(ratio.half):
        return {"interval": [ratio.low, ratio.high]}
    return {"interval": None, "why_no_interval": f"{ratio.pairs} pairs of steps, {FIRST} are the fewest for {COVERAGE:.0%}"}


def step_seconds(step: Callable[[], object], together: int, device: torch.device) -> float:
    """Of one of so many steps that are timed as one."""

    def steps() -> None:
        for _ in range(together):
            step()

    return timed(device, [steps])[0] / together


def _made(make: Make) -> Contender:
    try:
        return make()
    except Exception as error:
        return Contender(lambda: None, 0, failed=last_lines(error))


def last_lines(error: BaseException, count: int = 8) -> str:
    """Of its traceback."""
    return "\n".join("".join(traceback.format_exception(error)).splitlines()[-count:])[-2000:]


@contextmanager
def compiled_alike() -> Iterator[None]:
    """What is compiled knows its shape, the first model's as any later one's, and is forgotten before and after."""
    with each_shape_by_itself("regions"):
        forget()
        try:
            yield
        finally:
            forget()


def forget() -> None:
    """All that was compiled in this process, and memory that nothing holds."""
    forget_compiled()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
