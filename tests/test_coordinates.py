import math

import pytest
from lpanas.lpa.coordinates import Coordinate, coordinates, scaled
from lpanas.lpa.data import Shards
from lpanas.lpa.train_config import TrainConfig
from lpanas.search.coordinate_figures import coordinates_figure

WIDTHS = (64, 128, 256, 512)


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    raw = {
        "model": {
            "vocab_size": 264, "d_model": 64, "d_ff": 176, "n_heads": 4, "n_layers": 2, "context": 32, "rank_multiple": 4,
            "placement": "0 attention=1/4; 1 ffn=1/4",
        },
        "optim": {"lr": 8e-3}, "tokens": 1024, "batch_size": 4, "device": "cpu",
    }  # fmt: skip
    return TrainConfig.parse(raw, "coordinates")


@pytest.fixture(scope="module")
def rows(config: TrainConfig, shards: Shards) -> list[Coordinate]:
    return coordinates(config, shards, WIDTHS, 4)


def slope(rows: list[Coordinate], rule: str, place: str) -> float:
    """Of log rms against log width, from the narrowest to the widest."""
    line = {row.width: row.rms for row in rows if (row.lr_rule, row.place) == (rule, place)}
    return math.log(line[WIDTHS[-1]] / line[WIDTHS[0]]) / math.log(WIDTHS[-1] / WIDTHS[0])


@pytest.mark.slow
def test_activations_stay_level_across_widths_under_mup_and_grow_under_uniform(rows: list[Coordinate]) -> None:
    for place in ("block 0", "block 1"):
        assert abs(slope(rows, "mup", place)) < 0.25
        assert slope(rows, "uniform", place) > 0.75
    assert abs(slope(rows, "mup", "logits")) < 0.25


def test_the_check_gives_the_same_scales_every_time_with_dropout_too(config: TrainConfig, shards: Shards) -> None:
    config = config.change(model=config.model.change(dropout=0.3))
    assert coordinates(config, shards, (64,), 2) == coordinates(config, shards, (64,), 2)


def test_tied_embeddings_are_checked_under_the_rule_that_they_have(config: TrainConfig, shards: Shards) -> None:
    optim = config.optim.change(lr_rule="uniform")
    tied = config.change(model=config.model.change(tie_embeddings=True), optim=optim)
    assert {row.lr_rule for row in coordinates(tied, shards, (64,), 1)} == {"uniform"}


def test_a_wider_model_keeps_the_width_of_a_head_and_the_placement(config: TrainConfig) -> None:
    wide = scaled(config.model, 256)
    assert (wide.d_model, wide.d_ff, wide.n_heads, wide.d_head) == (256, 704, 16, config.model.d_head)
    assert wide.placement == config.model.placement


def test_the_figure_holds_every_scale(rows: list[Coordinate]) -> None:
    drawn = [(x, y) for trace in coordinates_figure(rows).data for x, y in zip(trace.x, trace.y, strict=True)]
    assert sorted(drawn) == sorted((row.width, row.rms) for row in rows)
