"""What a search is doing right now, as its driver writes it into the study's folder and anybody may read it."""

import math
import os
import socket
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from ..lpa.config import Config, UserError
from ..lpa.files import replace_text
from .drive import Runs
from .folder import LIVE
from .process import born, machine
from .record import Job, Record

Phase = Literal["starting", "measuring", "searching", "stopping", "stopped", "ended"]
"""starting: again, no run has begun; measuring: what holds for all runs, before the first; stopping: the user has asked for
the end; stopped: before the budget was spent."""

EVERY = 1.0
"""Seconds from one writing to the next, at least."""
SILENT = 15.0
"""Seconds after which a driver that writes nothing is said to be silent: it writes every second, unless its storage is away
or it computes a proposal (assumption)."""
LAST = 20
"""Runs by whose time the time left is foretold (assumption)."""


class Running(Config):
    """A worker and the run that it trains."""

    worker: str
    device: str
    run: str | None = None
    placement: str = ""
    tokens: int = 0
    """Trained on so far, as far as it has said."""
    of: int = 0
    """Tokens of a whole run."""
    loss_nats: float | None = None
    """The last validation loss, nats a token."""
    tokens_per_second: float | None = None
    """Validation included."""
    attempt: int = 1


class Moment(Config):
    """A search at one moment."""

    name: str
    """The space's."""
    phase: Phase
    process: int
    host: str
    machine: str
    born: str
    """Its process is the one of this number and start on this machine, as the lease has it."""
    time: float
    """Of this moment, Unix, seconds."""
    seconds: float
    """Since this call began to search; that of the call before while it is starting."""
    left: float | None
    """Seconds that are foretold until the end; nothing while too little is known."""
    done: int
    """Runs that have ended, of those that there will be."""
    tokens: int
    """Trained on in all runs that have ended."""
    exhausted: bool
    """No candidate is left that was not trained."""
    workers: tuple[Running, ...]
    said: str = ""
    """How far a measurement is, while there is one."""

    @property
    def is_over(self) -> bool:
        """Whether its driver has said that it ends."""
        return self.phase in ("stopped", "ended")


@contextmanager
def written(folder: Path) -> Generator[Callable[[Runs], None]]:
    """A watcher that writes the moments of a search into its folder, about one a second, and how it ended; a disk that is full
    or slow costs it nothing else. Where an earlier call has left a moment, that this one starts is written at once."""
    last, at, before = None, -math.inf, None
    with suppress(UserError):
        before = read(folder)
    if before is not None:
        _write(folder, before.change(**here(), left=None, phase="starting", workers=()))

    def watch(state: Runs) -> None:
        nonlocal last, at
        last = state
        if time.monotonic() - at >= EVERY:
            _write(folder, moment(state, "stopping" if state.stopping else "searching"))
            at = time.monotonic()

    phase: Phase = "stopped"
    try:
        yield watch
        phase = "ended"
    finally:
        told = before if last is None else moment(last, phase)
        if told is not None:
            _write(folder, told)
        else:
            with suppress(OSError):
                (folder / LIVE).unlink()


def measuring(folder: Path, name: str) -> Callable[[str], None]:
    """What writes into the folder of a search how far a measurement before its first run is, about once a second. name: the
    space's. To be called while `written` is open, which takes away what is left of it."""
    before, began, at = None, time.monotonic(), -math.inf
    with suppress(UserError):
        before = read(folder)
    if before is None:
        nothing = {"seconds": 0.0, "left": None, "done": 0, "tokens": 0, "exhausted": False, "workers": ()}
        before = Moment(name=name, phase="measuring", **here(), **nothing)

    def tell(line: str) -> None:
        nonlocal at
        if (now := time.monotonic()) - at >= EVERY:
            at = now
            _write(folder, before.change(**here(), phase="measuring", seconds=now - began, said=line))

    return tell


def _write(folder: Path, told: Moment) -> None:
    with suppress(OSError):
        replace_text(folder / LIVE, told.model_dump_json() + "\n", sync=False)


def read(folder: Path) -> Moment | None:
    """The last moment that a driver has written; None when there is none. Raises UserError when it cannot be read."""
    path = folder / LIVE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is no text") from None
    return Moment.parse_json(text, str(path))


def is_exhausted(folder: Path) -> bool:
    """Whether a driver that has ended has said that no candidate was left; not, where nothing is said."""
    with suppress(UserError):
        told = read(folder)
        return told is not None and told.phase == "ended" and told.exhausted
    return False


def here() -> dict[str, Any]:
    """Who writes, and when."""
    its = {"process": os.getpid(), "born": born(os.getpid()), "host": socket.gethostname(), "machine": machine()}
    return its | {"time": time.time()}


def moment(state: Runs, phase: Phase) -> Moment:
    """This moment of a driver."""
    return Moment(
        name=state.space.name,
        phase=phase,
        **here(),
        seconds=time.monotonic() - state.started,
        left=None if phase in ("stopped", "ended") else seconds_left(state),
        done=state.done,
        tokens=state.tokens,
        exhausted=state.exhausted,
        workers=tuple(_workers(state)) if phase in ("searching", "stopping") else (),
    )


def _workers(state: Runs) -> Iterable[Running]:
    for seat in state.seats():
        job = state.running.get(seat.run) if seat.run is not None else None
        if job is None:
            yield Running(worker=seat.worker, device=seat.device)
            continue
        tokens, progress = _tokens(state, job), state.progress.get(job.run)
        told = [loss for at, loss in state.curves.get(job.run, {}).items() if at <= tokens]
        yield Running(
            worker=seat.worker,
            device=seat.device,
            run=job.run,
            placement=job.words,
            tokens=tokens,
            of=state.whole(job),
            loss_nats=told[-1] if told and math.isfinite(told[-1]) else None,
            tokens_per_second=progress.tokens_per_second if progress else None,
            attempt=len(job.attempts) + 1,
        )


def _tokens(state: Runs, job: Job) -> int:
    """How far a running job has come, as far as it has said; the curve of another attempt may be ahead of it."""
    progress, curve = state.progress.get(job.run), state.curves.get(job.run, {})
    told = progress.tokens if progress else 0
    return told if job.attempts else max(told, *curve, 0)


def seconds_left(state: Runs) -> float | None:
    """Foretold until the budget is spent, by the time that the last runs took for a token; None while none has ended well."""
    took, seats = _seconds_a_token(state.ended), len(state.seats())
    if took is None or not seats:
        return None
    jobs = state.running.values()
    under_way = [state.whole(job) - _tokens(state, job) for job in jobs]
    count, tokens = state.ahead()
    seconds = (sum(under_way) + tokens) * took / max(1, min(seats, len(under_way) + count))
    if state.minutes is not None:
        late = max(0.0, 60 * state.minutes - (time.monotonic() - state.started))
        seconds = min(seconds, late + max(map(state.whole, jobs), default=0) * took)
    return max(seconds, took * max(under_way, default=0))


def _seconds_a_token(records: Iterable[Record]) -> float | None:
    """The mean over the last runs that this driver has seen from their first token on, building and validation included."""
    took = [
        (one.measured.started, one.measured.seconds / one.tokens)
        for one in records
        if one.measured is not None and one.tokens and not one.tokens_before and not one.attempts
    ]
    last = [seconds for _, seconds in sorted(took)[-LAST:]]
    return sum(last) / len(last) if last else None
