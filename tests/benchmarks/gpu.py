"""What a GPU makes of training and of a search: stages, each bounded, each ratios within one run, as JSON.

    python tests/benchmarks/gpu.py [STAGE...] [--toy] [--seconds S] [--limit S] [--out FILE]

device    the rate of large bfloat16 products and of copies: the ceilings of everything else
peers     llama-130m dense, context 1024, in tokens a second: our kernels against Hugging Face's LlamaForCausalLM under
          torch.compile with fused AdamW, and litgpt's GPT where that is installed; same shape, tokens and precision; first all
          without CUDA graphs, then all with them, in turn within each
lowrank   low rank against dense, compiled alike, pairs of steps one right after the other: kernels x placement x rank x shape x
          context, with the ratio of FLOPs, of the roofline (tests/benchmarks/roofline.py) and as measured
startup   from a new candidate to its sixth step, after others, in a process of its own: with no compiler's cache (cold), then
          with what that one left there (warm)
packing   runs an hour at llama-9m and llama-20m: one at a time, and several processes that share the device
together  the same shapes, several runs in one process, as one stack (tests/benchmarks/stacked.py) or on streams of their own:
          their steps against one at a time, in turn

All of them when none is named. --toy: at shapes for a CPU, on it, which tests that everything runs and says nothing of speed.
--seconds: of each measurement. --limit: of each stage; it ends what runs in Python or in another process, and waits for a call
into CUDA. --out is written anew with each row; what fails is a row or a stage with `failed`, and then the exit code is 1. Needs
transformers for its peer.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lpanas.lpa.cost import cost, flops_per_token
from lpanas.lpa.kernels import KernelsName
from lpanas.lpa.metrics import peak_flops
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.step_time import timed
from lpanas.search.equal_time import Ratio
from lpanas.search.presets import named_shape

sys.path.insert(0, str(Path(__file__).parent))
import roofline
from contenders import (
    MODES,
    Asked,
    Contender,
    Make,
    compiled_alike,
    forget,
    hugging_face,
    in_turn,
    last_lines,
    litgpt,
    ours,
    toy,
    training,
)
from packed import packing
from staged import Report, Rows
from startup import startup
from together import together

KERNELS: tuple[KernelsName, ...] = ("plain", "regions", "blocks", "model")


def device(asked: Asked) -> Rows:
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
    yield found | ({"share_of_promised_peak": rate / peak} if peak else {})


def peers(asked: Asked) -> Rows:
    """Tokens a second and the share of the measured matmul rate; then ours over the best peer."""
    model = toy() if asked.toy else named_shape("llama-130m", {"context": 1024}, "peers")
    measured, rows = next(device(asked)), []
    yield {"model": model.model_dump(mode="json"), **measured}
    for graphs in (False,) if asked.toy else (False, True):
        with compiled_alike():
            found = in_turn(entrants(model, graphs, asked), asked)
            some = [peer_row(name, graphs, one, model, measured["matmul_flops_per_second"]) for name, one in found.items()]
            del found  # a group has the memory to itself
        yield from some
        rows += some
    yield peer_ratios(rows)


def entrants(model: ModelConfig, graphs: bool, asked: Asked) -> dict[str, Make]:
    """Who takes part. graphs: with CUDA graphs."""
    config = training(model, 2 if asked.toy else 16, asked)
    kernels, ending = (KERNELS[:1] if asked.toy else KERNELS[1:] if graphs else KERNELS), ", CUDA graph" if graphs else ""
    found: dict[str, Make] = {
        f"ours, {name}{ending}": partial(ours, config.change(kernels=name, cuda_graph=graphs), asked) for name in kernels
    }
    others = {"Hugging Face": hugging_face} | ({"litgpt": litgpt} if find_spec("litgpt") else {})
    for mode in (None,) if asked.toy else MODES[graphs]:
        found |= {f"{who}, {mode or 'compiled'}": partial(make, config, mode, asked) for who, make in others.items()}
    return found


def peer_row(name: str, graphs: bool, one: Contender, model: ModelConfig, rate: float) -> dict[str, Any]:
    """What is told of one. rate: FLOPs a second of large products."""
    row = {"name": name, "cuda_graph": graphs}
    if one.failed:
        return row | {"failed": one.failed}
    speed = one.tokens / one.seconds
    return row | {
        "tokens_per_second": speed, "share_of_matmul_rate": flops_per_token(model) * speed / rate,
        "timed": len(one.taken), "first_six_steps_seconds": one.first_seconds,
    }  # fmt: skip


def peer_ratios(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The best of ours over the best peer: of all, of those without CUDA graphs, and with them; None where a side is empty."""

    def ratio(kinds: tuple[bool, ...]) -> float | None:
        ran = [row for row in rows if row["cuda_graph"] in kinds and "failed" not in row]
        sides = [
            [row["tokens_per_second"] for row in ran if row["name"].startswith("ours") == is_ours] for is_ours in (True, False)
        ]
        return max(sides[0]) / max(sides[1]) if all(sides) else None

    return {
        "ours_over_best_peer": ratio((False, True)), "without_cuda_graphs": ratio((False,)), "with_cuda_graphs": ratio((True,))
    }  # fmt: skip


def lowrank(asked: Asked) -> Rows:
    """A row a shape, context, placement and kernels."""
    measured = next(device(asked))
    yield measured
    forget()
    limits = roofline.Device(measured["matmul_flops_per_second"], measured["copy_bytes_per_second"])
    for shape, context, placement, low in cells(asked):
        for kernels in KERNELS[:1] if asked.toy else KERNELS[1:3]:
            row = {"shape": shape, "context": context, "placement": placement, "ranks": low.ranks_text, "kernels": kernels}
            try:
                row |= lowrank_cell(low, placement, kernels, limits, asked)
            except Exception as error:
                row |= {"failed": last_lines(error)}
            yield row


def cells(asked: Asked) -> Iterator[tuple[str, int, str, ModelConfig]]:
    """Shape, context, placement and its model, each model once: attention at the paper's ranks and at d/6, a third and an
    eighth beside, FFN and both. What must be shown comes first."""
    sixth, more = "attention=1/6", ["attention=1/8", "attention=1/3", "ffn=1/4", "attention=1/6 ffn=1/4"]
    first = [("llama-1b", 1024, [sixth]), ("llama-3b", 1024, [sixth]), ("llama-130m", 1024, [sixth]),
             ("llama-350m", 1024, ["attention=5/16"])]  # fmt: skip
    rest = [(shape, 1024, [sixth, *more]) for shape in ("llama-130m", "llama-350m", "llama-1b", "llama-3b")]
    rest += [("llama-130m", context, [sixth, *more]) for context in (256, 4096)] + [("llama-1b", 4096, [sixth])]
    seen = set()
    for shape, context, placements in [("toy", 32, ["attention=1/4", "ffn=1/4"])] if asked.toy else first + rest:
        dense = toy() if asked.toy else named_shape(shape, {"context": context}, "lowrank")
        for placement in placements:
            low = dense.place(dense.placement.parse(placement, dense.n_layers))
            if (its := (shape, context, low.ranks_text)) not in seen:
                seen.add(its)
                yield shape, context, placement, low


def lowrank_cell(
    low: ModelConfig, placement: str, kernels: KernelsName, limits: roofline.Device, asked: Asked
) -> dict[str, Any]:
    """Both models on the device together, as many layers as fit."""
    batch = 2 if asked.toy else max(1, 16384 // low.context)
    layers = layers_that_fit(low.dense(), batch, asked)
    low = low.change(n_layers=layers, placement=low.placement.parse(placement, layers).text)
    dense = low.dense()
    with compiled_alike():
        models = {"dense": dense, "low": low}
        makers = {name: partial(ours, training(one, batch, asked, kernels=kernels), asked) for name, one in models.items()}
        found = in_turn(makers, asked)
        taken, failures = [one.taken for one in found.values()], [one.failed for one in found.values() if one.failed]
        del found
    if failures:
        raise RuntimeError(failures[0])
    ratio = Ratio.of(list(zip(*taken, strict=True)))
    dense_roof, roof = (roofline.step_seconds(one, batch, 1, limits) for one in (dense, low))
    return {
        "layers": layers, "microbatch": batch, "flops_ratio": flops_per_token(low) / flops_per_token(dense),
        "roofline_ratio": roof / dense_roof, "measured_ratio": ratio.value, "interval": [ratio.low, ratio.high],
        "pairs": ratio.pairs, "dense_seconds": ratio.dense_seconds, "dense_over_roofline": ratio.dense_seconds / dense_roof,
        "points_above_roofline": 100 * (ratio.value - roof / dense_roof),
    }  # fmt: skip


def layers_that_fit(dense: ModelConfig, batch: int, asked: Asked) -> int:
    """Of two such models in 80 % of the memory."""
    if asked.device.type != "cuda":
        return dense.n_layers
    room = 0.8 * torch.cuda.mem_get_info(asked.device)[0]
    counts = range(dense.n_layers, 0, -1)
    fits = (n for n in counts if 2 * cost(dense.change(n_layers=n, placement="dense"), batch).memory_bytes <= room)
    return next(fits, 1)


STAGES: dict[str, Callable[[Asked], Rows]] = {
    "device": device, "peers": peers, "lowrank": lowrank, "startup": startup, "packing": packing,
    "together": together,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--limit", type=float, default=3600.0)
    parser.add_argument("--out", type=Path, default=None)
    words = parser.parse_args()
    if unknown := set(words.stages) - set(STAGES):
        parser.error(f"unknown stage {', '.join(sorted(unknown))}; expected {', '.join(STAGES)}")
    if not torch.cuda.is_available() and not words.toy:
        parser.error("torch sees no GPU here: --toy runs everything small on a CPU")
    asked = Asked(words.toy, words.seconds, torch.device("cpu" if words.toy else "cuda"))
    report = Report(words.out, asked.device)
    for name in words.stages or STAGES:
        report.run(name, lambda name=name: STAGES[name](asked), words.limit)
    print(report.text)
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
