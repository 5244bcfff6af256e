"""NVIDIA's Multi-Process Service: workers that share a GPU compute at the same time there, instead of in turns."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from ..lpa.config import UserError

CONTROL = "nvidia-cuda-mps-control"
PIPES, LOGS, DEVICES = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY", "CUDA_VISIBLE_DEVICES"
PREFIX = "lpanas-mps-"
"""Of a service's folder, among the temporary ones."""
SOCKET, SOCKET_BYTES = "pipes/control_privileged", 107
"""The longest name of the service's sockets in its folder (assumption), and what Linux lets a socket's path have (unix(7))."""
SECONDS, CLIENT_SECONDS = 30, 10
"""For a service's start and its end, and for each call about a client (assumptions)."""
AT_THE_END = f'read -r _; echo quit | {CONTROL} > "$0/said" 2>&1 && rm -r "$0"'
"""Ends a service when its standard input ends, which only the driver holds, and removes the folder, its argument."""


@contextmanager
def serving(wanted: bool, leases: Iterable[str]) -> Generator[dict[str, "Service"]]:
    """The service of each GPU, by its lease: that which the environment names; if wanted, one of our own, which ends with the
    block and with this process, however that ends; or none. Raises UserError when there can be none.

    GPUs that are numbered have one together, which sees them all: of some alone it would number them anew, and a worker's lease
    would name another one. A GPU, or a part of one (MIG), that is named by its UUID has one by itself, which sees nothing else.
    """
    leases = list(leases)
    if PIPES in os.environ:
        yield dict.fromkeys(leases, Service())
        return
    if not wanted or not leases:
        yield {}
        return
    if shutil.which(CONTROL) is None:
        raise UserError(f"search.mps: there is no {CONTROL} here; expected NVIDIA's driver tools, or mps: false")
    with ExitStack() as opened:
        of = {sees: opened.enter_context(OurService(sees)) for sees in dict.fromkeys(map(_sees, leases))}
        yield {lease: of[_sees(lease)] for lease in leases}


def _sees(lease: str) -> str | None:
    """What the service of a lease is told to see alone; None for all."""
    return None if lease.strip().isdecimal() else lease


class Service:
    """That which the environment names: others may be its clients, too."""

    def __init__(self) -> None:
        self.environment = dict[str, str]()
        """What its clients are told besides."""

    def release(self, pids: Collection[int | None]) -> bool:
        """End what these processes have at work there, so that they may be killed: the service's state, and its other clients',
        is undefined after a client is killed at work (NVIDIA's manual of the service). False where that failed."""
        try:
            servers = _numbers(self._tell("get_server_list"))
            clients = [(server, one) for server in servers for one in _numbers(self._tell(f"get_client_list {server}"))]
            if ends := [f"terminate_client {server} {one}" for server, one in clients if one in pids]:
                said = self._tell("\n".join(ends)).lower()
                return "error" not in said and "fail" not in said
        except UserError:
            return False
        return True

    def _tell(self, commands: str) -> str:
        """What the control program says to a client's commands. Raises UserError when it fails."""
        return _run([CONTROL], os.environ | self.environment, commands + "\n", CLIENT_SECONDS)


class OurService(Service):
    """One of our own, in folders of its own. sees: the GPU that it sees alone; None for all."""

    def __init__(self, sees: str | None) -> None:
        super().__init__()
        self.sees = sees

    def __enter__(self) -> Self:
        """Start it. Raises UserError."""
        self.folder = _folder()
        self.environment = {PIPES: f"{self.folder}/pipes", LOGS: f"{self.folder}/logs"}
        for place in self.environment.values():
            Path(place).mkdir()
        whole = {name: value for name, value in os.environ.items() if name != DEVICES} | self.environment
        words = ["/bin/sh", "-c", AT_THE_END, str(self.folder)]
        silent = subprocess.DEVNULL
        self.end = subprocess.Popen(  # in a session of its own: Ctrl-C is for the driver
            words, stdin=subprocess.PIPE, stdout=silent, stderr=silent, env=whole, start_new_session=True
        )
        try:
            _run([CONTROL, "-d"], whole | ({} if self.sees is None else {DEVICES: self.sees}), "", SECONDS)
        except BaseException:
            self._ended()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End it. One that does not end is said in a line, as the search's own end matters more, and keeps its folder."""
        if self._ended():
            return
        said = self.folder / "said"
        why = " ".join(said.read_text(encoding="utf-8", errors="replace").split())[:200] if said.exists() else ""
        print(f"lpanas: search.mps: {CONTROL} failed: {why or 'it does not end'} ({self.folder})", file=sys.stderr)

    def restart(self) -> None:
        """Exchange it for a fresh one, to which no client of the old one belongs. Raises UserError."""
        self.__exit__()
        self.__enter__()

    def _ended(self) -> bool:
        """Whether it ends, in time."""
        assert self.end.stdin
        self.end.stdin.close()
        try:
            return self.end.wait(SECONDS) == 0
        except subprocess.TimeoutExpired:
            self.end.kill()
            self.end.wait()
            return False


def _folder() -> Path:
    """A new one whose name is short enough for sockets. Raises UserError."""
    for parent in dict.fromkeys([tempfile.gettempdir(), "/tmp"]):
        if len(os.fsencode(f"{parent}/{PREFIX}12345678/{SOCKET}")) <= SOCKET_BYTES:
            try:
                return Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
            except OSError:
                continue
    raise UserError(
        f"search.mps: no folder for its sockets in {tempfile.gettempdir()} (too long a name?) nor in /tmp; set TMPDIR"
    )


def _numbers(said: str) -> list[int]:
    """Process numbers, the first word of a line each."""
    firsts = [line.split()[0] for line in said.splitlines() if line.strip()]
    return [int(word) for word in firsts if word.isdecimal()]


def _run(words: list[str], environment: Mapping[str, str], text: str, seconds: float) -> str:
    """What the control program says. Raises UserError when it fails.

    Its output goes to a file: a service that keeps its starter's output open would never end a pipe.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as out:
        try:
            subprocess.run(
                words, input=text, stdout=out, stderr=subprocess.STDOUT, env=environment, text=True, check=True, timeout=seconds
            )
        except (OSError, subprocess.SubprocessError) as error:
            out.seek(0)
            said = " ".join(out.read().split()) or str(error)
            raise UserError(f"search.mps: {CONTROL} failed: {said[:200]}") from None
        out.seek(0)
        return out.read()
