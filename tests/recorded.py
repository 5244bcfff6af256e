"""CUDA graphs on a CPU, in the place of torch's: what torch computes within a capture is written down, operator by operator,
and each replay computes it again into the same memory. What the capture itself has computed is made NaN, as a GPU computes
nothing then. To ask for a value within a capture fails."""

from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import pytest
import torch
from lpanas.lpa import graph
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Recorded(TorchDispatchMode):
    """A graph, and what writes it down."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> object:
        assert func is not torch.ops.aten._local_scalar_dense.default, "a capture cannot be asked for a value"
        found = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, tensors(found)))
        return found

    def forget(self) -> None:
        """Nothing was computed."""
        with torch.no_grad():
            for _, args, kwargs, found in self.calls:
                given = {place(tensor) for tensor in tensors((args, kwargs))}
                for tensor in found:
                    if place(tensor) not in given and tensor.is_floating_point():
                        tensor.fill_(torch.nan)

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, found in self.calls:
                for kept, new in zip(found, tensors(func(*args, **kwargs)), strict=True):
                    if new.data_ptr() != kept.data_ptr():  # of its own, and no view or change of what was given
                        kept.copy_(new)

    def reset(self) -> None:
        """Hold nothing."""
        self.calls.clear()


class Stream:
    """There is but one."""

    def wait_stream(self, other: object) -> None:
        pass

    def synchronize(self) -> None:
        pass


@contextmanager
def capture(graph: Recorded, pool: tuple[int, int], stream: Stream) -> Generator[None]:
    with graph:
        yield
    graph.forget()


def use(patch: pytest.MonkeyPatch) -> None:
    """From now on torch captures so."""
    patch.setattr(graph, "aside", cache(Stream))
    patch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None, raising=False)
    patch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    patch.setattr(torch.cuda, "CUDAGraph", Recorded)
    patch.setattr(torch.cuda, "graph", capture)
    patch.setattr(torch.cuda, "Stream", Stream)
    patch.setattr(torch.cuda, "current_stream", Stream)
    patch.setattr(torch.cuda, "stream", nullcontext)
