"""The command line: search, report, watch, confirm, export, train, show, prepare."""

import errno
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, nullcontext, suppress
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from ..lpa.config import UserError, one_line

if TYPE_CHECKING:
    from .calls import Begin, Where
    from .dashboard import Copy
    from .watch import View

T = TypeVar("T")

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Where does low rank belong in a Transformer?",
)


def _folder(word: str) -> Path:
    if not word:
        raise typer.BadParameter("expected a folder, found an empty name")
    return Path(word)


def _count(word: str) -> int:
    if not word.isdecimal() or not int(word):
        raise typer.BadParameter(f"expected a whole number above 0, found {word}")
    return int(word)


Directory = Annotated[Path, typer.Argument(parser=_folder, metavar="DIR", help="A study's folder.")]
Out = Annotated[Path | None, typer.Option(parser=_folder, metavar="DIR", help="Folder of results.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key, e.g. seed=1.")]
Tokens = Annotated[str | None, typer.Option(help="Training tokens of all runs together, e.g. 2e9.")]
Minutes = Annotated[float | None, typer.Option(help="No new run starts after this long.")]
Workers = Annotated[int | None, typer.Option(parser=_count, metavar="INTEGER", help="Runs at a time.")]
Executors = Annotated[
    Literal["local", "ray"], typer.Option(help="Here, or on the Ray cluster at RAY_ADDRESS (without: a Ray of its own).")
]
Storage = Annotated[str | None, typer.Option(help="An Optuna storage URL instead of the folder's study.db.")]


@app.command()
def search(
    space: Annotated[str, typer.Argument(metavar="SPACE", help="A preset's name or a YAML file.")],
    out: Out = None,
    trials: Annotated[int | None, typer.Option(help="Candidates to train, the four arms included.")] = None,
    tokens: Tokens = None,
    minutes: Minutes = None,
    workers: Workers = None,
    executor: Executors = "local",
    storage: Storage = None,
    settings: Settings = None,
) -> None:
    """Search a space; the same command goes on where it stopped. Results go to runs/NAME or to --out."""
    budget = {"trials": trials, "tokens": tokens, "minutes": minutes, "workers": workers}
    flags = [f"search.{name}={value}" for name, value in budget.items() if value is not None]

    def drive(begin: "Begin") -> bool:
        from . import calls

        return calls.search(space, out, executor, begin, storage, [*(settings or []), *flags])

    if not _driving(executor, drive):
        raise typer.Exit(1)


@app.command()
def confirm(
    directory: Directory,
    out: Annotated[Path | None, typer.Option(parser=_folder, metavar="DIR", help="Instead of DIR/confirm.")] = None,
    tokens: Tokens = None,
    minutes: Minutes = None,
    workers: Workers = None,
    executor: Executors = "local",
    storage: Storage = None,
    settings: Settings = None,
) -> None:
    """Test the placement claim of a study: the arms at equal cost, with seeds of their own; the same command goes on where it
    stopped. Results go to DIR/confirm."""
    budget = {"confirm.tokens": tokens, "confirm.minutes": minutes, "search.workers": workers}
    flags = [f"{name}={value}" for name, value in budget.items() if value is not None]

    def drive(begin: "Begin") -> None:
        from . import calls

        calls.confirm(directory, out, executor, begin, storage, [*(settings or []), *flags])

    _driving(executor, drive)


def _driving(where: "Where", drive: "Callable[[Begin], T]") -> "T":
    """Drive runs: interrupted or with a storage that fails it ends in a line, and the same command goes on from there."""
    from . import nursery

    os.environ.setdefault(
        "OPENBLAS_NUM_THREADS", "1"
    )  # numpy's threads would wait for cores that train: 120 ms a proposal for 77
    try:
        # it imports what local workers need while the driver imports its own
        with nursery.running() if where == "local" else nullcontext():
            from . import calls

            return drive(calls.executors(where, lambda line: _say(line, 0)))
    except KeyboardInterrupt:
        raise typer.Exit(_say("stopped; the same command goes on from here", 130)) from None
    except Exception as error:
        if not _is_of_storage(error):
            raise
        cause = error.__cause__ or error
        what = one_line(getattr(cause, "orig", None) or cause)  # without the SQL
        raise typer.Exit(_say(f"nothing can be written down: {what}; the same command goes on from here", 1)) from None


def _is_of_storage(error: Exception) -> bool:
    """Whether it tells of a disk that is full or fails, or of a server that is gone."""
    from optuna.exceptions import StorageInternalError

    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
    return isinstance(error, StorageInternalError) or (isinstance(error, OSError) and error.errno in full)


@app.command()
def report(
    directories: Annotated[list[Path], typer.Argument(parser=_folder, metavar="DIR...", help="Studies' folders.")],
    figures: Annotated[
        str | None, typer.Option(metavar="FORMATS", help="Its figures as files, too: svg,png,pdf, and csv for the rows alone.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Write the page anew while the study runs.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Page of several, instead of compare.html here.")] = None,
    storage: Storage = None,
) -> None:
    """Make the tables and the page of a search or of a confirmation anew from its storage; of several searches, a page that
    holds them side by side."""
    from . import figure_files, reporting

    formats = figure_files.read_formats(figures) if figures is not None else ()
    reporting.check(directories, out, formats, watch)
    if len(directories) > 1:
        reporting.compare(directories, storage, out or reporting.COMPARED)
    elif watch:
        reporting.follow(directories[0], storage, formats)
    else:
        reporting.report(directories[0], storage, formats)


@app.command()
def watch(
    directory: Directory,
    storage: Storage = None,
    terminal_only: Annotated[bool, typer.Option("--terminal", help="Without optuna-dashboard.")] = False,
    host: Annotated[str, typer.Option(help="Where optuna-dashboard is served.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="The first free one from 8080 on when left out.")] = None,
) -> None:
    """Look at a search or a confirmation that runs elsewhere: here, and at a search in optuna-dashboard, too, where that is
    installed. Ctrl-C ends the looking."""
    from . import screen, watch
    from .terminal import console

    if terminal_only and port is not None:
        raise UserError("--port: with --terminal nothing is served")
    with suppress(KeyboardInterrupt), ExitStack() as opened:
        looking = watch.views(directory, storage)
        first, copy = next(looking), None
        if not terminal_only and (port is not None or console.is_terminal):
            copy = _dashboard(first, port)
        if copy is not None:
            from .dashboard import served

            console.print(f"optuna-dashboard: {opened.enter_context(served(copy, host, port))}", markup=False)
        screen.show_views(chain([first], looking), copy)


def _dashboard(first: "View", port: int | None) -> "Copy | None":
    """A copy of the study for optuna-dashboard, where that is installed. Raises UserError when there is none, and it was asked
    for."""
    from .results import Results

    if first.found is None:
        if port is not None:
            raise UserError(f"--port {port}: its driver is still measuring, and there is no study to be shown yet")
        return None
    if not isinstance(first.found, Results):
        if port is not None:
            raise UserError(f"--port {port}: only a search is shown in optuna-dashboard, and this is a confirmation")
        return None
    try:
        from .dashboard import Copy
    except ModuleNotFoundError as error:
        if error.name != "optuna_dashboard":
            raise
        line = "optuna-dashboard is not installed: pip install 'lpanas[dashboard]'"
        if port is not None:
            raise UserError(f"--port {port}: {line}") from None
        _say(line, 0)
        return None
    return Copy(first.found)


@app.command()
def export(
    directory: Annotated[
        Path | None, typer.Argument(parser=_folder, metavar="[DIR]", help="A study's folder; none with --checkpoint.")
    ] = None,
    target: Annotated[str | None, typer.Option(metavar="SHAPE", help="A named shape instead of the space's target.")] = None,
    pick: Annotated[
        list[str] | None, typer.Option(metavar="knee|loss|cost|TRIAL", help="knee when left out; several, too: knee,loss.")
    ] = None,
    mfu: Annotated[float | None, typer.Option(help="Share of the peak that times are foretold with; 0.4 is assumed.")] = None,
    peak_tflops: Annotated[float | None, typer.Option(help="A GPU's peak; 989 is assumed, an H100 SXM in bfloat16.")] = None,
    storage: Storage = None,
    to: Annotated[
        str,
        typer.Option(
            metavar="FORMS",
            help="native: train.yaml. hf: a Hugging Face folder, too; llamafactory, axolotl: what trains that. "
            "torchtitan: a package for it, too.",
        ),
    ] = "native",
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE|DIR", help="What `lpanas train` has trained, instead of a study's winner.")
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="With --checkpoint: factors multiplied to dense matrices.")] = False,
    out: Annotated[Path | None, typer.Option(parser=_folder, metavar="DIR", help="With --checkpoint: its folder.")] = None,
) -> None:
    """Write the full-scale training config of a study's winner, or of other runs, with its dense twin, what decided it and what
    it would take; or what was trained as a Hugging Face folder."""
    from . import exporting, hf_export, terminal

    forms = hf_export.read_forms(to)
    native = {"--pick": pick, "--mfu": mfu, "--peak-tflops": peak_tflops}
    of_study, of_saved = {"--target": target, "--storage": storage, **native}, {"--merge": merge, "--out": out}
    hf_export.check_words(directory, checkpoint, forms, of_study, of_saved)
    if checkpoint is not None:
        terminal.console.print(str(hf_export.export_checkpoint(checkpoint, out, merge, _hint)), markup=False)
        return
    assert directory is not None
    assumed = exporting.assumed(mfu, peak_tflops)
    exporting.export(directory, storage, pick or ["knee"], target, assumed, forms, _hint)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A train.yaml.")],
    out: Out = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Stop after this many more steps, to go on later.")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="The metrics as TensorBoard's event files, too.")] = False,
    wandb: Annotated[str | None, typer.Option(metavar="PROJECT", help="And as a run of Weights & Biases.")] = None,
    settings: Settings = None,
) -> None:
    """Train a model; the same command goes on where it stopped. Results go to `train` beside CONFIG or to --out."""
    from ..lpa.logs import Logs
    from . import training

    code = training.train(config, out, steps, settings or [], Logs(tensorboard, wandb))
    if code:
        raise typer.Exit(code)


@app.command()
def show(
    what: Annotated[str, typer.Argument(metavar="SPACE|CONFIG|DIR")],
    coordinates: Annotated[
        Path | None,
        typer.Option(metavar="PAGE", help="Draw the scale of a space's activations at four widths."),
    ] = None,
    step_times: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Measure a step of the space's target here, for target.step_times.")
    ] = None,
    settings: Settings = None,
) -> None:
    """Say what a space or a config would run and cost, or what a study has found."""
    from . import showing

    showing.show(what, coordinates, step_times, settings or [])


@app.command()
def prepare(
    source: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Files, folders, globs; or stdlib; or hf:NAME.")],
    out: Annotated[Path, typer.Option(parser=_folder, metavar="DIR", help="Folder of the token shards.")],
    tokenizer: Annotated[str, typer.Option(metavar="bytes|bpe|FILE", help="FILE: a tokenizer.json.")] = "bytes",
    vocab_size: Annotated[int | None, typer.Option(help="Tokens of a bpe.")] = None,
    text_field: Annotated[str, typer.Option(help="Field or column that holds a document.")] = "text",
    end_of_text: Annotated[str | None, typer.Option(help="Token of a tokenizer.json that ends a document.")] = None,
) -> None:
    """Make token shards of text, once for many searches; interrupted, it leaves nothing behind."""
    from ..lpa.prepare import prepare as write_shards  # nothing on this way imports torch
    from . import preparing

    config = preparing.config(source, tokenizer, vocab_size, text_field, end_of_text)
    try:
        with preparing.progress() as watch_data:
            shards = write_shards(config, out, watch_data)
    except KeyboardInterrupt:
        raise typer.Exit(_say("stopped; nothing was left behind", 130)) from None
    preparing.print_shards(shards)


def main() -> None:
    """The entry point: a mistake by the user is one line on stderr and exit code 2."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _as_interrupt)
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        code = _say(str(error), 2)
    except typer.TyperException as error:
        code = _say(" ".join(error.format_message().split()), 2)  # nothing to say after the help
    except (KeyboardInterrupt, typer.Abort):
        code = _say("stopped", 130)
    except BrokenPipeError:
        code = 1
    sys.exit(code)


def _say(text: str, code: int) -> int:
    if text:
        print(f"lpanas: {text}", file=sys.stderr)
    return code


def _hint(line: str) -> None:
    _say(line, 0)


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
