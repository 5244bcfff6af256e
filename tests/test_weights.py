import json
import re
from pathlib import Path

import pytest
import torch
from lpanas.lpa.config import UserError
from lpanas.lpa.model import Decoder, build
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.weights import from_hf, load_hf, save_hf, to_hf
from safetensors.torch import load_file, save_file

KINDS: dict[str, dict[str, object]] = {
    "llama": {},
    "low rank": {"placement": "0 attention=1/4; 1 down=1/8", "head_bias": True},
    "tied": {"tie_embeddings": True},
    "370m": {"ffn": "relu", "norm": "layer_after", "positions": "learned", "bias": True, "placement": "ffn=1/4"},
}


def model(seed: int = 0, **fields: object) -> Decoder:
    shape = {"vocab_size": 61, "d_model": 32, "d_ff": 48, "n_layers": 2, "n_heads": 4, "context": 16, "rank_multiple": 1}
    return build(ModelConfig.parse(shape | fields, "model"), torch.device("cpu"), seed)


def same(one: Decoder, other: Decoder) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_the_same_weights_back(kind: str, tmp_path: Path) -> None:
    saved, other = model(0, **KINDS[kind]), model(1, **KINDS[kind])
    assert not same(saved, other)
    save_hf(saved, tmp_path / "model.safetensors")
    load_hf(other, tmp_path / "model.safetensors")
    assert same(saved, other)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_file_has_the_names_and_the_format_that_hugging_face_reads(tmp_path: Path) -> None:
    save_hf(model(), tmp_path / "model.safetensors")
    raw = (tmp_path / "model.safetensors").read_bytes()
    head = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert head.pop("__metadata__") == {"format": "pt"}
    layer = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
    layer += ["input_layernorm", "post_attention_layernorm"]
    expected = {f"model.layers.{number}.{name}.weight" for number in range(2) for name in layer}
    assert set(head) == expected | {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}


def test_a_file_in_another_precision_is_read(tmp_path: Path) -> None:
    saved, other = model(0), model(1)
    save_file({name: value.bfloat16() for name, value in to_hf(saved).items()}, tmp_path / "half.safetensors")
    load_hf(other, tmp_path / "half.safetensors")
    assert all(torch.equal(value, to_hf(saved)[name].bfloat16().float()) for name, value in to_hf(other).items())


def test_a_file_of_another_model_is_refused_with_the_tensor_and_both_shapes(tmp_path: Path) -> None:
    path, wide = tmp_path / "model.safetensors", model(1, d_ff=64)
    save_hf(model(), path)
    line = f"{path}: model.layers.0.mlp.gate_proj.weight: expected [64, 32], found [48, 32]"
    with pytest.raises(UserError, match=re.escape(line)):
        load_hf(wide, path)
    assert same(wide, model(1, d_ff=64))


@pytest.mark.parametrize("content", [None, b"", b"hello there, this is no such file"])
def test_a_file_that_cannot_be_read_is_a_mistake_in_one_line(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"^[^\n]*model\.safetensors: not a \.safetensors file that can be read: [^\n]+$"):
        load_hf(model(), path)


def test_a_head_beside_a_tied_embedding_must_be_that_embedding() -> None:
    tied, weights = model(1, tie_embeddings=True), to_hf(model(0, tie_embeddings=True))
    before = tied.embedding.weight.detach().clone()
    for head, mistake in (
        (torch.zeros(61, 3), "expected [61, 32], found [61, 3]"),
        (torch.zeros(61, 32), "expected the values of model.embed_tokens.weight (tie_embeddings), found others"),
    ):
        with pytest.raises(UserError, match=re.escape(f"weights: lm_head.weight: {mistake}")):
            from_hf(tied, weights | {"lm_head.weight": head})
    assert torch.equal(tied.embedding.weight, before)
    from_hf(tied, weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()})
    assert same(tied, model(0, tie_embeddings=True))


def test_to_hf_gives_views() -> None:
    changed = model()
    views = to_hf(changed)
    with torch.no_grad():
        changed.norm.weight.fill_(7)
    assert bool((views["model.norm.weight"] == 7).all())


def test_a_saved_file_is_safetensors_of_the_same_values(tmp_path: Path) -> None:
    save_hf(model(), tmp_path / "model.safetensors")
    found = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in to_hf(model()).items())
