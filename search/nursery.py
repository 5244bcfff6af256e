"""The process that workers are forked from. It imports torch once for all of them, while the driver imports its own."""

import ctypes
import multiprocessing as mp
import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from typing import Any

CONTEXT = mp.get_context("forkserver")
"""Workers come from a clean server that never touches a GPU, so each may take the device that it is told."""

CONTEXT.set_forkserver_preload(["lpanas.search.server", "lpanas.search.executor", "torch._dynamo"])
# The first optimizer would import _dynamo: 2 s.

COMPILERS = "4"
"""Processes that a worker compiles in (assumption): torch's own number, one a core up to 32, times eight workers would be more
than a machine has; regions are a handful of small kernels."""


@contextmanager
def running() -> Generator[None]:
    """The server, started at once and ended with the block, also in the middle of its imports."""
    start()
    try:
        yield
    finally:
        server: Any = forkserver._forkserver  # the module's one instance; it has no public way to end it
        if server._forkserver_pid is not None:
            os.kill(server._forkserver_pid, signal.SIGKILL)
            server._stop()


def start() -> None:
    """Start the server, if it does not run yet, and do not wait for it.

    It and its workers never see what asks a program to end: Ctrl-C, a closed terminal or a batch system reaches the whole
    group, and the driver decides what it means.
    """
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", COMPILERS)  # torch reads it as the server imports it
    resource_tracker.ensure_running()  # its own start, which the server's would call, unblocks SIGINT at its end
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """The kernel ends this process when its parent has ended, even one that is stopped (SIGSTOP) and would see nothing; where
    the kernel is Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG
