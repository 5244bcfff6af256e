"""Forward and backward pass as a CUDA graph: the host starts hundreds of small kernels with one call, so that a small model's
step takes as long as its kernels do."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Add = Callable[[Tensor, Tensor], Tensor]
"""inputs and targets of a batch, (batch, context) each -> its mean loss; adds its gradient."""

WARMUP = 3
"""Batches before the capture: what is compiled or chosen at first use must be there (torch's own advice)."""


class Graphed:
    """An Add on one GPU: the first batches as they come, then captured once and replayed.

    All batches have one shape. Gradients lie in the graph's own memory and are put into place after each replay, so the
    optimizer may drop them. What draws random numbers (dropout, recomputation) has no place in it.
    """

    def __init__(self, add: Add, parameters: Sequence[nn.Parameter]) -> None:
        self.add, self.parameters, self.batches = add, parameters, 0
        self.stream = torch.cuda.Stream()
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
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
        with torch.cuda.graph(graph, stream=self.stream):
            self.loss = self.add(self.inputs, self.targets)
        self.gradients = [parameter.grad for parameter in self.parameters]
        return graph
