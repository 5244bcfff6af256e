"""A forked process with a GPU, or some threads, of its own: its first act, its lease, its end."""

import multiprocessing as mp
import os
import signal
import threading
from multiprocessing.connection import wait

import torch

from . import nursery

EXIT_SECONDS = 5.0
"""From the end of a worker's pipe to its own end (assumption; measured: milliseconds)."""


def begin_work(lease: str | None, threads: int = 1) -> None:
    """The first act: it ends with the driver, and has its GPU, or so many threads. lease: the GPU that it may see, or none."""
    nursery.end_with_parent()
    threading.Thread(target=_end_with_driver, daemon=True).start()
    if lease is None:
        torch.set_num_threads(threads)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = lease


def _end_with_driver() -> None:
    """A driver that is killed cannot end its workers: they see it go, and go."""
    parent = mp.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def cause_of(exitcode: int | None) -> str:
    """How a process ended: a signal's name, or its exit code."""
    return signal.Signals(-exitcode).name if exitcode is not None and exitcode < 0 else f"exit code {exitcode}"


def seats_here(device: str, workers: int | None, per_gpu: int) -> int:
    """Workers of a search on this machine. device: cpu or cuda; workers, per_gpu: as the space has them."""
    return workers or (torch.cuda.device_count() * per_gpu if device == "cuda" else cores())


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_of(slot: int) -> str:
    """The GPU of a slot: among those that CUDA_VISIBLE_DEVICES leaves to us, one after the other."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    return devices[slot % len(devices)]
