"""What `lpanas show` does: what would run and what it would cost, or what was found or trained."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..lpa.config import UserError, read_yaml
from . import live, step_file, terminal
from .folder import SPACE, study_in
from .ledger import CONFIRM
from .presets import load_config, load_space
from .space import Space
from .stored import no_study


def show(what: str, coordinates: Path | None, step_times: Path | None, settings: Sequence[str]) -> None:
    """Of a study's folder, a target's folder of exported configs, a training's config or a space. coordinates: the page for a
    space's; step_times: the file for the seconds of its target's pieces, which are measured. Raises UserError."""
    path, files = Path(what), {"--coordinates": coordinates, "--step-times": step_times}
    if path.is_dir():
        _refuse(what, "a study has run", files | {"--set": settings})
        _show_folder(path)
    elif path.is_file() and "vary" not in read_yaml(path):
        _refuse(what, "a training's config names one model", files)
        config = load_config(path, settings)
        config.checked_device()
        terminal.print_config(config)
    else:
        space = load_space(what, settings)
        space.proxy.checked_device()
        space = step_file.named(space) if step_times is None else step_file.measured_into(step_times, space)
        if coordinates is not None:
            from .page import check_place  # plotly comes with it

            check_place(coordinates, "--coordinates")
        terminal.print_space(space)
        if coordinates is not None:
            _draw_coordinates(space, coordinates)


def _refuse(what: str, why: str, options: Mapping[str, object]) -> None:
    """Raises UserError when an option is given that would do nothing."""
    for name, value in options.items():
        if value:
            raise UserError(f"{name}: only a space has it, and {what} is none: {why}")


def _show_folder(folder: Path) -> None:
    """Of a study, or of what was exported from one."""
    from . import outcomes

    try:
        is_exported, is_study = outcomes.is_exported(folder), (folder / SPACE).is_file()
        what = "" if is_exported or is_study else _what_is_there(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from None
    if what:
        raise UserError(f"{folder}: {what}")
    if is_exported:
        terminal.print_outcomes(outcomes.outcomes(folder), folder)
    elif study_in(folder, None)[1] == CONFIRM:
        from .verdict import read_verdict

        terminal.print_confirmation(read_verdict(folder)[2], {"confirmation": folder})
    else:
        from .results import read_study

        terminal.print_results(read_study(folder), {"study": folder}, live.is_exhausted(folder))


def _what_is_there(folder: Path) -> str:
    """Of a folder that is neither a study's nor a target's: what it is, and what to name instead. Raises OSError."""
    from .outcomes import CONFIG, DENSE, METRICS, exported_in, exported_with

    if place := exported_with(folder):
        return f"part of an exported target, which is shown whole: lpanas show {place}"
    if found := exported_in(folder):
        return f"holds exported targets, and one is shown at a time: lpanas show {', or '.join(map(str, found))}"
    if (folder / CONFIG).is_file():
        return f"holds {CONFIG}, and the dense twin is missing ({DENSE}/{CONFIG} in it), which lpanas export writes"
    what = no_study(folder)
    return (
        f"{what}, but a training in no exported target's folder: see {METRICS} in it" if (folder / METRICS).is_file() else what
    )


def _draw_coordinates(space: Space, page: Path) -> None:
    from ..lpa.coordinates import coordinates
    from ..lpa.data import check_fits
    from ..lpa.guard import DivergedError
    from ..lpa.prepare import open_shards
    from . import preparing
    from .coordinate_figures import coordinates_figure

    proxy, steps = space.proxy, 4
    with preparing.progress() as watch_data:
        shards = open_shards(proxy.data, watch_data)
    check_fits(shards, proxy.data, steps * proxy.batch_tokens, proxy.model)
    try:
        rows = coordinates(proxy, shards, [proxy.model.d_model * 2**power for power in range(4)], steps)
    except DivergedError as error:
        raise UserError(f"--coordinates: {error}; a lower optim.lr may help") from None
    try:
        coordinates_figure(rows).write_html(page)
    except OSError as error:
        raise UserError(f"--coordinates {page}: {error.strerror}") from None
    terminal.console.print(f"coordinates: {page}", markup=False)
