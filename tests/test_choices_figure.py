from itertools import product
from random import Random

import pytest
from lpanas.search import choices_figure as module
from lpanas.search.choices_figure import choice_rows, choices_figure
from lpanas.search.page import COLOURS, SYMBOLS
from lpanas.search.results import Results
from making import arm_records, ended, job, point, tiny_space

SPACE = tiny_space("vary.rebalance=[none, params]")
AXES = ["rank attention", "rank ffn", "rebalance", "flops_per_token", "loss_nats"]


def candidate(number, loss, *where):
    return ended(job(SPACE.candidate(point(*where)), f"trial-{number}"), loss)


def results(*records):
    return Results(SPACE, list(records), [])


def drawn(figure):
    """Line by line in the order of drawing: run, trace, vertices."""
    found = []
    for trace in figure.drawing.data:
        line = []
        for x, y, run in zip(trace.x, trace.y, trace.customdata or [None] * len(trace.x), strict=True):
            if run is None:
                assert x is y is None
                found += [(line[0][0], trace, [its[1:] for its in line])] if line else []
                line = []
            else:
                line.append((run, x, y))
        assert not line
    return found


def test_three_candidates_by_hand():
    found = results(candidate(0, 3.2), candidate(1, 3.0, "1/4", "1/2"), candidate(2, 3.1, "1/4", "1/4", "params"))
    dense, thin = SPACE.dense_costs["flops_per_token"], [its.costs["flops_per_token"] for its in found.records]
    low, high = min(thin) / dense, max(thin) / dense
    share = [(cost / dense - low) / (high - low) for cost in thin]
    # levels in the middle of their parts of the axis; two on one level a quarter of half a part to either side, low loss first
    wanted = {
        "trial-0": [1 / 4, 1 / 6, 1 / 4 + 1 / 16, share[0], 1.0],
        "trial-1": [3 / 4 - 1 / 16, 3 / 6, 1 / 4 - 1 / 16, share[1], 0.0],
        "trial-2": [3 / 4 + 1 / 16, 5 / 6, 3 / 4, share[2], 0.5],
    }
    rows = choice_rows(found)
    assert list(dict.fromkeys(rows["run"])) == ["trial-0", "trial-2", "trial-1"]
    for run, its in rows.groupby("run"):
        assert list(its["axis"]) == AXES
        assert list(its["place"]) == pytest.approx(wanted[run])
        assert list(its["best"]) == [run == "trial-1"] * 5
    own = rows[rows["run"] == "trial-2"]
    assert list(own["level"]) == ["1/4", "1/4", "params", "", ""]
    assert list(own["value"])[3:] == pytest.approx([thin[2] / dense, 3.1])


def many(n=60, seed=0):
    random, where = Random(seed), list(product(["dense", "1/4"], ["dense", "1/2", "1/4"], ["none", "params"]))
    return results(*(candidate(number, 3 + random.random(), *random.choice(where)) for number in range(n)))


def test_every_vertex_is_where_a_count_of_the_records_puts_it():
    found = many()
    levels = {"rank attention": ["dense", "1/4"], "rank ffn": ["dense", "1/2", "1/4"], "rebalance": ["none", "params"]}
    records = {record.run: record for record in found.records}
    for row in choice_rows(found).to_dict("records"):
        record, own = records[row["run"]], levels.get(row["axis"])
        if own:
            level = record.params[row["axis"]]
            on = [its.loss_nats for its in found.records if its.params[row["axis"]] == level]
            rank = sum(loss < record.loss_nats for loss in on)
            assert row["place"] == pytest.approx((own.index(level) + 0.25 + 0.5 * (rank + 0.5) / len(on)) / len(own))
        elif row["axis"] == "loss_nats":
            losses = [its.loss_nats for its in found.records]
            assert row["place"] == pytest.approx((record.loss_nats - min(losses)) / (max(losses) - min(losses)))


def test_the_drawing_has_the_rows_vertices_a_line_a_run_and_a_look_a_group():
    found = many()
    rows, lines = choice_rows(found), drawn(choices_figure(found))
    assert sorted(run for run, _, _ in lines) == sorted(record.run for record in found.records)
    for run, trace, vertices in lines:
        its = rows[rows["run"] == run]
        sublayers = its["sublayers"].iloc[0]
        assert [x for x, _ in vertices] == pytest.approx(list(its["place"]), abs=1e-4)
        assert [y for _, y in vertices] == list(range(5))
        assert (trace.line.color, trace.marker.symbol) == (COLOURS[sublayers], SYMBOLS[sublayers])


def test_strong_lines_are_the_quarter_of_the_lowest_losses_and_lie_on_the_others_low_ones_on_top():
    found = many()
    loss = {record.run: record.loss_nats for record in found.records}
    lines = drawn(choices_figure(found))
    strong = [run for run, trace, _ in lines if trace.opacity > 0.5]
    assert [run for run, _, _ in lines][-len(strong) :] == strong
    assert sorted(strong) == sorted(sorted(loss, key=loss.get)[:15])
    for trace in {id(trace): trace for _, trace, _ in lines}.values():
        own = [loss[run] for run, its, _ in lines if its is trace]
        assert own == sorted(own, reverse=True)
    assert strong[-1] == min(loss, key=loss.get)


def test_a_huge_loss_lies_at_the_end_and_leaves_the_others_their_room():
    figure = choices_figure(results(*many(20).records, candidate(20, 1e6, "1/4"), candidate(21, 9.0, "1/4", "1/4")))
    at = figure.rows[figure.rows["axis"] == "loss_nats"].set_index("run")["place"]
    assert at["trial-20"] == at["trial-21"] == 1
    assert max(at.drop(["trial-20", "trial-21"])) == pytest.approx(0.92)
    assert min(at) == 0
    assert sum("2 beyond, up to 1e+06" in note.text for note in figure.drawing.layout.annotations) == 1


def test_every_axis_has_its_name_and_its_levels_or_ends():
    texts = [note.text for note in choices_figure(many()).drawing.layout.annotations]
    names = ["rank attention", "rank ffn", "rebalance", module.NAMES["flops_per_token"], module.NAMES["loss_nats"]]
    assert [text for text in texts if text.startswith("<b>")] == [f"<b>{name}</b>" for name in names]
    assert texts[1:3] + texts[4:7] + texts[8:10] == ["dense", "1/4", "dense", "1/2", "1/4", "none", "params"]


def test_of_many_lines_some_are_drawn_the_arms_among_them_and_the_words_say_so(monkeypatch):
    monkeypatch.setattr(module, "LINES", 7)
    space_arms = arm_records(SPACE, 5.0, 5.1, 5.2, 5.3)
    others = [record.change(run=f"other-{number}") for number, record in enumerate(many().records)]
    found = results(*space_arms, *others)
    runs = set(choice_rows(found)["run"])
    front = {record.run for record in found.front}
    assert {record.run for record in space_arms} | front <= runs
    assert len(runs) == 7 + len({record.run for record in space_arms} | front)
    assert f"Of 64 candidates {len(runs)} are drawn" in choices_figure(found).words
    assert "are drawn:" not in choices_figure(many(5)).words


def test_runs_that_failed_and_arms_outside_of_the_space_have_no_line():
    space = tiny_space("arms={attention: 1/8, ffn: 1/2}")
    found = Results(space, [*arm_records(space, 3.0, 3.1, 3.2), ended(job(space.candidate(point("1/4")), "trial-9"))], [])
    assert set(choice_rows(found)["run"]) == {"trial-0", "trial-2"}


@pytest.mark.parametrize("records", [[], arm_records(SPACE, None, None)], ids=["none", "failed"])
def test_without_a_complete_run_there_is_nothing_but_words(records):
    figure = choices_figure(results(*records))
    assert not figure.drawing.data
    assert len(figure.rows) == 0
    assert figure.words == "There is no complete run inside the space."


def test_one_run_and_identical_ones_lie_in_the_middle_of_their_axes():
    rows = choice_rows(results(candidate(0, 3.0)))
    assert list(rows["place"]) == pytest.approx([1 / 4, 1 / 6, 1 / 4, 1 / 2, 1 / 2])
    rows = choice_rows(results(*(candidate(number, 3.0) for number in range(4))))
    assert list(rows[rows["axis"] == "loss_nats"]["place"]) == [0.5] * 4
    assert len(set(rows[rows["axis"] == "rank ffn"]["place"])) == 4


@pytest.mark.parametrize(
    ("objectives", "costs"),
    [
        ("[loss_nats]", ["flops_per_token", "params", "memory_bytes"]),
        ("[loss_nats, params, memory_bytes]", ["params", "memory_bytes"]),
    ],
)
def test_each_cost_of_the_objectives_or_every_one_has_an_axis(objectives, costs):
    found = Results(tiny_space(f"objectives={objectives}"), arm_records(SPACE, 3.0, 3.1), [])
    assert [axis for axis in dict.fromkeys(choice_rows(found)["axis"]) if not axis.startswith("rank")] == [*costs, "loss_nats"]
