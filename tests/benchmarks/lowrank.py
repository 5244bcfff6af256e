"""Low rank against dense, compiled alike, pairs of steps one right after the other: a stage of tests/benchmarks/gpu.py.

python tests/benchmarks/lowrank.py FLOPS BYTES     what is reckoned of its cells on a device of so many FLOPs and bytes a second
"""

import sys
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import roofline
import torch
from contenders import Asked, Contender, compiled_alike, forget, in_turn, interval, last_lines, ours, toy, training
from kernel_times import kernel_seconds, parts
from lpanas.lpa.cost import cost, flops_per_token
from lpanas.lpa.kernels import KernelsName
from lpanas.lpa.model_config import ModelConfig
from lpanas.search.equal_time import Ratio
from lpanas.search.presets import named_shape
from staged import Rows

COMPILED: tuple[KernelsName, ...] = ("regions", "blocks")
ALIGNED = 8
"""d_ff in cells is a multiple: of bfloat16 matrices whose rows are not of 16 bytes each a GPU makes slower products."""
POINTS = 5.0
"""Above the roofline's ratio, from which a row says why."""
WHY = {"products": "thin products", "attention": "the attention kernel", "between": "what lies between the products",
       "idle": "waiting for the host (launches)"}  # fmt: skip

Row = dict[str, Any]


class Cell(NamedTuple):
    """What is measured."""

    shape: str
    placement: str
    low: ModelConfig
    d_ff_of_shape: int
    kernels: KernelsName


def lowrank(asked: Asked) -> Rows:
    """A row a shape, context, placement and kernels."""
    limits = roofline.ceilings(asked.device, asked.toy)
    yield vars(limits)
    forget()
    for cell in cells(asked):
        low = cell.low
        row: Row = {"shape": cell.shape, "context": low.context, "placement": cell.placement, "ranks": low.ranks_text}
        row |= {"kernels": cell.kernels, "d_ff": low.d_ff, "d_ff_of_shape": cell.d_ff_of_shape}
        try:
            row |= measured(cell, limits, asked)
        except Exception as error:
            row |= {"failed": last_lines(error)}
        else:
            row |= {"sentence": sentence(row)}
        yield row


def cells(asked: Asked) -> Iterator[Cell]:
    """Each model and kernels once: attention at the paper's ranks and at d/6, a third and an eighth beside, FFN and both. What
    must be shown comes first, with what `kernels: auto` means on a GPU, then with the other."""
    sixth, more = "attention=1/6", ["attention=1/8", "attention=1/3", "ffn=1/4", "attention=1/6 ffn=1/4"]
    first = [("llama-1b", 1024, [sixth]), ("llama-3b", 1024, [sixth]), ("llama-130m", 1024, [sixth]),
             ("llama-350m", 1024, ["attention=5/16"])]  # fmt: skip
    rest = [(shape, 1024, [sixth, *more]) for shape in ("llama-130m", "llama-350m", "llama-1b", "llama-3b")]
    rest += [("llama-130m", context, [sixth, *more]) for context in (256, 4096)] + [("llama-1b", 4096, [sixth])]
    rounds: list[tuple[list[tuple[str, int, list[str]]], tuple[KernelsName, ...]]] = [(first, (name,)) for name in COMPILED]
    rounds += [(rest, COMPILED)]
    if asked.toy:
        rounds = [([("toy", 32, ["attention=1/4", "ffn=1/4"])], ("plain",))]
    seen = set()
    for some, names in rounds:
        for shape, context, placements in some:
            dense, d_ff = aligned(toy() if asked.toy else named_shape(shape, {"context": context}, "lowrank"))
            for placement in placements:
                low = dense.place(dense.placement.parse(placement, dense.n_layers))
                for kernels in names:
                    if (its := (shape, context, low.ranks_text, kernels)) not in seen:
                        seen.add(its)
                        yield Cell(shape, placement, low, d_ff, kernels)


def aligned(dense: ModelConfig) -> tuple[ModelConfig, int]:
    """With a width of the FFN that a GPU can read fast, and the width that it had."""
    return dense.change(d_ff=-(-dense.d_ff // ALIGNED) * ALIGNED), dense.d_ff


def microbatch_of(model: ModelConfig) -> int:
    """Sequences of a step, 16,384 tokens."""
    return max(1, 16384 // model.context)


def reckoned(limits: roofline.Device) -> Iterator[str]:
    """A line a cell, of all its layers: what low rank leaves of the dense step's FLOPs, and of its seconds by the roofline."""
    yield "| shape | context | ranks | FLOPs | roofline |\n|---|---|---|---|---|"
    for cell in cells(Asked(False, 0.0, torch.device("cpu"))):
        low, dense, size = cell.low, cell.low.dense(), microbatch_of(cell.low)
        flops = flops_per_token(low) / flops_per_token(dense)
        bound = roofline.step_seconds(low, size, 1, limits) / roofline.step_seconds(dense, size, 1, limits)
        if cell.kernels == COMPILED[0]:  # the roofline knows of no kernels
            yield f"| {cell.shape} | {low.context} | {cell.placement} | {flops:.3f} | {bound:.3f} |"


def measured(cell: Cell, limits: roofline.Device, asked: Asked) -> Row:
    """Both models on the device together, as many layers as fit."""
    size = 2 if asked.toy else microbatch_of(cell.low)
    layers = layers_that_fit(cell.low.dense(), size, asked)
    low = cell.low.change(n_layers=layers, placement=cell.low.placement.parse(cell.placement, layers).text)
    models = {"dense": low.dense(), "low": low}
    with compiled_alike():
        makers = {name: partial(ours, training(one, size, asked, kernels=cell.kernels), asked) for name, one in models.items()}
        found = in_turn(makers, asked)
        if failures := [one.failed for one in found.values() if one.failed]:
            raise RuntimeError(failures[0])
        ratio = Ratio.of(list(zip(*(one.taken for one in found.values()), strict=True)))
        its = {name: its_parts(one, asked) for name, one in found.items()}
        clocks = found["low"].clocks
        del found  # before what was compiled is forgotten: the memory is free for the next
    roofs = {name: roofline.step_parts(one, size, 1, limits) for name, one in models.items()}
    whole = {name: sum(roof.values()) for name, roof in roofs.items()}
    return {
        "layers": layers, "microbatch": size, "flops_ratio": flops_per_token(low) / flops_per_token(models["dense"]),
        "roofline_ratio": whole["low"] / whole["dense"], "measured_ratio": ratio.value, **interval(ratio),
        "pairs": ratio.pairs, "dense_seconds": ratio.dense_seconds, "dense_over_roofline": ratio.dense_seconds / whole["dense"],
        "points_above_roofline": 100 * (ratio.value - whole["low"] / whole["dense"]),
        "points_of": points_of(its["low"], roofs["low"], ratio.dense_seconds, whole["dense"]),
        "parts": its, "roofline_parts": roofs, "clocks": clocks, **beyond_memory(models, size, limits, asked),
    }  # fmt: skip


def its_parts(one: Contender, asked: Asked) -> dict[str, float] | None:
    """Seconds of a step by its parts; None where the profiler says nothing."""
    return parts(kernel_seconds(one.step, asked.device), one.seconds)


def points_of(
    low: dict[str, float] | None, roof: roofline.Parts, dense_seconds: float, dense_roof: float
) -> dict[str, float] | None:
    """The points that measured is above the roofline, by parts: what each part of the low-rank step is of a dense step, in
    hundredths, less what it is by the roofline. They add up to the whole, as the low-rank step's parts do."""
    return low and {name: 100 * (low[name] / dense_seconds - roof.get(name, 0.0) / dense_roof) for name in low}


def beyond_memory(models: dict[str, ModelConfig], size: int, limits: roofline.Device, asked: Asked) -> Row:
    """How much of each roofline is no bound, as it may be read from the device's L2."""
    if asked.device.type != "cuda":
        return {"roofline_in_l2": None, "roofline_is_bound": None}
    l2_bytes = torch.cuda.get_device_properties(asked.device).L2_cache_size
    shares = {name: roofline.in_l2(one, size, 1, limits, l2_bytes) for name, one in models.items()}
    return {"roofline_in_l2": shares, "roofline_is_bound": not any(shares.values())}


def sentence(row: Row) -> str:
    """Why a cell is so far above its roofline; empty where it is not."""
    if row["points_above_roofline"] <= POINTS:
        return ""
    cell = f"{row['shape']}, context {row['context']}, {row['placement']} ({row['ranks']}), {row['kernels']}"
    ratios = f"{row['measured_ratio']:.3f} measured and {row['roofline_ratio']:.3f} by the roofline"
    said = f"{cell}: {ratios}, {row['points_above_roofline']:.1f} points more"
    if row["points_of"] is None:
        return f"{said}; of which part is not known: the profiler said nothing"
    each = sorted(row["points_of"].items(), key=lambda item: -item[1])
    return f"{said}, most of it {WHY[each[0][0]]} ({', '.join(f'{WHY[name]} {points:+.1f}' for name, points in each)})"


def layers_that_fit(dense: ModelConfig, batch: int, asked: Asked) -> int:
    """Of two such models in 80 % of the memory."""
    if asked.device.type != "cuda":
        return dense.n_layers
    room = 0.8 * torch.cuda.mem_get_info(asked.device)[0]
    counts = range(dense.n_layers, 0, -1)
    fits = (n for n in counts if 2 * cost(dense.change(n_layers=n, placement="dense"), batch).memory_bytes <= room)
    return next(fits, 1)


if __name__ == "__main__":
    print("\n".join(reckoned(roofline.Device(*map(float, sys.argv[1:3])))))
