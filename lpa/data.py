"""Token shards -> batches. A batch is a pure function of (seed, step)."""

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from .config import UserError
from .model_config import ModelConfig
from .shards import Shards, n_windows
from .sources import DataConfig

RESIDENT_BYTES = 2**30
"""Of training tokens and their order, that may lie on a GPU (assumption): a proxy run of 20 million takes 40 MB."""


def check_fits(shards: Shards, config: DataConfig, tokens: int, model: ModelConfig) -> None:
    """Raises UserError when a run of `tokens` training tokens cannot be had from the source, or its tokens are more than the
    model has rows for."""
    if model.vocab_size < shards.vocab_size:
        raise UserError(f"model.vocab_size: {model.vocab_size} is less than the data's {shards.vocab_size} different tokens")
    found, epochs, window, name = shards.tokens["train"], config.max_epochs, model.context + 1, config.name
    needed = max(window, 0 if epochs is None else math.ceil(tokens / epochs) + 1)
    if found < needed:
        once = "" if epochs is None or needed == window else f" ({tokens:,} tokens at max_epochs {epochs:g})"
        raise UserError(f"data: too little training text in {name}: {found:,} tokens found, {needed:,} needed{once}")
    if (valid := shards.tokens["valid"]) < window:
        more = "" if valid else "; only several documents, or a text file above 2 MiB, give some"
        raise UserError(f"data: too little validation text in {name}: {valid:,} tokens found, {window:,} needed{more}")


class Batches:
    """Training batches: windows of context + 1 tokens, in an order drawn anew for every epoch from (seed, epoch). part: which
    sequences of each are read, where a process reads its own alone."""

    def __init__(self, tokens: np.ndarray, context: int, batch_size: int, seed: int, part: slice = slice(None)) -> None:
        self.tokens, self.context, self.batch_size, self.seed, self.part = tokens, context, batch_size, seed, part
        self.n_windows = (len(tokens) - 1) // context

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """(inputs, targets) of a step, each (batch, context) int64; a pure function of (seed, step)."""
        return windows(self.tokens, self.read(step) * self.context, self.context)

    def read(self, step: int) -> np.ndarray:
        """(batch,): the numbers of the windows of a step."""
        places = range(step * self.batch_size, (step + 1) * self.batch_size)[self.part]
        return np.array(
            [_order(self.seed, place // self.n_windows, self.n_windows)[place % self.n_windows] for place in places]
        )


class ResidentBatches:
    """The same batches of some steps, cut from the windows that these read, on a device, as is which window a step reads: the
    host neither waits nor draws an order, which cost 0.5 ms a step where 8 runs of a process drew theirs in turn."""

    def __init__(self, batches: Batches, steps: range, device: torch.device) -> None:
        read = np.stack([batches.read(step) for step in steps])  # (steps, batch)
        held, rows = np.unique(read, return_inverse=True)
        cut = sliding_window_view(batches.tokens, batches.context + 1)[:: batches.context]  # no copy
        self.windows, self.first = signed(cut[held]).to(device), steps.start  # (windows, context + 1)
        self.rows = torch.from_numpy(rows.reshape(read.shape).astype(np.int32)).to(device)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """(inputs, targets) of a step, each (batch, context) int64, on the device."""
        block = self.windows[self.rows[step - self.first]].long() & (2 ** (8 * self.windows.element_size()) - 1)
        return block[:, :-1], block[:, 1:]


def near(batches: Batches, steps: range, device: torch.device) -> Batches | ResidentBatches:
    """Batches for a device: on a GPU itself where what the steps read, and which they read, takes at most RESIDENT_BYTES, else
    from the host."""
    read = len(range(batches.batch_size)[batches.part]) * len(steps)
    size = min(read, batches.n_windows) * (batches.context + 1) * batches.tokens.itemsize + 4 * read
    return ResidentBatches(batches, steps, device) if device.type == "cuda" and 0 < size <= RESIDENT_BYTES else batches


def sent(tokens: Tensor, device: torch.device) -> Tensor:
    """On a device, without a wait: from memory that its copies read by themselves."""
    if device.type == "cuda" and tokens.device.type == "cpu":
        tokens = tokens.pin_memory()
    return tokens.to(device, non_blocking=True)


def signed(tokens: np.ndarray) -> Tensor:
    """uint16 or uint32 as int16 or int32 of the same bits: torch indexes no others."""
    return torch.from_numpy(tokens.view(f"i{tokens.itemsize}"))


def valid_batches(tokens: np.ndarray, context: int, limit: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The split's first windows, without overlap, at most `limit` tokens and at least one window."""
    count = n_windows(len(tokens), context, limit)
    for first in range(0, count, batch_size):
        starts = np.arange(first, min(first + batch_size, count)) * context
        yield windows(tokens, starts, context)


def windows(tokens: np.ndarray, starts: np.ndarray, context: int) -> tuple[Tensor, Tensor]:
    """(inputs, targets) of the windows that start there, each (len(starts), context) int64."""
    taken = tokens[starts[:, None] + np.arange(context + 1)].astype(np.int64)  # (batch, context + 1)
    block = torch.from_numpy(taken)
    return block[:, :-1], block[:, 1:]


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, n_windows: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n_windows)
