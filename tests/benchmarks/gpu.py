"""What a GPU makes of training and of a search: stages, each bounded, each ratios within one run, as JSON.

    python tests/benchmarks/gpu.py [STAGE...] [--toy] [--seconds S] [--out FILE]

device    the rate of large bfloat16 products and of copies: the ceilings of everything else
peers     llama-130m dense, context 1024, in tokens a second: our kernels, with and without a CUDA graph, against Hugging Face's
          LlamaForCausalLM under torch.compile with fused AdamW, and litgpt's GPT where that is installed; same shape, tokens
          and precision
lowrank   low rank against dense, both compiled, pairs of steps one right after the other: placement x rank x shape x context,
          with the ratio of FLOPs, of the roofline (tests/benchmarks/roofline.py) and as measured
startup   from a new candidate to its sixth step, after another of its shape
packing   runs an hour at llama-9m and llama-20m: one at a time, and several that share the device

All of them when none is named. --toy: at shapes for a CPU, which tests that everything runs and says nothing of speed.
--seconds: of each measurement. Needs transformers for its peer.
"""

import argparse
import json
import math
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lpanas.lpa.cost import cost, flops_per_token
from lpanas.lpa.data import DataConfig
from lpanas.lpa.kernels import KernelsName
from lpanas.lpa.metrics import peak_flops
from lpanas.lpa.model import ModelConfig
from lpanas.lpa.step_time import timed
from lpanas.search.equal_time import Ratio
from lpanas.search.presets import named_shape

sys.path.insert(0, str(Path(__file__).parent))
import roofline
from contenders import Asked, hugging_face, in_turn, litgpt, ours, training

KERNELS: tuple[KernelsName, ...] = ("plain", "regions", "blocks", "model")
TOY = {"vocab_size": 264, "context": 32, "d_model": 32, "d_ff": 88, "n_heads": 2, "n_layers": 2, "rank_multiple": 4}


def device(asked: Asked) -> dict[str, Any]:
    """FLOPs and bytes a second."""
    n, kind = (256, torch.float32) if asked.toy else (8192, torch.bfloat16)
    a, b = (torch.randn(n, n, device=asked.device).to(kind) for _ in range(2))
    large = torch.empty(2**20 if asked.toy else 2**31, dtype=torch.uint8, device=asked.device)
    other = torch.empty_like(large)
    products, copies = (
        median(timed(asked.device, [call])[0] for _ in range(3 if asked.toy else 30))
        for call in (lambda: [a @ b for _ in range(5)] and None, lambda: [other.copy_(large) for _ in range(5)] and None)
    )
    rate, peak = 5 * 2 * n**3 / products, peak_flops(asked.device)
    found = {"matmul_flops_per_second": rate, "copy_bytes_per_second": 5 * 2 * large.numel() / copies}
    return found | ({"share_of_promised_peak": rate / peak} if peak else {})


def peers(asked: Asked) -> dict[str, Any]:
    """Tokens a second and the share of the measured matmul rate."""
    model = toy() if asked.toy else named_shape("llama-130m", {"context": 1024}, "peers")
    batch = 2 if asked.toy else 16
    config = training(model, batch, asked)
    kernels = KERNELS[:1] if asked.toy else KERNELS
    contenders = [ours(f"ours, {name}", config.change(kernels=name), asked) for name in kernels]
    if asked.device.type == "cuda":
        contenders += [
            ours(f"ours, {name}, CUDA graph", config.change(kernels=name, cuda_graph=True), asked) for name in KERNELS[1:]
        ]
    contenders += [hugging_face(config, asked), *filter(None, [litgpt(config, asked)])]
    taken, rate = in_turn(contenders, asked), device(asked)["matmul_flops_per_second"]
    rows = [
        {"name": one.name, "tokens_per_second": one.tokens / median(taken[one.name]), "steps": len(taken[one.name]) * 3,
         "share_of_matmul_rate": flops_per_token(model) * one.tokens / median(taken[one.name]) / rate,
         "first_six_steps_seconds": one.first_seconds}
        for one in contenders
    ]  # fmt: skip
    best = {
        mine: max(row["tokens_per_second"] for row in rows if row["name"].startswith("ours") == mine) for mine in (True, False)
    }
    return {"model": model.model_dump(mode="json"), "rows": rows, "ours_over_best_peer": best[True] / best[False]}


def lowrank(asked: Asked) -> Iterator[dict[str, Any]]:
    """A row a shape, context and placement."""
    measured = device(asked)
    limits = roofline.Device(measured["matmul_flops_per_second"], measured["copy_bytes_per_second"])
    for name, context, placements in cells(asked):
        for placement in placements:
            with suppress(torch.cuda.OutOfMemoryError):
                yield lowrank_cell(name, context, placement, limits, asked)
            if asked.device.type == "cuda":
                torch.cuda.empty_cache()


def cells(asked: Asked) -> list[tuple[str, int, list[str]]]:
    """Shapes, contexts, placements: attention at the paper's ranks and at d/6, a half and an eighth beside, FFN and both."""
    if asked.toy:
        return [("toy", 32, ["attention=1/4", "ffn=1/4"])]
    sixth, more = "attention=1/6", ["attention=1/8", "attention=1/3", "ffn=1/4", "attention=1/6 ffn=1/4"]
    small = [("llama-130m", context, [sixth, *more]) for context in (256, 1024, 4096)]
    middle = [("llama-350m", context, ["attention=5/16", sixth, *more]) for context in (1024,)]
    return [
        *small,
        *middle,
        ("llama-1b", 1024, [sixth, *more]),
        ("llama-3b", 1024, [sixth, *more]),
        ("llama-1b", 4096, [sixth]),
    ]


def lowrank_cell(shape: str, context: int, placement: str, limits: roofline.Device, asked: Asked) -> dict[str, Any]:
    """Both models compiled, on the device together, as many layers as fit."""
    dense = toy() if asked.toy else named_shape(shape, {"context": context}, "lowrank")
    batch = 2 if asked.toy else max(1, 16384 // context)
    dense = dense.change(n_layers=layers_that_fit(dense, batch, asked))
    low = dense.place(dense.placement.parse(placement, dense.n_layers))
    kernels: KernelsName = "plain" if asked.toy else "blocks"
    pair = [
        ours(name, training(model, batch, asked, kernels=kernels), asked) for name, model in (("dense", dense), ("low", low))
    ]
    taken = in_turn(pair, asked)
    ratio = Ratio.of(list(zip(taken["dense"], taken["low"], strict=True)))
    flops, roof = flops_per_token(low) / flops_per_token(dense), roofline.step_seconds(low, batch, 1, limits)
    roof /= (dense_roof := roofline.step_seconds(dense, batch, 1, limits))
    return {
        "shape": shape, "context": context, "layers": dense.n_layers, "microbatch": batch, "placement": placement,
        "ranks": low.ranks_text, "flops_ratio": flops, "roofline_ratio": roof, "measured_ratio": ratio.value,
        "interval": [ratio.low, ratio.high] if math.isfinite(ratio.low) else None, "pairs": ratio.pairs,
        "dense_seconds": ratio.dense_seconds,
        "dense_over_roofline": ratio.dense_seconds / dense_roof, "points_above_roofline": 100 * (ratio.value - roof),
    }  # fmt: skip


def layers_that_fit(dense: ModelConfig, batch: int, asked: Asked) -> int:
    """Of two such models in 80 % of the memory."""
    if asked.device.type != "cuda":
        return dense.n_layers
    room = 0.8 * torch.cuda.mem_get_info(asked.device)[0]
    counts = range(dense.n_layers, 0, -1)
    fits = (n for n in counts if 2 * cost(dense.change(n_layers=n, placement="dense"), batch).memory_bytes <= room)
    return next(fits, 1)


def startup(asked: Asked) -> dict[str, Any]:
    """Seconds from a config to its sixth step: the first of its shape, the next placement, and one with another width."""
    model = toy() if asked.toy else named_shape("llama-60m", {"context": 256}, "startup")
    low = model.place(model.placement.parse("attention=1/4", model.n_layers))
    wider, widest = (model.change(d_ff=model.d_ff + more) for more in (64, 128))
    kinds = {"first": model, "another placement": low, "another width": wider, "a third width": widest}
    names: tuple[KernelsName, ...] = ("plain",) if asked.toy else ("plain", "regions", "blocks")
    return {
        name: {kind: ours(kind, training(one, 4, asked, kernels=name), asked).first_seconds for kind, one in kinds.items()}
        for name in names
    }


def packing(asked: Asked) -> Iterator[dict[str, Any]]:
    """Searches of the same runs with one and with several workers on the device: runs an hour from first start to last end, and
    the largest difference of a loss."""
    alone: dict[str, dict[str, Any]] = {}
    for shape, tokens in (("toy", 3200),) if asked.toy else (("llama-9m", 4_000_000), ("llama-20m", 4_000_000)):
        for workers, mps, graph in ways(asked):
            found = packed(shape, tokens, workers, mps, graph, asked)
            one = alone.setdefault(shape, found)
            worst = max(abs(a - b) for a, b in zip(found["losses"], one["losses"], strict=True))
            ratio = found["runs_an_hour"] / one["runs_an_hour"]
            yield {"shape": shape, **found, "over_one_at_a_time": ratio, "largest_difference_nats": worst}


def ways(asked: Asked) -> list[tuple[int, bool, bool]]:
    """Workers, whether they share by MPS, whether their steps are CUDA graphs; one at a time first."""
    if asked.toy:
        return [(1, False, False), (2, False, False)]
    shared = [(4, True, True), (8, True, True), (8, True, False)] if shutil.which("nvidia-cuda-mps-control") else []
    return [(1, False, False), (1, False, True), (4, False, True), (8, False, True), *shared]


def packed(shape: str, tokens: int, workers: int, mps: bool, graph: bool, asked: Asked) -> dict[str, Any]:
    """One search of the arms and of more seeds of the dense one."""
    from lpanas.search.stored import read_records

    model = TOY if asked.toy else {"shape": shape, "context": 256, "rank_multiple": 16}
    space = {
        "name": "packed",
        "proxy": {"model": model, "optim": {"lr": 1e-3}, "tokens": tokens, "batch_size": 4 if asked.toy else 64, "evals": 1,
                  "data": DataConfig(valid_tokens=4096).model_dump(mode="json"), "device": asked.device.type,
                  "cuda_graph": graph},
        "target": {"model": model},
        "vary": {"ranks": {"attention": ["dense", "1/4"]}},
        "search": {"trials": 4, "noise_seeds": 4 if asked.toy else 13, "rungs": 0,
                   "workers": workers, "workers_per_device": workers, "mps": mps},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "packed.yaml"
        path.write_text(json.dumps(space))
        command = ["-c", "from lpanas.search.cli import main; main()", "search", str(path), "--out", f"{folder}/out"]
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        records = sorted(read_records(Path(folder) / "out" / "records.jsonl"), key=lambda record: record.run)
    times = [record.measured for record in records if record.measured]
    hours = (max(one.started + one.seconds for one in times) - min(one.started for one in times)) / 3600
    return {"workers": workers, "mps": mps, "cuda_graph": graph, "runs": len(times), "runs_an_hour": len(times) / hours,
            "losses": [record.loss_nats for record in records]}  # fmt: skip


def toy() -> ModelConfig:
    """For a CPU."""
    return ModelConfig.parse(TOY, "toy")


def environment(asked: Asked) -> dict[str, Any]:
    """Device, versions, clocks."""
    found: dict[str, Any] = {"torch": torch.__version__, "python": platform.python_version(), "time": time.time()}
    if asked.device.type != "cuda":
        return found | {"device": "cpu"}
    query = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu"
    with suppress(OSError, subprocess.CalledProcessError):
        words = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
        found["nvidia_smi"] = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    return found | {"device": torch.cuda.get_device_name(asked.device), "cuda": torch.version.cuda}


STAGES: dict[str, Callable[[Asked], Any]] = {
    "device": device,
    "peers": peers,
    "lowrank": lambda asked: list(lowrank(asked)),
    "startup": startup,
    "packing": lambda asked: list(packing(asked)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=None)
    words = parser.parse_args()
    if unknown := set(words.stages) - set(STAGES):
        parser.error(f"unknown stage {', '.join(sorted(unknown))}; expected {', '.join(STAGES)}")
    if not torch.cuda.is_available() and not words.toy:
        parser.error("torch sees no GPU here: --toy runs everything small on a CPU")
    asked = Asked(words.toy, words.seconds, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    found: dict[str, Any] = {"command": sys.argv, "environment": environment(asked)}
    for name in words.stages or STAGES:
        began = time.perf_counter()
        try:
            found[name] = STAGES[name](asked)
        except (RuntimeError, ImportError, subprocess.CalledProcessError) as error:  # the other stages are worth having
            found[name] = {"failed": f"{type(error).__name__}: {error}"[:2000]}
        found[f"{name}_seconds"] = time.perf_counter() - began
        text = json.dumps(found, indent=1, allow_nan=False)
        if words.out:
            words.out.write_text(text + "\n")
        print(f"{name}: {json.dumps(found[name])[:400]}", file=sys.stderr, flush=True)
    print(text)


if __name__ == "__main__":
    main()
