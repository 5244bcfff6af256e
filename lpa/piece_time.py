"""A piece of a training step built, computed and timed: forward and backward pass, as the training loop has them; with
activation checkpointing another forward pass of what belongs to blocks."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import median, quantiles
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .config import Config, UserError
from .held import Run, held
from .kernels import PLAIN, Kernels, products, regions, resolved
from .linear import FactorActivation, LowRankLinear
from .model import Block, build, rotary, widen
from .model_config import ModelConfig
from .pieces import Attend, Ends, Layer, Piece, Project, Stream, Update, Widen
from .step_time import WARMUP
from .train import accumulate, autocast, gradient_norm, is_bfloat16, update
from .train_config import TrainConfig

COPIES = 4
"""Of a piece, computed one after the other as those of different layers are: weights come from memory, not from a cache, and
the autograd engine is started once for all (at most as many as there are layers)."""
ROUNDS, SECONDS, MOST = 8, 0.5, 100
"""A piece is measured so often, and on until it took so many seconds or was measured MOST times (assumption)."""
UPDATED = 2**24
"""Parameters that are updated together, at most, when an update is measured; and TENSORS tensors."""
TENSORS = 64


Passed = Project | Widen | Attend | Stream
"""Pieces that something is passed through, on the way forward and on the way back."""


Call = Callable[[list[Tensor]], list[Tensor]]


Seconds = Annotated[float, Field(ge=0, le=1e12)]
"""Of a piece; no more than that of a step is still a number."""


class PieceTime(Config):
    """What a piece takes, seconds: medians."""

    first: Seconds
    """Forward and backward pass of a step's first microbatch, which makes the gradient; the update, of an Update."""
    more: Seconds
    """Of a further one, which adds to it."""
    host_first: Seconds = 0.0
    host_more: Seconds = 0.0
    """In which the host starts the kernels of these on a GPU; on a CPU 0."""
    n: Annotated[int, Field(ge=1)]
    """Measurements."""
    spread: Annotated[float, Field(ge=0)]
    """Of both together: the distance of their quartiles, as a share of the median."""


@dataclass(frozen=True)
class Parts:
    """What is timed of a piece."""

    before: Callable[[], None]
    """Comes first in each round and does not count: no gradient is left (or the gradient is there, of an Update)."""
    first: Callable[[], None]
    """A step's first microbatch; an Update's update."""
    more: Callable[[], None]
    """A further microbatch."""
    copies: int
    """Of the piece, that these compute."""
    weights: list[nn.Parameter]
    """Of all copies."""


def piece_time(piece: Piece, config: TrainConfig) -> PieceTime:
    """Measure a piece in this process. config: the dense target's training. Raises UserError for kernels that compile more
    than a piece, and where a GPU cannot be held until it has all of it."""
    device = config.resolve_device()
    its = parts(piece, config, device)
    for _ in range(WARMUP):
        its.before()
        its.first()
        its.more()
    once, runs = held(device, its.before, [its.first, its.more]), list[Run]()
    while len(runs) < ROUNDS or (sum(sum(run.device) for run in runs) < SECONDS and len(runs) < MOST):
        runs.append(once())
    low, middle, high = quantiles([sum(run.device) for run in runs], n=4)
    first, more = (median(side) / its.copies for side in zip(*(run.device for run in runs), strict=True))
    host_first, host_more = (median(side) / its.copies for side in zip(*(run.host for run in runs), strict=True))
    if isinstance(piece, Update):
        more = host_more = 0.0
    spread = (high - low) / middle
    return PieceTime(first=first, more=more, host_first=host_first, host_more=host_more, n=len(runs), spread=spread)


def parts(piece: Piece, config: TrainConfig, device: torch.device) -> Parts:
    """What is timed of a piece."""
    if isinstance(piece, Update):
        return _updates(piece, config, device)
    if isinstance(piece, Ends):
        return _ends(config, device)
    return _passes(piece, config, device)


def kernels_name(config: TrainConfig, device: torch.device) -> str:
    """What of a piece is compiled: plain or regions. Raises UserError where pieces are compiled together."""
    name = resolved(config.kernels, device)
    if name in ("blocks", "model"):
        raise UserError(f"kernels: a step compiled by {name} is no sum of pieces, expected plain, regions or auto")
    return name


def _kernels(config: TrainConfig, device: torch.device) -> Kernels:
    return PLAIN if kernels_name(config, device) == "plain" else regions("inductor")


class _Copy:
    """One of a piece's copies: its modules, what they read, and the gradient that comes back to them."""

    def __init__(self, piece: Passed, config: TrainConfig, device: torch.device) -> None:
        kernels, self.autocast = _kernels(config, device), partial(autocast, config, device)
        if isinstance(piece, Attend):
            piece = replace(piece, joined=piece.joined and kernels.joins)
        self.modules = _modules(piece, config.model, kernels).to(device)
        reads = torch.bfloat16 if is_bfloat16(config, device) and not piece.casts else torch.float32
        shape = (config.microbatch or config.batch_size, config.model.context)
        self.inputs = [torch.randn(*shape, width, device=device).to(reads).requires_grad_() for width in piece.reads]
        self.call = _call(piece, config.model, self.modules, kernels, device)
        with self.autocast():
            self.gradients = [torch.randn_like(result) for result in self.compute()]

    def compute(self) -> list[Tensor]:
        """What the piece writes."""
        return self.call(self.inputs)


def _modules(piece: Passed, config: ModelConfig, kernels: Kernels) -> nn.ModuleList:
    if isinstance(piece, Stream):
        return nn.ModuleList([_between(config, kernels)])
    return (
        nn.ModuleList() if isinstance(piece, Attend) else nn.ModuleList(_built(one, piece.activation) for one in piece.layers)
    )


def _built(layer: Layer, activation: FactorActivation) -> nn.Module:
    if layer.rank:
        return LowRankLinear(layer.d_in, layer.d_out, layer.rank, activation, layer.bias)
    return nn.Linear(layer.d_in, layer.d_out, bias=layer.bias)


def _between(config: ModelConfig, kernels: Kernels) -> Block:
    """A block whose sublayers give what they are given."""
    block = Block(config.change(n_layers=1, placement="dense"), 0)
    block.add_module("attention", _Nothing())
    block.add_module("ffn", _Nothing())
    block.use(kernels, whole=False, backend="inductor")
    return block


class _Nothing(nn.Module):
    def forward(self, x: Tensor, *_: object) -> Tensor:
        return x


def _call(piece: Passed, config: ModelConfig, modules: nn.ModuleList, kernels: Kernels, device: torch.device) -> Call:
    """What the piece computes of its inputs."""
    layers = list(modules)
    if isinstance(piece, Widen):
        return lambda read: [widen(layers, read[0], kernels)]
    if isinstance(piece, Project):
        return lambda read: list(products(layers, read[0], kernels.joins))
    if isinstance(piece, Stream):
        return lambda read: [layers[0](read[0], None)]
    heads, angles = (piece.n_heads, piece.n_kv_heads), rotary(config, config.context, device) if piece.rotary else None
    return lambda read: [kernels.attend(tuple(read), heads, angles)]


def _passes(piece: Passed, config: TrainConfig, device: torch.device) -> Parts:
    copies = [_Copy(piece, config, device) for _ in range(min(COPIES, config.model.n_layers))]
    inputs = [one for copy in copies for one in copy.inputs]

    through = _passing(piece, config)

    def forget() -> None:
        for one in inputs:
            one.grad = None

    def before() -> None:
        for copy in copies:
            copy.modules.zero_grad(set_to_none=True)
        forget()

    def compute() -> None:
        with copies[0].autocast():
            results = [through(copy) for copy in copies]
        torch.autograd.backward([one for its in results for one in its], [one for copy in copies for one in copy.gradients])
        forget()  # what flows on to the piece before it is not added up

    return Parts(before, compute, compute, len(copies), [one for copy in copies for one in copy.modules.parameters()])


def _passing(piece: Passed, config: TrainConfig) -> Callable[[_Copy], list[Tensor]]:
    """The forward pass of a copy as its block has it: with activation checkpointing twice, at once here. The last product of a
    block is then computed once, as nothing in the backward pass needs what it writes: torch's checkpoint stops before it."""
    if not config.activation_checkpointing:
        return _Copy.compute
    if _ends_block(piece, config.model):
        return lambda copy: checkpoint(copy.compute, use_reentrant=False)

    def twice(copy: _Copy) -> list[Tensor]:
        with torch.no_grad():
            copy.compute()
        return copy.compute()

    return twice


def _ends_block(piece: Passed, config: ModelConfig) -> bool:
    """Whether it is the FFN's last projection, with no norm behind it: no other reads the FFN's width alone."""
    is_down = isinstance(piece, Project) and len(piece.layers) == 1 and piece.reads != (config.n_heads * config.d_head,)
    return is_down and config.norm == "rms_before"


def _ends(config: TrainConfig, device: torch.device) -> Parts:
    """A decoder without blocks."""
    model = build(config.model.change(n_layers=1, placement="dense"), device, seed=0)
    model.blocks = nn.ModuleList()
    model.use(config.kernels, device)
    micro = config.microbatch or config.batch_size
    tokens = torch.randint(config.model.vocab_size, (2, micro, config.model.context), device=device)
    one = config.change(batch_size=micro)

    def compute() -> None:
        accumulate(model, tokens[0], tokens[1], one)

    return Parts(lambda: model.zero_grad(set_to_none=True), compute, compute, 1, list(model.parameters()))


def _updates(piece: Update, config: TrainConfig, device: torch.device) -> Parts:
    """Of many tensors at once. Clipping takes its own share of the time."""
    count = max(1, min(TENSORS, UPDATED // piece.size))
    model = nn.ParameterList([nn.Parameter(torch.randn(piece.size, device=device)) for _ in range(count)])
    gradients = [torch.randn(piece.size, device=device) for _ in range(count)]
    adamw = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)
    for group in adamw.param_groups:
        group["peak_lr"] = 0.0

    def before() -> None:
        for parameter, gradient in zip(model, gradients, strict=True):
            parameter.grad = gradient

    def renew() -> None:
        update(model, adamw, config, share=0.0, norm=gradient_norm(model))

    return Parts(before, renew, lambda: None, count, list(model.parameters()))
