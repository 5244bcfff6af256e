"""The seconds of a step of a confirmation's arms, where its study counts them: by the study's own table, with what that lacks
measured where it was measured itself; an arm is left without rather than with a sum of two devices' times."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ..lpa.config import UserError
from ..lpa.pieces import Piece, pieces
from ..lpa.step_table import StepTable
from . import measured
from .apart import Say, untold
from .candidate import STEP_SECONDS
from .fitting import attached, is_of
from .ledger import Ledger
from .measured import Kept, Texts, in_storage, text_of
from .space import Space
from .timetable import FILE, Measure, times
from .variants import Variant
from .widths import Place


def of(
    space: Space,
    arms: Sequence[Variant],
    folder: Path,
    place: Place,
    texts: Texts,
    say: Callable[[str], object],
    measure: Measure | None = None,
    tell: Say = untold,
) -> Space:
    """The space with the times of its arms' pieces: the confirmation's own, or the study's, which the space has, and what is
    missing there measured now; as it is where it asks for none. Writes nothing but the cache.

    texts: what the confirmation's storage has; say: hears in a line why some arms have no seconds; tell: how far a
    measurement is.
    """
    if not space.asks_step_seconds:
        return space
    if (its := text_of(folder, FILE, texts)) is not None:
        return _of_kept(its, space, "give another --out")
    table, wanted = space.step_times, asked(space, arms)
    lacking = wanted if table is None else table.lacks(wanted)
    if lacking:
        try:
            wider = any(arm.target.d_ff != space.target.model.d_ff for arm in arms)
            if table is None:
                table = times(space, place, tuple(lacking), measure, widens=wider, tell=tell)
            else:
                again = [table.probe] if table.probe.key in table.pieces else []  # whether the machine is as it was
                table = table.filled(times(space, place, (*again, *lacking), measure, table.under, wider, tell))
        except UserError as error:
            say(_unknown(len(lacking), error))
    return space if table is None else attached(space, table.only(set(wanted) - set(table.lacks(wanted))))


def _unknown(lacking: int, error: UserError) -> str:
    """That some arms have no seconds, and why, with the key said once."""
    pieces = f"{lacking} pieces of their steps are" if lacking > 1 else "a piece of their steps is"
    why = str(error).removeprefix(f"{STEP_SECONDS}: ")
    return f"some arms have no {STEP_SECONDS}, as {pieces} not known and cannot be measured here; {why}"


def asked(space: Space, arms: Sequence[Variant]) -> list[Piece]:
    """All pieces of the arms' targets and of the dense one."""
    dense = space.target.model
    return list(dict.fromkeys(piece for one in (dense, *(arm.target for arm in arms)) for piece in pieces(one, dense.d_ff)))


def keep(space: Space, folder: Path, ledger: Ledger) -> None:
    """Write the arms' table down; see measured.keep. A confirmation that was begun by an older version gets one, too."""
    table = space.step_times
    if table is None:
        return
    if FILE not in ledger.measured:
        ledger.keep_measured(FILE, table.text)
    measured.keep(folder, FILE, table.text, ledger, lambda text: StepTable.parse_json(text, in_storage(folder / FILE)) == table)


def kept(space: Space, folder: Path, texts: Texts) -> Space:
    """The space with the table of its confirmation; as it is where that has none. Raises UserError."""
    its = text_of(folder, FILE, texts) if space.asks_step_seconds else None
    return space if its is None else _of_kept(its, space, "put the confirmation's own back")


def _of_kept(its: Kept, space: Space, remedy: str) -> Space:
    """The space with the table of its confirmation, which may lack pieces. Raises UserError."""
    table = StepTable.parse_json(its.text, its.where, remedy)
    if not is_of(table, space):
        raise UserError(f"{its.where}: measured for another target; {remedy}")
    return attached(space, table)
