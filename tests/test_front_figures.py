import pytest
from lpanas.search.front_figures import front_figure, front_points
from lpanas.search.results import Results
from making import arm_records, ended, job, point, record, tiny_space

SPACE = tiny_space()
ARMS = arm_records(SPACE, 3.0, 3.1, 3.2, None)
BEST = ended(job(SPACE.candidate(point("1/4", "1/4")), "trial-5"), 2.9)
FOUND = Results(SPACE, [*ARMS, BEST], [ended(job(SPACE.arm("dense"), "noise-0", seed=1), 3.01)])


def test_the_figure_draws_a_point_a_complete_record_with_its_cost_as_a_share_of_dense():
    dense = SPACE.dense_costs["flops_per_token"]
    records = [record(0, 3.0, dense), record(1, 3.5, dense // 2), record(2, 3.6, dense), record(3, None, 1)]
    drawn = front_points(Results(SPACE, records, []), "flops_per_token")
    assert list(drawn["run"]) == ["trial-0", "trial-1", "trial-2"]
    assert list(drawn["share"]) == pytest.approx([1.0, 0.5, 1.0])
    assert list(drawn["on_front"]) == [True, True, False]


def test_the_figure_marks_every_complete_record_and_names_the_arms_and_the_winner():
    figure = front_figure(FOUND, "flops_per_token")
    traces = [trace for trace in figure.data if trace.mode == "markers"]
    dense = SPACE.dense_costs["flops_per_token"]
    drawn = {(x, y) for trace in traces for x, y in zip(trace.x, trace.y, strict=True)}
    assert drawn == {(its.costs["flops_per_token"] / dense, its.loss_nats) for its in FOUND.complete}
    names = {note.text for note in figure.layout.annotations}
    assert {"dense", "attention", "ffn", "winner (knee)"} <= names


def test_the_front_is_drawn_from_the_cheapest_to_the_dearest():
    (line,) = [trace for trace in front_figure(FOUND, "flops_per_token").data if trace.name == "front"]
    assert list(line.x) == sorted(line.x)
    assert list(line.y) == [its.loss_nats for its in sorted(FOUND.front, key=lambda its: its.costs["flops_per_token"])]
