"""Work in a process of its own, on the device that runs train on: the driver never touches a GPU."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Generic, TypeVar

from rich.console import Console

from ..lpa.config import UserError, one_line
from . import nursery
from .executor import EXIT_SECONDS, begin_work, cause_of, gpu_of
from .proxy import is_out_of_memory

Task = TypeVar("Task")
Found = TypeVar("Found")

Say = Callable[[str], object]
"""Hears in a line how far the work is."""


@dataclass(frozen=True)
class Refused:
    """It cannot be done here: why, in a line."""

    line: str


@dataclass(frozen=True)
class Done(Generic[Found]):
    """What came of it."""

    found: Found


@dataclass(frozen=True)
class Work(Generic[Task, Found]):
    """What is to be done; its functions are those of a module, as they go to another process."""

    where: str
    """What its errors begin with: the key that asks for it."""
    do: Callable[[Task, Say], Found]
    """Raises UserError."""
    too_large: Callable[[Task, str], str]
    """What is said when memory does not suffice; given torch's own words."""


def apart(work: Work[Task, Found], task: Task, say: Say, on_gpu: bool, threads: int) -> Found:
    """Do it in a fresh process. threads: of torch on a CPU. Raises UserError when it cannot be done here."""
    nursery.start()
    ours, theirs = nursery.CONTEXT.Pipe()
    lease = gpu_of(0) if on_gpu else None
    process = nursery.CONTEXT.Process(target=_live, args=(theirs, work, task, lease, threads), name="lpanas apart", daemon=True)
    process.start()
    theirs.close()
    try:
        while True:
            message: str | Refused | Done[Found] = ours.recv()
            if isinstance(message, Done):
                return message.found
            if isinstance(message, Refused):
                raise UserError(f"{work.where}: {message.line}")
            say(message)
    except (EOFError, OSError):
        process.join(EXIT_SECONDS)
        raise UserError(f"{work.where}: the process that measures it ended ({cause_of(process.exitcode)})") from None
    finally:
        process.kill()
        process.join()
        ours.close()


def _live(pipe: Connection, work: Work[Task, Found], task: Task, lease: str | None, threads: int) -> None:
    """The process's life. lease: the GPU that it may see, or none."""
    begin_work(lease, threads)
    try:
        pipe.send(Done(work.do(task, pipe.send)))
    except UserError as error:
        pipe.send(Refused(str(error)))
    except (MemoryError, RuntimeError) as error:
        pipe.send(Refused(work.too_large(task, one_line(error, 100)) if is_out_of_memory(error) else one_line(error)))


@contextmanager
def measuring(what: str) -> Generator[Say]:
    """A line on a terminal that says how far a measurement is; silence elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda line: None
        return
    with console.status(f"measuring {what}") as shown:
        yield lambda line: shown.update(f"measuring {what}: {line}")
