"""What a full training would take, before it starts: parameters, FLOPs, memory, time at a stated utilisation."""

from collections.abc import Callable
from dataclasses import dataclass

from ..lpa.config import UserError
from ..lpa.cost import activation_bytes_per_token, cost
from ..lpa.train_config import TrainConfig

MFU, PEAK_TFLOPS = 0.4, 989.0
"""Assumptions. 0.4: of a GPU's peak, for a training that is tuned (nanochat's logs have 41 % for 12 layers on an H100). 989: an
H100 SXM in bfloat16 without sparsity (NVIDIA's data sheet)."""
LEAST_MFU = 0.001
"""Less is a slip of the pen."""
BFLOAT16_BYTES = 2


@dataclass(frozen=True)
class Assumed:
    """What a time is foretold with."""

    mfu: float = MFU
    """Share of the peak that the model's FLOPs come to."""
    peak_tflops: float = PEAK_TFLOPS
    """Of one GPU, TFLOP/s."""

    def check(self) -> "Assumed":
        """Itself. Raises UserError for what no GPU can do."""
        if not LEAST_MFU <= self.mfu <= 1:
            raise UserError(f"--mfu: expected a share of the peak from {LEAST_MFU:g} to 1, found {self.mfu:g}")
        if not 0 < self.peak_tflops < float("inf"):
            raise UserError(f"--peak-tflops: expected TFLOP/s above 0, found {self.peak_tflops:g}")
        return self

    @property
    def text(self) -> str:
        """In words, said to be assumed."""
        gpu = " (H100 SXM, bfloat16 without sparsity: NVIDIA's data sheet)" if self.peak_tflops == PEAK_TFLOPS else ""
        return f"assumed: {self.mfu:.3g} of a GPU's peak of {self.peak_tflops:g} TFLOP/s{gpu}"


@dataclass(frozen=True)
class Prediction:
    """Of one training on one GPU, with activations in bfloat16."""

    params: int
    flops_per_token: int
    """As lpa/cost.py counts them."""
    steps: int
    tokens: int
    """Of whole steps."""
    flops: int
    """In all."""
    state_bytes: int
    """Weights, gradients, AdamW's moments and bfloat16 copies; what sharding over GPUs divides."""
    activation_bytes: int
    """Of one microbatch at their peak."""
    memory_bytes: int
    """Both together."""
    activation_checkpointing: bool
    """What the config says, and both figures assume."""
    recomputed_memory_bytes: int
    """With activation checkpointing."""
    assumed_step_seconds: float
    """Of one GPU at the stated utilisation; n GPUs at the same one take 1/n."""
    assumed_gpu_hours: float


@dataclass(frozen=True)
class Measured:
    """A training by its study's step_seconds, on one device as they were measured on; without evaluations and checkpoints."""

    device: str
    step_seconds: float
    hours: float
    dense_step_seconds: float
    dense_hours: float


def predict(config: TrainConfig, assumed: Assumed) -> Prediction:
    """What a training takes."""
    microbatch = config.microbatch or config.batch_size
    recomputes = config.activation_checkpointing
    found, least = (cost(config.model, microbatch, BFLOAT16_BYTES, again) for again in (recomputes, True))
    activations = microbatch * config.model.context * activation_bytes_per_token(config.model, BFLOAT16_BYTES, recomputes)
    tokens, per_second = config.steps * config.batch_tokens, assumed.mfu * assumed.peak_tflops * 1e12
    flops = found.flops_per_token * tokens
    return Prediction(
        params=found.params,
        flops_per_token=found.flops_per_token,
        steps=config.steps,
        tokens=tokens,
        flops=flops,
        state_bytes=found.memory_bytes - activations,
        activation_bytes=activations,
        memory_bytes=found.memory_bytes,
        activation_checkpointing=recomputes,
        recomputed_memory_bytes=least.memory_bytes,
        assumed_step_seconds=found.flops_per_token * config.batch_tokens / per_second,
        assumed_gpu_hours=flops / per_second / 3600,
    )


def activations(its: Prediction) -> str:
    """What the memory assumes of them, in words."""
    return f"activations {'computed again' if its.activation_checkpointing else 'kept'}"


UNMEASURED = "assumed, not measured with lpanas train"
SLOWER = (
    "Low-rank layers reach less of the peak than dense ones (thin products wait for memory), so at one utilisation the time of "
    "a low-rank model is a lower bound"
)
ELSEWHERE = "lpanas confirm measures steps (matches: [step_seconds]), and a search with step_seconds as a cost does"


def lines(its: Prediction, dense: Prediction, assumed: Assumed, microbatch: int, measured: Measured | None = None) -> list[str]:
    """A prediction beside its dense twin's, in words; what was measured goes before what is assumed."""

    def beside(one: float, other: float, form: str, unit: str = "") -> str:
        return f"{one:{form}}{unit} (dense {other:{form}}{unit}; x {one / other:.3f})"

    memory = beside(its.memory_bytes / 2**30, dense.memory_bytes / 2**30, ".2f", " GiB")
    least = f"{its.recomputed_memory_bytes / 2**30:.2f} GiB (dense {dense.recomputed_memory_bytes / 2**30:.2f} GiB)"
    kept = "" if its.activation_checkpointing else f", and {least} with `activation_checkpointing: true`"
    state = f"{its.state_bytes / 2**30:.2f} GiB of it weights, gradients and optimizer, which sharding divides"
    return [
        f"params: {beside(its.params, dense.params, ',')}",
        f"training FLOPs a token: {beside(its.flops_per_token, dense.flops_per_token, ',')}",
        f"training FLOPs in all: {beside(its.flops, dense.flops, '.4g')}",
        f"memory of a GPU, microbatch {microbatch}, bfloat16, {activations(its)}: {memory}, {state}{kept}",
        *_measured(measured, beside),
        f"assumed seconds a step on one GPU: {beside(its.assumed_step_seconds, dense.assumed_step_seconds, '.4g')}",
        f"assumed GPU hours: {beside(its.assumed_gpu_hours, dense.assumed_gpu_hours, '.4g')}; {UNMEASURED}",
        f"{'Assumed times' if measured else 'Times'} are {assumed.text}. {SLOWER}{'' if measured else f'; {ELSEWHERE}'}.",
    ]


def _measured(its: Measured | None, beside: Callable[[float, float, str], str]) -> list[str]:
    if its is None:
        return []
    return [
        f"seconds a step, its pieces measured on {its.device}: {beside(its.step_seconds, its.dense_step_seconds, '.4g')}",
        f"hours on one {its.device} by that: {beside(its.hours, its.dense_hours, '.4g')}; evaluations come on top",
    ]
