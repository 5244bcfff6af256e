"""What a model costs, before it is trained: parameters, FLOPs and bytes, each a formula of its config."""

from dataclasses import asdict, dataclass
from typing import Literal

from .linear import matmul_params
from .model import ModelConfig

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
    """Weights, gradients and AdamW's two moments in float32, bfloat16 copies of the matmul weights where activations are
    bfloat16, and the activations of one microbatch at their peak."""

    def asdict(self) -> dict[str, int]:
        """The figures by name."""
        return asdict(self)


def cost(config: ModelConfig, microbatch: int, item: int = 2) -> Cost:
    """The cost of training a model. microbatch: sequences in one forward pass; item: bytes of an activation, 2 under
    bfloat16 autocast and 4 in float32."""
    body = body_params(config)
    head = 0 if config.tie_embeddings else config.vocab_size * config.d_model
    params = body + config.vocab_size * config.d_model + head + (config.vocab_size if config.head_bias else 0)
    params += config.context * config.d_model if config.positions == "learned" else 0
    tokens = microbatch * config.context
    copies = 2 * (sum(_body_matmuls(config)) + config.vocab_size * config.d_model) if item == 2 else 0
    memory = 16 * params + copies + tokens * activation_bytes_per_token(config, item)
    return Cost(params, body, flops_per_token(config), memory)


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


def activation_bytes_per_token(config: ModelConfig, item: int) -> int:
    """Bytes a token at the peak, the start of the backward pass: what the forward pass keeps (with fused norms and flash
    attention, without checkpointing) and the loss's or the FFN's passing gradients. item: bytes of what matmuls read."""
    d, queries, keys = config.d_model, config.n_heads * config.d_head, config.kv_heads * config.d_head
    norm = 4 * d + 4 + item * d  # the float32 stream and its root mean square; the result, which matmuls read
    attention = item * (queries + 2 * keys + queries) + 4 * config.n_heads  # rotated q and k, v, the result; log-sum-exp
    ffn = item * config.d_ff * (4 if config.ffn == "swiglu" else 1)  # gate, silu(gate), up and their product; or relu(up)
    per_rank = item * (1 if config.factor_activation == "none" else 2)  # x A, and its SiLU
    ranks = [count * (config.rank(layer, name) or 0) for layer, count in config.placement.alike for name in config.projections]
    kept = config.n_layers * (2 * norm + attention + ffn) + per_rank * sum(ranks) + norm
    kept += 4 * config.vocab_size + 8  # log-softmax in float32, and the target
    kept += (2 * config.n_layers + 1) * d if config.dropout else 0  # masks of a byte
    return kept + max(8 * config.vocab_size, 4 * d + (3 if config.ffn == "swiglu" else 1) * item * config.d_ff)


def rebalance(config: ModelConfig, rule: Rebalance) -> ModelConfig:
    """What the saved parameters buy: the FFN widened, in steps of ffn_multiple, as far as body params (or training FLOPs)
    stay within the dense twin's. A dense config comes back as it is."""
    if rule == "none":
        return config
    measure = body_params if rule == "params" else flops_per_token
    budget, step = measure(config.dense()), config.ffn_multiple

    def widened(steps: int) -> ModelConfig:
        return config.change(d_ff=config.d_ff + steps * step)

    def fits(steps: int) -> bool:
        try:
            return measure(widened(steps)) <= budget
        except ValueError:  # where d_ff < d_model bounds a rank, a wider FFN can have one that saves nothing
            return False

    if not fits(1):
        return config
    steps = (budget - measure(config)) // (measure(widened(1)) - measure(config))
    while not fits(steps):
        steps -= 1
    while fits(steps + 1):
        steps += 1
    return widened(steps)


def _body_matmuls(config: ModelConfig) -> list[int]:
    return [
        count * matmul_params(*config.projection(name), config.rank(layer, name))
        for layer, count in config.placement.alike
        for name in config.projections
    ]
