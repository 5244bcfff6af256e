"""TrainConfig: everything that a training depends on."""

import hashlib
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator

from .config import Config, Count, UserError
from .kernels import KernelsName
from .model_config import ModelConfig
from .optim import OptimConfig
from .sources import DataConfig

_WATCHED = {"log_every", "checkpoint_every", "evals", "eval_steps", "test"}
_WATCHED |= {"microbatch", "average_every", "activation_checkpointing", "kernels", "cuda_graph"}
"""Keys that do not decide the result."""


class TrainConfig(Config):
    """Everything that a training depends on."""

    model: ModelConfig
    data: DataConfig = DataConfig()
    optim: OptimConfig
    tokens: Annotated[Count, Field(gt=0)]
    """Training tokens; rounded up to whole steps."""
    batch_size: Annotated[int, Field(gt=0)]
    """Sequences a step."""
    microbatch: Annotated[int, Field(gt=0)] | None = None
    """Sequences in one forward pass (gradients are accumulated over them); batch_size when left out."""
    average_every: Literal["microbatch", "batch"] = "microbatch"
    """When many processes average their gradients. batch: of many microbatches about half as much is sent (in float32 a third
    less), and each process keeps the whole model's gradient meanwhile, 4 bytes a parameter; for slow networks."""
    activation_checkpointing: bool = False
    """A block's activations are computed again in the backward pass: less memory, about a third more FLOPs, the same bits."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the initial weights and of the order of the batches."""
    evals: Annotated[int, Field(gt=0)] = 8
    """Evaluations on the validation windows, evenly spaced, the last one at the end."""
    eval_steps: tuple[Annotated[int, Field(gt=0)], ...] = ()
    """Steps after which there is one more."""
    test: bool = False
    """At the end the test split is evaluated, too: as many of its tokens as of the validation split's."""
    log_every: Annotated[int, Field(gt=0)] = 10
    """Steps between two lines of metrics."""
    checkpoint_every: Annotated[int, Field(gt=0)] = 500
    """Steps between two checkpoints, where there is a folder for them."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where torch sees one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """bfloat16: autocast, with float32 weights and optimizer state. auto: bfloat16 on a GPU that has it."""
    kernels: KernelsName = "auto"
    """What is compiled: nothing (plain), the regions that know of no rank, each kind of block, or the model. auto: regions on a
    GPU where Triton and a C compiler are installed, else plain."""
    cuda_graph: bool = False
    """One GPU alone: forward and backward pass, and validation's forward pass, are captured once and replayed, which spares a
    small model the start of its many kernels. Without dropout and activation_checkpointing."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.batch_size % (self.microbatch or self.batch_size):
            raise ValueError(f"microbatch: {self.microbatch} does not divide batch_size {self.batch_size}")
        if self.cuda_graph and (self.model.dropout or self.activation_checkpointing):
            raise ValueError("cuda_graph: not with dropout or activation_checkpointing, which draw random numbers")
        if self.model.tie_embeddings and self.optim.lr_rule == "mup":
            raise ValueError("optim.lr_rule: mup does not carry tied embeddings across widths, expected 'uniform'")
        return self

    @property
    def batch_tokens(self) -> int:
        """Tokens a step."""
        return self.batch_size * self.model.context

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return -(-self.tokens // self.batch_tokens)

    def fingerprint(self, content: str) -> str:
        """A hash of everything that decides the result: the data's content, and all fields but those that say how it is
        watched and how much of a batch is in memory at a time (which moves the last bits alone)."""
        return hashlib.sha256(f"{content} {self.model_dump_json(exclude=_WATCHED)}".encode()).hexdigest()[:16]

    def is_twin(self, other: Self) -> bool:
        """Whether the two are one training but for the model: the same text, order of batches, tokens and rates."""
        return not self.unlike(other)

    def unlike(self, other: Self) -> list[str]:
        """The dotted keys by which they are not, and a training of one would not be one of the other."""
        left_out = {*_WATCHED, "model"}
        own, its = (_flat(one.model_dump(exclude=left_out)) for one in (self, other))
        return sorted(key for key in own.keys() | its.keys() if own.get(key) != its.get(key))

    def resolve_device(self) -> torch.device:
        """The device that `auto` means here. Raises UserError for a GPU that is not there."""
        there = torch.cuda.is_available()
        if self.device == "cuda" and not there:
            raise UserError("device: cuda, but torch sees no GPU here; expected cpu or auto")
        return torch.device("cuda" if there and self.device != "cpu" else "cpu")

    def check_graph(self, device: torch.device, processes: int = 1) -> None:
        """Raises UserError for a CUDA graph where there can be none."""
        if self.cuda_graph and (device.type != "cuda" or processes > 1):
            raise UserError(f"cuda_graph: only on one GPU alone, found {processes} on {device.type}")

    def checked_device(self) -> torch.device:
        """Where one process would train here. Raises UserError when it could not."""
        device = self.resolve_device()
        self.check_graph(device)
        return device


def _flat(raw: dict[str, Any], above: str = "") -> dict[str, Any]:
    """By dotted key."""
    flat: dict[str, Any] = {}
    for key, value in raw.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return flat
