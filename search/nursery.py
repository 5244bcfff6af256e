"""The process that workers are forked from. It imports torch once for all of them, while the driver imports its own."""

import multiprocessing as mp
from multiprocessing import forkserver

CONTEXT = mp.get_context("forkserver")
"""Workers come from a clean server that never touches a GPU, so each may take the device that it is told."""

CONTEXT.set_forkserver_preload(["lpanas.search.executor", "torch._dynamo"])  # the first optimizer would import _dynamo: 2 s


def start() -> None:
    """Start the server, if it does not run yet, and do not wait for it."""
    forkserver.ensure_running()
