"""Looking at a study that another process drives."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..lpa.config import UserError
from . import live
from .confirmation import Confirmation
from .folder import study_in
from .ledger import SEARCH
from .process import born, machine
from .results import Results, read_study
from .verdict import read_verdict

EVERY = 1.0
"""Seconds from one look to the next."""
SHARE = 0.2
"""Of the time that may be spent with reading the storage: 5,000 trials take seconds."""
ANYWAY = 60.0
"""Seconds after which the storage is read anew, whatever the driver says (assumption)."""


@dataclass(frozen=True)
class View:
    """What there is to be seen of a study."""

    moment: live.Moment | None
    """The last that a driver has written."""
    found: Results | Confirmation | None
    """Nothing while its driver measures before its first run."""
    note: str = ""
    """What the viewer should know about the driver or the storage; empty when all is well."""


def views(folder: Path, url: str | None = None) -> Iterator[View]:
    """What there is to be seen of a study, each time it is asked for; never ends. The storage is read when the driver says that
    a run has ended, and for no more than SHARE of the time. Raises UserError when there is no study, nor is going to be."""
    found, read_at, took, done = None, 0.0, 0.0, None
    moment, seen, since, trouble = None, None, 0.0, ""
    while True:
        moment, missing = _look(folder, moment)
        now = time.monotonic()
        changed = found is None or (moment is not None and moment.done != done) or now - read_at > ANYWAY
        is_over = moment is not None and moment.is_over
        if changed and (found is None or is_over or now - read_at > took / SHARE):
            try:
                found, trouble = _found(folder, url), ""
                done = moment and moment.done
            except UserError as error:
                if found is None and (moment is None or moment.phase != "measuring" or missing):
                    raise
                trouble = str(error) if found is not None else ""
            read_at = time.monotonic()
            took = read_at - now
        if moment != seen:
            seen, since = moment, now
        whole = moment is not None and found is not None and is_complete(found, moment)
        said = silence(moment, now - since, whole)
        ended = moment.change(phase="ended") if moment is not None and said and whole else moment
        yield View(ended, found, trouble or missing or said)


def is_complete(found: Results | Confirmation, moment: live.Moment) -> bool:
    """Whether the same command would train nothing more."""
    if moment.exhausted or isinstance(found, Confirmation):
        return moment.exhausted
    budget, proxy = found.space.search, found.space.proxy
    is_spent = budget.tokens is not None and found.tokens + proxy.steps * proxy.batch_tokens > budget.tokens
    return is_spent or (len(found.records) >= budget.trials and len(found.seeds) >= budget.noise_seeds - 1)


def _found(folder: Path, url: str | None) -> Results | Confirmation:
    """What a study has found by now. Raises UserError."""
    if study_in(folder, url)[1] == SEARCH:
        return read_study(folder, url)
    return read_verdict(folder, url)[2]


def _look(folder: Path, before: live.Moment | None) -> tuple[live.Moment | None, str]:
    """The last moment, and why it is the one before; a disk that fails for a while ends no looking."""
    try:
        moment = live.read(folder)
    except UserError as error:
        return before, str(error)
    return (before, f"{folder / live.LIVE}: is gone") if moment is None and before is not None else (moment, "")


def silence(moment: live.Moment | None, seconds: float = 0.0, is_complete: bool = False) -> str:
    """What is to be said of a driver that does not write; nothing when it does, or has said that it ends. seconds: for which it
    was seen to write nothing, by the looker's clock; on the driver's own machine it is seen at once. is_complete: nothing is
    left to be trained."""
    remedy = (
        "the study is complete, and the same command writes its page" if is_complete else "the same command goes on from here"
    )
    if moment is None:
        return "nothing has been driven here by a version that says how it goes"
    if moment.is_over:
        return "" if moment.phase == "ended" else f"stopped; {remedy}"
    if moment.machine == machine():
        if born(moment.process) != moment.born:
            return f"the driver's process {moment.process} has ended without a word; {remedy}"
        seconds = 0.0 if moment.phase == "measuring" else max(seconds, time.time() - moment.time)  # a piece may take long
    if seconds <= live.SILENT:
        return ""
    more = f"; {remedy}" if is_complete else ""
    return f"no word from the driver's process {moment.process} on {moment.host} for {seconds:.0f} s{more}"
