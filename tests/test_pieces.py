"""A step's pieces add up to the step: their parameters, their FLOPs, and whatever ranks and widths there are."""

from collections import Counter
from itertools import islice, pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lpanas.lpa.cost import cost
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.pieces import (
    Attend,
    Ends,
    Layer,
    Project,
    Stream,
    Update,
    Widen,
    between_sizes,
    between_widths,
    flops,
    pieces,
    widths,
)
from lpanas.search.presets import load_space, presets
from lpanas.search.timetable import asked

SHAPES = {
    "llama": {},
    "grouped": {"n_kv_heads": 2, "head_dim": 16},
    "tied": {"tie_embeddings": True},
    "authors": {
        "ffn": "relu",
        "norm": "layer_after",
        "positions": "learned",
        "bias": True,
        "dropout": 0.1,
        "head_bias": True,
    },
}


def shaped(name="llama", placement="dense", **more):
    base = {"vocab_size": 264, "d_model": 64, "d_ff": 192, "n_heads": 4, "n_layers": 3, "context": 32, "rank_multiple": 4}
    return ModelConfig.parse(base | SHAPES[name] | {"placement": placement} | more, name)


def test_a_small_model_has_the_pieces_that_one_counts_by_hand():
    found = pieces(shaped(placement="0 q,v=1/4; 1-2 down=1/2"), 192)
    dense, thin = Layer(64, 64), Layer(64, 64, 16)
    expected = {
        Ends(64, 264, "rms_before", "rotary", tied=False, bias=False): 1,
        Stream(64, "rms_before", 0.0): 3,
        Attend(4, 4, 16, rotary=True): 1,
        Attend(4, 4, 16, rotary=True, joined=True): 2,
        Project((dense, thin, thin)): 1,
        Project((dense, dense, dense)): 2,
        Project((dense,)): 3,
        Widen((Layer(64, 192), Layer(64, 192))): 3,
        Project((Layer(192, 64),)): 1,
        Project((Layer(192, 64, 32),)): 2,
    }
    assert {piece: count for piece, count in found.items() if not isinstance(piece, Update)} == expected


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("placement", ["dense", "0-2 q,k=1/4 up=1/8", "0 q,k,v,o=1/4; 1 gate,up,down=1/2; 2 v=1/8"])
@pytest.mark.parametrize("d_ff", [192, 200, 256, 500])
def test_pieces_sum_to_the_models_parameters_and_flops_between_measured_widths_too(shape, placement, d_ff):
    model = shaped(shape, placement, d_ff=d_ff)
    its = cost(model, 2)
    found = pieces(model, 192)
    updated = sum(count * piece.size for piece, count in found.items() if isinstance(piece, Update))
    assert updated == pytest.approx(its.params, rel=1e-12)
    tokens = 2 * model.context
    computed = (one for one in found.items() if not isinstance(one[0], (Update, Stream)))
    total = sum(count * flops(piece, tokens, model.context) for piece, count in computed)
    assert total == pytest.approx(its.flops_per_token * tokens, rel=1e-12)


def test_the_order_of_alike_projections_makes_no_other_piece():
    one, other = pieces(shaped(placement="0-2 q=1/4 gate=1/8"), 192), pieces(shaped(placement="0-2 v=1/4 up=1/8"), 192)
    assert one == other


def test_a_wider_value_is_no_piece_of_a_wider_query():
    one, other = pieces(shaped("grouped", "0-2 q=1/4"), 192), pieces(shaped("grouped", "0-2 k=1/4"), 192)
    assert one != other


@given(st.integers(1, 20_000), st.integers(1, 12))
def test_widths_grow_and_the_two_about_a_width_average_to_it(dense, times):
    known = list(islice(widths(dense), 12))
    assert known[0] == dense
    assert all(a < b for a, b in pairwise(known))
    assert all(width % 64 == 0 for width in known[1:])
    assert all(between_widths(width, dense) == {width: 1.0} for width in known)
    width = dense * times + times // 2
    shares = between_widths(width, dense)
    assert sum(shares.values()) == pytest.approx(1)
    assert sum(its * share for its, share in shares.items()) == pytest.approx(width)
    assert all(0 < share <= 1 for share in shares.values())
    low, high = min(shares), max(shares)
    assert not [its for its in known if low < its < high]


def test_below_the_dense_width_the_line_through_the_first_two_goes_on():
    (low, high), shares = list(islice(widths(1000), 2)), between_widths(900, 1000)
    assert set(shares) == {low, high}
    assert shares[high] < 0
    assert sum(width * share for width, share in shares.items()) == pytest.approx(900)


@given(st.integers(1, 10**9))
def test_the_two_sizes_about_a_tensor_average_to_it(size):
    shares = dict(between_sizes(size))
    assert sum(shares.values()) == pytest.approx(1)
    assert sum(its * share for its, share in shares.items()) == pytest.approx(size)
    assert max(shares) <= 4 * min(shares)


def timed_space(name):
    return load_space(name, ["objectives=[loss_nats, step_seconds]"])


@pytest.mark.parametrize("name", presets())
def test_a_preset_asks_for_a_few_hundred_pieces_at_most_each_with_a_key_of_its_own(name):
    found = asked(timed_space(name))
    assert max(Counter(piece.key for piece in found).values()) == 1
    assert len(found) == len(set(found)) < 300


@pytest.mark.parametrize("name", presets())
def test_every_candidate_of_a_preset_is_made_of_the_pieces_that_it_asks_for(name):
    space = timed_space(name)
    known, dense = set(asked(space)), space.target.model.d_ff
    for point in islice(space.drawn(Random(1)), 200):
        assert set(pieces(space.candidate(point).target, dense)) <= known
