"""A search as it goes, in the place of a terminal's last lines: for its driver and for others who look."""

import math
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from . import live, wording
from .confirm import Confirming
from .confirmation import Confirmation
from .drive import Runs
from .record import Record
from .results import Results
from .study import State, Watcher
from .terminal import console, duration
from .watch import EVERY, View

if TYPE_CHECKING:
    from .dashboard import Copy

S = TypeVar("S")

REFRESH = 0.25
"""Seconds from one drawing of a search to the next, at least."""
LEAST = 12
"""Columns that a placement is worth showing in."""
GAP = 2


@contextmanager
def progress() -> Generator[Watcher]:
    """A watcher that keeps a view of the search on a terminal, and stays silent elsewhere."""

    def view(state: State) -> RenderableType:
        return view_of(View(_moment(state), Results(state.space, state.records, state.noise)))

    with _drawn(view) as watch:
        yield watch


@contextmanager
def confirming() -> Generator[Callable[[Confirming], None]]:
    """The same of a confirmation."""

    def view(state: Confirming) -> RenderableType:
        moment = _moment(state)
        return _confirmation([f"{moment.name}: {moment.done} of {state.planned} or more runs of its confirmation"], moment)

    with _drawn(view) as watch:
        yield watch


def _moment(state: Runs) -> live.Moment:
    return live.moment(state, "stopping" if state.stopping else "searching")


@contextmanager
def _drawn(view: Callable[[S], RenderableType]) -> Generator[Callable[[S], None]]:
    """A watcher that draws what it is shown, now and then, on a terminal."""
    with _screen() as show:
        drawn = -math.inf

        def watch(state: S) -> None:
            nonlocal drawn
            if console.is_terminal and time.monotonic() - drawn >= REFRESH:  # a driver may be told a thousand things a second
                show(view(state))
                drawn = time.monotonic()

        yield watch


def show_views(views: Iterable[View], copy: "Copy | None") -> None:
    """Show how a study goes on, until its driver has ended or for as long as there is a dashboard, which is kept up to date;
    without a terminal once, and a dashboard is kept up to date all the same."""
    with _screen() as show:
        for number, one in enumerate(views):
            if console.is_terminal:
                show(view_of(one))
            elif number == 0:
                console.print(view_of(one))
            if copy is not None and isinstance(one.found, Results):
                copy.update(one.found, one.moment)
            elif not console.is_terminal or one.moment is None or one.moment.is_over:
                break
            time.sleep(EVERY)
    if console.is_terminal:
        console.print(view_of(one))


@contextmanager
def _screen() -> Generator[Callable[[RenderableType], None]]:
    """What shows a picture in the place of the one before, or nothing where there is no terminal."""
    if not console.is_terminal:
        yield lambda picture: None
        return
    with Live(console=console, auto_refresh=False, transient=True) as shown:
        yield lambda picture: shown.update(picture, refresh=True)


def view_of(view: View) -> RenderableType:
    """How far it is, what is to be said of it, its workers, what was found: no more than the terminal has room for."""
    found, moment, width = view.found, view.moment, console.width
    if found is None:
        said = "" if moment is None else f"{moment.name}: {_times(moment)}"
        return Group(*(Text(line) for line in (said, view.note) if line))
    if isinstance(found, Confirmation):
        notes = [f"{found.name}: {found.runs} runs of its confirmation", wording.headline(found), *filter(None, [view.note])]
        return _confirmation(notes, moment)
    heads = [headline(found, moment), *([view.note] if view.note else [])]
    room = console.height - sum(math.ceil(len(line) / width) for line in heads) - 1 if console.is_terminal else 10**6
    working = moment.workers if moment is not None else ()
    front = found.front
    most = max(1, min(len(working), (room - 4) // 2 if front else room - 2))  # the front has a title, a head and a last line
    parts: list[RenderableType] = [Text(line) for line in heads]
    if working:
        parts += [_fitted(_workers(working[:most]), WORKERS_WITHOUT, width), *_more(len(working) - most, "workers")]
        room -= most + 1 + (len(working) > most)
    if front and room >= 4:
        shown = max(1, min(len(front), room - 3))
        parts += [Text("The front, lowest loss first", style="bold")]
        parts += [_fitted(_front(found, front[:shown]), FRONT_WITHOUT, width), *_more(len(front) - shown, "on the front")]
    return Group(*parts)


def _confirmation(lines: Sequence[str], moment: live.Moment | None) -> RenderableType:
    """Lines on a confirmation, the first with its times, and as many of its workers as there is room for."""
    first, *others = lines
    heads = [Text(first if moment is None else f"{first}; {_times(moment)}"), *map(Text, others)]
    working = () if moment is None else moment.workers
    most = max(1, console.height - len(heads) - 3) if console.is_terminal else len(working)
    if not working:
        return Group(*heads)
    shown = _fitted(_workers(working[:most]), WORKERS_WITHOUT, console.width)
    return Group(*heads, shown, *_more(len(working) - most, "workers"))


def _more(count: int, what: str) -> list[Text]:
    return [Text(f"and {count} more {what}")] if count > 0 else []


def headline(found: Results, moment: live.Moment | None) -> str:
    """How far a search is, in a line."""
    budget, ended = found.space.search, len(found.records) + len(found.seeds)
    done = ended if moment is None else max(ended, moment.done)
    most = "at most " if budget.tokens is not None or budget.minutes is not None else ""
    best = min((record.loss_nats for record in found.complete if record.loss_nats is not None), default=None)
    line = f"{found.space.name}: {done} of {most}{budget.planned} runs, {len(found.front)} on the front"
    line += f", best loss {best:.4f} nats" if best is not None else ""
    return line + (f"; {_times(moment)}" if moment is not None else "")


def _times(moment: live.Moment) -> str:
    since = f"started {duration(moment.seconds)} ago"
    match moment.phase:
        case "starting":
            return "starting"
        case "measuring":
            return f"{since}, {moment.said}"
        case "searching":
            left = "time left not known yet" if moment.left is None else f"about {duration(moment.left)} left"
            return f"{since}, {left}"
        case "stopping":
            return f"{since}, stopping"
        case _:
            return f"{moment.phase} after {duration(moment.seconds)}"


Columns = dict[str, list[str]]
"""A table by its columns: the head and the cells."""

WORKERS_WITHOUT = ("placement", "device", "tokens", "tokens/s", "worker")
FRONT_WITHOUT = ("placement", "d_ff", "against dense", "arm")
"""What is left out first where there is no room."""


def _workers(workers: Sequence[live.Running]) -> Columns:
    runs = [one.run or "idle" for one in workers]
    again = [f"{run} (attempt {one.attempt})" if one.attempt > 1 else run for run, one in zip(runs, workers, strict=True)]
    return {
        "worker": [one.worker for one in workers],
        "device": [one.device for one in workers],
        "run": again,
        "tokens": [f"{one.tokens:,}" if one.run else "" for one in workers],
        "%": [f"{one.tokens / one.of:.0%}" if one.run else "" for one in workers],
        "loss_nats": ["" if one.loss_nats is None else f"{one.loss_nats:.4f}" for one in workers],
        "tokens/s": ["" if one.tokens_per_second is None else f"{one.tokens_per_second:,.0f}" for one in workers],
        "placement": [one.placement for one in workers],
    }


def _front(found: Results, records: Sequence[Record]) -> Columns:
    deltas = [found.delta(record) for record in records]
    against = [
        "" if delta is None or record.arm == "dense" else f"{delta:+.4f} {found.against_dense(record)}"
        for delta, record in zip(deltas, records, strict=True)
    ]
    return {
        "run": [record.run for record in records],
        "arm": [record.arm or "" for record in records],
        "loss_nats": [f"{record.loss_nats:.4f}" for record in records],
        "against dense": against,
        **{f"{name} x": [f"{found.relative(record, name):.3f}" for record in records] for name in found.costs},
        "d_ff": [str(record.target.d_ff) for record in records],
        "placement": [record.placement for record in records],
    }


def _fitted(columns: Columns, without: Sequence[str], width: int) -> Table:
    """A table a line a row: columns that there is no room for are left out, and only placements are cut short."""
    widths = {name: max(map(len, [name, *cells])) for name, cells in columns.items()}
    widths["placement"] = min(widths["placement"], LEAST)
    kept = list(columns)
    for name in without:
        if sum(widths[one] + GAP for one in kept) - GAP > width:
            kept.remove(name)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for name in kept:
        left = name in ("worker", "device", "run", "arm", "placement")
        table.add_column(name, justify="left" if left else "right", no_wrap=True, overflow="ellipsis", min_width=widths[name])
    for row in zip(*(columns[name] for name in kept), strict=True):
        table.add_row(*map(Text, row))
    return table
