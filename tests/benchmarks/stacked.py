"""Runs of one shape as one training: a weight has a leading dimension of runs, and a product is one batched product of all.

What has weights (linear layers, norms, the embedding) is exchanged for its batched form, and all else is our Decoder: to
attention, which has none, a run's sequences are more of the batch, so that it takes the kernel that it takes alone. torch.vmap
over the same Decoder would loop over the runs in attention on a CPU (torch 2.13 has no batching rule for it), take a norm apart
into five kernels, and not go through what is compiled.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from lpanas.lpa.graph import Add, Graphed
from lpanas.lpa.kernels import Kernels, regions, resolved
from lpanas.lpa.model import Block, Decoder, Norm, build, outline
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.optim import multiplier, schedule
from lpanas.lpa.train import autocast, sent
from lpanas.lpa.train_config import TrainConfig
from torch import Tensor, nn

Cut = Callable[[int], tuple[Tensor, Tensor]]
"""A step (0-based) -> inputs and targets, (batch, context) each."""

MAY_DIFFER = "seed", "optim.lr", "model.init"
"""Among the runs of a stack."""


class StackedLinear(nn.Linear):
    """A linear layer of each run. x: (runs batch, time, d_in) -> (runs batch, time, d_out); weight: (runs, d_out, d_in)."""

    def __init__(self, its: nn.Linear) -> None:
        super().__init__(its.in_features, its.out_features, its.bias is not None, device="meta")
        self.weight, self.bias = its.weight, its.bias

    def forward(self, x: Tensor) -> Tensor:
        y = x.reshape(len(self.weight), -1, x.shape[-1]) @ self.weight.mT
        if self.bias is not None:
            y = y + self.bias[:, None].to(y.dtype)
        return y.view(*x.shape[:-1], -1)


class StackedEmbedding(nn.Module):
    """An embedding of each run. tokens: (runs batch, time) -> (.., d_model); weight: (runs, vocab_size, d_model)."""

    def __init__(self, its: nn.Embedding) -> None:
        super().__init__()
        self.weight = its.weight

    def forward(self, tokens: Tensor) -> Tensor:
        runs, vocab_size, _ = self.weight.shape
        first = torch.arange(0, runs * vocab_size, vocab_size, device=tokens.device)[:, None]
        rows = (tokens.reshape(runs, -1) + first).view(tokens.shape)
        return F.embedding(rows, self.weight.flatten(0, 1))


def rms_norm(x: Tensor, weight: Tensor, eps: float, kind: torch.dtype) -> Tensor:
    """As lpanas.lpa.kernels has it. x: (runs batch, time, d), weight: (runs, d)."""
    normed = F.rms_norm(x, (x.shape[-1],), None, eps).unflatten(0, (len(weight), -1))
    return (normed * weight[:, None, None].to(x.dtype)).flatten(0, 1).to(kind)


def add_rms_norm(x: Tensor, y: Tensor, weight: Tensor, eps: float, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Likewise."""
    x = x + y
    return x, rms_norm(x, weight, eps, kind)


def cross_entropies(logits: Tensor, targets: Tensor, runs: int) -> Tensor:
    """(runs,): means in nats, in float32. logits: (runs batch, time, vocab_size), targets: (runs batch, time)."""
    each = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    return each.view(runs, -1).mean(1)


def compiled_kernels() -> tuple[Kernels, Callable[[Tensor, Tensor, int], Tensor]]:
    """The regions, those with weights in their batched form, and the loss."""
    kernels = replace(
        regions("inductor"), rms_norm=torch.compile(rms_norm), add_rms_norm=torch.compile(add_rms_norm), joins=False
    )
    return kernels, torch.compile(cross_entropies)


def skeleton(config: ModelConfig, kernels: Kernels) -> Decoder:
    """A decoder without values whose parameters are to be those of all runs."""
    if config.norm != "rms_before" or config.positions != "rotary" or config.dropout:
        raise ValueError("a stack is of models with RMSNorm and rotary positions, and without dropout")
    model = outline(config)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, StackedLinear(child))
            elif isinstance(child, nn.Embedding):
                setattr(parent, name, StackedEmbedding(child))
    for part in model.modules():
        if isinstance(part, Block):
            part.use(kernels, False, "")
    assert isinstance(model.norm, Norm)
    model.norm.kernels = kernels
    return model


class Stack:
    """Runs that train as one. Weights, gradients and moments are (runs, params): each run's own, one after the other.

    configs: of the runs, which differ in MAY_DIFFER alone; batches: of each run, those of a step; device: of all.
    A step is one microbatch, whatever the configs say.
    """

    def __init__(self, configs: Sequence[TrainConfig], batches: Sequence[Cut], device: torch.device) -> None:
        self.configs, self.config, self.batches, self.device = configs, configs[0], batches, device
        if any(_shared(one) != _shared(self.config) for one in configs):
            raise ValueError(f"the runs of a stack differ in {', '.join(MAY_DIFFER)} alone")
        is_plain = resolved(self.config.kernels, device) == "plain"
        kernels, self.losses = (Kernels(rms_norm, add_rms_norm), cross_entropies) if is_plain else compiled_kernels()
        self.model = skeleton(self.config.model, kernels)
        self.shapes = {name: parameter.shape for name, parameter in self.model.named_parameters()}
        drawn, rates = zip(*(self._drawn(one) for one in configs), strict=True)
        self.weights, self.rates = torch.stack(drawn).requires_grad_(), torch.stack(rates)
        self.decays = torch.cat([torch.full((its.numel(),), float(len(its) == 2)) for its in self.shapes.values()]).to(device)
        optim, self.direction = self.config.optim, torch.zeros_like(self.weights, requires_grad=False)
        self.adam = torch.optim.AdamW(
            [self.direction], lr=1.0, betas=(optim.beta1, optim.beta2), eps=optim.eps, weight_decay=0.0, fused=True
        )
        self.first_bad = torch.full((len(configs),), -1, device=device)
        """(runs,): the first step, 1-based, whose loss or gradient was not finite; -1 without."""
        self.add: Add = Graphed(self._add, [self.weights]) if self.config.cuda_graph else self._add

    def step(self, number: int) -> tuple[Tensor, Tensor]:
        """A step (0-based) of every run: their losses and the norms of their gradients, (runs,) each. A run whose loss or
        gradient is not finite keeps its weights from then on, and the others do not notice."""
        inputs, targets = (
            sent(torch.cat(halves), self.device) for halves in zip(*(its(number) for its in self.batches), strict=True)
        )
        losses = self.add(inputs, targets)
        assert self.weights.grad is not None
        norms = torch.linalg.vector_norm(self.weights.grad, dim=1)
        bad = ~(torch.isfinite(losses) & torch.isfinite(norms))
        self.first_bad = torch.where((self.first_bad < 0) & bad, number + 1, self.first_bad)
        self._update(self.weights.grad, norms, schedule(self.config.optim, number, self.config.steps))
        self.weights.grad = None
        return losses, norms

    @torch.no_grad()
    def _update(self, gradients: Tensor, norms: Tensor, share: float) -> None:
        """AdamW with a rate for each element of each run: torch's own kernel makes the direction, of rate 1 and from zero."""
        good, optim = (self.first_bad < 0)[:, None], self.config.optim
        clip = 1.0 if optim.clip is None else (optim.clip / (norms + 1e-6)).clamp(max=1.0)[:, None]
        self.direction.zero_().grad = torch.where(good, gradients * clip, 0.0)
        self.adam.step()
        rates = self.rates * (good * share)
        if optim.weight_decay:
            self.weights.mul_(1 - rates * self.decays * optim.weight_decay)
        self.weights.addcmul_(self.direction, rates)

    def _add(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Losses of all runs, (runs,), whose gradients are added. inputs, targets: (runs batch, context)."""
        parts = self.weights.split([its.numel() for its in self.shapes.values()], dim=1)
        weights = {name: part.unflatten(1, its) for (name, its), part in zip(self.shapes.items(), parts, strict=True)}
        with autocast(self.config, self.device):
            logits = torch.func.functional_call(self.model, weights, (inputs,))
            losses = self.losses(logits, targets, len(self.configs))
        losses.sum().backward()  # no run's loss knows of another's weights
        return losses.detach()

    def _drawn(self, config: TrainConfig) -> tuple[Tensor, Tensor]:
        """(params,): a run's weights, drawn as it would alone, and their peak rates."""
        model = build(config.model, self.device, config.seed)
        named = dict(model.named_parameters())
        assert list(named) == list(self.shapes)
        rates = [torch.full_like(its, config.optim.lr * multiplier(config.optim, model, name)) for name, its in named.items()]
        weights, flat = (torch.cat([its.detach().flatten() for its in group]) for group in (named.values(), rates))
        return weights, flat


def _shared(config: TrainConfig) -> TrainConfig:
    """What the runs of a stack have in common."""
    return config.change(seed=0, optim=config.optim.change(lr=1.0), model=config.model.change(init="matched"))
