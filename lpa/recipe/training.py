"""How it is trained: AdamW with each parameter's own rate, and the sequences that a process takes at a time."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torchtitan.components.optimizer import LRSchedulersContainer, OptimizersContainer, ParamGroupConfig


@dataclass(frozen=True, kw_only=True)
class Group:
    """Parameters with a rate of their own."""

    share: float
    """Their learning rate is this times lr."""
    weight_decay: float
    names: Mapping[str, Sequence[int]]
    """What they are called, and the layers that have them: none where a name is not a layer's."""

    @property
    def pattern(self) -> str:
        """The regular expression that torchtitan finds them by."""
        return rf"^(?:{'|'.join(_expression(name, layers) for name, layers in self.names.items())})$"


def adamw(lr: float, betas: tuple[float, float], eps: float, groups: Sequence[Group]) -> OptimizersContainer.Config:
    """AdamW over the groups. Every parameter has to be in one, and in each pipeline stage no group may be empty."""
    return OptimizersContainer.Config(
        param_groups=[
            ParamGroupConfig(
                pattern=group.pattern,
                optimizer_name="AdamW",
                optimizer_kwargs={"lr": lr * group.share, "betas": betas, "eps": eps, "weight_decay": group.weight_decay},
            )
            for group in groups
        ]
    )


class Schedule(LRSchedulersContainer):
    """A linear warm-up, and from its last step on a fall that ends with the last step, as in `lpanas train`. (torchtitan's own
    is a step behind in its fall, and so ends above min_lr_factor.)"""

    @dataclass(kw_only=True, slots=True)
    class Config(LRSchedulersContainer.Config):
        """torchtitan's, without decay_ratio and sqrt."""

        def build(self, *, optimizers: OptimizersContainer, training_steps: int) -> "Schedule":
            """Raises ValueError for what there is not."""
            if self.decay_ratio is not None or self.decay_type == "sqrt":
                raise ValueError("lr_scheduler: expected no decay_ratio, and a decay_type of linear or cosine")
            steps = training_steps if self.total_steps is None else self.total_steps
            its = partial(_share, warmup=self.warmup_steps, steps=steps, fall=self.decay_type, least=self.min_lr_factor)
            return Schedule(optimizers, its)


def _share(step: int, warmup: int, steps: int, fall: str, least: float) -> float:
    """Of the peak rate, at a step (0-based)."""
    if step + 1 <= warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step + 1 - warmup) / max(1, steps - warmup))
    return least + (1 - least) * ((1 + math.cos(math.pi * progress)) / 2 if fall == "cosine" else 1 - progress)


def local_batch(batch_size: int, microbatch: int) -> int:
    """Sequences in one forward pass of a process: the most, up to the microbatch, that divide its share of the batch."""
    share = max(1, batch_size // int(os.environ.get("WORLD_SIZE", "1")))
    return max(count for count in range(1, min(microbatch, share) + 1) if share % count == 0)


def _expression(name: str, layers: Sequence[int]) -> str:
    """Where checkpointing and compilation put a word of their own into a name, it is passed over."""
    own = r"(?:_\w+\.)*"
    inside = rf"\.{own}".join(re.escape(part) for part in name.split("."))
    return rf"{own}layers\.(?:{'|'.join(map(str, layers))})\.{own}{inside}" if layers else f"{own}{inside}"
