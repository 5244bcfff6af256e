"""Save and resume by many processes: a folder to which each writes its part, there whole or not at all, and which any number
of processes reads (torch.distributed.checkpoint)."""

import json
import logging
import os
import shutil
import warnings
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoint import REMEDY, Reached, check_fingerprint, reached_by, read
from .config import UserError, one_line
from .distributed import ALONE, World
from .files import replace_text
from .model import Decoder
from .model_config import ModelConfig
from .parts import put

KEPT = 2
"""Folders; the older ones go."""
FOLDERS = "checkpoint-" + 9 * "[0-9]"
"""Their names, by the step; a draft's is longer."""
REACHED, METADATA = "reached.json", ".metadata"
"""How far the training has come; what lies where in the other files (torch's)."""


def folders(out: Path) -> list[Path]:
    """By their names, the one that has come furthest last."""
    return sorted(out.glob(FOLDERS))


def is_one(path: Path) -> bool:
    """Whether a path is such a folder by its name, which it was given when it was whole."""
    return fnmatchcase(path.name, FOLDERS)


def furthest(out: Path) -> tuple[Path | None, dict[Path, str]]:
    """The folder that has come furthest of those that still are whole, and what each beyond it lacks, the last one first."""
    lacks: dict[Path, str] = {}
    for folder in reversed(folders(out)):
        what = lack(folder)
        if what is None:
            return folder, lacks
        lacks[folder] = what
    return None, lacks


def lack(folder: Path) -> str | None:
    """What a folder no longer holds of what was written to it, by the sizes of its files; None: it is whole."""
    from torch.distributed.checkpoint import FileSystemReader  # a second that a training without folders saves

    try:
        _read(folder)
    except ValueError as error:
        return str(error)
    needed: dict[str, int] = {}
    try:
        for part in FileSystemReader(folder).read_metadata().storage_data.values():
            needed[part.relative_path] = max(needed.get(part.relative_path, 0), part.offset + part.length)
    except Exception as error:  # pickle raises whatever the bytes make of it
        return f"{METADATA} cannot be read: {one_line(error)}"
    for name, size in sorted(needed.items()):
        file = folder / name
        if not file.exists():
            return f"{name} is missing"
        if (found := file.stat().st_size) < size:
            return f"{name} has {found:,} bytes of {size:,}"
    return None


def place_of(out: Path, step: int) -> Path:
    """Where the folder of a step stands."""
    return out / f"checkpoint-{step:09}"


def step_of(folder: Path) -> int:
    """Steps that a folder has behind it."""
    return int(folder.name.rpartition("-")[2])


def forget_drafts(out: Path) -> None:
    """Remove what processes that were killed have left half written."""
    for draft in out.glob("checkpoint-*.draft"):
        shutil.rmtree(draft, ignore_errors=True)


def reached(folder: Path, fingerprint: str) -> Reached:
    """How far a folder has come. Raises UserError when it is another config's or cannot be read."""
    try:
        found, its = _read(folder)
    except ValueError as error:
        raise UserError(f"{folder}: not a checkpoint that can be read: {error}") from None
    check_fingerprint(folder, its, fingerprint)
    return found


def _read(folder: Path) -> tuple[Reached, object]:
    """How far a folder has come, and its fingerprint. Raises ValueError."""
    try:
        row = json.loads((folder / REACHED).read_text(encoding="utf-8"))
        curve = tuple((int(tokens), float(loss)) for tokens, loss in row["curve"])
        pending = [torch.tensor(loss) for loss in row["pending"]]
        found = Reached(row["step"], curve, pending, row.get("precision"), float(row.get("seconds", 0)))
        return found, row.get("fingerprint")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{REACHED} cannot be read: {one_line(error)}") from None


def load(folder: Path, fingerprint: str, model: Decoder, adamw: torch.optim.AdamW, world: World) -> Reached:
    """Put a folder's state into a model and its optimizer, whatever the number of processes that wrote it. Raises UserError."""
    with world.together():
        found = reached(folder, fingerprint)
    _fill(tensors(model, adamw), folder, world)
    return _on_device(found, model)


def weights(folder: Path, config: ModelConfig) -> dict[str, Tensor]:
    """The model's state in a folder, on the CPU. Raises UserError."""
    with torch.device("meta"):
        shapes = dict(Decoder(config).named_parameters())
    into = {f"model.{name}": torch.empty(shape.shape) for name, shape in shapes.items()}
    _fill(into, folder, ALONE)
    state = {name.removeprefix("model."): value for name, value in into.items()}
    return state | ({"head.weight": state["embedding.weight"]} if config.tie_embeddings else {})


def _fill(state: dict[str, Tensor], folder: Path, world: World) -> None:
    import torch.distributed.checkpoint as dcp

    alone = world.size == 1
    try:
        with warnings.catch_warnings(), _quiet():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as it should be
            dcp.load(state, checkpoint_id=folder, process_group=world.storage, no_dist=alone)
    except (dcp.api.CheckpointException, OSError, RuntimeError, ValueError, EOFError) as error:
        why = lack(folder) or one_line(_reason(error)).partition(". ")[0]  # after which torch advises programmers
        raise UserError(f"{folder}: not a checkpoint that can be read: {why}; {REMEDY}") from None


@contextmanager
def _quiet() -> Generator[None]:
    """No log: torch's tells a file that it cannot read with its traceback, on standard error."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(before)


def _reason(error: BaseException) -> BaseException:
    """What one process met with, of the error that all of them have."""
    return next((reason for reason, _ in getattr(error, "failures", {}).values()), error)


def load_file(path: Path, fingerprint: str, model: Decoder, adamw: torch.optim.AdamW) -> Reached:
    """Put the file of a single process into a model in shards and its optimizer. Raises UserError."""
    state = read(path, fingerprint, torch.device("cpu"), mmap=True)
    names = {parameter: name for name, parameter in model.named_parameters()}
    into = tensors(model, adamw)
    parameters = [parameter for group in adamw.param_groups for parameter in group["params"]]
    for number, parameter in enumerate(parameters):
        name = names[parameter]
        put(into[f"model.{name}"], state["model"][name])
        for key, value in state["optimizer"]["state"][number].items():
            put(into[f"{key}.{name}"], value)
    return _on_device(reached_by(state), model)


def tensors(model: Decoder, adamw: torch.optim.AdamW) -> dict[str, Tensor]:
    """Every weight and every moment by name; moments are made where there has been no step yet."""
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        moments = adamw.state[parameter]
        if not moments:
            moments["step"] = torch.zeros((), device=parameter.device)
            moments |= {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
        found[f"model.{name}"] = parameter.detach()
        found |= {f"{key}.{name}": value for key, value in moments.items()}
    return found


class Writer:
    """Writes folders while the training goes on, one at a time."""

    def __init__(self, out: Path, fingerprint: str, model: Decoder, adamw: torch.optim.AdamW, world: World) -> None:
        self.out, self.fingerprint, self.model, self.adamw, self.world = out, fingerprint, model, adamw, world
        self.thread = ThreadPoolExecutor(1)
        self.pending: Future[None] | None = None

    def begin(self, reached: Reached) -> None:
        """Copy the state and let it be written; all processes call this. The one before must have been finished."""
        import torch.distributed.checkpoint as dcp

        draft = place_of(self.out, reached.step).with_suffix(".draft")
        state = tensors(self.model, self.adamw)
        written = dcp.async_save(state, checkpoint_id=draft, process_group=self.world.storage)
        assert isinstance(written, Future)
        row = {"fingerprint": self.fingerprint, "step": reached.step, "curve": reached.curve}
        row |= {
            "pending": [loss.item() for loss in reached.pending],
            "precision": reached.precision,
            "seconds": reached.seconds,
        }
        self.pending = self.thread.submit(self._end, written, draft, json.dumps(row))

    def finish(self) -> None:
        """Wait for the one that is being written. Raises OSError when it could not be."""
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.result()

    def _end(self, written: Future[Any], draft: Path, row: str) -> None:
        """All have written their parts: the first process makes the draft the checkpoint."""
        from torch.distributed.checkpoint.api import CheckpointException

        try:
            written.result()
            if self.world.is_first:
                self._rename(draft, row)
        except CheckpointException as error:  # not an Exception; all have ended, and all have it
            self._forget(draft)
            raise OSError(f"{draft.with_suffix('')}: cannot be written: {one_line(_reason(error))}") from None
        except OSError as error:
            self._forget(draft)
            raise OSError(f"{draft.with_suffix('')}: cannot be written: {one_line(error)}") from None

    def _rename(self, draft: Path, row: str) -> None:
        replace_text(draft / REACHED, row)
        folder = draft.with_suffix("")
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
        _sync(self.out)
        before = [one for one in folders(self.out) if step_of(one) <= step_of(folder)]  # beyond it are damaged ones
        for old in before[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def _forget(self, draft: Path) -> None:
        if self.world.is_first:
            shutil.rmtree(draft, ignore_errors=True)


def _sync(folder: Path) -> None:
    """So that a rename outlives a crash of the machine."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _on_device(found: Reached, model: nn.Module) -> Reached:
    device = next(model.parameters()).device
    return replace(found, pending=[loss.to(device) for loss in found.pending])
