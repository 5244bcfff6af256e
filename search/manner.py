"""How runs would train on this machine: on what, how many at a time, in which precision, with which kernels."""

import torch

from ..lpa.kernels import lacking, resolved
from ..lpa.metrics import device_name
from ..lpa.train import precision
from ..lpa.train_config import TrainConfig
from .leased import seats_here
from .space import Space


def of_space(space: Space) -> dict[str, str]:
    """A cell a column, of a search's or a confirmation's runs by workers of this machine. Raises UserError for a GPU that is
    not there."""
    proxy, budget = space.proxy, space.search
    device = proxy.resolve_device()
    workers = seats_here(device.type, budget.workers, budget.workers_per_device)
    found = {"device": "cpu", "workers": f"{workers}, a thread each"}
    if device.type == "cuda":
        gpus = torch.cuda.device_count()
        shared = sorted(set(sharing(workers, gpus)))
        found = {"device": f"{gpus} x {device_name(device)}", "workers": str(workers)}
        found |= {"on each GPU": " or ".join(map(str, shared)), "mps": _is_on(budget.mps)}
    words = {"precision": precision(proxy, device), "kernels": kernels(proxy, device)}
    return found | words | {"cuda_graph": _is_on(proxy.cuda_graph)}


def _is_on(value: bool) -> str:
    return "on" if value else "off"


def sharing(workers: int, gpus: int) -> list[int]:
    """Workers of each GPU that has any, as they take the GPUs in turn."""
    return [len(range(gpu, workers, gpus)) for gpu in range(min(workers, gpus))]


def idle(space: Space) -> list[str]:
    """What of a space does nothing on this machine, a line each. Raises UserError for a GPU that is not there."""
    budget, device = space.search, space.proxy.resolve_device().type
    asked = [name for name, wanted in (("mps", budget.mps), ("workers_per_device", budget.workers_per_device > 1)) if wanted]
    if device != "cuda":
        return [f"search.{name}: does nothing here, without a GPU" for name in asked]
    workers = seats_here(device, budget.workers, budget.workers_per_device)
    is_alone = max(sharing(workers, torch.cuda.device_count())) == 1
    return ["search.mps: does nothing here, where no runs share a GPU"] if budget.mps and is_alone else []


def kernels(config: TrainConfig, device: torch.device) -> str:
    """What a decoder computes with, as `auto` is resolved, and why where it is plain; or what it would be compiled with and is
    not there."""
    name, missing = resolved(config.kernels, device), lacking() if device.type == "cuda" else "GPU"
    if config.kernels == "auto":
        return f"{name}: no {missing}" if missing else name
    return f"{name}, but no {missing}" if missing and device.type == "cuda" and name != "plain" else name
