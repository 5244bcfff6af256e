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


PARAMS = {
    "cpu-64": 235_072,
    "cpu-128": 859_264,
    "llama-9m": 8_995_968,
    "llama-20m": 19_548_416,
    "llama-35m": 35_197_824,
    "llama-60m": 58_073_600,
    "llama-130m": 134_105_856,
    "llama-250m": 247_370_496,
    "llama-350m": 367_969_280,
    "llama-1b": 1_339_082_752,
    "llama-3b": 2_685_831_680,
    "llama-7b": 6_738_415_616,
}
"""2 V d + n (4 d^2 + 3 d d_ff + 2 d) + d of the widths in science.md (GaLore's configs), reckoned apart from the program."""


def test_every_other_named_shape_has_its_parameters() -> None:
    assert {shape: cost(named_shape(shape, {}, "shape"), 1).params for shape in shapes() if shape not in LPA} == PARAMS
