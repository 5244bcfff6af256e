"""What `train` does, in one process or in each of many that torchrun has started."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing, nullcontext
from itertools import islice
from pathlib import Path

from ..lpa import train as training
from ..lpa.checkpoint_folder import FOLDERS, place_of
from ..lpa.config import UserError
from ..lpa.data import check_fits
from ..lpa.distributed import SharedMistakeError, World, joined
from ..lpa.guard import DivergedError
from ..lpa.kernels import resolved
from ..lpa.logs import Logs
from ..lpa.metrics import METRICS
from ..lpa.prepare import open_shards
from ..lpa.shards import Shards
from ..lpa.sources import unwatched
from ..lpa.train_config import TrainConfig
from . import folder, preparing, terminal
from .export import CONFIG
from .interrupt import Interrupt
from .presets import load_config

STOPPING = "stopping at the end of this step"


def train(config: Path, out: Path | None, steps: int | None, settings: Sequence[str], logs: Logs) -> int:
    """Train by a config's file, `steps` more steps or all that are left; the exit code. Raises UserError."""
    with joined() as world:
        if ended := world.ended():  # and torchrun has started it again
            return _end(*ended, world)
        try:
            return _train(config, out or config.parent / "train", steps, settings, logs, world)
        except UserError as mistake:
            if world.size > 1 and not isinstance(mistake, SharedMistakeError):
                raise
            return _end(str(mistake), 2, world)
        except DivergedError as error:
            return _end(f"training diverged: {error}; a lower optim.lr may help", 1, world)


def _train(path: Path, out: Path, steps: int | None, settings: Sequence[str], logs: Logs, world: World) -> int:
    with world.together():
        logs.check()
        if path.is_dir():
            raise UserError(f"{path}: a folder; expected a training's config, {_configs(path)}")
        config = load_config(path, settings)
        device = config.resolve_device()
        world.check(config.batch_size, config.microbatch, device)
        config.check_graph(device, world.size)
    with world.together():
        shards = world.first_then_others(lambda: _shards(config, world))
    with world.together():
        check_fits(shards, config.data, config.steps * config.batch_tokens, config.model)
        place = folder.check_folder(out, METRICS, training.CHECKPOINT, FOLDERS)
        done = training.reached(place, config, shards).step if world.is_first else 0
    if world.is_first:
        _tell_epochs(config.tokens / shards.tokens["train"])
    with ExitStack() as stack:
        with world.together():
            if world.is_first:
                stack.enter_context(folder.held(place))
        world.check_shared(place)
        interrupt = stack.enter_context(Interrupt(_stopping(world), insist=world.size == 1))
        heard = 0
        if world.is_first and done < config.steps:
            _tell_compiling(config)
        whole = stack.enter_context(closing(training.train(config, shards, place, world=world, logs=logs)))
        for progress in islice(whole, steps):
            done = progress.step
            if world.is_first:
                terminal.print_progress(progress, config.steps)
            if heard := world.largest(interrupt.signal):  # all end at the same step
                break
    if world.is_first:
        kept = place_of(place, done) if world.size > 1 else place / training.CHECKPOINT
        terminal.console.print(f"{done:,} of {config.steps:,} steps done: {kept}", markup=False)
    return 128 + heard if heard else 0


def _configs(path: Path) -> str:
    """Those in a folder."""
    found = [one for one in (path / CONFIG, *sorted(path.glob(f"*/{CONFIG}"))) if one.is_file()]
    return f"such as {found[0]}" if found else f"a file such as {CONFIG}"


def _stopping(world: World) -> str:
    """What is said at a signal. A process of many may hear of one twice, from torchrun and from whoever started that; torchrun
    ends by force what still runs after 30 s."""
    return f"{STOPPING}; once more: at once, without a checkpoint" if world.size == 1 else STOPPING if world.is_first else ""


def _shards(config: TrainConfig, world: World) -> Shards:
    with preparing.progress() if world.is_first else nullcontext(unwatched) as watch_data:
        return open_shards(config.data, watch_data)


def _tell_compiling(config: TrainConfig) -> None:
    name = resolved(config.kernels, config.resolve_device())
    if name != "plain":
        terminal.console.print(f"compiling kernels ({name}), in the first step and evaluation", markup=False)


def _tell_epochs(epochs: float) -> None:
    if epochs > 1.5:
        print(f"lpanas: the text is read {epochs:.1f} times; data of your own would be better", file=sys.stderr)


def _end(text: str, code: int, world: World) -> int:
    """Say it once; no process ends before it is said, as torchrun ends the others then. Those that it starts again end so, too,
    as nothing tells it to start none."""
    world.end(text, code)
    if world.is_first:
        print(f"lpanas: {text}", file=sys.stderr, flush=True)
    world.wait()
    return code
