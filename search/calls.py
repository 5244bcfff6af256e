"""What `lpanas search` and `lpanas confirm` do: a folder, its data, an executor, a driver, what is shown and what is left."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..lpa.config import UserError
from ..lpa.data import check_fits
from ..lpa.prepare import open_shards
from . import folder, live, preparing
from .checkpoints import CHECKPOINTS
from .executor import Setup
from .interrupt import Interrupt
from .ledger import CONFIRM, SEARCH
from .presets import load_space

if TYPE_CHECKING:
    from ..lpa.shards import Shards
    from .budget import Budget
    from .executor import LocalExecutor
    from .ray_executor import RayExecutor
    from .space import Space

Where = Literal["local", "ray"]
Begin = Callable[["Setup", "Budget"], "LocalExecutor | RayExecutor"]


def executors(where: Where, say: Callable[[str], object]) -> Begin:
    """How to begin an executor. Raises UserError where Ray is not installed."""
    if where == "local":
        from .executor import LocalExecutor

        return lambda setup, its: LocalExecutor(setup, its.workers, its.workers_per_device, its.hung_minutes, its.mps)
    try:
        from .ray_executor import RayExecutor
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise UserError("--executor ray: Ray is not installed: pip install 'lpanas[ray]'") from None

    def begin(setup: "Setup", its: "Budget") -> RayExecutor:
        if its.mps:
            raise UserError("search.mps: not with --executor ray, whose nodes start their own service")
        return RayExecutor(setup, its, say)

    return begin


def opened(space: "Space") -> "Shards":
    """The space's token shards, made if need be. Raises UserError."""
    with preparing.progress() as watch_data:
        return open_shards(space.proxy.data, watch_data)


def check(space: "Space", where: Where) -> None:
    """Raises UserError where no run could train; on a cluster its workers say so themselves."""
    if where == "local":
        space.proxy.checked_device()


def search(space: str, out: Path | None, where: Where, begin: Begin, storage: str | None, settings: Sequence[str]) -> bool:
    """Search a space, and leave tables, a page and the winner's config; whether any candidate was trained to its end."""
    loaded = load_space(space, settings)
    check(loaded, where)
    place = folder.check_kind(out or Path("runs") / loaded.name, SEARCH)
    shards = opened(loaded)
    check_fits(shards, loaded.proxy.data, loaded.proxy.steps * loaded.proxy.batch_tokens, loaded.proxy.model)
    with folder.held(place), live.written(place) as write:
        setup = Setup(loaded.proxy, shards.folder, checkpoints := place / CHECKPOINTS)
        with begin(setup, loaded.search) as executor:
            from . import screen, study, terminal, timetable

            texts = folder.measured_before(place, storage) if loaded.asks_step_seconds else {}
            loaded = timetable.of(loaded, place, executor, texts, tell=live.measuring(place, loaded.name))
            study_of = folder.driven(place, loaded, shards.content, storage)
            with study_of as ledger, screen.progress() as draw, Interrupt() as interrupt:
                timetable.keep(loaded, place, ledger)

                def watch(state: study.State) -> None:
                    state.stopping = interrupt.signal != 0
                    draw(state)
                    write(state)
                    if not executor.idle:  # there is time
                        from . import export, report  # noqa: F401 (for the end)

                state = study.search(loaded, ledger, executor, watch, checkpoints)
        from .export import export
        from .report import write_report
        from .results import results

        found, paths = results(loaded, ledger), dict[str, object]()
        if found.winner is not None:
            exported = export(found, found.winner, place)
            config = exported.path
            paths |= {"is it true?": f"lpanas confirm {shlex.quote(str(place))}"}
            paths |= {"exported config": exported.text, "train it": f"lpanas train {shlex.quote(str(config))}"}
        paths = {"page": write_report(found, place)} | paths  # it says what was exported
    terminal.print_results(found, paths, state.exhausted)
    return bool(found.complete)


def confirm(
    directory: Path, out: Path | None, where: Where, begin: Begin, storage: str | None, settings: Sequence[str]
) -> None:
    """Confirm a study's claim, and leave the verdict, tables and a page."""
    from . import arm_times, confirm, screen, terminal, widths
    from .conclude import conclude
    from .variants import guesses, variants
    from .verdict import write_verdict

    space = confirm.resolved(directory, storage, settings)
    check(space, where)
    place = folder.check_kind(out or directory / "confirm", CONFIRM)
    arms = variants(space, guesses(space))
    shards = opened(space)
    confirm.check(space, arms, shards)
    with folder.held(place), live.written(place) as write:
        setup = Setup(space.proxy, shards.folder, checkpoints := place / CHECKPOINTS)
        with begin(setup, space.search) as executor:
            asks = space.asks_step_seconds or "step_seconds" in space.confirm.matches
            texts = folder.measured_before(place, storage, study=directory) if asks else {}
            tell = live.measuring(place, space.name)
            timed = widths.of(space, place, executor, texts, tell=tell)
            if timed is not None:
                arms = variants(space, widths.by_arm(timed))
                confirm.check(space, arms, shards)
            space = arm_times.of(space, arms, place, executor, texts, terminal.note, tell=tell)
            study = folder.driven(place, space, shards.content, storage, study=directory)
            with study as ledger, screen.confirming() as draw, Interrupt() as interrupt:
                widths.keep(timed, place, ledger)
                arm_times.keep(space, place, ledger)

                def watch(state: confirm.Confirming) -> None:
                    state.stopping = interrupt.signal != 0
                    draw(state)
                    write(state)

                state = confirm.confirm(space, arms, ledger, executor, watch, checkpoints)
        found = conclude(space, arms, state.records, widths.timed(timed))
        paths = write_verdict(found, space, state.records, place)
    terminal.print_confirmation(found, paths)
