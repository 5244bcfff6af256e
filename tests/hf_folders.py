"""Models and the Hugging Face folders of them, so small that a test takes no time."""

from pathlib import Path

import torch
from lpanas.lpa import hf
from lpanas.lpa.hf_tokenizer import bytes_tokenizer
from lpanas.lpa.model import Decoder, ModelConfig, build

SHAPE: dict[str, object] = {
    "vocab_size": 257,
    "d_model": 32,
    "d_ff": 48,
    "n_layers": 3,
    "n_heads": 4,
    "context": 32,
    "rank_multiple": 1,
}
PLACED = {"placement": "0 attention=1/4; 1 q=1/8 down=1/4; 2 dense"}
LOW_RANK: dict[str, dict[str, object]] = {
    "bands": PLACED,
    "silu, tied": {"placement": "both=1/8", "factor_activation": "silu", "tie_embeddings": True},
    "grouped heads": {"placement": "k,up=1/8", "n_kv_heads": 2, "rope_theta": 500.0, "norm_eps": 1e-4},
    "heads of another width": {"placement": "both=1/8", "head_dim": 16, "n_heads": 3},
    "head with a bias": {"head_bias": True},
}
DENSE: dict[str, dict[str, object]] = {
    "plain": {},
    "grouped, tied": {"n_kv_heads": 1, "tie_embeddings": True, "rope_theta": 500.0},
}
CPU = torch.device("cpu")


def model(fields: dict[str, object]) -> Decoder:
    return build(ModelConfig.parse(SHAPE | fields, "model"), CPU, 1)


def written(fields: dict[str, object], folder: Path, merge: bool = False) -> Decoder:
    """A model whose folder has been written; returns ours."""
    ours = model(fields)
    config, weights = ours.config, hf.model_weights(ours.config, ours.state_dict(), "here")
    if merge:
        config, weights = hf.merged(config, weights)
    hf.write_folder(folder, config, bytes_tokenizer(), weights)
    return ours


def tokens(batch: int = 3, time: int = 20) -> torch.Tensor:
    return torch.randint(0, 257, (batch, time), generator=torch.Generator().manual_seed(5))


def greedy(ours: Decoder, begin: torch.Tensor, count: int) -> torch.Tensor:
    """The whole sequence anew for every token."""
    for _ in range(count):
        begin = torch.cat((begin, ours(begin)[:, -1].argmax(-1, keepdim=True)), dim=1)
    return begin
