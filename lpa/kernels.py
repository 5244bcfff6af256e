"""How a decoder computes: with torch's own kernels one by one, with compiled regions, or compiled as a whole. The same numbers
but for the last bits, whichever it is."""

import os
import shutil
import sysconfig
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, ParamSpec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import UserError
from .linear import LowRankLinear

Inputs = ParamSpec("Inputs")

KernelsName = Literal["auto", "plain", "regions", "blocks", "model"]
"""plain: nothing is compiled. regions: norms, attention, the FFN's gate and the loss are, which know of no rank, so that a new
placement waits for no compiler. blocks: each kind of block as a whole, and these. model: everything as one. auto: regions
on a GPU where Triton and a C compiler are installed, else plain."""

COMPILED_KINDS = 64
"""Kinds of blocks, or of a region's inputs, that a process compiles at most. Beyond torch's own limit, 8, the next ones would
silently run as they are: regions have up to 15 in a search with evaluations and widths, and blocks as many as placements."""


def rms_norm(x: Tensor, weight: Tensor, eps: float, kind: torch.dtype) -> Tensor:
    """RMSNorm over the last dimension, its result in the dtype that the matmuls behind it read. x: (..., d), weight: (d,)."""
    return F.rms_norm(x, (x.shape[-1],), weight.to(x.dtype), eps).to(kind)  # of two types it has no fused kernel


def add_rms_norm(x: Tensor, y: Tensor, weight: Tensor, eps: float, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """The stream with a sublayer's output added, and its norm. x, y: (..., d)."""
    x = x + y
    return x, rms_norm(x, weight, eps, kind)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs (i, i + d_head/2) of x: (batch, heads, time, d_head) by each position's angles."""
    left, right = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-right, left), dim=-1) * sin).to(x.dtype)


def attend(parts: tuple[Tensor, ...], heads: tuple[int, int], angles: tuple[Tensor, Tensor] | None) -> Tensor:
    """What causal attention reads for each position: (batch, time, n_heads d_head). parts: queries, (batch, time, n_heads
    d_head), keys and values, (batch, time, n_kv_heads d_head) each, or all three side by side in one tensor; heads: n_heads and
    n_kv_heads; angles: cos and sin of rotary positions, (time, d_head) each, None without."""
    n_heads, n_kv_heads = heads
    counts = (n_heads, n_kv_heads, n_kv_heads)
    if len(parts) == 1:
        d_head = parts[0].shape[-1] // sum(counts)
        parts = parts[0].split([count * d_head for count in counts], dim=-1)
    q, k, v = (part.unflatten(-1, (count, -1)).transpose(1, 2) for part, count in zip(parts, counts, strict=True))
    if angles is not None:
        q, k = rotate(q, *angles), rotate(k, *angles)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=n_kv_heads != n_heads)
    return y.transpose(1, 2).flatten(2)  # from (batch, heads, time, d_head)


def swiglu(parts: tuple[Tensor, ...]) -> Tensor:
    """silu(gate) up. parts: gate and up, (..., d_ff) each, or both side by side in one tensor."""
    gate, up = parts if len(parts) == 2 else parts[0].chunk(2, dim=-1)
    return F.silu(gate) * up


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean in nats, in float32. logits: (batch, time, vocab_size), targets: (batch, time)."""
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


@dataclass(frozen=True)
class Kernels:
    """What a decoder computes with."""

    rms_norm: Callable[[Tensor, Tensor, float, torch.dtype], Tensor] = rms_norm
    add_rms_norm: Callable[[Tensor, Tensor, Tensor, float, torch.dtype], tuple[Tensor, Tensor]] = add_rms_norm
    attend: Callable[[tuple[Tensor, ...], tuple[int, int], tuple[Tensor, Tensor] | None], Tensor] = attend
    swiglu: Callable[[tuple[Tensor, ...]], Tensor] = swiglu
    cross_entropy: Callable[[Tensor, Tensor], Tensor] = cross_entropy
    joins: bool = False
    """Whether projections that read the same input do so in one product."""


PLAIN = Kernels()
JOINED = Kernels(joins=True)


def lacking() -> str:
    """What torch compiles with for a GPU and is not there, or nothing: Triton, and the C compiler and Python's headers that
    Triton builds what starts its kernels with (triton/runtime/build.py)."""
    compilers = os.environ.get("CC"), shutil.which("clang"), shutil.which("gcc")
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    there = {"Triton": find_spec("triton") is not None, "C compiler": any(compilers), "Python.h": headers.exists()}
    return next((name for name, is_there in there.items() if not is_there), "")


def regions(backend: str) -> Kernels:
    """Compiled at their first use, once for all models of a process."""
    _allow_kinds()
    return _regions(backend)


@cache
def _regions(backend: str) -> Kernels:
    its = partial(torch.compile, backend=backend)
    return Kernels(its(rms_norm), its(add_rms_norm), its(attend), its(swiglu), its(cross_entropy), joins=True)


def compiled(call: Callable[Inputs, Tensor], backend: str) -> Callable[Inputs, Tensor]:
    """A method of a model, compiled at its first use for each kind of model that it meets, once for all models of a process."""
    _allow_kinds()
    return _compiled(call, backend)


@cache
def _compiled(call: Callable[Inputs, Tensor], backend: str) -> Callable[Inputs, Tensor]:
    return torch.compile(call, backend=backend)


def forget() -> None:
    """All that was compiled in this process."""
    torch.compiler.reset()
    _regions.cache_clear()
    _compiled.cache_clear()


def compilations() -> int:
    """Graphs that this process has compiled so far, each in the first step or evaluation that needs it."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def _allow_kinds() -> None:
    """Each time: the limit is a thread's own, and ends with each_shape_by_itself when it was raised in it."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, COMPILED_KINDS)


@contextmanager
def each_shape_by_itself(name: str) -> Generator[None]:
    """While times are taken: what is compiled knows its shape, as in a training, which has but one; not one for several. Raises
    UserError for more kinds than are compiled: the next ones would silently be timed uncompiled."""
    if name == "plain":
        yield
        return
    from torch._dynamo.exc import FailOnRecompileLimitHit

    strict = {"automatic_dynamic_shapes": False, "recompile_limit": COMPILED_KINDS, "fail_on_recompile_limit_hit": True}
    with torch._dynamo.config.patch(strict):
        try:
            yield
        except FailOnRecompileLimitHit:
            raise UserError(
                f"kernels: {name} is compiled for {COMPILED_KINDS} kinds of shapes in a process, and more of them are to be "
                "timed; vary fewer ranks or widths"
            ) from None


def resolved(name: KernelsName, device: torch.device) -> KernelsName:
    """What auto means on a device."""
    if name != "auto":
        return name
    return "regions" if device.type == "cuda" and not lacking() else "plain"


def products(layers: Sequence[nn.Module], x: Tensor, joins: bool) -> tuple[Tensor, ...]:
    """Each layer's output. joins: the matrices that read x, dense ones and factors A, as one product: a GPU does one wide
    matmul in less time than several narrow ones. Outputs of dense ones alone stay side by side in one tensor, which what reads
    them cuts by itself: then its backward pass writes one gradient, and no pass of its own puts three together.
    x: (..., d_in); layers: linear or low-rank."""
    firsts = [first(layer) for layer in layers]
    if not joins or any(one.bias is not None for one in firsts):
        return tuple(layer(x) for layer in layers)
    whole = F.linear(x, torch.cat([one.weight.to(x.dtype) for one in firsts]))
    if not any(isinstance(layer, LowRankLinear) for layer in layers):
        return (whole,)
    parts = zip(layers, whole.split([one.out_features for one in firsts], dim=-1), strict=True)
    return tuple(layer.second(part) if isinstance(layer, LowRankLinear) else part for layer, part in parts)


def first(layer: nn.Module) -> nn.Linear:
    """The matrix of a projection that reads its input."""
    its = layer.a if isinstance(layer, LowRankLinear) else layer
    assert isinstance(its, nn.Linear)
    return its
