"""The driver of a confirmation: whatever its course asks for, within the budget, and on from where an earlier call stopped."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from ..lpa.config import UserError
from ..lpa.data import check_fits
from ..lpa.shards import Shards
from .budget import ARMS
from .course import Course
from .drive import Runs, drive
from .executor import Executor
from .fitting import attached, is_of
from .folder import SPACE
from .ledger import CONFIRM, Ledger
from .outlook import check_budget
from .presets import load_space
from .protocol import WINNER
from .record import Job, Recipe
from .results import read_study
from .space import Space
from .sweep import Cell
from .variants import Variant, as_listed, sized, sizes


class Watcher(Protocol):
    """Somebody who is shown how a confirmation goes."""

    def __call__(self, state: "Confirming", /) -> None:
        """Called whenever anything has changed, and about once a second."""


@dataclass
class Confirming(Runs):
    """A confirmation as it goes."""

    variants: Sequence[Variant]
    wanted: list[Cell] = field(default_factory=list)
    """What the course asks for by now, runs under way included."""

    def ahead(self) -> tuple[int, int]:
        """Of the runs that are not begun yet, as far as is known by now: how many, and their tokens."""
        under_way = {job.trained for job in self.running.values()}
        cells = [cell for cell in self.wanted if cell.key not in under_way and not self.stopping]
        tokens, budget = [cell.variant.tokens for cell in cells], self.space.confirm.tokens
        if budget is None:
            return len(tokens), sum(tokens)
        left = budget - self.tokens - sum(map(self.whole, self.running.values()))
        reached = [total for total in accumulate(tokens) if total <= left]
        return len(reached), max(reached, default=0)

    @property
    def minutes(self) -> float | None:
        """After which no new run starts."""
        return self.space.confirm.minutes


def confirm(
    space: Space,
    arms: Sequence[Variant],
    ledger: Ledger,
    executor: Executor,
    watch: Watcher,
    checkpoints: Path | None = None,
) -> Confirming:
    """Train what the protocol asks for until every comparison is settled, or no more is allowed; see drive."""
    recovered = ledger.recover()  # first: it may tell a record
    state = Confirming(space, ledger.records(CONFIRM), arms, recovered=recovered)
    drive(state, ledger, executor, _Cells(state, ledger), lambda: watch(state), checkpoints=checkpoints)
    return state


def resolved(folder: Path, storage: str | None, settings: Sequence[str]) -> Space:
    """The space of a study with its protocol as it will be followed: the winner said by its placement; and with the study's
    step times. Raises UserError."""
    found = read_study(folder, storage)
    space = load_space(str(folder / SPACE), settings)
    table = found.space.step_times
    if table is not None and is_of(table, space):
        space = attached(space, table)
    protocol = space.confirm
    seen = {record.seed for record in (*found.records, *found.seeds)}
    if seen & set(range(space.seed + protocol.seeds.offset, protocol.seed(space.seed, 2 * protocol.seeds.most + 1))):
        raise UserError("confirm.seeds.offset: the search has seen some of these seeds; expected others")
    if WINNER not in protocol.arms or WINNER in protocol.placements:
        return space
    if found.winner is None:
        raise UserError(f"{folder}: no candidate has a loss, so there is no winner; leave it out of confirm.arms, or search on")
    placements = protocol.placements | {WINNER: as_listed(found.space, found.winner)}
    return space.change(confirm=protocol.change(placements=placements))


def check(space: Space, arms: Sequence[Variant], shards: Shards) -> None:
    """Raises UserError, before anything runs, when the protocol cannot be followed: a budget that ends before the first look,
    or too little text."""
    check_budget(Course(space, arms, []))
    for size in sizes(space):
        config = sized(space, size)
        check_fits(shards, config.data, config.steps * config.batch_tokens, config.model)
        window = config.model.context + 1
        if (found := shards.tokens["test"]) < window:
            raise UserError(f"data: too little test text in {config.data.name}: {found:,} tokens found, {window:,} needed")


class _Cells:
    """What the course asks for, as jobs."""

    def __init__(self, state: Confirming, ledger: Ledger) -> None:
        self.state, self.ledger = state, ledger
        self.left = list(state.recovered)
        self.asked = -1
        """Runs that had ended when the course was last asked."""

    def take(self) -> Job | None:
        """The next run that is not under way; None while there is none, or the budget has ended."""
        state, protocol = self.state, self.state.space.confirm
        self._ask()
        if state.is_late:
            return None
        if self.left:
            return self.left.pop(0) if state.affords(state.whole(self.left[0]), protocol.tokens) else None
        under_way = {job.trained for job in state.running.values()}
        cell = next((cell for cell in state.wanted if cell.key not in under_way), None)
        if cell is None or not state.affords(cell.variant.tokens, protocol.tokens):
            return None
        job = job_of(state.space, f"{CONFIRM}-{self.ledger.count(CONFIRM)}", cell)
        self.ledger.add(CONFIRM, job)
        return job

    def make(self) -> bool:
        """None is made ahead: the next one is known at once."""
        return False

    def _ask(self) -> None:
        if self.asked != self.state.done:
            self.state.wanted = Course(self.state.space, self.state.variants, self.state.records).wanted()
            self.state.exhausted = not self.state.wanted
            self.asked = self.state.done


def job_of(space: Space, run: str, cell: Cell) -> Job:
    """A run that the course asks for, as an executor takes it."""
    one = cell.variant
    params = {"size": one.size, "arm": one.arm, "match": one.match, "lr_factor": f"{cell.factor:g}"}
    params |= {"control": one.control} if one.control else {}
    recipe = one.at(cell.factor)
    return Job(
        run=run,
        arm=one.arm if one.arm in ARMS else None,
        params=params,
        seed=cell.seed,
        model=one.model,
        target=one.target,
        costs=space.costs(one.target),
        recipe=recipe,
        rungs=_half(space, recipe, one),
    )


def _half(space: Space, recipe: Recipe, one: Variant) -> tuple[int, ...]:
    """Where a run has its checkpoint: at the evaluation in its middle."""
    config = space.proxy.change(**dict(recipe), model=one.model)
    step = round(config.steps * (config.evals // 2) / config.evals)
    return (step * config.batch_tokens,) if 0 < step < config.steps else ()
