"""Save and resume: the whole state of a training, in one file that is either the old one or the new one."""

import os
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from .config import UserError
from .model import Decoder


def save(
    path: Path, fingerprint: str, step: int, model: Decoder, adamw: torch.optim.AdamW, pending: Sequence[Tensor] = ()
) -> None:
    """Write weights, optimizer state, the number of steps done and the losses not yet logged; the file is replaced whole.

    `fingerprint` says what the state belongs to; load refuses another one.
    """
    state = {"fingerprint": fingerprint, "step": step, "pending": list(pending)}
    state |= {"model": model.state_dict(), "optimizer": adamw.state_dict()}
    draft = path.with_suffix(".draft")
    with open(draft, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def load(path: Path, fingerprint: str, model: Decoder, adamw: torch.optim.AdamW) -> tuple[int, list[Tensor]]:
    """Put a saved state into a model and its optimizer; the steps done and the losses not yet logged. Raises UserError for
    another config's."""
    state = _read(path, fingerprint, next(model.parameters()).device)
    model.load_state_dict(state["model"])
    adamw.load_state_dict(state["optimizer"])
    return int(state["step"]), list(state["pending"])


def steps(path: Path, fingerprint: str) -> int:
    """The steps that a saved state has behind it. Raises UserError for another config's."""
    return int(_read(path, fingerprint, torch.device("meta"))["step"])


def _read(path: Path, fingerprint: str, device: torch.device) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, OSError, KeyError, UnpicklingError) as error:
        raise UserError(f"{path}: not a checkpoint that can be read: {' '.join(str(error).split())[:120]}") from None
    if not isinstance(state, dict) or "fingerprint" not in state:
        raise UserError(f"{path}: not a checkpoint that can be read: it holds something else")
    if state["fingerprint"] != fingerprint:
        raise UserError(f"{path}: a checkpoint of another config or of other data; give another --out or remove it")
    return state
