from lpanas.search.figure import digits, some_of, span, varied
from lpanas.search.results import Results
from making import arm_records, ended, job, point, tiny_space

SPACE = tiny_space()
ARMS = arm_records(SPACE, 3.0, 3.1, 3.2, None)


def test_of_many_records_the_arms_the_front_and_others_evenly_spread_are_left_in_their_order():
    others = [ended(job(SPACE.candidate(point("1/4", "1/4")), f"trial-{n}"), 5.0) for n in range(4, 14)]
    best = ended(job(SPACE.candidate(point("1/4", "1/2")), "trial-14"), 2.0)
    found, records = Results(SPACE, [*ARMS, best], []), [*ARMS, *others, best]
    assert "trial-14" in {record.run for record in found.front}
    assert [record.run for record in some_of(found, records, 5)] == [f"trial-{n}" for n in (0, 1, 2, 3, 4, 6, 8, 10, 12, 14)]
    assert some_of(found, records, 10) == records
    assert some_of(found, [], 3) == []


def test_what_varies_goes_from_dense_to_the_lowest_rank_and_otherwise_as_in_the_space():
    space = tiny_space("vary.ranks={ffn: [1/4, dense, 1/2], q: [1/4]}", "vary.rebalance=[params, none]")
    assert varied(space) == {"rank ffn": ["dense", "1/2", "1/4"], "rebalance": ["params", "none"]}


def test_digits_are_those_that_are_asked_for():
    assert digits([1 / 3, 123456789.0, 0.0], 4) == [0.3333, 123500000.0, 0.0]


def test_an_axis_has_room_at_both_ends_even_when_all_is_one():
    low, end = span(2.0, 3.0)
    assert low < 2.0 < 3.0 < end < 3.2
    assert span(3.0, 3.0)[0] < 3.0 < span(3.0, 3.0)[1]
