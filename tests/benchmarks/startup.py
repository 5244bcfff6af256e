"""Seconds from a candidate's config to its sixth step, in processes of their own: a stage of tests/benchmarks/gpu.py.

python tests/benchmarks/startup.py KERNELS [graph] [toy]     what one process says
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # takes seconds; the first step would wait for it, compiled or not
from contenders import Asked, last_lines, ours, toy, training
from lpanas.lpa.kernels import KernelsName
from staged import Rows, output

START_SECONDS = 600
"""After which a process that starts candidates is given up (assumption)."""
STARTS: tuple[tuple[KernelsName, bool], ...] = (("plain", False), ("regions", False), ("regions", True), ("blocks", False))
"""Kernels, and whether with a CUDA graph."""


def startup(asked: Asked) -> Rows:
    """A row a process: seconds of each candidate, and of the whole process, its imports and the device's start included."""
    for kernels, graph in STARTS[:1] if asked.toy else STARTS:
        with tempfile.TemporaryDirectory() as folder:
            for cache in ("cold", "warm"):
                yield {"kernels": kernels, "cuda_graph": graph, "cache": cache} | started(kernels, graph, Path(folder), asked)


def started(kernels: KernelsName, graph: bool, cache: Path, asked: Asked) -> dict[str, Any]:
    """What a fresh process says. cache: of its compilers, a folder."""
    words = [sys.executable, __file__, kernels, *(["graph"] if graph else []), *(["toy"] if asked.toy else [])]
    env = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"), "TRITON_CACHE_DIR": str(cache / "triton")}
    began = time.perf_counter()
    try:
        found = json.loads(output(words, START_SECONDS, env))
    except Exception as error:
        return {"failed": last_lines(error)}
    return found | {"process_seconds": time.perf_counter() - began}


def starts(kernels: KernelsName, graph: bool, asked: Asked) -> dict[str, float]:
    """Seconds from a config to its sixth step, one candidate after another: the first of its shape, the next placement, and two
    of other widths."""
    if asked.toy:
        model = toy()
    else:
        from lpanas.search.presets import named_shape

        model = named_shape("llama-60m", {"context": 256}, "startup")
    low = model.place(model.placement.parse("attention=1/4", model.n_layers))
    wider, widest = (model.change(d_ff=model.d_ff + more) for more in (64, 128))
    kinds = {"first": model, "another placement": low, "another width": wider, "a third width": widest}
    return {
        kind: ours(training(one, 4, asked, kernels=kernels, cuda_graph=graph), asked).first_seconds
        for kind, one in kinds.items()
    }


if __name__ == "__main__":
    kernels: Any = sys.argv[1]
    is_toy = "toy" in sys.argv
    said = starts(kernels, "graph" in sys.argv, Asked(is_toy, 0.0, torch.device("cpu" if is_toy else "cuda")))
    print(json.dumps(said))
