"""A step's pieces add up to the step: their parameters, their FLOPs, and whatever ranks and widths there are."""

import math
from collections import Counter
from itertools import islice, pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lpanas.lpa.between import between_sizes, between_widths, line, widths
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
    length,
    pieces,
)
from lpanas.search.presets import load_space, presets
from lpanas.search.timetable import asked
from making import tiny_space

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
    total = sum(count * length(piece, tokens, model.context) for piece, count in computed)
    assert total == pytest.approx(its.flops_per_token * tokens, rel=1e-12)


def test_the_order_of_alike_projections_makes_no_other_piece():
    one, other = pieces(shaped(placement="0-2 q=1/4 gate=1/8"), 192), pieces(shaped(placement="0-2 v=1/4 up=1/8"), 192)
    assert one == other


def test_a_wider_value_is_no_piece_of_a_wider_query():
    one, other = pieces(shaped("grouped", "0-2 q=1/4"), 192), pieces(shaped("grouped", "0-2 k=1/4"), 192)
    assert one != other


MULTIPLES = st.sampled_from([8, 16, 24, 64])


@given(st.integers(1, 20_000), MULTIPLES, st.floats(1, 8))
def test_the_two_multiples_about_a_width_average_to_it(dense, multiple, times):
    known = list(islice(line(dense, multiple), 20))
    assert all(a < b for a, b in pairwise(known))
    assert all(width % multiple == 0 for width in known)
    assert known[0] == dense // multiple * multiple or dense < multiple
    assert all(between_widths(width, dense, multiple) == {width: 1.0} for width in known)
    width = math.ceil(dense * times / multiple) * multiple
    shares = between_widths(width, dense, multiple)
    assert sum(shares.values()) == pytest.approx(1)
    assert sum(its * share for its, share in shares.items()) == pytest.approx(width)
    assert all(0 < share <= 1 for share in shares.values())
    low, high = min(shares), max(shares)
    assert not [its for its in known if low < its < high]


@given(st.integers(1, 20_000), MULTIPLES)
def test_the_dense_width_is_measured_by_itself_and_is_on_nobodys_line_when_it_is_no_multiple(dense, multiple):
    assert between_widths(dense, dense, multiple) == {dense: 1.0}
    for further in range(1, 2 * multiple):
        assert dense % multiple == 0 or dense not in between_widths(dense + further, dense, multiple)


@given(st.integers(1, 3_000), MULTIPLES, st.integers(0, 6_000))
def test_the_widths_that_are_measured_are_those_that_any_width_up_to_the_widest_asks_for(dense, multiple, more):
    found = widths(dense, multiple, dense + more)
    asked = {near for width in range(dense, dense + more + 1) for near in between_widths(width, dense, multiple)}
    assert set(found) >= asked
    assert len(found) == len(set(found))
    assert len(set(found) - asked) <= 1  # where the widest is the line's first, the second


def test_a_llama_of_1b_whose_own_width_is_odd_has_an_aligned_one_beside_it():
    assert widths(5461, 8, 5464) == [5461, 5456, 6496]
    assert between_widths(5464, 5461, 8) == pytest.approx({5456: 1 - 8 / 1040, 6496: 8 / 1040})


def test_below_the_dense_width_the_line_through_the_first_two_goes_on():
    (low, high), shares = list(islice(line(1000, 8), 2)), between_widths(904, 1000, 8)
    assert set(shares) == {low, high}
    assert shares[high] < 0
    assert sum(width * share for width, share in shares.items()) == pytest.approx(904)


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


@pytest.mark.parametrize("d_ff", [40, 41, 64, 100])
def test_every_candidate_is_made_of_known_pieces_where_ranks_grow_with_a_narrow_ffn_and_where_its_width_is_odd(d_ff):
    ranks = "{attention: [dense, 1/4, 1/8], ffn: [dense, 1/4, 1/8]}"
    settings = (f"vary.ranks={ranks}", "arms={attention: 1/4, ffn: 1/4}", "vary.rebalance=[none, params, flops]")
    space = tiny_space("objectives=[loss_nats, step_seconds]", *settings, f"target.model.d_ff={d_ff}")
    known = set(asked(space))
    for point in space.drawn(Random(0)):
        assert set(pieces(space.candidate(point).target, d_ff)) <= known
