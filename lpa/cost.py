"""What a model costs, before it is trained: parameters, FLOPs and bytes, each a formula of its config."""

from dataclasses import asdict, dataclass
from typing import Literal

from .linear import matmul_params
from .model import ModelConfig
from .placement import PROJECTIONS

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
    attention scores, counted in full as torch's FLOP counter does (causality not taken off)."""
    memory_bytes: int
    """Weights, gradients and AdamW's two moments in float32, and the activations kept for one microbatch."""

    def asdict(self) -> dict[str, int]:
        """The figures by name."""
        return asdict(self)


def cost(config: ModelConfig, microbatch: int, activation_bytes: int = 2) -> Cost:
    """The cost of training a model. microbatch: sequences in one forward pass; activation_bytes: 2 in bf16, 4 in float32."""
    body = body_params(config)
    head = 0 if config.tie_embeddings else config.vocab_size * config.d_model
    params = body + config.vocab_size * config.d_model + head + (config.vocab_size if config.head_bias else 0)
    tokens = microbatch * config.context
    memory = 16 * params + tokens * saved_bytes_per_token(config, activation_bytes)
    return Cost(params, body, flops_per_token(config), memory)


def body_params(config: ModelConfig) -> int:
    """Parameters of the blocks and the last norm."""
    return sum(_body_matmuls(config)) + (2 * config.n_layers + 1) * config.d_model


def flops_per_token(config: ModelConfig) -> int:
    """Training FLOPs a token; see Cost."""
    matmuls = sum(_body_matmuls(config)) + config.vocab_size * config.d_model
    scores = 2 * config.n_layers * config.context * config.n_heads * config.d_head
    return TRAIN_PER_FORWARD * 2 * (matmuls + scores)


def saved_bytes_per_token(config: ModelConfig, activation_bytes: int) -> int:
    """Bytes a token that the forward pass keeps for the backward pass, with flash attention and without checkpointing."""
    d, queries, keys = config.d_model, config.n_heads * config.d_head, config.kv_heads * config.d_head
    block = 2 * 4 * d  # the inputs of the two norms: the residual stream, in float32
    block += activation_bytes * (d + d)  # what the norms hand on: the inputs of q, k, v and of gate, up
    block += activation_bytes * (queries + 2 * keys + queries)  # rotated q and k, v, and the attention's output
    block += activation_bytes * 4 * config.d_ff  # gate, silu(gate), up and their product
    factors = sum(
        rank * (1 if config.factor_activation == "none" else 2)
        for layer in range(config.n_layers)
        for name in PROJECTIONS
        if (rank := config.rank(layer, name)) is not None
    )
    logits = (4 + activation_bytes) * config.vocab_size  # and their log-softmax, in float32
    return config.n_layers * block + activation_bytes * factors + (4 + activation_bytes) * d + logits


def rebalance(config: ModelConfig, rule: Rebalance) -> ModelConfig:
    """What the saved parameters buy: the FFN widened, in steps of ffn_multiple, as far as body params (or training FLOPs)
    stay within the dense twin's. A dense config comes back as it is."""
    if rule == "none":
        return config
    measure = body_params if rule == "params" else flops_per_token
    budget = measure(config.dense())
    step, low = config.ffn_multiple, 0
    high = 1
    while measure(config.change(d_ff=config.d_ff + high * step)) <= budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        fits = measure(config.change(d_ff=config.d_ff + middle * step)) <= budget
        low, high = (middle, high) if fits else (low, middle)
    return config.change(d_ff=config.d_ff + low * step)


def _body_matmuls(config: ModelConfig) -> list[int]:
    return [
        matmul_params(*config.projection(name), config.rank(layer, name))
        for layer in range(config.n_layers)
        for name in PROJECTIONS
    ]
