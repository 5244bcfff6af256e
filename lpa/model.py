"""The Llama-style decoder whose seven projections a layer are dense or low-rank."""

import hashlib
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .kernels import JOINED, PLAIN, Kernels, KernelsName, compiled, products, regions, resolved
from .linear import LowRankLinear, torch_default_
from .model_config import ModelConfig
from .parts import is_part, put
from .placement import ATTENTION


class Norm(nn.RMSNorm):
    """RMSNorm whose result is cast once to what the matmuls behind it read. x: (..., d_model) -> the same."""

    kernels = PLAIN

    def forward(self, x: Tensor) -> Tensor:
        return self.kernels.rms_norm(x, self.weight, self._eps, _read_by_matmuls(x))

    def after(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x + y and its norm. x: the stream, y: a sublayer's output."""
        return self.kernels.add_rms_norm(x, y, self.weight, self._eps, _read_by_matmuls(x))

    @property
    def _eps(self) -> float:
        assert self.eps is not None
        return self.eps


def _read_by_matmuls(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class Attention(nn.Module):
    """Causal attention with grouped queries. x: (batch, time, d_model) -> the same; angles: see rotary, None without."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads = config.n_heads, config.kv_heads
        self.q, self.k, self.v, self.o = (_projection(config, layer, name) for name in ("q", "k", "v", "o"))
        self.kernels = PLAIN

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor:
        parts = products((self.q, self.k, self.v), x, self.kernels.joins)
        return self.o(self.kernels.attend(parts, (self.n_heads, self.n_kv_heads), angles))


class FeedForward(nn.Module):
    """down(silu(gate(x)) up(x)), or down(relu(up(x))) without a gate. x: (batch, time, d_model) -> the same."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.gate = _projection(config, layer, "gate") if config.ffn == "swiglu" else None
        self.up, self.down = (_projection(config, layer, name) for name in ("up", "down"))
        self.kernels = PLAIN

    def forward(self, x: Tensor) -> Tensor:
        return self.down(widen((self.up,) if self.gate is None else (self.gate, self.up), x, self.kernels))


def widen(layers: Sequence[nn.Module], x: Tensor, kernels: Kernels) -> Tensor:
    """silu(gate(x)) up(x), or relu(up(x)) of up alone. x: (..., d_model) -> (..., d_ff)."""
    if len(layers) == 1:
        return F.relu(layers[0](x))
    return kernels.swiglu(products(layers, x, kernels.joins))


class Block(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x)); or x + norm(attention(x)), then x + norm(ffn(x))."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = _norm(config)
        self.attention = Attention(config, layer)
        self.ffn_norm = _norm(config)
        self.ffn = FeedForward(config, layer)
        self.dropout = nn.Dropout(config.dropout)
        self.recomputes = False
        """Whether the backward pass computes the activations again, which then take no memory in between."""
        self.computes = Block.compute
        """compute, or its compiled form."""

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor:
        if self.recomputes and torch.is_grad_enabled():
            return checkpoint(self.computes, self, x, angles, use_reentrant=False)
        return self.computes(self, x, angles)

    def compute(self, x: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor:
        """What forward gives."""
        if isinstance(self.ffn_norm, Norm):
            x, normed = self.ffn_norm.after(x, self.dropout(self.attention(self.attention_norm(x), angles)))
            return x + self.dropout(self.ffn(normed))
        x = x + self.dropout(self.attention_norm(self.attention(x, angles)))
        return x + self.dropout(self.ffn_norm(self.ffn(x)))

    def use(self, kernels: Kernels, whole: bool, backend: str) -> None:
        """Compute with these. whole: compiled as a whole."""
        for part in self.modules():
            if isinstance(part, (Attention, FeedForward, Norm)):
                part.kernels = kernels
        self.computes = compiled(Block.compute, backend) if whole else Block.compute


class Decoder(nn.Module):
    """tokens (batch, time) -> logits (batch, time, vocab_size). Built on torch's default device; see init_weights."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.kernels, self.computes = config, PLAIN, Decoder.compute
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = nn.Embedding(config.context, config.d_model) if config.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = _norm(config) if config.norm == "rms_before" else nn.Identity()
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=config.head_bias)
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x, angles = self.embedding(tokens), None
        if self.positions is None:
            angles = rotary(self.config, tokens.shape[1], tokens.device)
        else:
            x = x + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, angles)
        return self.head(self.norm(x))

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy in nats. tokens, targets: (batch, time)."""
        return self.computes(self, tokens, targets)

    def compute(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """What loss gives."""
        return self.kernels.cross_entropy(self(tokens), targets)

    def use(self, name: KernelsName, device: torch.device, backend: str = "inductor") -> None:
        """Compute with these kernels from now on. device: where; backend: torch.compile's."""
        name = resolved(name, device)
        self.kernels = PLAIN if name == "plain" else JOINED if name == "model" else regions(backend)
        if isinstance(self.norm, Norm):
            self.norm.kernels = self.kernels
        for block in self.blocks:
            assert isinstance(block, Block)
            block.use(JOINED if name == "blocks" else self.kernels, name == "blocks", backend)
        self.computes = compiled(Decoder.compute, backend) if name == "model" else Decoder.compute

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Draw every tensor from a stream of its own, made from (seed, name): a tensor's values depend on nothing else. Of one
        in parts each process draws the whole, one at a time, and keeps its part: the bits of a single process."""
        for name, module in self.named_modules():
            if isinstance(module, LowRankLinear):
                continue  # its two factors come by as linear layers
            for key, parameter in module.named_parameters(recurse=False):
                full = f"{name}.{key}"
                if full == "head.weight" and self.config.tie_embeddings:
                    continue  # drawn as the embedding
                whole = torch.empty(parameter.shape, device=parameter.device) if is_part(parameter) else parameter
                self._draw(whole, module, name, key, _stream(seed, full, parameter.device))
                if whole is not parameter:
                    put(parameter, whole)

    def _draw(self, tensor: Tensor, module: nn.Module, name: str, key: str, stream: torch.Generator) -> None:
        if isinstance(module, nn.Linear) and self.config.init == "lpa":
            torch_default_(tensor, module.in_features, stream)
        elif key == "bias":
            nn.init.zeros_(tensor)
        elif isinstance(module, (nn.RMSNorm, nn.LayerNorm)):
            nn.init.ones_(tensor)
        else:
            nn.init.normal_(tensor, std=self._std(name), generator=stream)

    def _std(self, name: str) -> float:
        """The std that `init: matched` gives to the weight of a module (dense_std for dense projections)."""
        if name == "positions" or (name == "embedding" and not self.config.tie_embeddings):
            return 1.0  # torch's default; at cpu-64, 0.2M tokens, 2.03 nats against 2.09 with 1/sqrt(d_model) (one seed)
        if name in ("embedding", "head"):
            # A head at mup's 1/d_model was 0.12 nats worse (cpu-64, 0.2M tokens, 3 seeds: 0.06, 0.12 and 0.18). The price: from
            # width 64 to 512 the change of the logits grows as width^0.17 in the first step, and as width^0.03 over four.
            return 1 / math.sqrt(self.config.d_model)
        parent, _, last = name.rpartition(".")
        if last in ("a", "b"):
            factors = self.get_submodule(parent)
            assert isinstance(factors, LowRankLinear)
            return factors.matched_stds(self.dense_std(parent))["ab".index(last)]
        return self.dense_std(name)

    def dense_std(self, name: str) -> float:
        """std of a dense projection, e.g. blocks.0.attention.q: 1/sqrt(d_in); for the two that end a residual branch (o, down)
        1/sqrt(2 n_layers d_in), as in GPT-2, so that the stream's scale does not grow with depth. `init: scaled` makes those of
        attention smaller by sqrt(3)."""
        last = name.rpartition(".")[2]
        depth = 2 * self.config.n_layers if last in ("o", "down") else 1
        scaled = 3 if self.config.init == "scaled" and last in ATTENTION else 1
        return 1 / math.sqrt(self.config.projection(last)[0] * depth * scaled)


def rotary(config: ModelConfig, time: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin of the rotary angles, (time, d_head), the half-split form of Hugging Face's Llama."""
    half = torch.arange(0, config.d_head, 2, device=device, dtype=torch.float32) / config.d_head
    angles = torch.outer(torch.arange(time, device=device, dtype=torch.float32), config.rope_theta**-half)
    angles = torch.cat((angles, angles), dim=-1)  # (time, d_head)
    return angles.cos(), angles.sin()


def build(config: ModelConfig, device: torch.device, seed: int) -> Decoder:
    """A decoder with freshly drawn weights on a device."""
    return fill(outline(config), device, seed)


def outline(config: ModelConfig) -> Decoder:
    """A decoder without values, on the meta device."""
    with torch.device("meta"):
        return Decoder(config)


def fill(model: Decoder, device: torch.device, seed: int) -> Decoder:
    """An outline, or this process's part of one, with freshly drawn weights on a device."""
    model.to_empty(device=device)
    if model.config.tie_embeddings:
        model.head.weight = model.embedding.weight
    model.init_weights(seed)
    return model


def _projection(config: ModelConfig, layer: int, name: str) -> nn.Module:
    d_in, d_out = config.projection(name)
    rank, bias = config.rank(layer, name), config.has_bias(layer, name)
    if rank is None:
        return nn.Linear(d_in, d_out, bias=bias)
    return LowRankLinear(d_in, d_out, rank, config.factor_activation, bias)


def _norm(config: ModelConfig) -> nn.Module:
    return (Norm if config.norm == "rms_before" else nn.LayerNorm)(config.d_model, eps=config.norm_eps)


def _stream(seed: int, name: str, device: torch.device) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:7], "big"))
