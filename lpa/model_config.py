"""ModelConfig: a decoder's shape and its placement, everything that decides which tensors it has."""

from functools import cached_property
from itertools import groupby
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainSerializer, model_validator

from .config import Config, Count
from .linear import FactorActivation, saves
from .placement import FFN, PROJECTIONS, Placement, resolve_rank

Size = Annotated[int, Field(gt=0)]
PlacementText = Annotated[Placement, PlainSerializer(lambda placement: placement.text)]


class ModelConfig(Config):
    """A decoder's shape and its placement: everything that decides which tensors it has."""

    vocab_size: Annotated[Count, Field(gt=1)]
    """Rows of the embedding and of the head."""
    d_model: Size
    """Width of the residual stream."""
    d_ff: Size
    """Width of the FFN, before or after rebalance."""
    n_layers: Size
    """Blocks, each an attention and an FFN."""
    n_heads: Size
    """Query heads."""
    n_kv_heads: Size | None = None
    """Key and value heads (grouped queries); n_heads when left out."""
    head_dim: Size | None = None
    """d_model / n_heads when left out."""
    context: Size = 1024
    """Tokens in a sequence."""
    norm_eps: Annotated[float, Field(gt=0)] = 1e-6
    """Added to the mean square (RMSNorm) or to the variance (LayerNorm); Llama's."""
    rope_theta: Annotated[float, Field(gt=0)] = 10_000.0
    """Base of the rotary wavelengths, 2 pi rope_theta^(2i / d_head) tokens; Llama's."""
    tie_embeddings: bool = False
    """The head uses the embedding's matrix."""
    head_bias: bool = False
    """The head has a bias (the LPA authors' Llama-style model has one)."""
    ffn: Literal["swiglu", "relu"] = "swiglu"
    """relu: down(relu(up(x))), without a gate."""
    norm: Literal["rms_before", "layer_after"] = "rms_before"
    """rms_before: RMSNorm on each sublayer's input, and one before the head. layer_after: LayerNorm on each sublayer's output
    before it is added to the stream, and none before the head (the LPA authors' 370M model)."""
    positions: Literal["rotary", "learned"] = "rotary"
    """learned: a vector for each of `context` positions, added to the embedding."""
    bias: bool = False
    """The projections have biases, but for low-rank ones in attention. (The LPA authors' 370M model has a bias behind A in a
    low-rank q, k, v and up, behind B in o and down: 0.05M parameters more in its attention arm, 0.08M fewer in its FFN arm.)"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """On each sublayer's output, while training (as in the LPA authors' 370M model)."""
    rank_multiple: Size = 64
    """Rank fractions resolve to multiples of this (64 suits tensor cores)."""
    ffn_multiple: Size = 1
    """An FFN that is made as wide as costs what the dense one's does (rebalance, equal step_seconds) has a multiple of this (8
    suits tensor cores in bfloat16)."""
    factor_activation: FactorActivation = "none"
    """Between the two factors of a low-rank projection."""
    init: Literal["matched", "lpa", "scaled"] = "matched"
    """matched: a product AB starts at the dense matrix's std; with a SiLU between the factors, its output at the dense
    matrix's scale for inputs of unit scale. lpa: torch's defaults, as in the LPA authors' code. scaled: matched, but the
    matrices of attention, or products AB, start at 1/sqrt(3) of that, which is what those defaults leave of a product's std."""
    placement: PlacementText
    """Which projections are low-rank, and at which fraction of full rank; `dense` when left out."""

    @model_validator(mode="before")
    @classmethod
    def _read_placement(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        placement = raw.get("placement", "dense")
        layers = raw.get("n_layers")
        if isinstance(placement, str) and isinstance(layers, int) and layers > 0:
            try:
                placement = Placement.parse(placement, layers)
            except ValueError as error:
                raise ValueError(f"placement: {error}") from None
        if isinstance(placement, Placement) and raw.get("ffn") == "relu":
            placement = placement.without("gate")
        return {**raw, "placement": placement}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.head_dim is None and self.d_model % self.n_heads:
            raise ValueError(f"n_heads: {self.n_heads} heads do not divide d_model {self.d_model}")
        if self.n_heads % self.kv_heads:
            raise ValueError(f"n_kv_heads: {self.kv_heads} does not divide n_heads {self.n_heads}")
        if self.d_head % 2 and self.positions == "rotary":
            raise ValueError(f"head_dim: rotary positions need an even one, found {self.d_head}")
        if len(self.placement.layers) != self.n_layers:
            raise ValueError(f"placement: {len(self.placement.layers)} layers for a model of {self.n_layers}")
        for layer, _ in self.placement.alike:
            for name in self.projections:
                self._check_rank(layer, name)
        return self

    def _check_rank(self, layer: int, name: str) -> None:
        rank, (d_in, d_out) = self.rank(layer, name), self.projection(name)
        if rank is not None and not saves(d_in, d_out, rank):
            limit = d_in * d_out / (d_in + d_out)
            raise ValueError(
                f"placement: rank {rank} ({self.placement.rank(layer, name)}) saves nothing in {name} of layer {layer}, "
                f"{d_in} x {d_out}; below {limit:g} it would"
            )

    @property
    def d_head(self) -> int:
        """Width of one head."""
        return self.head_dim or self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""
        return self.n_kv_heads or self.n_heads

    @property
    def projections(self) -> tuple[str, ...]:
        """The names of a layer's projections: all seven, or without the gate."""
        return PROJECTIONS if self.ffn == "swiglu" else tuple(name for name in PROJECTIONS if name != "gate")

    @cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(d_in, d_out) of every projection."""
        queries, keys = self.n_heads * self.d_head, self.kv_heads * self.d_head
        d, ff = self.d_model, self.d_ff
        attention = {"q": (d, queries), "k": (d, keys), "v": (d, keys), "o": (queries, d)}
        return attention | {"gate": (d, ff), "up": (d, ff), "down": (ff, d)}

    def projection(self, name: str) -> tuple[int, int]:
        """(d_in, d_out) of a projection."""
        return self.shapes[name]

    def rank(self, layer: int, name: str) -> int | None:
        """The resolved rank of a projection, or None when it is dense."""
        fraction = self.placement.rank(layer, name)
        return None if fraction is None else resolve_rank(fraction, *self.projection(name), self.rank_multiple)

    @property
    def ranks_text(self) -> str:
        """The resolved ranks: `q16 k16`, of each band of layers that are alike; nothing when there is none."""
        texts = [(layer, self._ranks_of(layer)) for layer in range(self.n_layers)]
        bands = [(text, [layer for layer, _ in its]) for text, its in groupby(texts, key=lambda one: one[1])]
        if len(bands) == 1:
            return bands[0][0]
        return "; ".join(f"{layers[0]}-{layers[-1]} {text}" for text, layers in bands if text)

    def _ranks_of(self, layer: int) -> str:
        ranks = {name: self.rank(layer, name) for name in self.projections}
        return " ".join(f"{name}{rank}" for name, rank in ranks.items() if rank is not None)

    def has_bias(self, layer: int, name: str) -> bool:
        """Whether a projection has a bias."""
        return self.bias and (name in FFN or self.placement.rank(layer, name) is None)

    def place(self, placement: Placement) -> "ModelConfig":
        """The same shape with another placement."""
        return self.change(placement=placement)

    def wide(self, d_ff: int) -> "ModelConfig | None":
        """The same with another width of the FFN; None where a rank of it saves nothing there."""
        try:
            return self.change(d_ff=d_ff)
        except ValueError:
            return None

    def dense(self) -> "ModelConfig":
        """The dense twin."""
        return self.place(Placement.from_bands(self.n_layers, [{}]))
