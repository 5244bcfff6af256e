"""The least time that a training step can take on a device: each operation by its FLOPs at the measured matmul rate or by its
bytes at the measured bandwidth, whichever is longer, one after the other.

What is counted: every product three times (forward, and for the input's and the weight's gradient), with the bytes that it
reads and writes; the attention kernel by its FLOPs; norms, residual adds, rotary positions, gate and loss by bytes, as if
fused; clipping and AdamW by bytes. A kernel that is not perfect, a copy or a launch is not in it.
"""

from dataclasses import dataclass

from lpanas.lpa.cost import cost
from lpanas.lpa.model import ModelConfig

ITEM, FLOAT = 2, 4
"""Bytes of an activation in bfloat16, and of float32."""
UPDATE_BYTES = 8 + 28
"""A parameter: the norm reads its gradient (4) and clipping writes it (4); AdamW reads four float32 and writes three."""
CAST_BYTES = FLOAT + ITEM
"""A weight in each microbatch: read in float32, written in bfloat16."""


@dataclass(frozen=True)
class Device:
    """What was measured of it."""

    flops_per_second: float
    """Of large bfloat16 products."""
    bytes_per_second: float
    """Of a large copy, read and written."""

    def seconds(self, flops: float, size: float) -> float:
        """Of an operation. size: bytes."""
        return max(flops / self.flops_per_second, size / self.bytes_per_second)


def step_seconds(config: ModelConfig, microbatch: int, microbatches: int, device: Device) -> float:
    """Of one training step. microbatch: sequences."""
    params = cost(config, microbatch).params
    return microbatches * microbatch_seconds(config, microbatch, device) + device.seconds(0, params * UPDATE_BYTES)


def microbatch_seconds(config: ModelConfig, microbatch: int, device: Device) -> float:
    """Forward and backward pass of a microbatch."""
    tokens = microbatch * config.context
    total = _product(tokens, config.d_model, config.vocab_size, device)
    total += device.seconds(0, tokens * config.vocab_size * (ITEM * 3))  # logits read twice by the loss, their gradient written
    for layer in range(config.n_layers):
        total += _layer(config, layer, tokens, device)
    return total


def _layer(config: ModelConfig, layer: int, tokens: int, device: Device) -> float:
    d, width = config.d_model, config.n_heads * config.d_head
    total = 0.0
    for name in config.projections:
        d_in, d_out = config.projection(name)
        rank = config.rank(layer, name)
        pairs = [(d_in, d_out)] if rank is None else [(d_in, rank), (rank, d_out)]
        total += sum(_product(tokens, *pair, device) for pair in pairs)
    scores = 2 * 2 * tokens * config.context * width / 2  # causal: half of the scores
    total += device.seconds(3.5 * scores, 4 * tokens * width * ITEM * 3)  # flash: 2 products forward, 5 backward
    total += device.seconds(0, 2 * tokens * d * (3 * FLOAT + 3 * ITEM))  # norms and residual adds, forward
    total += device.seconds(0, 2 * tokens * d * (3 * FLOAT + 2 * ITEM))  # and backward
    total += device.seconds(0, 2 * 2 * tokens * (width + config.kv_heads * config.d_head) * ITEM)  # rotary positions
    return total + device.seconds(0, tokens * config.d_ff * ITEM * (3 + 5))  # gate: reads 2 writes 1; reads 3 writes 2


def _product(tokens: int, d_in: int, d_out: int, device: Device) -> float:
    """(tokens, d_in) x (d_in, d_out), forward and backward, and the cast of its weight."""
    flops = 2 * tokens * d_in * d_out
    sizes = tokens * d_in + d_in * d_out + tokens * d_out
    ways = [
        sizes * ITEM,
        sizes * ITEM,
        (sizes - d_in * d_out) * ITEM + d_in * d_out * (ITEM + 2 * FLOAT),
    ]  # gradient in float32
    return sum(device.seconds(flops, size) for size in ways) + device.seconds(0, d_in * d_out * CAST_BYTES)
