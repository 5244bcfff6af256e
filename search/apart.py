"""Work in a process of its own, on the device that runs train on: the driver never touches a GPU."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Generic, TypeVar

import torch
from rich.console import Console

from ..lpa.config import UserError, one_line
from . import nursery
from .leased import EXIT_SECONDS, begin_work, cause_of, gpu_of
from .proxy import is_out_of_memory

Task = TypeVar("Task")
Found = TypeVar("Found")

Say = Callable[[str], object]
"""Hears in a line how far the work is."""
QUIET, EVERY = 20.0, 60.0
"""Seconds until a line is said where there is no terminal, and from one to the next (assumption)."""


class Beforehand(str):
    """A line that foretells long work: it is said at once, with or without a terminal."""


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


def check_here(device: str, what: str, remedy: str = "") -> None:
    """Raises UserError where this machine lacks the GPU that runs train on. what: is measured; remedy: said in the end."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{what}: measured on a GPU, as runs train on one, and torch sees none on this machine{remedy}")


def untold(line: str) -> None:
    """Nobody else hears it."""


@contextmanager
def measuring(what: str, tell: Say = untold) -> Generator[Say]:
    """A line on a terminal that says how far a measurement is; elsewhere one now and then, of a long one. tell: hears all."""
    with _shown(what) as show:

        def say(line: str) -> None:
            show(line)
            tell(f"measuring {what}: {line}")

        yield say


@contextmanager
def _shown(what: str) -> Generator[Say]:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        yield now_and_then(lambda line: console.print(f"lpanas: measuring {what}: {line}", markup=False), time.monotonic)
        return
    with console.status(f"measuring {what}") as shown:

        def say(line: str) -> None:
            if isinstance(line, Beforehand):
                console.print(f"measuring {what}: {line}", markup=False)
            shown.update(f"measuring {what}: {line}")

        yield say


def now_and_then(tell: Say, clock: Callable[[], float]) -> Say:
    """Tells what foretells long work, and of all else a line after QUIET and then EVERY so many seconds."""
    due = clock() + QUIET

    def say(line: str) -> None:
        nonlocal due
        if isinstance(line, Beforehand):
            tell(line)
        elif clock() >= due:
            due = clock() + EVERY
            tell(line)

    return say
