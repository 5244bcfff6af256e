"""What a search is doing right now, as its driver writes it into the study's folder and anybody may read it."""

import math
import os
import socket
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from ..lpa.config import Config, UserError
from ..lpa.files import replace_text
from .proxy import Record
from .study import State, Watcher

Phase = Literal["starting", "searching", "stopping", "stopped", "ended"]
"""starting: again, no run has begun; stopping: the user has asked for the end; stopped: before the budget was spent."""

LIVE = "live.json"
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
    time: float
    """Of this moment, Unix, seconds."""
    seconds: float
    """Since this call began to search."""
    left: float | None
    """Seconds that are foretold until the end; nothing while too little is known."""
    done: int
    """Runs that have ended, of those that there will be."""
    tokens: int
    """Trained on in all runs that have ended."""
    exhausted: bool
    """No candidate is left that was not trained."""
    workers: tuple[Running, ...]

    @property
    def is_over(self) -> bool:
        """Whether its driver has said that it ends."""
        return self.phase in ("stopped", "ended")


@contextmanager
def written(folder: Path) -> Generator[Watcher]:
    """A watcher that writes the moments of a search into its folder, about one a second, and how it ended; a disk that is full
    or slow costs it nothing else. Where an earlier call has left a moment, that this one starts is written at once."""
    last, at, before = None, -math.inf, None
    with suppress(UserError):
        before = read(folder)
    if before is not None:
        now = {"process": os.getpid(), "host": socket.gethostname(), "time": time.time(), "seconds": 0.0, "left": None}
        _write(folder, before.change(**now, phase="starting", workers=()))

    def watch(state: State) -> None:
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


def moment(state: State, phase: Phase) -> Moment:
    """This moment of a search."""
    return Moment(
        name=state.space.name,
        phase=phase,
        process=os.getpid(),
        host=socket.gethostname(),
        time=time.time(),
        seconds=time.monotonic() - state.started,
        left=None if phase in ("stopped", "ended") else seconds_left(state),
        done=state.done,
        tokens=state.tokens,
        exhausted=state.exhausted,
        workers=tuple(_workers(state)) if phase in ("searching", "stopping") else (),
    )


def _workers(state: State) -> Iterable[Running]:
    proxy = state.space.proxy
    for seat in state.seats():
        job = state.running.get(seat.run) if seat.run is not None else None
        if job is None:
            yield Running(worker=seat.worker, device=seat.device)
            continue
        curve, progress = state.curves.get(job.run, {}), state.progress.get(job.run)
        tokens = max(curve, default=0)
        loss = curve.get(tokens)
        yield Running(
            worker=seat.worker,
            device=seat.device,
            run=job.run,
            placement=job.placement,
            tokens=max(tokens, progress.tokens if progress else 0),
            of=proxy.steps * proxy.batch_tokens,
            loss_nats=loss if loss is not None and math.isfinite(loss) else None,
            tokens_per_second=progress.tokens_per_second if progress else None,
            attempt=len(job.attempts) + 1,
        )


def seconds_left(state: State) -> float | None:
    """Foretold until the budget is spent, by the time that the last runs took for a token; None while none has ended well."""
    records = (*state.records, *state.noise)
    took = [one for one in map(_seconds_a_token, records) if one is not None][-LAST:]
    seats = len(state.seats())
    if not took or not seats:
        return None
    whole, budget = state.space.proxy.steps * state.space.proxy.batch_tokens, state.space.search
    trained = [record.tokens - record.tokens_before for record in records]
    under_way = sum(whole - running.tokens for running in _workers(state) if running.run is not None)
    to_begin = 0 if state.exhausted or state.stopping else max(0, state.planned - state.done - len(state.running))
    tokens = under_way + to_begin * sum(trained) / len(trained)
    if budget.tokens is not None:
        tokens = min(tokens, under_way + max(0, budget.tokens - state.tokens - len(state.running) * whole))
    a_token = sum(took) / len(took)
    seconds = tokens * a_token / seats
    if budget.minutes is not None:
        late = max(0.0, 60 * budget.minutes - (time.monotonic() - state.started))
        seconds = min(seconds, late + whole * a_token)
    return seconds


def _seconds_a_token(record: Record) -> float | None:
    """Of a run that was trained in one piece, building and validation included."""
    if record.measured is None or record.tokens == 0 or record.tokens_before or record.attempts:
        return None
    return record.measured.seconds / record.tokens
