"""A training step as pieces that are computed one after the other: which ones a model has, and how often each."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from .between import aligned, between_sizes, between_widths
from .linear import FactorActivation, matmul_params
from .model_config import ModelConfig


@dataclass(frozen=True, order=True)
class Layer:
    """A projection."""

    d_in: int
    d_out: int
    rank: int = 0
    """0: dense."""
    bias: bool = False

    @property
    def key(self) -> str:
        """As text."""
        rank = f" rank {self.rank}" if self.rank else ""
        return f"{self.d_in}>{self.d_out}{rank}{' bias' if self.bias else ''}"

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of its weights."""
        factors = (self.d_in * self.rank, self.rank * self.d_out) if self.rank else (self.d_in * self.d_out,)
        return (*factors, self.d_out) if self.bias else factors


@dataclass(frozen=True)
class Projections:
    """Projections that read one input."""

    layers: tuple[Layer, ...]
    activation: FactorActivation = "none"
    casts: bool = False
    """Whether the input is the float32 stream, not what a norm or another matmul has written for matmuls."""
    word: ClassVar[str]

    @property
    def reads(self) -> tuple[int, ...]:
        """The widths of its inputs."""
        return (self.layers[0].d_in,)

    @property
    def key(self) -> str:
        """As text."""
        return " ".join([self.word, _keys(self.layers, self.activation), *(["from float32"] if self.casts else [])])


@dataclass(frozen=True)
class Project(Projections):
    """q, k and v; o; down."""

    word: ClassVar[str] = "project"


@dataclass(frozen=True)
class Widen(Projections):
    """The projections into the FFN and what becomes of them: silu(gate) up, or relu(up)."""

    word: ClassVar[str] = "widen"


@dataclass(frozen=True)
class Attend:
    """Rotary positions and attention itself."""

    n_heads: int
    n_kv_heads: int
    d_head: int
    rotary: bool
    joined: bool = False
    """Whether queries, keys and values lie side by side in one tensor, as kernels that join products leave dense ones."""
    casts: ClassVar[bool] = False

    @property
    def reads(self) -> tuple[int, ...]:
        """The widths of its inputs."""
        widths = (self.n_heads * self.d_head, self.n_kv_heads * self.d_head, self.n_kv_heads * self.d_head)
        return (sum(widths),) if self.joined else widths

    @property
    def key(self) -> str:
        """As text."""
        more = f"{' rotary' if self.rotary else ''}{' joined' if self.joined else ''}"
        return f"attend {self.n_heads}/{self.n_kv_heads} heads of {self.d_head}{more}"


@dataclass(frozen=True)
class Stream:
    """What a block does between its sublayers: norms, dropout, additions to the stream."""

    d_model: int
    norm: str
    dropout: float
    casts: ClassVar[bool] = True

    @property
    def reads(self) -> tuple[int, ...]:
        """The widths of its inputs."""
        return (self.d_model,)

    @property
    def key(self) -> str:
        """As text."""
        return f"stream {self.d_model} {self.norm}{f' dropout {self.dropout:g}' if self.dropout else ''}"


@dataclass(frozen=True)
class Ends:
    """What stands before and after the blocks: embedding, last norm, head and loss."""

    d_model: int
    vocab_size: int
    norm: str
    positions: str
    tied: bool
    bias: bool

    @property
    def key(self) -> str:
        """As text."""
        more = f"{' tied' if self.tied else ''}{' bias' if self.bias else ''}"
        return f"ends {self.vocab_size}>{self.d_model}>{self.vocab_size} {self.norm} {self.positions}{more}"


@dataclass(frozen=True)
class Update:
    """Clipping and AdamW's step of one tensor."""

    size: int
    """Parameters in it."""

    @property
    def key(self) -> str:
        """As text."""
        return f"update {self.size}"


Piece = Project | Widen | Attend | Stream | Ends | Update


def _keys(layers: Sequence[Layer], activation: FactorActivation) -> str:
    return " ".join([*(layer.key for layer in layers), *([activation] if activation != "none" else [])])


def pieces(config: ModelConfig, dense_width: int) -> dict[Piece, float]:
    """The pieces of a step, each with how often it is computed in a microbatch (in a step: Update). Between two widths that are
    measured, or beyond them, the two nearest pieces stand in for one, with shares of it that sum to 1.

    dense_width: d_ff of the dense twin, from which the measured widths are counted, in multiples of the config's own.
    """
    found = defaultdict[Piece, float](float)
    found[_ends(config)] += 1
    found[Stream(config.d_model, config.norm, config.dropout)] += config.n_layers
    for first, count in config.placement.alike:
        found[attending(config, first)] += count
        for piece, share in _projecting(config, first, between_widths(config.d_ff, dense_width, aligned(config))):
            found[piece] += count * share
    for size, count in _sizes(config).items():
        for near, share in between_sizes(size):
            found[Update(near)] += count * share
    return dict(found)


def _projecting(config: ModelConfig, layer: int, shares: Mapping[int, float]) -> Iterator[tuple[Piece, float]]:
    """The pieces of a layer that depend on its ranks; those of the FFN at each width, with their shares."""
    ranks = {name: config.rank(layer, name) for name in config.projections}
    for names in GROUPS:
        for width, share in shares.items() if names != ATTENTION_INPUT and names != ATTENTION_OUTPUT else [(config.d_ff, 1.0)]:
            yield projecting(config, names, ranks, width), share


ATTENTION_INPUT, ATTENTION_OUTPUT, FFN_INPUT, FFN_OUTPUT = ("q", "k", "v"), ("o",), ("gate", "up"), ("down",)
GROUPS = (ATTENTION_INPUT, ATTENTION_OUTPUT, FFN_INPUT, FFN_OUTPUT)
"""Projections that are computed together."""


def projecting(config: ModelConfig, names: Sequence[str], ranks: Mapping[str, int | None], width: int) -> Project | Widen:
    """The piece of some projections that are computed together. ranks: by name; width: of the FFN."""
    layers = [_layer(config, name, ranks[name], width) for name in names if name in config.projections]
    activation: FactorActivation = config.factor_activation if any(layer.rank for layer in layers) else "none"
    of, casts = tuple(sorted(layers)), config.norm == "layer_after" and tuple(names) in (ATTENTION_INPUT, FFN_INPUT)
    return (Widen if tuple(names) == FFN_INPUT else Project)(of, activation, casts)


def _layer(config: ModelConfig, name: str, rank: int | None, width: int) -> Layer:
    d_in, d_out = config.projection(name)
    if name in FFN_INPUT:
        d_out = width
    if name in FFN_OUTPUT:
        d_in = width
    return Layer(d_in, d_out, rank or 0, config.bias and (name in (*FFN_INPUT, *FFN_OUTPUT) or rank is None))


def attending(config: ModelConfig, layer: int) -> Attend:
    """The piece of a layer's attention itself."""
    joined = not config.bias and all(config.rank(layer, name) is None for name in ATTENTION_INPUT)
    return Attend(config.n_heads, config.kv_heads, config.d_head, config.positions == "rotary", joined)


def _ends(config: ModelConfig) -> Ends:
    return Ends(config.d_model, config.vocab_size, config.norm, config.positions, config.tie_embeddings, config.head_bias)


def _sizes(config: ModelConfig) -> dict[int, int]:
    """How many tensors there are of each size."""
    found = defaultdict[int, int](int)
    matrices = [config.vocab_size * config.d_model] * (1 if config.tie_embeddings else 2)
    matrices += [config.vocab_size] if config.head_bias else []
    matrices += [config.context * config.d_model] if config.positions == "learned" else []
    norms = 2 * config.n_layers + 1 if config.norm == "rms_before" else 4 * config.n_layers
    for size in [*matrices, *[config.d_model] * norms]:
        found[size] += 1
    for first, count in config.placement.alike:
        for name in config.projections:
            for size in _layer(config, name, config.rank(first, name), config.d_ff).sizes:
                found[size] += count
    return found


def length(piece: Piece, tokens: int, context: int) -> float:
    """Roughly how long a piece takes, in FLOPs of matmuls: those of a forward and backward pass; of what moves more than it
    multiplies, bytes. It foretells how long a measurement takes."""
    if isinstance(piece, Projections):
        return 6.0 * tokens * sum(matmul_params(one.d_in, one.d_out, one.rank or None) for one in piece.layers)
    if isinstance(piece, Attend):
        return 12.0 * tokens * context * piece.n_heads * piece.d_head
    if isinstance(piece, Ends):
        return 6.0 * tokens * piece.d_model * piece.vocab_size
    return 28.0 * piece.size if isinstance(piece, Update) else 100.0 * tokens * piece.d_model
