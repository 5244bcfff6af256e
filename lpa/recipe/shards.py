"""Token shards of `lpanas prepare` for torchtitan: the windows that `lpanas train` reads, in the same order."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.checkpoint.stateful import Stateful
from torch.utils.data import IterableDataset
from torchtitan.components.dataloader import ParallelAwareDataloader
from torchtitan.components.tokenizer import BaseTokenizer

Sample = tuple[dict[str, Tensor], Tensor]


class Windows(IterableDataset[Sample], Stateful):
    """A process's share of the training windows, without end, each epoch in an order of its own.

    A batch is the same as in `lpanas train` however many processes share it; which of them has which sequence is not.
    """

    def __init__(self, folder: Path, vocab_size: int, context: int, seed: int, rank: int, world: int) -> None:
        meta = _meta(folder, vocab_size)
        self.tokens = np.memmap(folder / "train.bin", dtype=meta["dtype"], mode="r")
        self.context, self.seed, self.rank, self.world = context, seed, rank, world
        self.n_windows = (len(self.tokens) - 1) // context
        if self.n_windows < 1:
            raise ValueError(f"{folder}: too little training text: {len(self.tokens):,} tokens found, {context + 1:,} needed")
        self.done = 0

    def __iter__(self) -> Iterator[Sample]:
        while True:
            epoch, place = divmod(self.done * self.world + self.rank, self.n_windows)
            self.done += 1
            yield self._sample(int(_order(self.seed, epoch, self.n_windows)[place]) * self.context)

    def _sample(self, first: int) -> Sample:
        window = torch.from_numpy(self.tokens[first : first + self.context + 1].astype(np.int64))
        # a position of 0 starts a document for torchtitan, and attention does not reach behind it: here, no more than a window
        return {"input": window[:-1], "positions": torch.arange(self.context)}, window[1:]

    def state_dict(self) -> dict[str, Any]:
        """How many windows it has given."""
        return {"done": self.done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after as many."""
        self.done = state_dict["done"]


class ShardLoader(ParallelAwareDataloader):
    """Batches of Windows."""

    @dataclass(kw_only=True, slots=True)
    class Config(ParallelAwareDataloader.Config):
        """dataset_path: a folder with meta.json and train.bin."""

        vocab_size: int = 0
        """Rows of the model's embedding."""
        seed: int = 0
        """Of the order of the windows."""

    def __init__(
        self,
        config: Config,
        *,
        dp_world_size: int,
        dp_rank: int,
        seq_len: int,
        local_batch_size: int,
        snapshot_every_n_steps: int | None = 1,
        **_: object,
    ) -> None:
        folder = Path(config.dataset_path or ".").expanduser()
        super().__init__(
            Windows(folder, config.vocab_size, seq_len, config.seed, dp_rank, dp_world_size),
            dp_rank=dp_rank,
            dp_world_size=dp_world_size,
            batch_size=local_batch_size,
            num_workers=config.num_workers,
            persistent_workers=config.persistent_workers,
            pin_memory=config.pin_memory,
            prefetch_factor=config.prefetch_factor,
            snapshot_every_n_steps=snapshot_every_n_steps,
        )


class NoTokenizer(BaseTokenizer):
    """Shards are tokens already."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseTokenizer.Config):
        """Nothing."""

    def __init__(self, config: Config, **_: object) -> None:
        super().__init__()

    def encode(self, *args: object, **kwargs: object) -> list[int]:
        """Raises NotImplementedError, as do the others."""
        raise NotImplementedError("token shards need no tokenizer")

    def decode(self, *args: object, **kwargs: object) -> str:
        raise NotImplementedError("token shards need no tokenizer")

    def get_vocab_size(self) -> int:
        raise NotImplementedError("token shards need no tokenizer")


def _meta(folder: Path, vocab_size: int) -> dict[str, Any]:
    try:
        meta = json.loads((folder / "meta.json").read_bytes())
    except OSError as error:
        raise ValueError(f"{folder / 'meta.json'}: {error.strerror} (README.md says how to make the shards)") from None
    if (found := meta.get("vocab_size", 257)) > vocab_size:  # 257: bytes and the end of a text, where nothing is said
        raise ValueError(f"{folder}: {found} different tokens, more than the model's {vocab_size}")
    return {"dtype": "uint16"} | meta


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, n_windows: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n_windows)
