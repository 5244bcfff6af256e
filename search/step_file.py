"""What `lpanas show` does about step_seconds: a file of times that is measured here, and the one that a space names."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..lpa.config import UserError
from ..lpa.files import replace_text, writing
from ..lpa.piece_time import COPIES, MOST, ROUNDS, SECONDS
from ..lpa.pieces import Piece, length
from ..lpa.prepare import cache
from ..lpa.step_table import FOLDER, StepTable, cached, read_table, under
from ..lpa.step_time import WARMUP
from ..lpa.train_config import TrainConfig
from . import fitting
from .carry import dense_training
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


def unmeasured(space: Space) -> str:
    """What is to be measured when a search of a space begins here, and roughly how long that takes, where anything that was
    measured before tells."""
    config, pieces, place = dense_training(space, here(space).device), asked(space), here(space)
    its = under(config)
    its = its if its.is_gpu else its.change(threads=place.threads)
    table = cached(cache() / FOLDER / its.file, its)
    lacking = pieces if table is None else table.lacks(pieces)
    known = len(pieces) - len(lacking)
    line = f"step_seconds: {len(lacking)} pieces of a step are measured when the search begins"
    if table is None:
        return line
    if not lacking:
        return f"step_seconds: all {len(pieces)} pieces of a step were measured before, here, and are not measured again"
    line += f"; {known} more were before" if known else ""
    seconds = _foretold(table, config, pieces, lacking)
    return line if seconds is None else f"{line}, about {seconds / 60:.1f} min"


def _foretold(table: StepTable, config: TrainConfig, pieces: Sequence[Piece], lacking: Sequence[Piece]) -> float | None:
    """Seconds that the measurement of pieces takes at least, by how long the longest of the known ones takes; None where
    none is known."""
    tokens = table.under.microbatch * table.under.context

    def size(piece: Piece) -> float:
        return length(piece, tokens, table.under.context)

    known = max((one for one in (*pieces, table.probe) if one.key in table.pieces), key=size, default=None)
    if known is None:
        return None
    its = table.pieces[known.key]
    rate = min(COPIES, config.model.n_layers) * (its.first + its.more) / size(known)
    once = [rate * size(piece) for piece in lacking]
    return sum(max((WARMUP + ROUNDS) * one, min(SECONDS, MOST * one)) for one in once)


def named(space: Space) -> Space:
    """The space with the times of the file that it names, if it names one. Raises UserError as a search on this machine."""
    if space.target.step_times is None:
        return space
    return fitting.named(space, here(space), asked(space))
