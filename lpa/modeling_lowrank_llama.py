"""Llama with low-rank projections, for transformers 5.4 or newer: config, model and language model in one file of its own.

`lpanas export --to hf` copies it into the folders that it writes; it needs torch and transformers, nothing else. All but the
projections, and how they start, is transformers' Llama; without ranks it is that Llama once it is trained, by the same names.
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, LlamaPreTrainedModel
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer, LlamaRMSNorm, LlamaRotaryEmbedding

ATTENTION, FFN = ("q", "k", "v", "o"), ("gate", "up", "down")
SILU_RMS = 0.5965
"""sqrt(E[silu(z)^2]) for z ~ N(0, 1): what a SiLU between the factors leaves of the scale."""
_STD = "init_std"
"""What a module is told: the std that its weight starts with."""


@strict
class LowRankLlamaConfig(LlamaConfig):
    """Llama's config, and where it is low-rank. Raises ValueError for ranks of other projections, and above full rank."""

    model_type = "lowrank_llama"
    base_model_tp_plan: ClassVar[dict[str, str]] = {}  # Llama's cuts matrices that are not there

    placement: str = "dense"
    """The ranks as fractions of full rank, for people: `0-3 q,k,v,o=1/4; 4-11 dense`."""
    ranks: list[dict[str, int]] | None = None
    """One a layer: the rank of each projection (q, k, v, o, gate, up, down) that is low-rank."""
    factor_activation: str = "none"
    """Between the two factors: none or silu."""
    init: str = "matched"
    """How weights start. matched: a product AB at the std of the matrix that it replaces; scaled: attention at 1/sqrt(3) of
    that; lpa: torch's own default."""
    head_bias: bool = False
    """The head has a bias."""

    def __post_init__(self, **kwargs: object) -> None:
        if self.ranks is None:
            self.ranks = [{} for _ in range(self.num_hidden_layers)]
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Instead of Llama's, which wants hidden_size to be a multiple of the heads whatever head_dim says."""
        ranks = self.ranks or []
        if len(ranks) != self.num_hidden_layers:
            raise ValueError(f"ranks: expected one for each of {self.num_hidden_layers} layers, found {len(ranks)}")
        if unknown := {name for layer in ranks for name in layer} - {*ATTENTION, *FFN}:
            raise ValueError(f"ranks: unknown projection '{min(unknown)}', known: {', '.join(ATTENTION + FFN)}")
        for key, known in (("factor_activation", ("none", "silu")), ("init", ("matched", "scaled", "lpa"))):
            if getattr(self, key) not in known:
                raise ValueError(f"{key}: expected one of {', '.join(known)}, found '{getattr(self, key)}'")


class LowRankLinear(nn.Module):
    """y = act(x A) B, x: (..., d_in) -> (..., d_out). a.weight is A^T: rank x d_in, b.weight is B^T: d_out x rank."""

    def __init__(self, d_in: int, d_out: int, rank: int, activation: str) -> None:
        super().__init__()
        if rank > min(d_in, d_out):
            raise ValueError(f"ranks: {rank} is above the full rank of {d_in} x {d_out}")
        self.activation = activation
        self.a = nn.Linear(d_in, rank, bias=False)
        self.b = nn.Linear(rank, d_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x)  # (..., rank)
        return self.b(F.silu(hidden) if self.activation == "silu" else hidden)


class LowRankLlamaDecoderLayer(LlamaDecoderLayer):
    """Llama's layer, with two factors in place of some matrices. Every weight is told how it starts."""

    def __init__(self, config: LowRankLlamaConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        ranks = (config.ranks or [])[layer_idx]
        for parent, names in ((self.self_attn, ATTENTION), (self.mlp, FFN)):
            for name in names:
                dense = getattr(parent, f"{name}_proj")
                std = _dense_std(config, name, dense.in_features)
                if name not in ranks:
                    setattr(dense, _STD, std)
                    continue
                factors = LowRankLinear(dense.in_features, dense.out_features, ranks[name], config.factor_activation)
                gain = SILU_RMS if config.factor_activation == "silu" else 1.0
                setattr(factors.a, _STD, 1 / math.sqrt(dense.in_features))
                setattr(factors.b, _STD, std * math.sqrt(dense.in_features / ranks[name]) / gain)
                setattr(parent, f"{name}_proj", factors)


def _dense_std(config: LowRankLlamaConfig, name: str, d_in: int) -> float:
    """1/sqrt(d_in); for the two that end a residual branch (o, down) 1/sqrt(2 layers d_in)."""
    depth = 2 * config.num_hidden_layers if name in ("o", "down") else 1
    scaled = 3 if config.init == "scaled" and name in ATTENTION else 1
    return 1 / math.sqrt(d_in * depth * scaled)


class LowRankLlamaPreTrainedModel(LlamaPreTrainedModel):
    """What the model and the language model share: how their weights start."""

    config: LowRankLlamaConfig
    config_class = LowRankLlamaConfig
    _no_split_modules = ["LowRankLlamaDecoderLayer"]
    _can_record_outputs = {"hidden_states": LowRankLlamaDecoderLayer, "attentions": LlamaAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # A module's children come before it, and one without weights of its own does not come by in code from a folder: so it
        # is the factors themselves that are drawn here, never the layer that holds them.
        if isinstance(module, nn.Linear) and self.config.init == "lpa":
            bound = 1 / math.sqrt(module.in_features)
            for parameter in module.parameters(recurse=False):
                nn.init.uniform_(parameter, -bound, bound)
        elif isinstance(module, (nn.Linear, nn.Embedding)) and hasattr(module, _STD):
            nn.init.normal_(module.weight, std=getattr(module, _STD))
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        else:
            super()._init_weights(module)


class LowRankLlamaModel(LowRankLlamaPreTrainedModel, LlamaModel):
    """The decoder without its head: input ids (batch, time) -> hidden states (batch, time, hidden_size)."""

    def __init__(self, config: LowRankLlamaConfig) -> None:
        LlamaPreTrainedModel.__init__(self, config)  # LlamaModel's own would make all the dense matrices
        self.padding_idx, self.vocab_size = config.pad_token_id, config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        setattr(self.embed_tokens, _STD, 1 / math.sqrt(config.hidden_size) if config.tie_word_embeddings else 1.0)
        self.layers = nn.ModuleList(LowRankLlamaDecoderLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()


class LowRankLlamaForCausalLM(LowRankLlamaPreTrainedModel, LlamaForCausalLM):
    """The decoder with its head: input ids (batch, time) -> logits (batch, time, vocab_size)."""

    def __init__(self, config: LowRankLlamaConfig) -> None:
        LlamaPreTrainedModel.__init__(self, config)
        self.model = LowRankLlamaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.head_bias)
        setattr(self.lm_head, _STD, 1 / math.sqrt(config.hidden_size))
        self.post_init()

    def parameter_groups(self, lr: float, base_width: int | None = None, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Groups for an optimizer such as AdamW, each factor at its own learning rate, as in `lpanas train` (lr_rule: mup).

        lr: of embedding and norms, and of a dense matrix as wide as base_width (hidden_size when left out). A matrix takes
        lr base_width / d_in, A half of that and B d_in / (2 rank) of it (Compute Better Spent, ICML 2024). Weight decay is for
        matrices alone. Raises ValueError for tied embeddings, for which there is no such rule.
        """
        if self.config.tie_word_embeddings:
            raise ValueError("tie_word_embeddings: no rate suits both uses of the one matrix; give the optimizer one for all")
        base, shares = base_width or self.config.hidden_size, dict[Tensor, float]()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                shares.setdefault(module.weight, base / module.in_features)
            elif isinstance(module, LowRankLinear):  # it comes before its factors
                shares[module.a.weight] = base / module.a.in_features / 2
                shares[module.b.weight] = base / module.b.in_features / 2
        groups = dict[tuple[float, float], list[nn.Parameter]]()
        for parameter in self.parameters():
            key = (lr * shares.get(parameter, 1.0), weight_decay if parameter.ndim == 2 else 0.0)
            groups.setdefault(key, []).append(parameter)
        return [{"params": its, "lr": rate, "weight_decay": decay} for (rate, decay), its in groups.items()]
