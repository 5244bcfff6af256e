"""What a model costs, before it is trained: parameters, FLOPs and bytes, each a formula of its config."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from .linear import matmul_params
from .model_config import ModelConfig
from .train_config import TrainConfig

Rebalance = Literal["none", "params", "flops"]

TRAIN_PER_FORWARD = 3
"""A backward pass is two matmuls (for the input and for the weight) where the forward pass is one."""


@dataclass(frozen=True)
class Cost:
    """Of one model."""

    params: int
    """All of them: embedding, body and head."""
    body_params: int
    """The blocks and the last norm."""
    flops_per_token: int
    """Training FLOPs a token: 6 a matmul weight, the head included, and 12 n_layers context heads d_head for the
    attention scores, counted in full (causality not taken off), as torch's FLOP counter does for its math attention kernel.
    (Flash attention recomputes the scores in its backward pass, and torch then counts 14 for 12.)"""
    memory_bytes: int
    """Weights, gradients and AdamW's two moments in float32, bfloat16 copies of the matmul weights where activations are
    bfloat16, and the activations of one microbatch at their peak, with an attention kernel that keeps no scores (flash). The
    peak of a step with accumulated gradients; an upper bound without, where no gradient exists yet at the activations' peak,
    and with bfloat16 and activation checkpointing, where the copies and the activations have their peaks at other times."""

    def asdict(self) -> dict[str, int]:
        """The figures by name."""
        return asdict(self)


def cost(config: ModelConfig, microbatch: int, item: int = 2, recomputes: bool = False) -> Cost:
    """The cost of training a model. microbatch: sequences in one forward pass; item: bytes of an activation, 2 under
    bfloat16 autocast and 4 in float32; recomputes: with activation checkpointing, which changes the memory alone (FLOPs are
    the model's; what is computed again, about a forward pass of the blocks, is not counted)."""
    body = body_params(config)
    head = 0 if config.tie_embeddings else config.vocab_size * config.d_model
    params = body + config.vocab_size * config.d_model + head + (config.vocab_size if config.head_bias else 0)
    params += config.context * config.d_model if config.positions == "learned" else 0
    tokens = microbatch * config.context
    copies = 2 * (sum(_body_matmuls(config)) + config.vocab_size * config.d_model) if item == 2 else 0
    memory = 16 * params + copies + tokens * activation_bytes_per_token(config, item, recomputes)
    return Cost(params, body, flops_per_token(config), memory)


def training_cost(config: TrainConfig, item: int = 2) -> Cost:
    """The cost of a training. item: as in cost."""
    return cost(config.model, config.microbatch or config.batch_size, item, config.activation_checkpointing)


def body_params(config: ModelConfig) -> int:
    """Parameters of the blocks and the last norm."""
    biases = [
        count * config.projection(name)[1]
        for layer, count in config.placement.alike
        for name in config.projections
        if config.has_bias(layer, name)
    ]
    norms = (2 * config.n_layers + 1) if config.norm == "rms_before" else 2 * 2 * config.n_layers  # weight; weight and bias
    return sum(_body_matmuls(config)) + sum(biases) + norms * config.d_model


def flops_per_token(config: ModelConfig) -> int:
    """Training FLOPs a token; see Cost."""
    matmuls = sum(_body_matmuls(config)) + config.vocab_size * config.d_model
    scores = 2 * config.n_layers * config.context * config.n_heads * config.d_head
    return TRAIN_PER_FORWARD * 2 * (matmuls + scores)


def activation_bytes_per_token(config: ModelConfig, item: int, recomputes: bool = False) -> int:
    """Bytes a token at the peak. item: bytes of what matmuls read.

    Without checkpointing that is the start of the backward pass: what the forward pass keeps (with fused norms and dropout and
    flash attention) and the loss's or the FFN's passing gradients. Measured on a CPU, the peak is 0.92 to 1.03 of it; the
    farther, the more of it is the FFN's.

    With checkpointing of every block (Chen et al., arXiv 1604.06174, with a block as the segment) each block keeps its input,
    4 d_model in float32, and the peak is there or where a block is computed again:
    4 n_layers d_model + max(last norm and loss, the largest block's own but for its input). Measured in the same way, the
    peak in float32 is 0.93 to 1.06 of it."""
    d = config.d_model
    last = _norm_bytes(config, item) + 4 * config.vocab_size + 8  # log-softmax in float32, and the target
    loss, ffn = 8 * config.vocab_size, 4 * d + (3 if config.ffn == "swiglu" else 1) * item * config.d_ff
    blocks = [(_block_bytes(config, layer, item), count) for layer, count in config.placement.alike]
    if recomputes:
        return 4 * d * config.n_layers + max(last + loss, max(size for size, _ in blocks) - 4 * d + ffn)
    return sum(size * count for size, count in blocks) + last + max(loss, ffn)


def _norm_bytes(config: ModelConfig, item: int) -> int:
    return 4 * config.d_model + 4 + item * config.d_model  # the float32 stream and its root mean square; what matmuls read


def _block_bytes(config: ModelConfig, layer: int, item: int) -> int:
    """Bytes a token that the forward pass of a block keeps."""
    queries, keys = config.n_heads * config.d_head, config.kv_heads * config.d_head
    attention = item * (queries + 2 * keys + queries) + 4 * config.n_heads  # rotated q and k, v, the result; log-sum-exp
    ffn = item * config.d_ff * (4 if config.ffn == "swiglu" else 1)  # gate, silu(gate), up and their product; or relu(up)
    per_rank = item * (1 if config.factor_activation == "none" else 2)  # x A, and its SiLU
    ranks = sum(config.rank(layer, name) or 0 for name in config.projections)
    masks = 2 * config.d_model if config.dropout else 0  # of a byte
    return 2 * _norm_bytes(config, item) + attention + ffn + per_rank * ranks + masks


def rebalance(config: ModelConfig, rule: Rebalance) -> ModelConfig:
    """What the saved parameters buy: the widest FFN, a multiple of ffn_multiple, whose body params (or training FLOPs) stay
    within the dense twin's. No narrower than the config's own, which stays where there is none, and so does a dense config.

    What is left unspent is less than ffn_multiple FFN columns cost.
    Only where d_ff < d_model, so that ranks follow d_ff, can it be more: a rank may jump from one width to the next, or save
    nothing there, and such widths are passed over.
    """
    if rule == "none" or config.placement.sublayers == "dense":
        return config
    measure = body_params if rule == "params" else flops_per_token
    budget = measure(config.dense())
    for d_ff in range(_bound(config, measure, budget), config.d_ff, -config.ffn_multiple):
        wide = config.wide(d_ff)
        if wide is not None and measure(wide) <= budget:
            return wide
    return config


def _bound(config: ModelConfig, measure: Callable[[ModelConfig], int], budget: int) -> int:
    """A width, a multiple of the config's ffn_multiple, beyond which no FFN fits: from d_model on, costs are linear in it."""

    def at(d_ff: int) -> int:
        fields: dict[str, Any] = {name: getattr(config, name) for name in ModelConfig.model_fields}
        return measure(ModelConfig.model_construct(**fields | {"d_ff": d_ff}))  # whether or not the ranks save anything

    step = config.ffn_multiple
    first = -(-max(config.d_model, config.d_ff) // step) * step
    return first + max(0, (budget - at(first)) // (at(first + step) - at(first))) * step


def _body_matmuls(config: ModelConfig) -> list[int]:
    return [
        count * matmul_params(*config.projection(name), config.rank(layer, name))
        for layer, count in config.placement.alike
        for name in config.projections
    ]
