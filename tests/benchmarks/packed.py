"""Searches whose runs share a device, against the same runs one at a time: a stage of tests/benchmarks/gpu.py."""

import json
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from contenders import TOY, Asked, last_lines
from lpanas.lpa.data import DataConfig
from lpanas.search.stored import read_records
from staged import Rows, output

SEARCH_SECONDS = 1500
"""After which a search is given up (assumption)."""
SHAPES = {True: (("toy", 3200),), False: (("llama-9m", 20_000_000), ("llama-20m", 20_000_000))}
"""And the tokens of a run: 1,221 steps on a GPU."""


def packing(asked: Asked) -> Rows:
    """Searches of the same runs with one and with several workers on the device: runs an hour from first start to last end, and
    that and the losses against those of one at a time, plain and with the same `cuda_graph`."""
    for shape, tokens in SHAPES[asked.toy]:
        alone: dict[bool, dict[str, Any]] = {}
        if not asked.toy:
            with suppress(Exception):  # the rows will say it
                packed(shape, tokens // 100, 1, False, False, asked)  # what the compiler keeps is there for all alike
        for workers, mps, graph in ways(asked):
            row = {"shape": shape, "tokens": tokens, "workers": workers, "mps": mps, "cuda_graph": graph}
            try:
                row |= packed(shape, tokens, workers, mps, graph, asked)
            except Exception as error:
                yield row | {"failed": last_lines(error)}
                continue
            if workers == 1:
                alone[graph] = row
            yield row | against(row, alone.get(False), "one_at_a_time") | against(row, alone.get(graph), "one_alike")


def against(row: dict[str, Any], one: dict[str, Any] | None, name: str) -> dict[str, Any]:
    """Of two searches of the same runs; nothing where there is no other."""
    if one is None:
        return {}
    mine, others = row["losses"], one["losses"]
    differences = [abs(mine[run] - others[run]) for run in mine if run in others]
    return {
        f"over_{name}": row["runs_an_hour"] / one["runs_an_hour"],
        f"nats_from_{name}": max(differences, default=None),
    }


def ways(asked: Asked) -> list[tuple[int, bool, bool]]:
    """Workers, whether they share by MPS, whether their steps are CUDA graphs; one at a time first."""
    if asked.toy:
        return [(1, False, False), (2, False, False)]
    shared = [(4, True, True), (8, True, True), (8, True, False)] if shutil.which("nvidia-cuda-mps-control") else []
    return [(1, False, False), (1, False, True), (4, False, True), (8, False, True), *shared]


def packed(shape: str, tokens: int, workers: int, mps: bool, graph: bool, asked: Asked) -> dict[str, Any]:
    """One search of the arms and of more seeds of the dense one."""
    model = TOY if asked.toy else {"shape": shape, "context": 256, "rank_multiple": 16}
    space = {
        "name": "packed",
        "proxy": {"model": model, "optim": {"lr": 1e-3}, "tokens": tokens, "batch_size": 4 if asked.toy else 64, "evals": 1,
                  "data": DataConfig(valid_tokens=4096, max_epochs=None).model_dump(mode="json"), "device": asked.device.type,
                  "cuda_graph": graph},
        "target": {"model": model},
        "vary": {"ranks": {"attention": ["dense", "1/4"]}},
        "search": {"trials": 4, "noise_seeds": 2 if asked.toy else 13, "rungs": 0,
                   "workers": workers, "workers_per_device": workers, "mps": mps},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "packed.yaml"
        path.write_text(json.dumps(space))
        command = ["-c", "from lpanas.search.cli import main; main()", "search", str(path), "--out", f"{folder}/out"]
        output([sys.executable, *command], SEARCH_SECONDS)
        records = sorted(read_records(Path(folder) / "out" / "records.jsonl"), key=lambda record: record.run)
    done = [(record.run, record.loss_nats, record.measured) for record in records if record.measured]
    losses = {run: loss for run, loss, _ in done if loss is not None}
    times = [its for _, loss, its in done if loss is not None]
    if not times:
        raise RuntimeError(f"no run came to its end: {[record.reason for record in records][:1]}")
    hours = (max(one.started + one.seconds for one in times) - min(one.started for one in times)) / 3600
    return {"runs": len(times), "runs_without_a_loss": len(records) - len(times), "runs_an_hour": len(times) / hours,
            "losses": losses}  # fmt: skip
