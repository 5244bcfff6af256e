import math

import pytest
from lpanas.search.front_figures import KINDS, front_figure, front_rows
from lpanas.search.page import COLOURS
from lpanas.search.results import Results
from making import arm_records, ended, job, point, record, tiny_space

SPACE = tiny_space()
COST = "flops_per_token"
DENSE = SPACE.dense_costs[COST]
ARMS = arm_records(SPACE, 3.0, 3.1, 3.2, None)
BEST = ended(job(SPACE.candidate(point("1/4", "1/4")), "trial-5"), 2.9)
SEEDS = [ended(job(SPACE.arm("dense"), "noise-0", seed=1), 3.01)]
FOUND = Results(SPACE, [*ARMS, BEST], SEEDS)


def points(figure):
    """(run, x, y) of every mark that stands for a run."""
    return {
        (run, x, y)
        for trace in figure.drawing.data
        if trace.customdata is not None
        for run, x, y in zip(trace.customdata, trace.x, trace.y, strict=True)
    }


def test_a_row_a_complete_candidate_with_its_cost_as_a_share_of_dense():
    records = [record(0, 3.0, DENSE), record(1, 3.5, DENSE // 2), record(2, 3.6, DENSE), record(3, None, 1)]
    rows = front_rows(Results(SPACE, records, []), COST)
    assert list(rows["run"]) == ["trial-0", "trial-1", "trial-2"]
    assert list(rows["share"]) == pytest.approx([1.0, 0.5, 1.0])
    assert list(rows["kind"]) == ["front", "front", "behind"]
    assert list(rows["perplexity"]) == pytest.approx([math.exp(loss) for loss in (3.0, 3.5, 3.6)])


def test_kinds_are_those_of_the_front_of_what_the_noise_ties_with_it_of_the_rest_and_of_what_breaks_a_limit():
    seeds = [record(90, 3.01, DENSE), record(91, 2.99, DENSE)]  # resolvable: 4.303 sqrt(2) 0.01 = 0.061
    losses = (3.0, 3.3, 3.05, 3.07, 2.0)
    costs = (1.0, 0.5, 1.0, 1.0, 0.1)
    records = [record(n, loss, round(share * DENSE)) for n, (loss, share) in enumerate(zip(losses, costs, strict=True))]
    records = [records[0].change(arm="dense"), *records[1:4], records[4].change(feasible=False)]
    rows = front_rows(Results(SPACE, records, seeds), COST)
    assert list(rows["kind"]) == ["front", "front", "tied", "behind", "limited"]


def test_every_complete_candidate_is_a_mark_that_knows_its_run():
    drawn = sorted(points(front_figure(FOUND, COST)))
    assert [run for run, *_ in drawn] == [its.run for its in FOUND.complete]
    for (_, x, y), its in zip(drawn, FOUND.complete, strict=True):
        assert (x, y) == pytest.approx((its.costs[COST] / DENSE, its.loss_nats))


def test_arms_and_winner_are_named():
    names = [note.text for note in front_figure(FOUND, COST).drawing.layout.annotations]
    assert names == ["dense", "attention (LPA's choice)", "ffn", "winner"]
    assert FOUND.winner.run == BEST.run


def test_an_arm_that_wins_is_named_as_both():
    names = [note.text for note in front_figure(Results(SPACE, ARMS[:1], []), COST).drawing.layout.annotations]
    assert names == ["dense, winner"]


def test_the_line_joins_the_front_from_the_cheapest_to_the_dearest():
    (line,) = [trace for trace in front_figure(FOUND, COST).drawing.data if trace.mode == "lines"]
    wanted = sorted(FOUND.front, key=lambda its: its.costs[COST])
    assert list(line.y) == [its.loss_nats for its in wanted]
    assert list(line.x) == pytest.approx([its.costs[COST] / DENSE for its in wanted])


def test_a_front_of_three_objectives_has_no_line():
    three = tiny_space("objectives=[loss_nats, flops_per_token, params]")
    figure = front_figure(Results(three, FOUND.records, SEEDS), "params")
    assert not [trace for trace in figure.drawing.data if trace.mode == "lines"]
    assert len(points(figure)) == len(FOUND.complete)


def test_of_three_objectives_the_reader_is_told_that_one_picture_does_not_show_the_front():
    three = tiny_space("objectives=[loss_nats, flops_per_token, params]")
    assert "The front is that of all 3 objectives" in front_figure(Results(three, FOUND.records, SEEDS), "params").words
    assert "objectives" not in front_figure(FOUND, COST).words


def test_every_candidate_and_a_limit_that_is_near_are_on_the_axis_of_costs():
    for setting, inside in (("limits={params: 1.1 x dense}", True), ("limits={params: 9 x dense}", False)):
        space = tiny_space(setting)
        figure = front_figure(Results(space, FOUND.records, SEEDS), "params")
        low, high = figure.drawing.layout.xaxis.range
        assert low < figure.rows["share"].min() <= figure.rows["share"].max() < high
        assert (space.limit("params") / space.dense_costs["params"] < high) == inside
    low, high = front_figure(Results(SPACE, ARMS[:1], []), COST).drawing.layout.xaxis.range
    assert low < 1 < high


def test_the_band_is_what_a_single_run_does_not_tell_from_dense():
    figure = front_figure(FOUND, COST)
    (band,) = [shape for shape in figure.drawing.layout.shapes if shape.type == "rect"]
    assert (band.y0, band.y1) == pytest.approx((3.0 - FOUND.noise.resolvable_nats, 3.0 + FOUND.noise.resolvable_nats))
    assert not [shape for shape in front_figure(Results(SPACE, ARMS, []), COST).drawing.layout.shapes if shape.type == "rect"]


def test_a_limit_and_the_knee_are_lines():
    space = tiny_space("limits={params: 0.9 x dense}")
    figure = front_figure(Results(space, [*ARMS[1:], BEST], []), "params")
    lines = {(shape.x0, shape.x1) for shape in figure.drawing.layout.shapes if shape.x0 == shape.x1}
    share = BEST.costs["params"] / space.dense_costs["params"]
    assert sorted(x for x, _ in lines) == pytest.approx(sorted([0.9, share]))
    limited = front_figure(Results(space, [*ARMS[1:], BEST], []), COST)
    assert len([shape for shape in limited.drawing.layout.shapes if shape.x0 == shape.x1]) == 1


def test_nothing_is_told_apart_by_colour_alone():
    figure = front_figure(FOUND, COST)
    drawn = [trace.marker for trace in figure.drawing.data if trace.customdata is not None]
    marks = {(its.color, its.symbol.removesuffix("-dot").removesuffix("-open")) for its in drawn}
    assert len({symbol for _, symbol in marks}) == len({colour for colour, _ in marks}) == len(marks)
    assert len({(suffix, size) for _, suffix, size, _ in KINDS.values()}) == len(KINDS)
    assert len(set(COLOURS.values())) == len(COLOURS)


def test_a_run_that_went_astray_does_not_squash_the_others():
    records = [record(n, 3 + n / 100, DENSE - n) for n in range(20)] + [record(20, 1e6, DENSE)]
    figure = front_figure(Results(SPACE, records, []), COST)
    low, high = figure.drawing.layout.yaxis.range
    assert low < 3.0 < 3.19 < high < 4
    assert "1 of 21 candidates lie above the figure, at up to 1e+06 nats" in figure.words
    assert len(figure.rows) == 21


def test_an_arm_above_the_figure_has_its_name_and_its_loss_at_the_upper_edge():
    records = [record(n, 3 + n / 100, DENSE - n) for n in range(20)]
    figure = front_figure(Results(SPACE, [*records, record(20, 12.345, DENSE, arm="ffn")], []), COST)
    (note,) = [one for one in figure.drawing.layout.annotations if one.text.startswith("ffn")]
    assert (note.text, note.y) == ("ffn (above: 12.35)", figure.drawing.layout.yaxis.range[1])
    assert note.ay > 0


@pytest.mark.parametrize(("highest", "above"), [(3.31, 0), (3.34, 1)])
def test_what_is_far_out_but_before_the_end_of_the_axis_is_not_said_to_lie_above(highest, above):
    losses = [3.0, *(3.3 + n / 10_000 for n in range(20)), highest]  # far out: above about 3.305
    records = [record(n, loss, DENSE, arm="ffn" if loss == highest else None) for n, loss in enumerate(losses)]
    figure = front_figure(Results(SPACE, records, []), COST)
    (note,) = [one for one in figure.drawing.layout.annotations if one.text.startswith("ffn")]
    assert (figure.drawing.layout.yaxis.range[1] < highest) == above
    assert ("1 of 22 candidates lie above the figure" in figure.words) == above
    assert (note.text == "ffn", note.y == highest) == (not above, not above)


def test_without_a_complete_candidate_there_are_words_and_no_drawing():
    for records in ([], ARMS[3:]):
        figure = front_figure(Results(SPACE, records, []), COST)
        assert not figure.drawing.data
        assert figure.words == "No candidate has been trained to its end."


@pytest.mark.parametrize("records", [ARMS[:1], [record(0, 3.0, 5), record(1, 3.0, 5)]])
def test_one_run_and_identical_ones_have_an_axis(records):
    low, high = front_figure(Results(SPACE, records, []), COST).drawing.layout.yaxis.range
    assert low < 3.0 < high
