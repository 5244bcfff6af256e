"""Runs of one shape in one process, as one stack or each on a stream of its own, against one alone: a stage of
tests/benchmarks/gpu.py.

python tests/benchmarks/together.py [--seconds S]     on a CPU, at widths of its own
"""

import argparse
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import count
from time import perf_counter
from typing import Any

import torch
from contenders import STEPS, Asked, Contender, compiled_alike, in_turn, last_lines, ours, random_tokens, training, warmed
from lpanas.lpa.data import Batches, near
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.train_config import TrainConfig
from packed import Shape, shapes
from stacked import Cut, Stack
from staged import Rows

Make = Callable[[Sequence[TrainConfig], Asked], Contender]
"""Of some runs, whose step gives the loss and the gradient's norm of the first."""

RATES = 0.5, 1.0, 2.0
"""Of the runs, in turn, as those of a sweep."""
CPU_SHAPES = [
    ("width 16", 4, {"vocab_size": 264, "d_model": 16, "d_ff": 32, "n_heads": 2, "n_layers": 2, "context": 16}),
    ("width 64", 8, {"vocab_size": 264, "d_model": 64, "d_ff": 176, "n_heads": 4, "n_layers": 4, "context": 128}),
    ("width 128", 8, {"vocab_size": 264, "d_model": 128, "d_ff": 344, "n_heads": 4, "n_layers": 4, "context": 128}),
    ("width 256", 8, {"vocab_size": 264, "d_model": 256, "d_ff": 688, "n_heads": 4, "n_layers": 4, "context": 128}),
]
"""Name, sequences a step and shape."""


def together(asked: Asked) -> Rows:
    """A row a shape, a number of runs and a way."""
    for shape in shapes(asked):
        for runs in (2,) if asked.toy else (8, 4):
            yield from rows(shape, runs, asked)


def rows(shape: Shape, runs: int, asked: Asked) -> Rows:
    """Of both ways, on a GPU as CUDA graphs."""
    graph = asked.device.type == "cuda"
    one = training(shape.model, shape.batch, asked, cuda_graph=graph)
    for way, make in WAYS.items():
        row = {"shape": shape.name, "vocab_size": shape.model.vocab_size, "runs": runs, "way": way, "cuda_graph": graph}
        with compiled_alike():
            try:
                row |= compared([changed(one, place) for place in range(runs)], make, asked)
            except Exception as error:
                row |= {"failed": last_lines(error)}
        yield row


def compared(configs: Sequence[TrainConfig], make: Make, asked: Asked) -> dict[str, Any]:
    """How many steps of one run they take in the time of one step of the first of them alone, plain and as they; and how far
    its loss is then from its own alone. Seconds of a start are of the first that compiles a region."""
    plain = configs[0].change(cuda_graph=False)
    makers = {"plain": partial(ours, plain, asked)} if configs[0].cuda_graph else {}
    makers |= {"alike": partial(ours, configs[0], asked), "all": partial(make, configs, asked)}
    found = in_turn(makers, asked)
    if failures := [its.failed for its in found.values() if its.failed]:
        raise RuntimeError(failures[0])
    alike, several = found["alike"], found["all"]
    (loss, _), (its_loss, _) = (one.step() for one in (alike, several))
    return {
        "over_one_at_a_time": found.get("plain", alike).seconds * len(configs) / several.seconds,
        "over_one_alike": alike.seconds * len(configs) / several.seconds,
        "step_seconds": {name: one.seconds for name, one in found.items()}, "timed": len(several.taken),
        "first_six_steps_seconds": {name: one.first_seconds for name, one in found.items()},
        "nats_from_one_alike": abs(loss.item() - its_loss.item()),
    }  # fmt: skip


def changed(config: TrainConfig, place: int) -> TrainConfig:
    """A run's, by its place among the others: another seed, and one of RATES."""
    rate = config.optim.lr * RATES[(place + 1) % len(RATES)]
    return config.change(seed=place, optim=config.optim.change(lr=rate))


def as_stack(configs: Sequence[TrainConfig], asked: Asked) -> Contender:
    """As one: see Stack."""
    began, numbers = perf_counter(), count()
    stack = Stack(configs, [cut(one, asked) for one in configs], asked.device)

    def once() -> tuple[torch.Tensor, torch.Tensor]:
        losses, norms = stack.step(next(numbers))
        return losses[0], norms[0]

    return warmed(Contender(once, configs[0].batch_tokens * len(configs)), asked, began)


def cut(config: TrainConfig, asked: Asked) -> Cut:
    """The batches that `ours` reads."""
    tokens = random_tokens(config, asked)
    batches = Batches(tokens, config.model.context, config.batch_size, config.seed)
    its = near(batches, range(STEPS), asked.device)
    return lambda number: its(number % STEPS)


def on_streams(configs: Sequence[TrainConfig], asked: Asked) -> Contender:
    """Our loop's steps, each run on a stream of its own (on a CPU in turn), as one thread starts them."""
    began = perf_counter()
    on_gpu = asked.device.type == "cuda"
    lanes = [torch.cuda.Stream() if on_gpu else None for _ in configs]
    its = []
    for config, lane in zip(configs, lanes, strict=True):
        with torch.cuda.stream(lane) if on_gpu else nullcontext():
            its.append(ours(config, asked))

    def once() -> object:
        said = []
        for one, lane in zip(its, lanes, strict=True):
            with torch.cuda.stream(lane) if on_gpu else nullcontext():
                said.append(one.step())
        for lane in filter(None, lanes):
            torch.cuda.current_stream().wait_stream(lane)  # whose clock stops when all have
        return said[0]

    return Contender(once, configs[0].batch_tokens * len(configs), first_seconds=perf_counter() - began)


WAYS: dict[str, Make] = {"stacked": as_stack, "streams": on_streams}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each pair")
    asked = Asked(True, parser.parse_args().seconds, torch.device("cpu"))
    torch.set_num_threads(1)
    for name, batch, shape in CPU_SHAPES:
        for row in rows(Shape(name, ModelConfig.parse(shape, name), 10**6, batch), 4, asked):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
