"""Whether a table of step times is one of a space's target, and of the way that targets are trained."""

from collections.abc import Collection
from pathlib import Path

from pydantic import ValidationError

from ..lpa.between import ALIGNED, aligned
from ..lpa.config import UserError, first_mistake
from ..lpa.model_config import ModelConfig
from ..lpa.pieces import Piece
from ..lpa.step_table import VERSION, StepTable, Under, read_table
from .space import DenseStep, Space
from .widths import Place

ANEW = "make it anew: lpanas show SPACE --step-times FILE"
"""What to do about a file that does not fit."""
CLIP = "proxy.optim.clip"


def attached(space: Space, table: StepTable, dense: DenseStep | None = None) -> Space:
    """The space with its table. dense: a step of the dense target, where the table lacks pieces of it. Raises UserError when no
    candidate keeps to its limits then."""
    try:
        return space.change(step_times=table, dense_step=dense)
    except ValidationError as error:
        raise UserError(f"{space.name}: {first_mistake(Space, error)}") from None


def named(space: Space, place: Place, pieces: Collection[Piece]) -> Space:
    """The space with the times of the file that it names. pieces: all that it asks for. Raises UserError."""
    path = Path(space.target.step_times or "").expanduser()
    table = checked(read_table(path, ANEW), str(path), space, pieces, ANEW)
    if why := _unfit(table, space, place):
        raise UserError(f"{path}: {why}; {ANEW}")
    return attached(space, table)


def checked(table: StepTable, where: str, space: Space, pieces: Collection[Piece], remedy: str) -> StepTable:
    """The table of these pieces. where: it is from, for errors. Raises UserError when it was measured for another target."""
    check_of(table, where, space, remedy)
    if lacking := table.lacks(pieces):
        raise UserError(f"{where}: lacks {len(lacking)} of {len(pieces)} pieces, the first '{lacking[0].key}'; {remedy}")
    check_dense(table, where, space, remedy)
    return table.only(pieces)


def check_of(table: StepTable, where: str, space: Space, remedy: str) -> None:
    """Raises UserError when it was measured for another target. Arguments: as of checked."""
    for key, (there, here) in steps_of(table, space).items():
        if there != here:
            raise UserError(f"{where}: measured for another target: {_unlike(key, there, here)}; {remedy}")


def check_dense(table: StepTable, where: str, space: Space, remedy: str) -> None:
    """Raises UserError when a step of the dense target takes no time by it, and KeyError where it lacks a piece of that."""
    if not table.step_seconds(space.target.model, space.target.model.d_ff, space.target.batch_size):
        raise UserError(f"{where}: a step of the dense target takes 0 s by it; {remedy}")


def _unlike(key: str, there: int, here: int) -> str:
    """What differs, in words."""
    if key == CLIP:
        return f"{CLIP} is set here and was not there" if here else f"{CLIP} was set there and is not here"
    return f"{key} ({there} there, {here} here)"


def _unfit(table: StepTable, space: Space, place: Place) -> str | None:
    """Why a table from a file that a space names is not of the way that targets are trained now, if it is not: of another
    machine it may be, but not of a CPU for runs on a GPU. (A study's own table stays what it is.)"""
    its = table.under
    if its.version != VERSION:
        return f"measured by another version of lpanas ({its.version} there, {VERSION} here)"
    if place.device == "cuda" and not its.is_gpu:
        return f"measured on a CPU ({its.device}), and runs train on a GPU"
    if place.device == "cuda" and its.precision == "float32" and space.proxy.precision != "float32":
        return "measured in float32, and a GPU trains in bfloat16 (if it cannot: proxy.precision: float32)"
    return uneven(its, space.target.model, widens(space))


def widens(space: Space) -> bool:
    """Whether there are candidates whose FFN is wider than the dense one."""
    listed = (one.rebalance for one in space.search.placements)
    return any(rule != "none" for rule in (*space.vary.rebalance, *listed))


def uneven(its: Under, model: ModelConfig, wider: bool) -> str | None:
    """What is wrong with a target's candidates whose widths have no times: theirs are not those of their neighbours. wider:
    whether there are candidates whose FFN is wider than the dense one."""
    if not wider or not its.is_gpu or its.precision != "bfloat16" or model.ffn_multiple % ALIGNED == 0:
        return None
    return (
        f"in bfloat16 a GPU takes slower kernels where the FFN's width is no multiple of {ALIGNED}, as candidates' may be; "
        f"set target.model ffn_multiple: {aligned(model)}"
    )


def is_of(table: StepTable, space: Space) -> bool:
    """Whether it is of steps like those of the space's target."""
    return all(there == here for there, here in steps_of(table, space).values())


def steps_of(table: StepTable, space: Space) -> dict[str, tuple[int, int]]:
    """What of a step has to be the same, by key of the space: the table's, and the space's; of CLIP whether it is set."""
    its, target = table.under, space.target
    return {
        "target.microbatch": (its.microbatch, target.microbatch),
        "target.model.context": (its.context, target.model.context),
        "target.activation_checkpointing": (its.activation_checkpointing, target.activation_checkpointing),
        CLIP: (its.clips, space.proxy.optim.clip is not None),
    }
