"""What of a run is not training at speed, in a search's own worker: a stage of tests/benchmarks/gpu.py.

python tests/benchmarks/startup.py KERNELS [graph] [toy]     what one search's worker says
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from contenders import Asked, last_lines, toy, training
from lpanas.lpa.data import DataConfig
from lpanas.lpa.kernels import KernelsName
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.prepare import open_shards
from lpanas.lpa.train_config import TrainConfig
from lpanas.search import nursery
from lpanas.search.executor import LocalExecutor, Setup
from lpanas.search.record import Advanced, Fault, Job, Record
from staged import Rows, one_gpu, output

START_SECONDS = 600
"""After which a process that starts candidates is given up (assumption)."""
RUN_SECONDS = 60
"""Of the run whose share a start is."""
EVALS = 4
"""Of a run, at even distances: the first part has the compiler's work, the others are training at speed."""
STARTS: tuple[tuple[KernelsName, bool], ...] = (("regions", False), ("regions", True), ("plain", False), ("blocks", False))
"""Kernels, and whether with a CUDA graph."""
TOY_STARTS: tuple[tuple[KernelsName, bool], ...] = (("plain", False),)
CACHES, TOY_CACHES = ("cold", "warm"), ("cold",)
"""Of the compiler's: empty, then with what the process before it left."""


def startup(asked: Asked) -> Rows:
    """A row a process that starts candidates in one worker, one after the other."""
    for kernels, graph in TOY_STARTS if asked.toy else STARTS:
        with tempfile.TemporaryDirectory() as folder:
            for cache in TOY_CACHES if asked.toy else CACHES:
                yield {"kernels": kernels, "cuda_graph": graph, "cache": cache} | started(kernels, graph, Path(folder), asked)


def started(kernels: KernelsName, graph: bool, cache: Path, asked: Asked) -> dict[str, Any]:
    """What a fresh process says. cache: of its compilers, a folder."""
    words = [sys.executable, __file__, kernels, *(["graph"] if graph else []), *(["toy"] if asked.toy else [])]
    env = one_gpu(asked.device)
    env |= {"TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"), "TRITON_CACHE_DIR": str(cache / "triton")}
    began = time.perf_counter()
    try:
        found = json.loads(output(words, START_SECONDS, env))
    except Exception as error:
        return {"failed": last_lines(error)}
    return {"process_seconds": time.perf_counter() - began, "candidates": found}


def candidates(asked: Asked) -> dict[str, ModelConfig]:
    """The first of its shape, the next placement, and two of other widths."""
    if asked.toy:
        model = toy()
    else:
        from lpanas.search.presets import named_shape

        model = named_shape("llama-60m", {"context": 256}, "startup")
    low = model.place(model.placement.parse("attention=1/4", model.n_layers))
    wider, widest = (model.change(d_ff=model.d_ff + more) for more in (64, 128))
    return {"first": model, "another placement": low, "another width": wider, "a third width": widest}


def starts(kernels: KernelsName, graph: bool, asked: Asked) -> dict[str, dict[str, float]]:
    """What each candidate's start takes, in seconds. The first has the worker's own start, its device's and its imports."""
    models = candidates(asked)
    config = training(models["first"], 4, asked, kernels=kernels, cuda_graph=graph)
    steps = EVALS * (4 if asked.toy else 250)
    data = DataConfig(valid_tokens=4096, max_epochs=None)
    config = config.change(tokens=steps * config.batch_tokens, evals=EVALS, data=data)
    shards, found = open_shards(data), dict[str, dict[str, float]]()
    with nursery.running():
        moment = time.time()
        with LocalExecutor(Setup(config, shards.folder), workers=1) as executor:
            for kind, model in models.items():
                found[kind] = start(executor, kind, model, config, moment)
                moment = time.time()
    return found


def start(executor: LocalExecutor, kind: str, model: ModelConfig, config: TrainConfig, moment: float) -> dict[str, float]:
    """Of one run: until it began, what it took beside its loop, and its loop beyond its parts at speed. moment: Unix time from
    which it was wanted."""
    executor.submit(Job(run=kind, seed=config.seed, model=model, target=model, costs={}))
    evaluated, record = [], None
    for message in told(executor):
        if isinstance(message, Advanced):
            evaluated.append(time.perf_counter())
        elif isinstance(message, Record):
            record = message
    assert record is not None
    if record.measured is None or record.status != "complete":
        raise RuntimeError(f"no whole run: {record.status}, {record.reason}")
    its = record.measured
    part = median(after - before for before, after in pairwise(evaluated))
    seconds = {
        "worker_seconds": its.started - moment,
        "building_seconds": its.seconds - its.train_seconds,
        "first_steps_seconds": max(0.0, its.train_seconds - EVALS * part),
    }
    whole = sum(seconds.values())
    return seconds | {"start_seconds": whole, "share_of_a_run": whole / RUN_SECONDS, "at_speed_seconds": EVALS * part}


def told(executor: LocalExecutor) -> Iterator[object]:
    """All that a worker says of its run, to its record. Raises RuntimeError where it comes to none."""
    while True:
        for message in executor.wait():
            if isinstance(message, Fault):
                raise RuntimeError(message.record.reason)
            yield message
            if isinstance(message, Record):
                return


if __name__ == "__main__":
    kernels: Any = sys.argv[1]
    is_toy = "toy" in sys.argv
    said = starts(kernels, "graph" in sys.argv, Asked(is_toy, 0.0, torch.device("cpu" if is_toy else "cuda")))
    print(json.dumps(said))
