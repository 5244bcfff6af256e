import json
import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from lpanas.lpa.config import UserError
from lpanas.lpa.cost import cost
from lpanas.lpa.model import Decoder, build
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.weights import from_hf, hf_name, to_hf
from safetensors.torch import load_file
from torch.nn import functional

VECTORS = Path(__file__).parent / "vectors"
CASES: list[dict[str, Any]] = json.loads((VECTORS / "cases.json").read_text())


def from_authors(name: str) -> str:
    """A tensor's name in the LPA authors' code as Hugging Face's, its two factors as a and b."""
    changes = {
        r"^fc": "lm_head",
        r"^lpa\.token_embedding": "model.embed_tokens",
        r"^lpa\.norm": "model.norm",
        r"^lpa\.transformer_blocks": "model.layers",
        r"norm1": "input_layernorm",
        r"norm2": "post_attention_layernorm",
        r"\.attention\.": ".self_attn.",
        r"\.ffn\.": ".mlp.",
        r"_proj\.0": "_proj.a",
        r"_proj\.1": "_proj.b",
    }
    for pattern, new in changes.items():
        name = re.sub(pattern, new, name)
    return name


def config_of(case: dict[str, Any]) -> ModelConfig:
    """Our config of a case: a rank as its fraction of min(d_in, d_out)."""
    kept = ("vocab_size", "d_model", "d_ff", "n_heads", "n_layers", "norm_eps")
    optional = {"n_kv_heads": None, "head_dim": None, "tie_embeddings": False, "head_bias": False}
    full = min(case["d_model"], case["n_heads"] * case.get("head_dim", case["d_model"] // case["n_heads"]))
    ranks = {"attention": case.get("attn_rank"), "ffn": case.get("ffn_rank")}
    words = [
        f"{group}={Fraction(rank, full if group == 'attention' else case['d_model'])}" for group, rank in ranks.items() if rank
    ]
    return ModelConfig.parse(
        {name: case[name] for name in kept}
        | {name: case.get(name, default) for name, default in optional.items()}
        | {"context": case["seq_len"], "rope_theta": float(case["rope_theta"]), "rank_multiple": 1}
        | {"placement": " ".join(words) or "dense"},
        case["name"],
    )


def loaded(case: dict[str, Any]) -> tuple[Decoder, dict[str, torch.Tensor]]:
    vectors = load_file(VECTORS / f"{case['name']}.safetensors")
    model = build(config_of(case), torch.device("cpu"), 0).double()
    named = {name.removeprefix("weight."): value for name, value in vectors.items() if name.startswith("weight.")}
    from_hf(model, {from_authors(name): value for name, value in named.items()})
    return model, vectors


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_logits_loss_and_gradients_are_the_other_codes(case: dict[str, Any]) -> None:
    model, vectors = loaded(case)
    tokens = vectors["tokens"]
    logits = model(tokens)
    torch.testing.assert_close(logits, vectors["logits"].double(), rtol=0, atol=1e-5 * vectors["logits"].abs().max().item())
    loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert math.isclose(loss.item(), case["loss_nats"], rel_tol=1e-6)
    loss.backward()
    norms = {
        hf_name(name): parameter.grad.norm().item()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    expected = {from_authors(name): norm for name, norm in case["grad_norms"].items()}
    assert norms == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_parameters_are_as_many_as_in_the_other_code(case: dict[str, Any]) -> None:
    model, _ = loaded(case)
    assert sum(parameter.numel() for parameter in model.parameters()) == case["n_params"] == cost(config_of(case), 1).params


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_weights_go_out_and_come_back_the_same(case: dict[str, Any]) -> None:
    model, vectors = loaded(case)
    other = build(config_of(case), torch.device("cpu"), 1).double()
    from_hf(other, to_hf(model))
    assert torch.equal(other(vectors["tokens"]), model(vectors["tokens"]))


def test_a_missing_an_extra_and_a_misshapen_tensor_are_named_with_both_shapes() -> None:
    model, _ = loaded(CASES[1])
    before, name = to_hf(model), "model.layers.0.self_attn.q_proj.a.weight"
    kept = {key: value.clone() for key, value in before.items()}
    wrong = {
        f"{name}: expected [16, 48], found no such tensor": {key: value for key, value in before.items() if key != name},
        "q_norm.weight: expected no such tensor, found [3]": before | {"q_norm.weight": torch.zeros(3)},
        f"{name}: expected [16, 48], found [48, 16]": before | {name: torch.zeros(48, 16)},
    }
    for line, weights in wrong.items():
        with pytest.raises(UserError, match=re.escape(line)):
            from_hf(model, weights)
    assert all(torch.equal(kept[key], value) for key, value in to_hf(model).items())
