"""The Ray cluster that a search runs on: joined or started, and the room on its nodes."""

import atexit
import math
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import redirect_stderr, suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Literal

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray reports nothing
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # no warning that an actor without a GPU may see all: ours hides them itself
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # no news of dead workers amid the progress: `log_to_driver` does not stop those
}
"""Of the environment, unless the user says otherwise; Ray reads some of it when it is imported."""
for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402
from ray.exceptions import RayActorError, RayError, RayTaskError  # noqa: E402

from ..lpa.config import UserError, one_line  # noqa: E402
from ..lpa.train_config import TrainConfig  # noqa: E402
from . import ray_reaper  # noqa: E402
from .budget import Budget  # noqa: E402
from .leased import cores  # noqa: E402

STORE_BYTES = 100 * 2**20
"""Of the object store of a Ray that we start: only messages go through it (Ray takes no less than 75 MB)."""
ANSWER_SECONDS = 10.0
"""Until a cluster's address must answer (assumption); Ray itself would try for minutes."""
ASK_SECONDS = 1.0
"""Between two questions to the cluster's head."""
HEAD_SECONDS = 45.0
"""For which the head may be silent (a new one takes over the state of one that is lost within this; assumption)."""
NO_HEAD = "the head of the Ray cluster does not answer; the same command goes on when it does"
MARK = "LPANAS_RAY_OF"
"""A variable in the environment of all processes of a Ray of our own."""
NO_TITLE = "SPT_NOENV"
"""Tells Ray's processes not to write their title over their environment, and so over the mark."""
LEAVE_SECONDS = 15.0
"""To end it (assumption; measured: 0.3 to 1.2 s)."""
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""How a client of gRPC begins (RFC 9113, 3.4), with its empty settings; the server's settings come back."""

__all__ = ["RayActorError", "RayError", "RayTaskError", "ray"]

Need = dict[Literal["CPU", "GPU"], float]
"""What a worker takes of a node, in Ray's names."""


Reaper = subprocess.Popen[bytes]
"""The process that ends what a Ray of our own leaves behind."""


def connect(cpus: float = 0.0) -> Reaper | None:
    """Join the cluster at RAY_ADDRESS, or start a Ray on this machine, whose reaper is returned. Raises UserError.

    cpus: that our own must have, instead of the cores; Ray's CPUs are only counted.
    """
    address = os.environ.get("RAY_ADDRESS") or "local"
    if address not in ("auto", "local"):  # those are Ray's to find
        check_answers(address)
    quiet: dict[str, Any] = {"configure_logging": False, "log_to_driver": False}
    if address == "local":
        quiet |= {"include_dashboard": False, "object_store_memory": STORE_BYTES, "num_cpus": math.ceil(cpus) or cores()}
    before, reaper = signal.getsignal(signal.SIGTERM), _reaper() if address == "local" else None
    try:
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError, RayError, SystemExit) as error:
        leave(reaper)
        what = "cannot be started" if address == "local" else f"at RAY_ADDRESS {address}: cannot be joined"
        raise UserError(f"--executor ray: Ray {what}: {one_line(error, 200)}") from None
    except BaseException:  # Ctrl-C
        leave(reaper)
        raise
    finally:
        for name in (MARK, NO_TITLE):
            os.environ.pop(name, None)
        signal.signal(signal.SIGTERM, before)  # it takes the signal for itself
    return reaper


def _reaper() -> Reaper:
    """Begin a reaper, and mark what is started from now on as its own."""
    value = f"{os.getpid()}-{time.time_ns()}"
    command = [sys.executable, "-I", ray_reaper.__file__, f"{MARK}={value}"]
    reaper = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # Ctrl-C is not for it
    os.environ |= {MARK: value, NO_TITLE: "1"}
    return reaper


def check_answers(address: str) -> None:
    """Raises UserError when no gRPC server answers at an address, HOST:PORT, soon."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        raise UserError(
            f"RAY_ADDRESS: expected HOST:PORT of a cluster that this machine is a node of, or auto; found {address}"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS) as wire:
            if os.environ.get("RAY_USE_TLS", "0") == "0":  # with it a server waits for the client's certificate first
                wire.sendall(HELLO)
                if wire.recv(9)[3:4] != b"\x04":
                    raise UserError(f"RAY_ADDRESS {address}: what answers there is no Ray cluster")
    except (OSError, OverflowError, UnicodeError) as error:
        raise UserError(f"RAY_ADDRESS {address}: no Ray cluster answers: {one_line(error, 100)}") from None


def need(config: TrainConfig, budget: Budget, nodes: dict[str, Need]) -> Need:
    """What a worker takes of a node: as the space says, or a GPU (its share of one) where it trains on one."""
    on_gpu = config.device == "cuda" or (config.device == "auto" and any(has["GPU"] for has in nodes.values()))
    gpus = budget.resources.num_gpus
    return {"CPU": budget.resources.num_cpus, "GPU": gpus if gpus is not None else on_gpu / budget.workers_per_device}


class Nodes:
    """The living nodes of the cluster, and what each has in all, as its head said lately.

    A thread asks, as Ray would wait without end for a head that hangs, and end this process a minute after one has died.
    """

    def __init__(self) -> None:
        """Raises UserError when the head does not answer."""
        self.answers = SimpleQueue[list[dict[str, Any]] | None]()
        self.living, self.age = dict[str, Need](), 0.0
        self._ask()
        with suppress(Empty):
            self._hear(self.answers.get(timeout=HEAD_SECONDS))
        if not self.living:
            raise UserError(NO_HEAD)

    def look(self, seconds: float) -> None:
        """Hear what the head has said; seconds: that went by since the last call. Raises UserError when it says nothing."""
        self.age += seconds
        with suppress(Empty):
            self._hear(self.answers.get_nowait())
        if self.age > HEAD_SECONDS:
            raise UserError(NO_HEAD)
        if self.heard and self.age >= ASK_SECONDS:
            self._ask()

    def _ask(self) -> None:
        self.heard = False
        Thread(target=self._listed, daemon=True).start()

    def _listed(self) -> None:
        try:
            self.answers.put(ray.nodes())
        except Exception:  # whatever Ray says of a head that cannot be reached: it is asked again
            self.answers.put(None)

    def _hear(self, listed: list[dict[str, Any]] | None) -> None:
        self.heard = True
        if listed is None:
            return
        living = {node["NodeID"]: node["Resources"] for node in listed if node["Alive"]}
        self.living = {name: {"CPU": has.get("CPU", 0.0), "GPU": has.get("GPU", 0.0)} for name, has in living.items()}
        self.age = 0.0


def room(need: Need, nodes: dict[str, Need]) -> int:
    """Workers that nodes hold when nobody else uses them."""
    wanted = [(name, amount) for name, amount in need.items() if amount]
    return sum(min(int((has[name] + 1e-4) // amount) for name, amount in wanted) for has in nodes.values())


def too_small(need: Need, nodes: dict[str, Need]) -> str:
    """The line that says that no node is large enough for a worker."""
    wanted = " and ".join(f"{amount:g} {name}" for name, amount in need.items() if amount)
    most = max((f"{has['CPU']:g} CPU and {has['GPU']:g} GPU" for has in nodes.values()), default="none")
    return f"no node of the Ray cluster has {wanted} for a worker; the largest has {most} (search.resources)"


def leave(reaper: Reaper | None) -> None:
    """Leave the cluster, or end the one that is ours: also one whose head does not answer, for which Ray would wait."""
    leaving = Thread(target=ray.shutdown, daemon=True)
    leaving.start()
    leaving.join(LEAVE_SECONDS)
    if leaving.is_alive():
        atexit.unregister(ray.shutdown)
    if reaper is not None:
        reaper.communicate()


def cause(error: RayError) -> str:
    """The line of an error that says what happened: what was raised, or Ray's first words."""
    if isinstance(error, RayTaskError):
        return one_line(error.cause, 300)
    lines = [line.strip() for line in str(error).splitlines()]
    not_there = ("ModuleNotFoundError", "ImportError")  # where lpanas is not installed
    raised = [line for line in lines if line.startswith(not_there)]
    return (raised or [line for line in lines if line] or [type(error).__name__])[0][:300]
