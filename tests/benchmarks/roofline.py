"""The least time that a training step can take on a device: each operation by its FLOPs at the measured matmul rate or by its
bytes at the measured bandwidth, whichever is longer, one after the other.

What is counted: every product three times (forward, and for the input's and the weight's gradient), with the bytes that it
reads and writes; the attention kernel by its FLOPs; norms, residual adds, rotary positions, gate and loss by bytes, as if
fused; AdamW by bytes, clipping as if in it. Matrices that read one input (q, k, v; gate, up; of low-rank ones the factors A)
are one product, as in all kernels but plain: the input is read once, which is never more than apart. Factors B read inputs of
their own and are apart. A kernel that is not perfect, a copy or a launch is not in it. It is a bound as far as the measured
ceilings are ones, and where logits, and what matmuls read and write, go through memory: what fits the device's L2 may be read
there, so how much of a step could be less is told beside it (`in_l2`).
"""

from dataclasses import dataclass, replace
from statistics import median

import torch
from lpanas.lpa.cost import TRAIN_PER_FORWARD, cost, flops_per_token
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.step_time import timed

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
    free_bytes: float = 0.0
    """An operation that reads and writes no more takes no time for that."""

    def seconds(self, flops: float, size: float) -> float:
        """Of an operation. size: bytes."""
        return max(flops / self.flops_per_second, size / self.bytes_per_second if size > self.free_bytes else 0.0)


Parts = dict[str, float]
"""Seconds of products, of attention, and of what lies between them."""


def ceilings(device: torch.device, toy: bool) -> Device:
    """Of a device, measured. toy: small, and in float32."""
    n, kind, size, count = (256, torch.float32, 2**20, 3) if toy else (8192, torch.bfloat16, 2**31, 30)
    a, b = (torch.randn(n, n, device=device).to(kind) for _ in range(2))
    large = torch.empty(size, dtype=torch.uint8, device=device)
    other = torch.empty_like(large)

    def products() -> None:
        for _ in range(5):
            torch.mm(a, b)

    def copies() -> None:
        for _ in range(5):
            other.copy_(large)

    of_products, of_copies = (median(timed(device, [call])[0] for _ in range(count)) for call in (products, copies))
    return Device(5 * 2 * n**3 / of_products, 5 * 2 * size / of_copies)


def causal_flops_per_token(config: ModelConfig) -> float:
    """Training FLOPs a token without the half of the scores that causal attention leaves out."""
    return flops_per_token(config) - TRAIN_PER_FORWARD * _causal_scores(config, config.n_layers)


def step_seconds(config: ModelConfig, microbatch: int, microbatches: int, device: Device) -> float:
    """Of one training step. microbatch: sequences."""
    return sum(step_parts(config, microbatch, microbatches, device).values())


def step_parts(config: ModelConfig, microbatch: int, microbatches: int, device: Device) -> Parts:
    """Of one training step."""
    found = {name: microbatches * its for name, its in microbatch_parts(config, microbatch, device).items()}
    found["between"] += device.seconds(0, cost(config, microbatch).params * UPDATE_BYTES)
    return found


def in_l2(config: ModelConfig, microbatch: int, microbatches: int, device: Device, l2_bytes: float) -> float:
    """The share of a step's time that operations take to read and write what fits the device's L2 as a whole: by so much it may
    be less."""
    less = step_seconds(config, microbatch, microbatches, replace(device, free_bytes=l2_bytes))
    return 1 - less / step_seconds(config, microbatch, microbatches, device)


def microbatch_seconds(config: ModelConfig, microbatch: int, device: Device) -> float:
    """Forward and backward pass of a microbatch."""
    return sum(microbatch_parts(config, microbatch, device).values())


def microbatch_parts(config: ModelConfig, microbatch: int, device: Device) -> Parts:
    """Forward and backward pass of a microbatch."""
    tokens, vocab_size = microbatch * config.context, config.vocab_size
    shapes = [(config.d_model, vocab_size)]
    shapes += [shape for layer in range(config.n_layers) for shape in layer_products(config, layer)]
    logits = device.seconds(0, tokens * vocab_size * (ITEM * 3))  # read twice by the loss, their gradient written
    return {
        "products": sum(_product(tokens, *shape, device) for shape in shapes),
        "attention": config.n_layers * _attention(config, tokens, device),
        "between": logits + sum(_cast(*shape, device) for shape in shapes) + config.n_layers * _between(config, tokens, device),
    }


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


def _causal_scores(config: ModelConfig, layers: int) -> float:
    """FLOPs a token of the forward pass of so many layers: queries by keys, and by values; half of them."""
    return layers * 2 * 2 * config.context * config.n_heads * config.d_head / 2


def _attention(config: ModelConfig, tokens: int, device: Device) -> float:
    """A layer's kernel."""
    width, keys = config.n_heads * config.d_head, config.kv_heads * config.d_head
    size = 6 * (width + keys)  # reads q, k, v, writes o; reads q, k, v, o and o's gradient, writes those of q, k and v
    return device.seconds(3.5 * tokens * _causal_scores(config, 1), tokens * size * ITEM)  # flash: 2 products, 5 backward


def _between(config: ModelConfig, tokens: int, device: Device) -> float:
    """What a layer does besides its products and its attention kernel."""
    d, width, keys = config.d_model, config.n_heads * config.d_head, config.kv_heads * config.d_head
    total = device.seconds(0, 2 * tokens * d * (2 * FLOAT + 2 * ITEM))  # residual add and norm in one: reads 2, writes 2
    total += device.seconds(0, 2 * tokens * d * (3 * FLOAT + 2 * ITEM))  # backward: the stream, its gradient in and out
    total += device.seconds(0, 2 * 2 * tokens * (width + keys) * ITEM)  # rotary positions
    passes = 3 + 5 if config.ffn == "swiglu" else 2 + 3  # gate: reads 2 writes 1; reads 3 writes 2. relu: 1, 1; 2, 1
    return total + device.seconds(0, tokens * config.d_ff * ITEM * passes)


def _product(tokens: int, d_in: int, d_out: int, device: Device) -> float:
    """(tokens, d_in) x (d_in, d_out), forward and backward. Its weight's gradient is float32."""
    flops, weight = 2 * tokens * d_in * d_out, d_in * d_out
    activations = tokens * (d_in + d_out)
    forward, of_weight = (activations + weight) * ITEM, activations * ITEM + weight * FLOAT
    return 2 * device.seconds(flops, forward) + device.seconds(flops, of_weight)


def _cast(d_in: int, d_out: int, device: Device) -> float:
    """Of a weight."""
    return device.seconds(0, d_in * d_out * CAST_BYTES)
