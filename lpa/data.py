"""Token shards -> batches. A batch is a pure function of (seed, step)."""

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .config import UserError
from .model import ModelConfig
from .shards import Shards, n_windows
from .sources import DataConfig

RESIDENT_SHARE = 0.25
"""Of a GPU's free memory, that the training tokens may take (assumption)."""


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
    sequences of each are read, where a process reads its own alone. tokens: see resident; batches are where they are."""

    def __init__(
        self, tokens: np.ndarray | Tensor, context: int, batch_size: int, seed: int, part: slice = slice(None)
    ) -> None:
        self.tokens, self.context, self.batch_size, self.seed, self.part = tokens, context, batch_size, seed, part
        self.n_windows = (len(tokens) - 1) // context

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """(inputs, targets) of a step, each (batch, context) int64; a pure function of (seed, step)."""
        places = range(step * self.batch_size, (step + 1) * self.batch_size)[self.part]
        order = [_order(self.seed, place // self.n_windows, self.n_windows)[place % self.n_windows] for place in places]
        return windows(self.tokens, np.array(order) * self.context, self.context)


def resident(tokens: np.ndarray, device: torch.device) -> np.ndarray | Tensor:
    """A split's tokens where batches are cut from them: in the memory of a GPU that has room for them, so that no step waits
    for the host; else as they are. As signed numbers of the same bits there: torch indexes no others."""
    if device.type != "cuda" or tokens.nbytes > RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
        return tokens
    return signed(tokens).to(device)


def signed(tokens: np.ndarray) -> Tensor:
    """uint16 or uint32 as int16 or int32 of the same bits."""
    return torch.from_numpy(np.array(tokens).view(f"i{tokens.itemsize}"))


def valid_batches(tokens: np.ndarray, context: int, limit: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The split's first windows, without overlap, at most `limit` tokens and at least one window."""
    count = n_windows(len(tokens), context, limit)
    for first in range(0, count, batch_size):
        starts = np.arange(first, min(first + batch_size, count)) * context
        yield windows(tokens, starts, context)


def windows(tokens: np.ndarray | Tensor, starts: np.ndarray, context: int) -> tuple[Tensor, Tensor]:
    """(inputs, targets) of the windows that start there, each (len(starts), context) int64."""
    if isinstance(tokens, Tensor):
        return cut(tokens, torch.from_numpy(starts).to(tokens.device, non_blocking=True), context)
    taken = tokens[starts[:, None] + np.arange(context + 1)].astype(np.int64)  # (batch, context + 1)
    block = torch.from_numpy(taken)
    return block[:, :-1], block[:, 1:]


def cut(tokens: Tensor, starts: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """The same of signed tokens, on their device. tokens: (n,), starts: (batch,)."""
    places = starts[:, None] + torch.arange(context + 1, device=tokens.device)  # (batch, context + 1)
    block = tokens[places].long() & (2 ** (8 * tokens.element_size()) - 1)
    return block[:, :-1], block[:, 1:]


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, n_windows: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n_windows)
