import itertools
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from lpanas.lpa.placement import (
    ATTENTION,
    FFN,
    PROJECTIONS,
    Placement,
    Rank,
    parse_projections,
    parse_rank,
    rank_text,
    resolve_rank,
)

fractions = st.fractions(min_value=Fraction(1, 4096), max_value=1, max_denominator=4096)
ranks = st.none() | st.sampled_from([Fraction(1, 4), Fraction(1, 6), Fraction(1)]) | fractions
rows = st.tuples(*[ranks] * len(PROJECTIONS))
placements = st.lists(st.integers(0, 2), min_size=1, max_size=14).flatmap(
    lambda picks: st.tuples(rows, rows, rows).map(lambda three: Placement(tuple(three[pick] for pick in picks)))
)


@given(placements)
def test_a_placement_parses_back_from_its_text(placement: Placement) -> None:
    assert Placement.parse(placement.text, len(placement.layers)) == placement


@given(placements, placements)
def test_texts_and_hashes_are_equal_where_placements_are(one: Placement, other: Placement) -> None:
    again = Placement(tuple(tuple(Fraction(rank) if rank else None for rank in row) for row in one.layers))
    assert (again.text, again.hash) == (one.text, one.hash)
    assert (one == other) == (one.text == other.text) == (one.hash == other.hash)


@given(placements)
def test_a_text_does_not_depend_on_how_it_was_written(placement: Placement) -> None:
    def words(row: tuple[Rank, ...]) -> str:
        pairs = [f"{name}={float(rank)!r}" for name, rank in zip(PROJECTIONS, row, strict=True) if rank is not None]
        return "  ".join(reversed(pairs)) or "dense"

    text = " ;".join(f" {layer}-{layer} {words(row)}" for layer, row in reversed(list(enumerate(placement.layers))))
    assert Placement.parse(text, len(placement.layers)).text == placement.text


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("dense", "0-11 dense"),
        ("attention=1/6 gate,up=1/2", "0-11 q,k,v,o=1/6 gate,up=1/2"),
        ("both=0.25", "0-11 q,k,v,o,gate,up,down=1/4"),
        ("4-11 dense; 0-3 o,q,k,v=2/8", "0-3 q,k,v,o=1/4; 4-11 dense"),
        ("0 q=1; 1-11 q=1.0", "0-11 q=1"),
        ("0 dense;1 ffn=1/3;2-11 dense", "0 dense; 1 gate,up,down=1/3; 2-11 dense"),
    ],
)
def test_the_canonical_text_lists_runs_of_equal_layers(text: str, canonical: str) -> None:
    assert Placement.parse(text, 12).text == canonical


def test_a_hash_is_the_same_in_every_version() -> None:
    assert Placement.parse("dense", 2).hash == "ebcc73e914de"  # printf '0-1 dense' | sha256sum | head -c 12


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("q=5/4", "the rank 5/4 is not between 0 and full rank"),
        ("q=0", "the rank 0 is not between 0 and full rank"),
        ("q=-1/4", "the rank -1/4 is not between 0 and full rank"),
        ("q=1/0", "expected 'dense' or a fraction such as 1/4, found '1/0'"),
        ("q=nan", "expected 'dense' or a fraction such as 1/4, found 'nan'"),
        ("q=low", "expected 'dense' or a fraction such as 1/4, found 'low'"),
        ("q=", "expected 'dense' or a fraction such as 1/4, found ''"),
        ("gat=1/4", "unknown projection 'gat', did you mean 'gate'?"),
        ("zzz=1/4", "unknown projection 'zzz', known: q, k, v, o, gate, up, down, attention, ffn, both"),
        ("q=1/4 q=1/4", "names q twice"),
        ("q,q=1/4", "'q,q' names a projection twice"),
        ("attention=1/4 q=1/2", "names q twice"),
        ("low", "expected 'dense' or projections=rank, found 'low'"),
        ("0-1 dense; 1-3 dense", "layer 1 is named twice"),
        ("dense; 0 q=1/4", "layer 0 is named twice"),
        ("0-1 dense; 3 dense", "layer 2 of 4 is missing"),
        ("0-4 dense", "layers 0-4 are not among 0-3"),
        ("3-1 dense", "layers 3-1 are not among 0-3"),
        ("dense;", "expected '0-3 q,k=1/4; 4-11 dense', found 'dense;'"),
        ("", "expected '0-3 q,k=1/4; 4-11 dense', found ''"),
    ],
)
def test_a_wrong_placement_says_what_is_wrong(text: str, mistake: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        Placement.parse(text, 4)
    assert mistake in str(error.value)


@given(rank=fractions)
def test_a_rank_parses_back_from_its_text_and_from_its_float(rank: Fraction) -> None:
    assert parse_rank(rank_text(rank)) == rank
    assert parse_rank(float(rank)) == rank
    assert parse_rank(rank_text(None)) is None


@given(st.lists(st.sampled_from(PROJECTIONS), min_size=1, unique=True))
def test_projections_come_in_one_order(names: list[str]) -> None:
    assert parse_projections(" , ".join(names)) == tuple(name for name in PROJECTIONS if name in names)


@pytest.mark.parametrize(("group", "names"), [("attention", ATTENTION), ("ffn", FFN), ("both", ATTENTION + FFN)])
def test_a_group_stands_for_its_projections(group: str, names: tuple[str, ...]) -> None:
    assert parse_projections(group) == names


@given(n_bands=st.integers(1, 8), extra=st.integers(0, 40))
def test_bands_split_the_depth_evenly_and_in_order(n_bands: int, extra: int) -> None:
    n_layers = n_bands + extra
    bands = [{"q": Fraction(1, band + 1), "down": None} for band in range(n_bands)]
    placement = Placement.from_bands(n_layers, bands)
    runs = [(rank, len(list(run))) for rank, run in itertools.groupby(row[0] for row in placement.layers)]
    assert [rank for rank, _ in runs] == [band["q"] for band in bands]
    assert sum(length for _, length in runs) == n_layers
    assert max(length for _, length in runs) - min(length for _, length in runs) <= 1
    assert all(rank is None for row in placement.layers for rank in row[1:])


@given(rank=fractions, d_in=st.integers(1, 9000), d_out=st.integers(1, 9000), multiple=st.sampled_from([1, 3, 8, 64]))
def test_a_resolved_rank_is_a_multiple_or_full_rank(rank: Fraction, d_in: int, d_out: int, multiple: int) -> None:
    resolved, full = resolve_rank(rank, d_in, d_out, multiple), min(d_in, d_out)
    assert 0 < resolved <= full
    assert resolved % multiple == 0 or resolved == full
    assert resolve_rank(Fraction(1), d_in, d_out, 1) == full


@given(rank=fractions, tiles=st.integers(1, 60), multiple=st.sampled_from([1, 8, 64]))
def test_a_resolved_rank_of_whole_multiples_is_the_nearest_one(rank: Fraction, tiles: int, multiple: int) -> None:
    full = tiles * multiple
    nearest = min(abs(candidate - rank * full) for candidate in range(multiple, full + 1, multiple))
    assert abs(resolve_rank(rank, full, 2 * full, multiple) - rank * full) == nearest


@given(small=fractions, large=fractions, full=st.integers(1, 4096), multiple=st.sampled_from([1, 8, 64]))
def test_a_larger_fraction_never_resolves_to_a_smaller_rank(small: Fraction, large: Fraction, full: int, multiple: int) -> None:
    assume(small <= large)
    assert resolve_rank(small, full, full, multiple) <= resolve_rank(large, full, full, multiple)


@pytest.mark.parametrize(
    ("text", "arm"),
    [
        ("dense", "dense"),
        ("0-2 dense; 3 v=1/4", "attention"),
        ("o=1", "attention"),
        ("0 down=1/2; 1-3 dense", "ffn"),
        ("0 q=1/4; 1-2 dense; 3 up=1/4", "both"),
        ("both=1/4", "both"),
    ],
)
def test_an_arm_is_named_for_the_sublayers_with_low_rank(text: str, arm: str) -> None:
    assert Placement.parse(text, 4).sublayers == arm


@given(placements)
def test_an_arm_agrees_with_its_truth_table(placement: Placement) -> None:
    columns = dict(zip(PROJECTIONS, zip(*placement.layers, strict=True), strict=True))
    used = tuple(any(any(columns[name]) for name in group) for group in (ATTENTION, FFN))
    assert placement.sublayers == {(0, 0): "dense", (1, 0): "attention", (0, 1): "ffn", (1, 1): "both"}[used]
