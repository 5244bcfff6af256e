"""NVIDIA's Multi-Process Service: workers that share a GPU compute at the same time there, instead of in turns."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ..lpa.config import UserError

CONTROL = "nvidia-cuda-mps-control"
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
SECONDS = 30
"""For its start and its end (assumption)."""


@contextmanager
def serving(wanted: bool) -> Generator[dict[str, str]]:
    """What the environment of a worker needs: nothing when it is not wanted or when the environment already names a service;
    else a service of our own, in folders of its own, which ends with the block. Raises UserError when there can be none."""
    if not wanted or PIPES in os.environ:
        yield {}
        return
    if shutil.which(CONTROL) is None:
        raise UserError(f"search.mps: there is no {CONTROL} here; expected NVIDIA's driver tools, or mps: false")
    with tempfile.TemporaryDirectory(prefix="lpanas-mps-") as folder:
        found = {PIPES: f"{folder}/pipes", LOGS: f"{folder}/logs"}
        for place in found.values():
            Path(place).mkdir()
        _tell(["-d"], "", found)
        try:
            yield found
        finally:
            try:
                _tell([], "quit\n", found)
            except UserError as error:  # the search's own end matters more
                print(f"lpanas: {error}", file=sys.stderr)


def _tell(words: list[str], text: str, found: dict[str, str]) -> None:
    """Start the control program. words: -d for the service; without, it reads commands. Raises UserError when that fails.

    The service sees every GPU: of some alone it would number them anew, and a worker's lease would name another one.
    """
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"} | found
    try:
        subprocess.run(
            [CONTROL, *words], input=text, env=environment, text=True, capture_output=True, check=True, timeout=SECONDS
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = " ".join(str(getattr(error, "stderr", None) or error).split())
        raise UserError(f"search.mps: {CONTROL} failed: {said[:200]}") from None
