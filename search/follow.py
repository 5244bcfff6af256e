"""The page of a study that another process drives, written anew as it goes."""

import time
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path

from .confirmation import Confirmation
from .report import write_report
from .results import Results
from .screen import headline
from .verdict import read_verdict, write_verdict
from .watch import EVERY, SHARE, View


def follow(views: Iterable[View], folder: Path, url: str | None, say: Callable[[str], object]) -> View:
    """Write a study's page whenever a run of it has ended, until its driver has; what was seen last. Pages are written for no
    more than SHARE of the time. say: is told of each one, in a line."""
    written: Results | Confirmation | None = None
    ailing = False
    for view in views:
        if view.moment is None or view.moment.is_over:
            return view
        began = time.monotonic()
        if view.found is not None and (view.found is not written or ailing != bool(view.note)):
            written, ailing = view.found, bool(view.note)
            path = write(view, folder, url)
            say(f"{datetime.now():%H:%M:%S} {how_far(view)} {path}")
        time.sleep(max(EVERY, (time.monotonic() - began) / SHARE))
    raise AssertionError("looking never ends by itself")


def write(view: View, folder: Path, url: str | None) -> object:
    """The page of what was seen, and its tables; its path."""
    if isinstance(view.found, Results):
        return write_report(view.found, folder, note(view))
    space, records, found = read_verdict(folder, url)
    return write_verdict(found, space, records, folder)["page"]


def how_far(view: View) -> str:
    """How far a study is, and what ails its driver, which then foretells nothing."""
    found = view.found
    assert found is not None
    if not isinstance(found, Results):
        return " ".join([f"{found.name}: {found.runs} runs.", *([f"{view.note}."] if view.note else [])])
    return f"{headline(found, None)}. {view.note}." if view.note else f"{headline(found, view.moment)}."


def note(view: View) -> str:
    """What the page of a search says that is not at its end."""
    return f"{how_far(view)} As of {datetime.now().astimezone():%H:%M:%S %Z}; this page is written anew as the search goes."
