"""What `lpanas show` does about step_seconds: a file of times that is measured here, and the one that a space names."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..lpa.config import UserError
from ..lpa.files import replace_text, writing
from ..lpa.step_table import read_table
from . import fitting
from .space import Space
from .timetable import asked, times


@dataclass(frozen=True)
class Here:
    """This machine, as a local worker has it."""

    device: str
    threads: int = 1


def here(space: Space) -> Here:
    """As a local worker of the space's search."""
    return Here(space.proxy.resolve_device().type)


def measured_into(path: Path, space: Space) -> Space:
    """The space with its target's times, measured here and written to a file. Raises UserError."""
    if not space.asks_step_seconds:
        raise UserError(f"--step-times {path}: step_seconds is neither among the space's objectives nor among its limits")
    _check_place(path)
    timed = fitting.attached(space, times(space, here(space), asked(space)))
    assert timed.step_times is not None
    _check_place(path)  # a measurement takes minutes, in which something may have been put there
    with writing(path.parent):
        replace_text(path, timed.step_times.text)
    return timed


def _check_place(path: Path) -> None:
    """Raises UserError where a file cannot be written, or would be written over what is no file of step times."""
    from .page import check_place  # plotly comes with it

    check_place(path, "--step-times")
    if path.exists() and not _is_table(path):
        raise UserError(f"--step-times {path}: is there already, and is no file of step times; name another, or remove it")


def _is_table(path: Path) -> bool:
    if path.is_file():  # not a pipe, which would be waited for
        with suppress(UserError):
            read_table(path)
            return True
    return False


def named(space: Space) -> Space:
    """The space with the times of the file that it names, if it names one. Raises UserError as a search on this machine."""
    if space.target.step_times is None:
        return space
    return fitting.named(space, here(space), asked(space))
