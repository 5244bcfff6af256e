"""Forward and backward pass, or the first alone, as a CUDA graph: the host starts hundreds of small kernels with one call, so
that a small model's step takes as long as its kernels do."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Self

import torch
from torch import Tensor, nn

Add = Callable[[Tensor, Tensor], Tensor]
"""inputs and targets of a batch, (batch, context) each -> its mean loss; adds its gradient, if that is what it is for."""

WARMUP = 3
"""Batches before the capture: what is compiled or chosen at first use must be there (torch's own advice)."""


@cache
def aside() -> torch.cuda.Stream:
    """A stream other than the default one, as captures need it: one a process, as cuBLAS keeps a workspace of up to 32 MiB for
    each that it ever worked on."""
    return torch.cuda.Stream()


class Graphed:
    """An Add on one GPU: the first batches as they come, then captured once and replayed.

    Batches of another shape than the first one's are computed as they come. Gradients lie in the graph's own memory and are put
    into place after each replay, so the optimizer may drop them. What draws random numbers (dropout, recomputation) has no
    place in it.
    """

    def __init__(self, add: Add, parameters: Sequence[nn.Parameter] = (), beside: Self | None = None) -> None:
        """parameters: of which it adds gradients. beside: one whose memory it shares; what either has found is of no use once
        the other is called."""
        self.add, self.parameters, self.batches = add, parameters, 0
        self.stream, self.pool = aside(), beside.pool if beside else torch.cuda.graph_pool_handle()
        self.shape: torch.Size | None = None
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        self.shape = self.shape or inputs.shape
        if inputs.shape != self.shape:
            return self._aside(inputs, targets)
        self.batches += 1
        if self.batches <= WARMUP:
            return self._aside(inputs, targets)
        if self.graph is None:
            self.graph = self._captured(inputs, targets)
        self.inputs.copy_(inputs)
        self.targets.copy_(targets)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self.loss.clone()

    def forget(self) -> None:
        """Let go of the graph and its memory; the next batches are as the first ones."""
        if self.graph is not None:
            torch.cuda.current_stream().synchronize()
            self.graph.reset()
            del self.inputs, self.targets, self.loss, self.gradients
        self.graph, self.batches = None, 0

    def _aside(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """As it comes, on a stream other than the default one, as the capture will be."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            loss = self.add(inputs, targets)
        torch.cuda.current_stream().wait_stream(self.stream)
        return loss

    def _captured(self, inputs: Tensor, targets: Tensor) -> torch.cuda.CUDAGraph:
        self.inputs, self.targets = inputs.clone(), targets.clone()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            self.loss = self.add(self.inputs, self.targets)
        self.gradients = [parameter.grad for parameter in self.parameters]
        return graph


def free(*its: Add) -> None:
    """Give back what the graphs among them hold, and what cuBLAS keeps beside, at the end of a run: the next one's peak of
    memory is its own then, and its neighbours have the room. No other graph may be replayed after it."""
    graphs = [one for one in its if isinstance(one, Graphed)]
    for graph in graphs:
        graph.forget()
    if graphs:
        torch._C._cuda_clearCublasWorkspaces()  # a captured product writes to the workspace that was there
        torch.cuda.empty_cache()
