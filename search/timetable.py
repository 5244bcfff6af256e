"""The seconds of a step at a space's target: which pieces its candidates ask for, where their times come from, and the file in
a study's folder that keeps them, so that its records are of one measurement for good."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from ..lpa.between import aligned, between_widths, grown, widths
from ..lpa.config import UserError
from ..lpa.cost import training_cost
from ..lpa.model_config import ModelConfig
from ..lpa.pieces import (
    ATTENTION_INPUT,
    FFN_INPUT,
    FFN_OUTPUT,
    GROUPS,
    Piece,
    Update,
    attending,
    pieces,
    projecting,
)
from ..lpa.placement import Placement, Rank, parse_projections, parse_rank
from ..lpa.prepare import cache
from ..lpa.step_table import FOLDER, VERSION, StepTable, Under, check_under, step_table, under
from ..lpa.train_config import TrainConfig
from . import fitting, measured
from .apart import Say, Work, apart, check_here, measuring, untold
from .budget import ARMS
from .candidate import STEP_SECONDS
from .carry import dense_training
from .fitting import attached, check_dense, check_of, checked
from .ledger import Ledger
from .measured import Kept, Texts, in_storage, text_of
from .record import Record
from .space import DenseStep, Space
from .widths import Place

FILE = "step_times.json"


@dataclass(frozen=True)
class Task:
    """What is to be measured."""

    config: TrainConfig
    """The dense target's training, with its device."""
    pieces: tuple[Piece, ...]
    cache: Path
    """The folder of what was measured before."""
    threads: int
    """On a CPU."""
    widens: bool = False
    """Whether there are candidates whose FFN is wider than the dense one."""
    under: Under | None = None
    """What it has to be measured under, if not under whatever is here."""


Measure = Callable[[Task, Say], StepTable]


def asked(space: Space) -> tuple[Piece, ...]:
    """All pieces that any candidate of a space has, its arms and the placements that it lists included."""
    named = [space.arm(name) for name in ARMS] + [space.listed(one) for one in space.search.placements]
    corners = [space.candidate(point) for point in space.corners()]
    found = dict[Piece, None]()
    for one in (*named, *corners):
        found |= dict.fromkeys(pieces(one.target, space.target.model.d_ff))
    found |= dict.fromkeys(_between(space, max(one.target.d_ff for one in corners)))
    sizes = [piece.size for piece in found if isinstance(piece, Update)]
    found |= dict.fromkeys(Update(size) for size in grown(min(sizes), max(sizes)))
    return tuple(found)


def _between(space: Space, widest: int) -> Iterator[Piece]:
    """The pieces of the projections at all ranks of a space, those of the FFN at all widths that are measured up to the
    widest."""
    dense = space.target.model
    for activation, names in product(space.vary.factor_activation, GROUPS):
        for ranks in _ranks(space, names):
            placed = dense.change(placement=Placement.from_bands(dense.n_layers, [ranks]), factor_activation=activation)
            if names == ATTENTION_INPUT:
                yield attending(placed, 0)
            if names in (FFN_INPUT, FFN_OUTPUT):
                yield from _widening(placed, names, widest)
            else:
                yield projecting(placed, names, _resolved(placed), dense.d_ff)


def _widening(placed: ModelConfig, names: tuple[str, ...], widest: int) -> Iterator[Piece]:
    """The pieces of an FFN's projections, from its width to the widest; narrower than d_model, ranks grow with it."""
    dense, step, multiple = placed.d_ff, placed.ffn_multiple, aligned(placed)
    for wide in filter(None, (placed, placed.wide(max(dense, widest)))):
        for width in widths(dense, multiple, widest):
            yield projecting(wide, names, _resolved(wide), width)
    growing = range(dense // step * step + step, min(placed.d_model, widest) + 1, step)
    for wide in filter(None, map(placed.wide, growing)):
        for width in between_widths(wide.d_ff, dense, multiple):
            yield projecting(wide, names, _resolved(wide), width)


def _resolved(placed: ModelConfig) -> dict[str, int | None]:
    return {name: placed.rank(0, name) for name in placed.projections}


def _ranks(space: Space, names: tuple[str, ...]) -> Iterator[dict[str, Rank]]:
    """All ranks of some projections."""
    groups = {group: its for group in space.vary.ranks if (its := set(parse_projections(group)) & set(names))}
    for choice in product(*(space.vary.ranks[group] for group in groups)):
        yield {name: parse_rank(rank) for its, rank in zip(groups.values(), choice, strict=True) for name in its}


def of(space: Space, folder: Path, place: Place, texts: Texts, measure: Measure | None = None, tell: Say = untold) -> Space:
    """The space with the times of its target's pieces: those of the study, or in the file that the space names, or measured
    now; as it is where it asks for none. Writes nothing but the cache. texts: what the study's storage has; tell: hears how
    far a measurement is.

    Raises UserError when those that are there are another space's, and when none can be measured.
    """
    if not space.asks_step_seconds:
        return space
    pieces = asked(space)
    if (its := text_of(folder, FILE, texts)) is not None:
        return _of_kept(its, space, pieces)
    if space.target.step_times is not None:
        return fitting.named(space, place, pieces)
    check_here(
        place.device,
        STEP_SECONDS,
        "; make a file on one that has (lpanas show SPACE --step-times FILE) and name it: target.step_times",
    )
    return attached(space, times(space, place, pieces, measure, tell=tell))


def times(
    space: Space,
    place: Place,
    pieces: tuple[Piece, ...],
    measure: Measure | None = None,
    under: Under | None = None,
    widens: bool | None = None,
    tell: Say = untold,
) -> StepTable:
    """The times of some pieces of a space's target, from the cache or measured now. under: what they have to be measured under,
    if not under whatever is here; widens: whether they are of FFNs wider than the dense one, of any width, if not of the
    space's candidates; tell: hears how far it is. Raises UserError."""
    check_here(place.device, STEP_SECONDS)
    config, threads = dense_training(space, place.device), under.threads if under else place.threads
    widens = fitting.widens(space) if widens is None else widens
    with measuring(STEP_SECONDS, tell) as say:
        return (measure or _apart)(Task(config, pieces, cache() / FOLDER, threads or place.threads, widens, under), say)


def _apart(task: Task, say: Say) -> StepTable:
    return apart(Work(STEP_SECONDS, _work, _too_large), task, say, task.config.device == "cuda", task.threads)


def _work(task: Task, say: Say) -> StepTable:
    check_under(task.under, task.config)
    if uneven := fitting.uneven(under(task.config), task.config.model, task.widens):
        raise UserError(uneven)
    return step_table(task.config, task.pieces, say, task.cache)


def _too_large(task: Task, error: str) -> str:
    size = training_cost(task.config, 2 if task.config.device == "cuda" else 4).memory_bytes
    return (
        f"a piece of the target does not fit in memory (the whole target takes {size / 2**30:.1f} GiB; {error}); a smaller "
        "target.microbatch or a larger device is needed"
    )


def keep(space: Space, folder: Path, ledger: Ledger) -> None:
    """Write the table down, before the first run; see measured.keep."""
    table = space.step_times
    if table is None:
        return

    def is_ours(text: str) -> bool:
        there = StepTable.parse_json(text, in_storage(folder / FILE))
        return there.under == table.under and there.pieces.items() >= table.pieces.items()

    measured.keep(folder, FILE, table.text, ledger, is_ours)


def kept(space: Space, folder: Path, texts: Texts, records: Sequence[Record] = ()) -> Space:
    """The space with its study's table. Every record has its costs already, so no pieces are asked for: another version may
    name them otherwise. texts: what its storage has; records: the study's. Raises UserError for none, and for another
    space's."""
    if not space.asks_step_seconds:
        return space
    its, back = text_of(folder, FILE, texts), "put the study's own back"
    if its is None:
        raise UserError(f"{folder / FILE}: missing; the study's step_seconds are those that it gives")
    table, dense = StepTable.parse_json(its.text, its.where, back), space.target.model
    check_of(table, its.where, space, back)
    if not table.lacks(pieces(dense, dense.d_ff)):
        check_dense(table, its.where, space, back)
        return attached(space, table)
    return attached(space, table, _dense_step(records, space, table, its.where))


def _dense_step(records: Sequence[Record], space: Space, table: StepTable, where: str) -> DenseStep:
    """By the records of the dense target, which are all of one cost. Raises UserError where there is none."""
    found = (record.costs.get(STEP_SECONDS) for record in records if record.target == space.target.model)
    seconds = next((its for its in found if its), None)
    if seconds is None:
        why = _older(table) or "lacks pieces of the dense target"
        raise UserError(f"{where}: {why}, and no run of the dense arm has ended; begin anew in another --out")
    return DenseStep(seconds)


def _older(table: StepTable) -> str:
    """That another version has measured a study's table, whose further costs would be of other pieces."""
    there = table.under.version
    age = "an older" if there < VERSION else "a newer"
    return f"begun by {age} version ({there}; {VERSION} here)" if there != VERSION else ""


def _of_kept(its: Kept, space: Space, pieces: tuple[Piece, ...]) -> Space:
    """The space with the table of its study, which goes on and so has new costs. Raises UserError."""
    remedy = "give another --out"
    table = StepTable.parse_json(its.text, its.where, remedy)
    check_of(table, its.where, space, remedy)
    if why := _older(table):
        raise UserError(f"{its.where}: {why}; begin anew in another --out")
    return attached(space, checked(table, its.where, space, pieces, remedy))
