"""NVIDIA's Multi-Process Service: workers that share a GPU compute at the same time there, instead of in turns."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..lpa.config import UserError
from ..lpa.files import replace_text
from .process import born, machine

CONTROL = "nvidia-cuda-mps-control"
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
PREFIX, OWNER = "lpanas-mps-", "owner"
"""Of a service's folder, among the temporary ones; and the file there that names the process that it serves."""
SECONDS = 30
"""For its start and its end (assumption)."""


@contextmanager
def serving(wanted: bool) -> Generator[dict[str, str]]:
    """What the environment of a worker needs: nothing when it is not wanted or when the environment already names a service;
    else a service of our own, in folders of its own, which ends with the block. Raises UserError when there can be none.

    A process that was killed leaves its service behind: the next one ends it, whatever is wanted then.
    """
    end_left()
    if not wanted or PIPES in os.environ:
        yield {}
        return
    if shutil.which(CONTROL) is None:
        raise UserError(f"search.mps: there is no {CONTROL} here; expected NVIDIA's driver tools, or mps: false")
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        for place in _places(folder).values():
            Path(place).mkdir()
        replace_text(folder / OWNER, _process(os.getpid()), sync=False)
        _tell(["-d"], "", folder)
        yield _places(folder)
    finally:
        _end(folder)


def end_left() -> None:
    """End the services of this user's processes that are no more on this machine, and remove their folders."""
    if shutil.which(CONTROL) is None:
        return
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError, ValueError, IndexError):  # another user's, or one that is being made
            owner = (folder / OWNER).read_text(encoding="utf-8")
            is_ours = folder.lstat().st_uid == os.getuid() and owner.split()[:-2] == machine().split()
            if is_ours and owner != _process(int(owner.split()[-2])):
                _end(folder)


def _process(pid: int) -> str:
    """What tells a process from any other, now and later, here and elsewhere."""
    return f"{machine()} {pid} {born(pid)}"


def _places(folder: Path) -> dict[str, str]:
    """What the service and its clients need to be told."""
    return {PIPES: f"{folder}/pipes", LOGS: f"{folder}/logs"}


def _end(folder: Path) -> None:
    """End a service and remove its folder. One that does not end is said in a line, as the search's own end matters more, and
    keeps its folder, by which another search finds it."""
    try:
        _tell([], "quit\n", folder)
    except UserError as error:
        if _runs(folder):
            print(f"lpanas: {error}", file=sys.stderr)
            return
    shutil.rmtree(folder, ignore_errors=True)


def _runs(folder: Path) -> bool:
    """Whether a process was started with a folder's places; workers are told of them later."""
    mark = f"{PIPES}={_places(folder)[PIPES]}".encode()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # another user's, or it has ended
            if mark in environment.read_bytes().split(b"\0"):
                return True
    return False


def _tell(words: list[str], text: str, folder: Path) -> None:
    """Start the control program. words: -d for the service; without, it reads commands. Raises UserError when that fails.

    The service sees every GPU: of some alone it would number them anew, and a worker's lease would name another one.
    """
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"} | _places(folder)
    try:
        subprocess.run(
            [CONTROL, *words], input=text, env=environment, text=True, capture_output=True, check=True, timeout=SECONDS
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = " ".join(str(getattr(error, "stderr", None) or error).split())
        raise UserError(f"search.mps: {CONTROL} failed: {said[:200]}") from None
