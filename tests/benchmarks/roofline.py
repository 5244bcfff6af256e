"""The least time that a training step can take on a device: each operation by its FLOPs at the measured matmul rate or by its
bytes at the measured bandwidth, whichever is longer, one after the other.

What is counted: every product three times (forward, and for the input's and the weight's gradient), with the bytes that it
reads and writes; the attention kernel by its FLOPs; norms, residual adds, rotary positions, gate and loss by bytes, as if
fused; AdamW by bytes, clipping as if in it. Matrices that read one input (q, k, v; gate, up; of low-rank ones the factors A)
are one product, as in all kernels but plain: the input is read once, which is never more than apart. Factors B read inputs of
their own and are apart. A kernel that is not perfect, a copy or a launch is not in it. It is a bound as far as the measured
ceilings are ones, and where logits, and what matmuls read and write, go through memory.
"""

from dataclasses import dataclass

from lpanas.lpa.cost import cost
from lpanas.lpa.model_config import ModelConfig

ITEM, FLOAT = 2, 4
"""Bytes of an activation in bfloat16, and of float32."""
UPDATE_BYTES = 4 + 28
"""A parameter: the norm reads its gradient (4); AdamW reads four float32, clips, and writes three."""
CAST_BYTES = FLOAT + ITEM
"""A weight in each microbatch: read in float32, written in bfloat16."""
INPUTS = (("q", "k", "v"), ("o",), ("gate", "up"), ("down",))
"""Projections that read the same input."""


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
        total += sum(_product(tokens, *shape, device) for shape in layer_products(config, layer))
        total += _between(config, tokens, device)
    return total


def layer_products(config: ModelConfig, layer: int) -> list[tuple[int, int]]:
    """(d_in, d_out) of each product of a layer's forward pass."""
    found = []
    for group in INPUTS:
        names = [name for name in group if name in config.projections]
        ranks = {name: config.rank(layer, name) for name in names}
        outs = {name: config.projection(name)[1] for name in names}
        found.append((config.projection(names[0])[0], sum(ranks[name] or outs[name] for name in names)))
        found += [(rank, outs[name]) for name, rank in ranks.items() if rank is not None]
    return found


def _between(config: ModelConfig, tokens: int, device: Device) -> float:
    """What a layer does besides its products."""
    d, width, keys = config.d_model, config.n_heads * config.d_head, config.kv_heads * config.d_head
    scores = 2 * 2 * tokens * config.context * width / 2  # causal: half of the scores
    kernel = 6 * (width + keys)  # reads q, k, v, writes o; reads q, k, v, o and o's gradient, writes those of q, k and v
    total = device.seconds(3.5 * scores, tokens * kernel * ITEM)  # flash: 2 products forward, 5 backward
    total += device.seconds(0, 2 * tokens * d * (2 * FLOAT + 2 * ITEM))  # residual add and norm in one: reads 2, writes 2
    total += device.seconds(0, 2 * tokens * d * (3 * FLOAT + 2 * ITEM))  # backward: the stream, its gradient in and out
    total += device.seconds(0, 2 * 2 * tokens * (width + keys) * ITEM)  # rotary positions
    passes = 3 + 5 if config.ffn == "swiglu" else 2 + 3  # gate: reads 2 writes 1; reads 3 writes 2. relu: 1, 1; 2, 1
    return total + device.seconds(0, tokens * config.d_ff * ITEM * passes)


def _product(tokens: int, d_in: int, d_out: int, device: Device) -> float:
    """(tokens, d_in) x (d_in, d_out), forward and backward, and the cast of its weight. Its gradient is float32."""
    flops, weight = 2 * tokens * d_in * d_out, d_in * d_out
    activations = tokens * (d_in + d_out)
    forward, of_weight = (activations + weight) * ITEM, activations * ITEM + weight * FLOAT
    return 2 * device.seconds(flops, forward) + device.seconds(flops, of_weight) + device.seconds(0, weight * CAST_BYTES)
