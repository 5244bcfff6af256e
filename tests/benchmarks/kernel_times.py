"""What a step's time goes to, by torch's profiler: a GPU's kernels, or torch's own calls on a CPU."""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

import torch
from lpanas.lpa.config import one_line
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

ATTENTION = "flash", "fmha", "sdpa", "attention"
PRODUCTS = "gemm", "gemv", "nvjet", "cutlass", "splitk", "matmul", "::mm", "::addmm", "::bmm"
"""What their names have: cuBLAS's, CUTLASS's, torch's own."""
TEMPLATES = "triton_tem", "triton_mm"
"""How the compiler's own products begin; what else it makes is named after all that it once came from, attention, too."""


def kernel_seconds(step: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Of one call, by the kernel's name. Empty where the profiler cannot be had, which is said."""
    is_gpu = device.type == "cuda"
    try:
        with profile(activities=[ProfilerActivity.CUDA if is_gpu else ProfilerActivity.CPU]) as seen:
            step()
            if is_gpu:
                torch.cuda.synchronize(device)
    except Exception as error:
        print(f"no kernels are known: {one_line(error)}", file=sys.stderr, flush=True)
        return {}
    return seconds_by_name(seen.events() or [], is_gpu)


def seconds_by_name(events: Iterable[FunctionEvent], is_gpu: bool) -> dict[str, float]:
    """Of kernels alone: the host's calls that start them, and what a name is given to, have the same time once more."""
    found = defaultdict[str, float](float)
    for event in events:
        if not is_gpu:
            found[event.name] += event.self_cpu_time_total / 1e6
        elif event.device_type == DeviceType.CUDA and not event.is_user_annotation:
            found[event.name] += event.time_range.elapsed_us() / 1e6
    return {name: seconds for name, seconds in found.items() if seconds}


def part_of(name: str) -> str:
    """Of a step, as roofline.py parts it: attention, products, or what lies between them."""
    lower = name.lower()
    if lower.startswith("triton_"):
        return "products" if lower.startswith(TEMPLATES) else "between"
    if any(word in lower for word in ATTENTION):
        return "attention"
    return "products" if any(word in lower for word in PRODUCTS) else "between"


def parts(kernels: Mapping[str, float], seconds: float) -> dict[str, float] | None:
    """Seconds of a step by its parts, and those in which the device waited (below 0 where kernels ran at the same time): they
    add up to the whole. kernels: of a step; seconds: it took. None where no kernel is known."""
    if not kernels:
        return None
    found = dict.fromkeys(("products", "attention", "between"), 0.0)
    for name, its in kernels.items():
        found[part_of(name)] += its
    return found | {"idle": seconds - sum(found.values())}


def attention_kernels(kernels: Mapping[str, float]) -> list[str] | None:
    """Names, the longest first; None where no kernel is known, none at all where attention is products and a softmax."""
    names = sorted(kernels, key=lambda name: -kernels[name])
    return [name[:120] for name in names if part_of(name) == "attention"] if kernels else None
