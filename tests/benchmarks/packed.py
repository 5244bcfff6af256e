"""Searches whose runs share a device, against runs one at a time: a stage of tests/benchmarks/gpu.py."""

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contenders import TOY, Asked, forget, last_lines
from lpanas.lpa.data import DataConfig
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.optim import OptimConfig
from lpanas.lpa.prepare import open_shards
from lpanas.lpa.train import train
from lpanas.lpa.train_config import TrainConfig
from lpanas.search.noise import measure
from lpanas.search.presets import named_shape
from lpanas.search.record import Record
from lpanas.search.stored import read_records
from staged import Rows, one_gpu, output

SEARCH_SECONDS = 300
"""After which a search is given up (assumption)."""


@dataclass(frozen=True)
class Shape:
    """What the runs train."""

    name: str
    model: ModelConfig
    tokens: int
    """Of a run."""
    batch: int
    """Sequences a step."""


@dataclass(frozen=True)
class Way:
    """How the runs of a search share the device."""

    workers: int
    mps: bool
    """By NVIDIA's Multi-Process Service."""
    cuda_graph: bool


OTHERS = [{"attention": "1/8"}, {"ffn": "1/8"}, {"attention": ["dense", "1/4"]}, {"ffn": ["dense", "1/4"]},
         {"attention": ["1/4", "dense"]}, {"ffn": ["1/4", "dense"]}, {"attention": "1/8", "ffn": "1/8"}]  # fmt: skip
"""Ranks that a search is told to train beside the arms, so that every search trains the same."""


def shapes(asked: Asked) -> list[Shape]:
    """On a GPU first with the vocabulary of the presets' proxies, which read bytes, then with the shape's own, whose logits are
    most of its work; 1,221 steps of 16,384 tokens, as the presets' proxies have them."""
    if asked.toy:
        return [Shape("toy", ModelConfig.parse(TOY, "toy"), 640, 4)]
    its = {"context": 256, "rank_multiple": 16}
    kinds: list[tuple[str, dict[str, object]]] = [(", bytes", {"vocab_size": 264}), ("", {})]
    names = ("llama-9m", "llama-20m")
    return [
        Shape(name + ending, named_shape(name, its | more, "packing"), 20_000_000, 64)
        for ending, more in kinds
        for name in names
    ]


def plan(asked: Asked) -> list[tuple[Shape, Way]]:
    """What decides comes first, as a stage has a limit: 8 workers against one, of each shape that reads bytes."""
    its = shapes(asked)
    if asked.toy:
        return [(its[0], Way(workers, False, False)) for workers in (1, 2)]
    shared = [Way(8, True, True)] if shutil.which("nvidia-cuda-mps-control") else []
    sliced, ones = Way(8, False, True), [Way(1, False, True), Way(1, False, False)]
    first, *rest = [*shared, sliced]
    more = [*rest, *([Way(16, True, True), Way(4, True, True), Way(8, True, False)] if shared else []), Way(4, False, True)]
    rounds = [(its[:2], [*ones, first]), (its[:2], more), (its[2:], [*ones, first, *rest])]
    return [(shape, way) for some, ways in rounds for shape in some for way in ways]


def packing(asked: Asked) -> Rows:
    """Runs an hour from first start to last end; that and the losses against those of one at a time, plain and with the same
    `cuda_graph`."""
    alone: dict[tuple[str, bool], dict[str, Any]] = {}
    warmed = set[str]()
    for shape, way in plan(asked):
        row = {"shape": shape.name, "vocab_size": shape.model.vocab_size, "tokens": shape.tokens, **vars(way)}
        try:
            if shape.name not in warmed:
                warmed.add(shape.name)
                warm(shape, asked)
            row |= packed(shape, way, asked)
        except Exception as error:
            yield row | {"failed": last_lines(error)}
            continue
        if way.workers == 1:
            alone[shape.name, way.cuda_graph] = row
        plain, alike = (alone.get((shape.name, graph)) for graph in (False, way.cuda_graph))
        yield row | against(row, plain, "one_at_a_time") | against(row, alike, "one_alike")


def against(row: dict[str, Any], one: dict[str, Any] | None, name: str) -> dict[str, Any]:
    """Of two searches; nothing where there is no other. The losses are of the runs that both have trained."""
    if one is None:
        return {}
    mine, others = row["losses"], one["losses"]
    differences = [abs(mine[run] - others[run]) for run in mine if run in others]
    return {
        f"over_{name}": row["runs_an_hour"] / one["runs_an_hour"],
        f"nats_from_{name}": max(differences, default=None),
    }


def proxy(shape: Shape, asked: Asked) -> TrainConfig:
    """Its training, evaluated as the presets' proxies are."""
    data = DataConfig(valid_tokens=4096 if asked.toy else 524_288, max_epochs=None)  # two epochs, where a preset has one
    device: Any = asked.device.type
    return TrainConfig(
        model=shape.model, data=data, optim=OptimConfig(lr=1e-3), tokens=shape.tokens, batch_size=shape.batch, device=device
    )


def warm(shape: Shape, asked: Asked) -> None:
    """Take some steps here: what the compiler keeps and the text's tokens are then there for all searches alike, as they are
    for all but the first run of a long one."""
    config = proxy(shape, asked)
    config = config.change(tokens=10 * config.batch_tokens, evals=1)
    for _ in train(config, open_shards(config.data)):
        pass
    forget()


def search(shape: Shape, way: Way, asked: Asked) -> dict[str, Any]:
    """The space of 16 runs, or of the first 8 of each kind where they come one at a time (which takes longest): the arms, seeds
    of the dense one and other ranks, three of eight dense."""
    alone = way.workers == 1
    seeds, others = (2, 0 if alone else 1) if asked.toy else (3, 2) if alone else (6, 7)
    model = shape.model.model_dump(mode="json")
    return {
        "name": "packed",
        "proxy": proxy(shape, asked).change(cuda_graph=way.cuda_graph).model_dump(mode="json"),
        "target": {"model": model},
        "vary": {"ranks": {"attention": ["dense", "1/4"]}},
        "search": {"trials": 4 + others, "noise_seeds": seeds, "rungs": 0, "workers": way.workers, "mps": way.mps,
                   "workers_per_device": way.workers, "placements": [{"ranks": ranks} for ranks in OTHERS[:others]]},
    }  # fmt: skip


def packed(shape: Shape, way: Way, asked: Asked) -> dict[str, Any]:
    """What one search came to."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "packed.yaml"
        path.write_text(json.dumps(search(shape, way, asked)))
        command = ["-c", "from lpanas.search.cli import main; main()", "search", str(path), "--out", f"{folder}/out"]
        began = time.perf_counter()
        output([sys.executable, *command], SEARCH_SECONDS, one_gpu(asked.device))
        seconds = time.perf_counter() - began
        records = sorted(read_records(Path(folder) / "out" / "records.jsonl"), key=lambda record: record.run)
    check_one_device(records)
    return told(records) | {"search_seconds": seconds}


def check_one_device(records: Sequence[Record]) -> None:
    """Raises RuntimeError unless all runs were on one device, as their workers name it: `0, GPU 0`."""
    workers = {record.measured.worker for record in records if record.measured}
    if len({worker.partition(", ")[2] for worker in workers}) != 1 or "" in workers:
        raise RuntimeError(f"not on one device: workers {sorted(workers)}")


def told(records: Sequence[Record]) -> dict[str, Any]:
    """Runs an hour, each run's start included, the search's own left out; losses, and the noise of the dense arm's seeds."""
    done = {record.run: record.loss_nats for record in records if record.loss_nats is not None}
    times = [record.measured for record in records if record.measured and record.run in done]
    if not times:
        raise RuntimeError(f"no run came to its end: {[record.reason for record in records][:1]}")
    hours = (max(one.started + one.seconds for one in times) - min(one.started for one in times)) / 3600
    noise = measure(
        [done[its.run] for its in records if its.run in done and (its.arm == "dense" or its.run.startswith("noise"))]
    )
    return {
        "runs": len(done), "runs_without_a_loss": len(records) - len(done), "runs_an_hour": len(done) / hours,
        "train_seconds": [one.train_seconds for one in times], "seconds": [one.seconds for one in times],
        "seed_noise_nats": noise and noise.std_nats, "losses": done,
    }  # fmt: skip
