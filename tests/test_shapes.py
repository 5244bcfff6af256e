import pytest
import torch
from lpanas.lpa.cost import cost
from lpanas.lpa.model import Decoder
from lpanas.search.presets import named_shape, shapes

LPA = {
    "lpa-130m": ({"dense": 134.1, "attention=1/6": 115.3, "ffn=1/2": 116.4, "attention=1/6 ffn=1/2": 97.6}, (128, 384)),
    "lpa-370m": ({"dense": 368.9, "attention=5/16": 331.1, "ffn=3/4": 356.3, "attention=5/16 ffn=3/4": 318.5}, (320, 768)),
}
"""Millions of parameters of the LPA authors' two settings, and their ranks in attention and in the FFN."""


@pytest.mark.parametrize("shape", LPA)
def test_the_authors_settings_have_the_authors_parameters(shape: str) -> None:
    millions, ranks = LPA[shape]
    for placement, figure in millions.items():
        config = named_shape(shape, {"placement": placement}, "shape")
        with torch.device("meta"):
            built = sum(parameter.numel() for parameter in Decoder(config).parameters())
        assert built == cost(config, 1).params
        assert round(built / 1e6, 1) == figure
    assert (config.rank(0, "q"), config.rank(0, "down")) == ranks


@pytest.mark.parametrize("shape", shapes())
def test_a_named_shape_is_as_large_as_its_name(shape: str) -> None:
    config = named_shape(shape, {}, "shape")
    if shape.startswith(("llama", "lpa")):
        unit = 1e9 if shape.endswith("b") else 1e6
        named = float(shape.partition("-")[2].rstrip("mb")) * unit
        assert cost(config, 1).params == pytest.approx(named, rel=0.4)
