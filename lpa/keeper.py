"""The checkpoint of a training: a file by a single process, folders by many, and each goes on from either."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from . import checkpoint, checkpoint_folder
from .checkpoint import Reached
from .config import UserError, one_line
from .distributed import ALONE, World
from .model import Decoder
from .model_config import ModelConfig


class Keeper:
    """The checkpoint of a training, in one place; nothing without a path."""

    def __init__(
        self,
        path: Path | None,
        fingerprint: str,
        model: Decoder,
        adamw: torch.optim.AdamW,
        precision: str,
        *,
        spare: bool = False,
        world: World = ALONE,
    ) -> None:
        """path: of the file; folders stand beside it. precision: float32 or bfloat16, of the steps to come. `spare`: the
        training is worth more than its checkpoint: one that cannot be written is left out, and nothing is said of it."""
        self.path, self.fingerprint, self.model, self.adamw = path, fingerprint, model, adamw
        self.precision, self.spare, self.world = precision, spare, world
        is_shared = path is not None and world.size > 1
        self.writer = checkpoint_folder.Writer(path.parent, fingerprint, model, adamw, world) if is_shared else None
        self.saved = 0
        """Steps that the checkpoint has behind it."""

    def load(self) -> Reached:
        """Put what has come furthest into the model and its optimizer, but for a folder that is no longer whole. Raises
        UserError for another config's, and when there are such folders alone."""
        found = self._found()
        if found is None:
            return Reached()
        if found != self.path:
            reached = checkpoint_folder.load(found, self.fingerprint, self.model, self.adamw, self.world)
        elif self.world.size > 1:
            reached = checkpoint_folder.load_file(found, self.fingerprint, self.model, self.adamw)
        else:
            reached = checkpoint.load(found, self.fingerprint, self.model, self.adamw)
        self.saved = reached.step
        if reached.precision not in (None, self.precision):
            self._say(f"{found}: its steps were in {reached.precision}, those from here on are in {self.precision}")
        return reached

    def _found(self) -> Path | None:
        """What all go on from, as the first process sees it."""
        found = None
        with self.world.together():
            if self.path is not None and self.world.is_first:
                checkpoint_folder.forget_drafts(self.path.parent)
                found = newest(self.path, self.fingerprint)
                for folder, lack in checkpoint_folder.furthest(self.path.parent)[1].items():
                    self._say(f"{folder}: {lack}; going on from {found}")
        return self.world.first_says(found)

    def _say(self, text: str) -> None:
        if self.world.is_first and not self.spare:
            print(f"lpanas: {text}", file=sys.stderr, flush=True)

    def save(self, reached: Reached) -> None:
        """Write it, unless it is there; many processes do so while they go on. Raises UserError, but for a spare one."""
        if self.path is None or reached.step == self.saved:
            return
        reached = replace(reached, precision=self.precision)
        with self.writing():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.writer is None:
                checkpoint.save(self.path, self.fingerprint, reached, self.model, self.adamw)
                self.saved = reached.step
            else:
                self.writer.finish()
        if self.writer is not None:  # what was begun before is whole everywhere
            self.writer.begin(reached)
            self.saved = reached.step

    def finish(self) -> None:
        """Wait for what is being written. Raises UserError, but for a spare one."""
        with self.writing():
            if self.writer is not None:
                self.writer.finish()

    @contextmanager
    def writing(self) -> Generator[None]:
        """What one process cannot write in this block is everybody's mistake, which says what there is to go on from; but for a
        spare training. All processes come here."""
        with self.world.together():
            try:
                yield
            except OSError as error:
                if not self.spare:
                    raise UserError(f"{self._reason(error)}; {self._kept()}") from None

    def _reason(self, error: OSError) -> str:
        assert self.path is not None
        told = error.strerror is None  # one of our own
        return one_line(error, 500) if told else f"{error.filename or self.path.parent}: cannot be written: {error.strerror}"

    def _kept(self) -> str:
        assert self.path is not None
        kept = newest(self.path)
        return f"{kept} is whole, and the same command goes on from it" if kept else "there is no checkpoint before it"


def newest(path: Path, fingerprint: str | None = None) -> Path | None:
    """The file at `path` or the whole folder beside it, whichever has come further. Raises UserError for another config's file,
    where a fingerprint is given, and when there is nothing but folders that are not whole."""
    there, damaged = checkpoint_folder.furthest(path.parent)
    if not path.exists():
        if there is None and damaged:
            folder, *others = damaged
            them = " and ".join(["it", *map(str, others)])
            raise UserError(f"{folder}: not a checkpoint that can be read: {damaged[folder]}; remove {them} to begin anew")
        return there
    if there is None:
        return path
    return path if checkpoint.reached(path, fingerprint).step >= checkpoint_folder.step_of(there) else there


def reached(path: Path, fingerprint: str) -> Reached:
    """How far the checkpoint has come. Raises UserError when it is another config's, or on other data."""
    found = newest(path, fingerprint)
    if found is None:
        return Reached()
    return (checkpoint if found == path else checkpoint_folder).reached(found, fingerprint)


def is_of(path: Path, fingerprint: str) -> bool:
    """Whether a file or a folder that can be read is of a config and data."""
    try:
        (checkpoint_folder if checkpoint_folder.is_one(path) else checkpoint).reached(path, fingerprint)
    except UserError:
        return False
    return True


def weights(path: Path, config: ModelConfig) -> dict[str, Tensor]:
    """The model's state in a file or a folder, on the CPU. Raises UserError."""
    return checkpoint_folder.weights(path, config) if checkpoint_folder.is_one(path) else checkpoint.weights(path)
