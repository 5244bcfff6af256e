"""What tests/benchmarks/gpu.py says of a GPU beside times: cells and why they are slow, clocks, one device, what was met."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from making import ended, job, point, tiny_space

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import lowrank
from answers import answers
from clocks import Clocks
from contenders import Asked
from gpu import SHARES, STAGES, limit_of
from packed import check_one_device
from staged import one_gpu

CPU = torch.device("cpu")


def test_no_cell_is_measured_twice_and_what_must_be_shown_comes_first() -> None:
    cells = list(lowrank.cells(Asked(False, 0, CPU)))
    its = [(cell.shape, cell.low.context, cell.low.ranks_text, cell.kernels) for cell in cells]
    assert len(set(its)) == len(its)
    first = [(cell.shape, cell.kernels, cell.low.d_ff, cell.d_ff_of_shape) for cell in cells[:4]]
    assert first == [("llama-1b", "regions", 5464, 5461), ("llama-3b", "regions", 6848, 6848),
                     ("llama-130m", "regions", 2048, 2048), ("llama-350m", "regions", 2736, 2736)]  # fmt: skip
    assert cells[2].low.ranks_text == "q128 k128 v128 o128"
    assert cells[3].low.ranks_text == "q320 k320 v320 o320"
    assert all(cell.low.d_ff % 8 == 0 and cell.low.dense().d_ff == cell.low.d_ff for cell in cells)


def test_points_above_the_roofline_are_those_of_its_parts() -> None:
    low = {"products": 5.0, "attention": 1.0, "between": 2.0, "idle": 1.0}
    roof = {"products": 3.0, "attention": 0.5, "between": 1.0}  # of a dense step of 6, measured 12
    points = lowrank.points_of(low, roof, 12.0, 6.0)
    assert points is not None
    assert sum(points.values()) == pytest.approx(100 * (9 / 12 - 4.5 / 6))
    assert points["idle"] == pytest.approx(100 / 12)
    row = {"shape": "m", "context": 32, "placement": "attention=1/4", "ranks": "q8", "kernels": "regions",
           "measured_ratio": 0.95, "roofline_ratio": 0.85, "points_above_roofline": 10.0, "points_of": points}  # fmt: skip
    assert "10.0 points more, most of it waiting for the host (launches) (waiting for the host (launches) +8.3" in (
        lowrank.sentence(row)
    )
    assert lowrank.sentence(row | {"points_above_roofline": 5.0}) == ""
    assert "not known" in lowrank.sentence(row | {"points_of": None})


def test_clocks_are_those_of_the_named_gpu_while_it_worked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    rows = ["1200, 2619, 300.5, 50, 0x0000000000000000", "1980, 2619, [N/A], 52, 0x0000000000000004",
            "345, 2619, 70.0, 40, 0x0000000000000001", "not a sample"]  # fmt: skip
    lines = "\\n".join(rows)
    program.write_text(f"#!/bin/sh\necho \"$@\" > {tmp_path}/words\nprintf '{lines}\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    began = time.perf_counter()
    with Clocks("GPU-12") as clocks:
        clocks.reader.join(60)
    found = clocks.during(began, time.perf_counter())
    assert found == {"samples": 2, "idle_samples": 1, "sm_mhz": [1200, 1590, 1980], "memory_mhz": [2619, 2619, 2619],
                     "watts": [300.5, 300.5, 300.5], "celsius": [50, 51, 52], "reasons": ["power_cap"]}  # fmt: skip
    assert clocks.during(0, began) is None
    words = (tmp_path / "words").read_text().split()
    assert words[0] == "--id=GPU-12"
    assert "clocks_event_reasons.active" in words[1]


def test_of_several_gpus_a_program_is_shown_the_measured_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert one_gpu(torch.device("cuda"))["CUDA_VISIBLE_DEVICES"] == "3"
    assert one_gpu(CPU)["CUDA_VISIBLE_DEVICES"] == "3,1"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert one_gpu(torch.device("cuda"))["CUDA_VISIBLE_DEVICES"] == "0"


def test_runs_of_two_devices_are_no_packing() -> None:
    record = ended(job(tiny_space().candidate(point())), 1.0)
    assert record.measured is not None

    def on(worker: str) -> Any:
        return record.change(measured=record.measured.change(worker=worker))  # pyrefly: ignore[missing-attribute]

    check_one_device([on("0, GPU 3"), on("1, GPU 3")])
    for other in ("1, GPU 1", ""):
        with pytest.raises(RuntimeError, match="not on one device"):
            check_one_device([on("0, GPU 3"), on(other)])


def test_stages_share_the_time_and_what_is_left_goes_on() -> None:
    assert set(SHARES) == set(STAGES)
    names, left, limits = ["device", "peers", "lowrank", "packing"], 500.0, []
    for place, name in enumerate(names):
        limits.append(limit_of(name, names[place + 1 :], left, 3600))
        left -= limits[-1]
    assert limits == pytest.approx([20, 130, 150, 200])
    assert left == pytest.approx(0)
    assert limit_of("packing", [], 300.0, 3600) == 300
    assert limit_of("packing", [], float("inf"), 3600) == 3600


def test_the_end_says_what_to_use_and_what_was_met() -> None:
    peers: list[dict[str, Any]] = [{"shape": "llama-130m", "entrants": [["ours, regions", False], ["peer", False]]}]
    peers += [{"name": "ours, regions", "cuda_graph": False, "over_plain": 2.0, "tokens_per_second": 4e5,
               "share_of_matmul_rate": 0.5, "share_with_full_scores": 0.54}]  # fmt: skip
    peers += [{"name": "peer", "cuda_graph": False, "over_plain": 1.6}]
    cell = {"shape": "llama-1b", "context": 1024, "placement": "attention=1/6", "ranks": "q344", "layers": 12,
            "roofline_ratio": 0.8, "sentence": "why"}  # fmt: skip
    regions = cell | {"kernels": "regions", "measured_ratio": 0.9, "dense_seconds": 1.0}
    blocks = cell | {"kernels": "blocks", "measured_ratio": 0.85, "dense_seconds": 1.2}  # a slow dense step flatters
    small = regions | {"shape": "llama-130m", "measured_ratio": 0.97, "roofline_ratio": 0.93, "sentence": None}
    alone = {"shape": "llama-9m", "workers": 1, "mps": False, "cuda_graph": True, "runs_an_hour": 100.0}
    several = alone | {"workers": 8, "mps": True, "runs_an_hour": 500.0, "nats_from_one_alike": 0.001}
    slow = alone | {"cuda_graph": False, "runs_an_hour": 50.0}
    kinds = {"first": {"share_of_a_run": 0.3}, "next": {"share_of_a_run": 0.02}, "wide": {"share_of_a_run": 0.2}}
    start = {"kernels": "regions", "cuda_graph": False, "cache": "warm", "candidates": kinds}
    stack = {"shape": "llama-9m", "runs": 8, "way": "stacked", "over_one_at_a_time": 3.0, "over_one_alike": 1.5,
             "nats_from_one_alike": 0.0002}  # fmt: skip
    four = stack | {"runs": 4, "way": "streams", "over_one_at_a_time": 1.25}
    none = stack | {"shape": "llama-20m", "over_one_at_a_time": 0.75, "over_one_alike": 0.7}
    failed = {"shape": "llama-20m", "runs": 4, "way": "streams", "failed": "out of memory"}
    stages = {"peers": peers, "lowrank": [regions, blocks, small], "packing": [slow, alone, several], "startup": [start],
              "together": [four, stack, none, failed]}  # fmt: skip
    said = answers({name: {"rows": rows} for name, rows in stages.items()} | {"command": []})
    assert said == [
        "use, llama-130m dense: kernels regions: 400,000 tokens a second, 2.00 times plain (no other)",
        "use, llama-1b, context 1024, q344: kernels regions (regions 900.0 ms, blocks 1020.0 ms)",
        "use, llama-9m: workers_per_device 8, mps True, cuda_graph True: 500 runs an hour, "
        "5.00 times the faster of one at a time",
        "use, llama-9m, several runs in one process: 8 stacked, 3.00 times the steps of one at a time, 1.50 of one alike "
        "(4 streams 1.25); the first run's loss differs by 0.0002 nats",
        "do not use, llama-20m, several runs in one process: 8 stacked, 0.75 times the steps of one at a time, 0.70 of one "
        "alike (no other); the first run's loss differs by 0.0002 nats",
        "met: llama-130m dense, ours over the best peer 1.250, at least 1",
        "met: llama-130m dense, share of the measured matmul rate 0.500, at least 0.45 "
        "(0.540 with the scores that causal attention leaves out)",
        "NOT met: llama-1b with attention=1/6 over dense, step time 0.900, at most 0.876 "
        "(regions, 12 layers; by the roofline 0.800)",
        "not measured: llama-3b with attention=1/6 over dense, step time, at most 0.876",
        "met: llama-130m with attention=1/6 over dense, step time 0.970, at most 0.98 "
        "(regions, 12 layers; by the roofline 0.930)",
        "not measured: llama-350m with attention=5/16 over dense, step time, at most 0.876",
        "NOT met: start of a new candidate, of a 60-second run 0.200, at most 0.1 "
        "(regions, cuda_graph False, warm cache; a worker's first 0.300)",
        "met: llama-9m, runs an hour over one at a time 5.000, at least 4 (losses differ by up to 0.0010 nats)",
        "not measured: llama-20m, runs an hour over one at a time, at least 4",
        "above the roofline: why",
        "above the roofline: why",
    ]


def test_what_was_not_measured_is_said() -> None:
    said = answers({})
    assert "not measured: several runs in one process" in said
    assert all(line.startswith("not measured: ") for line in said)
