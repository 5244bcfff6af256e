"""torchtitan's Llama 3 in the shape of a model of lpanas, and starting as it does; its weights under Hugging Face's names."""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import spmd_types as spmd
from torch import nn
from torchtitan.distributed.pipeline_parallel import pipeline_llm
from torchtitan.models.common import CosSinRoPE, Embedding, FeedForward, Linear, RMSNorm
from torchtitan.models.common.attention import GQAttention, QKVLinear
from torchtitan.models.common.config_utils import get_attention_config
from torchtitan.models.common.decoder_sharding import dense_param_placement
from torchtitan.models.common.param_init import skip_param_init
from torchtitan.models.llama3.model import Llama3Model, Llama3TransformerBlock
from torchtitan.models.llama3.parallelize import parallelize_llama
from torchtitan.models.utils import get_dense_model_nparams_and_flops
from torchtitan.protocols.model import ModelConfigConverter
from torchtitan.protocols.model_spec import ModelSpec
from torchtitan.protocols.state_dict_adapter import StateDictAdapter

Init = dict[str, Callable[..., Any]]

ATTENTION = ("wq", "wk", "wv", "wkv", "wo")
ENDS = ("wo", "w2")
"""The last matrices of the residual branches."""
_ONES: Init = {"weight": nn.init.ones_}
_HF = {
    "attention.qkv_linear.wq": "self_attn.q_proj",
    "attention.qkv_linear.wk": "self_attn.k_proj",
    "attention.qkv_linear.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "tok_embeddings": "model.embed_tokens",
    "norm": "model.norm",
    "lm_head": "lm_head",
}
_TITAN = {theirs: ours for ours, theirs in _HF.items()}
EMBEDDING, HEAD = "tok_embeddings.weight", "lm_head.weight"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A decoder of lpanas: RMSNorm before each sublayer, rotary positions in the half-split form, SwiGLU."""

    vocab_size: int
    d_model: int
    d_ff: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    context: int
    norm_eps: float
    rope_theta: float
    tie_embeddings: bool
    head_bias: bool
    init: Literal["matched", "lpa", "scaled"]
    """matched: a product AB starts at the std of the matrix that it replaces. scaled: attention at 1/sqrt(3) of that. lpa:
    torch's own default."""


class Llama(Llama3Model):
    """torchtitan's Llama 3, that may have a bias in its head, and heads of any width."""

    @dataclass(kw_only=True, slots=True)
    class Config(Llama3Model.Config):
        """Says where a bias lies, and counts FLOPs by the heads' own width."""

        def update_from_config(self, *, config: Any, **kwargs: Any) -> None:
            """What torchtitan's does, and the head's bias spread as its rows are."""
            Llama3Model.Config.update_from_config(self, config=config, **kwargs)
            if self.lm_head.bias:
                self.lm_head.sharding_config.state_shardings["bias"] = dense_param_placement(tp=spmd.S(0))

        def get_nparams_and_flops(self, model: nn.Module, seq_len: int) -> tuple[int, int]:
            """(parameters, training FLOPs a token): 6 a parameter but the embedding's, 12 a layer, token and width of q."""
            heads = self.layers[0].attention
            width = 2 * heads.head_dim  # of q k and of the product with v
            tied = self.enable_weight_tying
            return get_dense_model_nparams_and_flops(model, len(self.layers), heads.n_heads, width, seq_len, tied)


def dense_std(shape: Shape, name: str, d_in: int) -> float:
    """std of a matrix, e.g. wq: 1/sqrt(d_in); of the two that end a residual branch 1/sqrt(2 n_layers d_in)."""
    depth = 2 * shape.n_layers if name in ENDS else 1
    scaled = 3 if shape.init == "scaled" and name in ATTENTION else 1
    return 1 / math.sqrt(d_in * depth * scaled)


def start(shape: Shape, d_in: int, std: float) -> Init:
    """How a linear layer's weight starts: normal, or torch's own default where the shape says `init: lpa`."""
    if shape.init == "lpa":
        return {"weight": partial(nn.init.uniform_, a=-1 / math.sqrt(d_in), b=1 / math.sqrt(d_in))}
    return {"weight": partial(nn.init.normal_, std=std)}


def dense_model(shape: Shape) -> Llama.Config:
    """torchtitan's Llama with dense matrices, and with q, k and v apart."""
    d, tied = shape.d_model, shape.tie_embeddings
    embedding: Init = {"weight": skip_param_init if tied else partial(nn.init.normal_, std=1.0)}
    head = {"weight": partial(nn.init.normal_, std=1 / math.sqrt(d))} if tied else start(shape, d, 1 / math.sqrt(d))
    bias: Init = {"bias": head["weight"] if shape.init == "lpa" else nn.init.zeros_}
    fields: dict[str, Any] = {
        "dim": d,
        "vocab_size": shape.vocab_size,
        "enable_weight_tying": tied,
        "tok_embeddings": Embedding.Config(num_embeddings=shape.vocab_size, embedding_dim=d, param_init=embedding),
        "norm": _norm(shape),
        "lm_head": Linear.Config(in_features=d, out_features=shape.vocab_size, bias=shape.head_bias, param_init=head | bias),
        "layers": [_block(shape) for _ in range(shape.n_layers)],
    }
    return Llama.Config(**fields)


def spec(shape: Shape, flavor: str, converters: Iterable[ModelConfigConverter.Config] = ()) -> ModelSpec:
    """What Trainer.Config takes: the model, after the converters, and torchtitan's own ways of spreading a Llama over GPUs."""
    model = dense_model(shape)
    for converter in converters:
        model = converter.build().convert(model)
    return ModelSpec(
        name="lpanas",
        flavor=flavor,
        model=model,
        parallelize_fn=parallelize_llama,
        pipelining_fn=pipeline_llm,
        post_optimizer_build_fn=None,
        state_dict_adapter=HfNames,
    )


class HfNames(StateDictAdapter):
    """Weights under Hugging Face's names, both ways, as `lpanas export --to hf` has them: factors keep theirs, `.a` and `.b`.

    torchtitan's own adapter for Llama reorders q and k for another form of the rotary positions; here they stay as they are.
    """

    def to_hf(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """A tied head is there once, as the embedding."""
        tied = self.model_config.enable_weight_tying
        return {_renamed(name, _HF, "model."): its for name, its in state_dict.items() if not (tied and name == HEAD)}

    def from_hf(self, hf_state_dict: dict[str, Any]) -> dict[str, Any]:
        """The other way round."""
        found = {_renamed(name, _TITAN, ""): its for name, its in hf_state_dict.items()}
        return found | {HEAD: found[EMBEDDING]} if self.model_config.enable_weight_tying else found


def _renamed(name: str, names: dict[str, str], prefix: str) -> str:
    parts = re.fullmatch(r"(?:(?:model\.)?(layers\.\d+\.))?(.+?)((?:\.[ab])?\.(?:weight|bias))", name)
    if parts is None or parts[2] not in names:
        raise ValueError(f"no weight of this model has the name '{name}'")
    layer = f"{prefix}{parts[1]}" if parts[1] else ""
    return f"{layer}{names[parts[2]]}{parts[3]}"


def _norm(shape: Shape) -> RMSNorm.Config:
    return RMSNorm.Config(normalized_shape=shape.d_model, eps=shape.norm_eps, param_init=_ONES)


def _linear(shape: Shape, name: str, d_in: int, d_out: int) -> Linear.Config:
    return Linear.Config(in_features=d_in, out_features=d_out, param_init=start(shape, d_in, dense_std(shape, name, d_in)))


def _block(shape: Shape) -> Llama3TransformerBlock.Config:
    d, d_ff, head = shape.d_model, shape.d_ff, shape.head_dim
    queries, keys = shape.n_heads * head, shape.n_kv_heads * head
    return Llama3TransformerBlock.Config(
        attention_norm=_norm(shape),
        ffn_norm=_norm(shape),
        attention=GQAttention.Config(
            n_heads=shape.n_heads,
            n_kv_heads=shape.n_kv_heads,
            head_dim=head,
            dim=d,
            qkv_linear=QKVLinear.Config(head_dim=head, wq=_linear(shape, "wq", d, queries), wkv=_linear(shape, "wkv", d, keys)),
            wo=_linear(shape, "wo", queries, d),
            inner_attention=get_attention_config("flex"),
            rope=CosSinRoPE.Config(dim=head, max_seq_len=shape.context, theta=shape.rope_theta),
        ),
        feed_forward=FeedForward.Config(
            w1=_linear(shape, "w1", d, d_ff), w2=_linear(shape, "w2", d_ff, d), w3=_linear(shape, "w3", d, d_ff)
        ),
    )
