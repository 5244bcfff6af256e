"""Save and resume: the whole state of a training, in one file that is either the old one or the new one."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from .config import UserError, one_line
from .model import Decoder

REMEDY = "remove it, and lpanas train goes on from the one before, or begins anew"
"""For a checkpoint that is damaged."""

Curve = tuple[tuple[int, float], ...]
"""(tokens, validation loss_nats) at every evaluation."""


@dataclass(frozen=True)
class Reached:
    """How far a training has come, besides its weights and moments."""

    step: int = 0
    """Steps done."""
    curve: Curve = ()
    pending: Sequence[Tensor] = ()
    """The losses not yet logged."""
    precision: str | None = None
    """float32 or bfloat16, of the last steps; None where it is not known."""
    seconds: float = 0.0
    """That these steps took, over all calls."""


def save(path: Path, fingerprint: str, reached: Reached, model: Decoder, adamw: torch.optim.AdamW) -> None:
    """Write weights, optimizer state and how far the training has come; the file is replaced whole. Raises OSError and
    leaves the old one when it cannot be written.

    `fingerprint` says what the state belongs to; load refuses another one.
    """
    state = {"fingerprint": fingerprint, "step": reached.step, "curve": reached.curve, "pending": list(reached.pending)}
    state |= {"precision": reached.precision, "seconds": reached.seconds}
    state |= {"model": model.state_dict(), "optimizer": adamw.state_dict()}
    draft = path.with_suffix(".draft")
    try:
        with open(draft, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except (OSError, RuntimeError) as error:  # torch's writer, when the disk is full
        with suppress(OSError):
            draft.unlink()
        why = error.__context__ if isinstance(error.__context__, OSError) else error
        raise OSError(f"{path}: cannot be written: {one_line(why)}") from error


def load(path: Path, fingerprint: str, model: Decoder, adamw: torch.optim.AdamW) -> Reached:
    """Put a saved state into a model and its optimizer; how far it has come. Raises UserError for another config's."""
    state = read(path, fingerprint, next(model.parameters()).device)
    model.load_state_dict(state["model"])
    adamw.load_state_dict(state["optimizer"])
    return reached_by(state)


def reached(path: Path, fingerprint: str | None) -> Reached:
    """How far a saved state has come. fingerprint: None for any. Raises UserError for another config's."""
    return reached_by(read(path, fingerprint, torch.device("meta")))


def weights(path: Path) -> dict[str, Tensor]:
    """The model's state in a checkpoint of any config, on the CPU. Raises UserError."""
    return read(path, None, torch.device("cpu"))["model"]


def reached_by(state: dict[str, Any]) -> Reached:
    """How far a file's state has come."""
    return Reached(state["step"], state["curve"], state["pending"], state.get("precision"), state.get("seconds", 0.0))


def read(path: Path, fingerprint: str | None, device: torch.device, *, mmap: bool = False) -> dict[str, Any]:
    """All that a file holds. fingerprint: None for any. mmap: a tensor is read when it is used. Raises UserError when it cannot
    be read, or is another config's."""
    state = None
    try:
        state = torch.load(path, map_location=device, weights_only=True, mmap=mmap)
    except OSError as error:
        raise UserError(f"{path}: not a checkpoint that can be read: {error.strerror or one_line(error)}") from None
    except (RuntimeError, EOFError, KeyError, UnpicklingError):  # what they say is for who writes programs
        pass
    if not isinstance(state, dict) or "fingerprint" not in state:
        raise UserError(f"{path}: not a checkpoint that can be read: damaged, or another program's; {REMEDY}")
    if fingerprint is not None:
        check_fingerprint(path, state["fingerprint"], fingerprint)
    return state


def check_fingerprint(path: Path, found: object, expected: str) -> None:
    """Raises UserError for another config's."""
    if found != expected:
        raise UserError(f"{path}: a checkpoint of another config or of other data; give another --out or remove it")
