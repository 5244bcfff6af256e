"""No update after a loss or a gradient that is not a number, and no wait for the device at each step to find that out."""

import math

import torch
from torch import Tensor


class DivergedError(Exception):
    """The loss, or the gradient's norm, is no longer a finite number."""


class Guard:
    """Remembers the first step whose loss or gradient is not finite, and keeps every update from then on from the weights.

    waits: ask the device at once, which costs nothing on a CPU and is its way when left out. Otherwise the optimizer is told on
    the device to leave the weights alone (found_inf of torch's fused AdamW, of whole tensors and of parts), and check, at the
    next log line, says which step it was.

    Many processes each have a guard of their own, which all see the same: a loss and a norm that were reduced over them.
    """

    def __init__(self, device: torch.device, waits: bool | None = None) -> None:
        self.waits = device.type == "cpu" if waits is None else waits
        self.step = torch.full((), -1, dtype=torch.int64, device=device)
        """The first bad one, 1-based; -1 without."""
        self.values = torch.zeros(2, device=device)
        """Its loss, nats, and its gradient's norm."""

    def see(self, loss: Tensor, norm: Tensor, number: int, adamw: torch.optim.AdamW) -> None:
        """Before the update of a step (0-based). loss, norm: (). Raises DivergedError where it waits."""
        if self.waits:
            _check(loss, norm, number + 1)
            return
        is_first = (self.step < 0) & ~(torch.isfinite(loss) & torch.isfinite(norm))
        self.step.copy_(torch.where(is_first, number + 1, self.step))
        self.values.copy_(torch.where(is_first, torch.stack((loss.detach().float(), norm.float())), self.values))
        adamw.found_inf = (self.step >= 0).float()  # pyrefly: ignore[missing-attribute]

    def check(self) -> None:
        """Raises DivergedError when there was a bad step. Waits for the device."""
        if not self.waits and (step := int(self.step.item())) > 0:
            _check(self.values[0], self.values[1], step)


def _check(loss: Tensor, norm: Tensor, step: int) -> None:
    finite(loss.item(), "training loss", step)
    finite(norm.item(), "gradient's norm", step)


def finite(value: float, what: str, step: int) -> float:
    """The value itself. Raises DivergedError."""
    if not math.isfinite(value):
        raise DivergedError(f"the {what} was {value} at step {step}")
    return value
