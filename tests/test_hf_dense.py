"""The dense twin as a Hugging Face folder: it starts and trains by the rules of low rank, and ends as a plain Llama."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hf_folders import SHAPE, our_spreads, tokens
from lpanas.lpa import hf
from lpanas.lpa.hf_tokenizer import bytes_tokenizer
from lpanas.lpa.model import Decoder
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.optim import OptimConfig, multiplier
from lpanas.lpa.weights import hf_name

WIDE = SHAPE | {"d_model": 192, "d_ff": 256, "n_layers": 2, "n_kv_heads": 2}


def made(hub: Any, config: ModelConfig, folder: Path, kind: str = "AutoModelForCausalLM") -> Any:
    """A model drawn from a folder without weights."""
    hf.write_folder(folder, config, bytes_tokenizer(), None)
    read = hub.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    torch.manual_seed(0)
    return getattr(hub, kind).from_config(read, trust_remote_code=True)


def spreads(made: torch.nn.Module) -> dict[str, float]:
    return {name: tensor.std().item() for name, tensor in made.named_parameters() if tensor.ndim == 2}


@pytest.mark.parametrize("init", ["matched", "scaled", "lpa"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_dense_folder_without_weights_starts_every_matrix_as_we_do(hub: Any, init: str, tied: bool, tmp_path: Path) -> None:
    config = ModelConfig.parse(WIDE | {"init": init, "tie_embeddings": tied}, "model")
    theirs = made(hub, config, tmp_path / "hf")
    expected = our_spreads(config)
    assert len(expected) == 2 * 7 + (1 if tied else 2)
    assert spreads(theirs) == pytest.approx(expected, rel=0.02)
    vectors = [tensor for tensor in theirs.parameters() if tensor.ndim == 1]
    assert len(vectors) == 5
    assert all(bool((one == 1).all()) for one in vectors)
    inner = made(hub, config, tmp_path / "hf", "AutoModel")
    without = {name.removeprefix("model."): std for name, std in expected.items() if name != "lm_head.weight"}
    assert spreads(inner) == pytest.approx(without, rel=0.02)


def test_a_dense_folder_without_weights_has_the_rates_of_our_own(hub: Any, tmp_path: Path) -> None:
    config, rule = ModelConfig.parse(SHAPE, "model"), OptimConfig(lr=3e-3, lr_base_width=8)
    theirs = made(hub, config, tmp_path / "hf")
    its = {id(parameter): name for name, parameter in theirs.named_parameters()}
    found = {its[id(one)]: group["lr"] for group in theirs.parameter_groups(3e-3, base_width=8) for one in group["params"]}
    with torch.device("meta"):
        ours = Decoder(config)
    expected = {hf_name(name): 3e-3 * multiplier(rule, ours, name) for name, _ in ours.named_parameters()}
    assert found == pytest.approx(expected)
    assert len({*found.values()}) == 3


@pytest.mark.parametrize("tied", [False, True])
def test_what_is_trained_from_it_loads_as_transformers_own_llama(hub: Any, tied: bool, tmp_path: Path) -> None:
    theirs = made(hub, ModelConfig.parse(SHAPE | {"tie_embeddings": tied}, "model"), tmp_path / "hf")
    theirs.save_pretrained(tmp_path / "trained")
    read = hub.LlamaForCausalLM.from_pretrained(tmp_path / "trained")
    read.save_pretrained(tmp_path / "plain")
    plain = hub.AutoModelForCausalLM.from_pretrained(tmp_path / "plain", trust_remote_code=False)
    assert type(read) is type(plain) is hub.LlamaForCausalLM
    with torch.no_grad():
        expected = theirs(tokens()).logits
        for one in (read, plain):
            torch.testing.assert_close(one(tokens()).logits, expected, rtol=0, atol=2e-5)
