import math
from itertools import product

import numpy as np
import pytest
from lpanas.search.importance_figures import importance_figure, importance_rows
from lpanas.search.results import Results
from making import arm_records, ended, job, point, tiny_space

SPACE = tiny_space("vary.rebalance=[none, params]")
ATTENTION, FFN = {"dense": 0.0, "1/4": -0.02}, {"dense": 0.0, "1/2": 0.1, "1/4": 0.3}
WHERE = list(product(ATTENTION, FFN, ["none", "params"]))


def results(points, loss=lambda attention, ffn, rule: 3 + ATTENTION[attention] + FFN[ffn], space=SPACE):
    made = [(number, where, loss(*where)) for number, where in enumerate(points)]
    return Results(space, [ended(job(space.candidate(point(*where)), f"trial-{n}"), its) for n, where, its in made], [])


def row(found, outcome, choice):
    rows = importance_rows(found)
    (its,) = rows[(rows["outcome"] == outcome) & (rows["choice"] == choice)].to_dict("records")
    return its


def words(figure):
    return [note.text for note in figure.drawing.layout.annotations]


def test_known_effects_are_the_rows_the_largest_first():
    rows = importance_rows(results(WHERE))
    loss = rows[rows["outcome"] == "loss_nats"]
    assert list(loss["choice"]) == ["rank ffn", "rank attention", "rebalance"]
    assert list(loss["first"]) == ["dense", "dense", "none"]
    assert list(loss["last"]) == ["1/4", "1/4", "params"]
    np.testing.assert_allclose(loss["effect"], [0.3, -0.02, 0], atol=1e-12)
    np.testing.assert_allclose(loss["spread"], [np.std([0, 0.1, 0.3]), 0.01, 0], atol=1e-12)
    np.testing.assert_allclose(
        loss["share"], np.array([np.var([0, 0.1, 0.3]), 0.0001, 0]) / (np.var([0, 0.1, 0.3]) + 0.0001), atol=1e-12
    )
    assert list(loss["n"]) == [12] * 3
    assert list(loss["r2"]) == pytest.approx([1] * 3)
    assert loss["levels"].iloc[1] == "dense +0.0100, 1/4 \u22120.0100"
    assert set(loss["note"]) == {""}


def test_the_rows_of_a_cost_are_means_over_the_whole_space_as_shares_of_dense():
    space = tiny_space()
    found = results([where[:2] for where in WHERE[::2]], lambda *_: None, space)
    dense = space.dense_costs["flops_per_token"]
    share = {where[:2]: space.candidate(point(*where[:2])).costs["flops_per_token"] / dense for where in WHERE}
    for choice, place, levels in (("rank attention", 0, list(ATTENTION)), ("rank ffn", 1, list(FFN))):
        means = [np.mean([its for where, its in share.items() if where[place] == level]) for level in levels]
        its = row(found, "flops_per_token", choice)
        assert its["effect"] == pytest.approx(means[-1] - means[0])
        assert its["spread"] == pytest.approx(np.std(means))
        assert math.isnan(its["chance"])
        assert math.isnan(row(found, "loss_nats", choice)["spread"])
    assert "Loss: 0 runs, too few; the model asks for 3." in importance_figure(found).words


def test_the_drawing_has_a_bar_a_row_with_its_sign_and_number_and_the_mark_of_chance():
    figure = importance_figure(results(WHERE))
    rows = figure.rows[figure.rows["spread"].notna()]
    bars = [trace for trace in figure.drawing.data if trace.type == "bar" and trace.x[0] is not None]
    assert [x for trace in bars for x in trace.x] == pytest.approx(list(rows["spread"]), rel=1e-5, abs=1e-12)
    marks = [x for trace in figure.drawing.data if trace.type == "scatter" for x in trace.x if x is not None]
    assert marks == pytest.approx(list(rows["chance"].dropna()), rel=1e-5)
    texts = words(figure)
    assert {"\u25b2 +0.3000", "\u25bc \u22120.0200", "(+0.0000)", "<b>rank ffn</b> dense \u2192 1/4"} <= set(texts)
    assert bars[0].marker.color[0] != bars[0].marker.color[1] != bars[0].marker.color[2]
    assert bars[0].marker.opacity[:2] == (1, 1)
    assert bars[0].marker.opacity[2] < 0.5
    assert "Not told from chance (pale, in brackets): rebalance." in figure.words
    assert "Loss: 12 runs, 100 % of the variance explained (36 % by chance)" in figure.words  # 4 of 11 degrees of freedom


def test_a_level_without_a_run_leaves_no_number_where_it_would_count():
    found = results([where for where in WHERE if where[1] != "1/4"])
    its = row(found, "loss_nats", "rank ffn")
    assert math.isnan(its["effect"])
    assert its["spread"] == pytest.approx(0.05)
    assert its["levels"] == "dense \u22120.0500, 1/2 +0.0500, 1/4 \u2013"
    assert its["note"] == "no run at 1/4"
    assert "<i>no run at 1/4</i>" in words(importance_figure(found))


def test_a_choice_with_one_level_seen_is_words_in_place_of_a_bar():
    figure = importance_figure(results([where for where in WHERE if where[2] == "none"]))
    its = figure.rows[figure.rows["choice"] == "rebalance"]
    assert its[["effect", "spread", "share", "chance"]].isna().all(axis=None)
    assert words(figure).count("<i>only none was run</i>") == 2
    assert "rebalance: only none was run" in figure.words


def test_choices_that_vary_together_only_are_words_and_the_others_keep_their_numbers():
    figure = importance_figure(results([(a, f, "none" if a == "dense" else "params") for a, f, _ in WHERE]))
    known = figure.rows[(figure.rows["outcome"] == "loss_nats") & figure.rows["effect"].notna()]
    assert list(known["choice"]) == ["rank ffn"]
    assert list(known["effect"]) == pytest.approx([0.3])
    assert words(figure).count("<i>not told apart</i>") == 4
    assert "rebalance: not told apart from other choices" in figure.words


def test_too_few_losses_leave_the_costs():
    losses = iter([3.0, 3.1, 3.2, 3.3, 3.4] + [None] * 7)
    figure = importance_figure(results(WHERE, lambda *_: next(losses)))
    rows = figure.rows
    assert rows[rows["outcome"] == "loss_nats"]["spread"].isna().all()
    assert rows[rows["outcome"] == "flops_per_token"]["spread"].notna().all()
    assert "Loss: 5 runs, too few; the model asks for 6." in figure.words
    assert figure.words.endswith("FLOPs: 12 runs, 76 % of the variance explained; the rest is interaction.")


def test_a_loss_above_guessing_is_left_out_and_the_words_say_so():
    found = results(WHERE)
    off = ended(job(SPACE.candidate(point("1/4", "1/4")), "trial-12"), 1e6)
    with_it = importance_figure(Results(SPACE, [*found.records, off], []))
    loss = with_it.rows["outcome"] == "loss_nats"
    assert with_it.rows[loss].equals(importance_rows(found)[loss])
    assert "Left out: 1 whose loss is above that of guessing, 5.58 nats." in with_it.words


def test_arms_outside_of_the_space_do_not_count():
    space = tiny_space("arms={attention: 1/8, ffn: 1/2}")
    found = Results(space, arm_records(space, 3.0, 3.1, 3.2, 3.3), [])
    assert set(importance_rows(found)["n"]) == {2}


@pytest.mark.parametrize(
    "records", [[], arm_records(SPACE, 3.0), arm_records(SPACE, None, None)], ids=["none", "one", "failed"]
)
def test_without_runs_enough_there_is_nothing_but_words(records):
    figure = importance_figure(Results(SPACE, records, []))
    assert not figure.drawing.data
    assert figure.rows[["effect", "spread", "share", "chance", "r2"]].isna().all(axis=None)
    assert "too few; the model asks for" in figure.words


def test_identical_points_and_a_space_of_one_point_are_nothing_but_words():
    figure = importance_figure(results([("1/4", "1/4", "none")] * 8))
    assert not figure.drawing.data
    assert "rank ffn: only 1/4 was run" in figure.words
    space = tiny_space("vary.ranks={ffn: [1/2]}")
    figure = importance_figure(Results(space, [], []))
    assert not figure.drawing.data
    assert figure.words == "The space has no choice with more than one level."


def test_equal_losses_are_bars_of_no_length_and_no_nan_in_the_words():
    figure = importance_figure(results(WHERE, lambda *_: 3.1))
    assert set(figure.rows[figure.rows["outcome"] == "loss_nats"]["spread"]) == {0.0}
    assert "nan" not in f"{figure.words}{words(figure)}"


@pytest.mark.parametrize(
    ("objectives", "costs"),
    [
        ("[loss_nats]", ["flops_per_token", "params", "memory_bytes"]),
        ("[loss_nats, params, memory_bytes]", ["params", "memory_bytes"]),
    ],
)
def test_each_cost_of_the_objectives_or_every_one_has_a_panel(objectives, costs):
    space = tiny_space("vary.rebalance=[none, params]", f"objectives={objectives}")
    figure = importance_figure(results(WHERE, space=space))
    assert list(dict.fromkeys(figure.rows["outcome"])) == ["loss_nats", *costs]
    assert words(importance_figure(results(WHERE[::2], space=space))).count("\u2013") == (len(costs) if len(costs) > 1 else 0)
    assert len([name for name in figure.drawing.layout if name.startswith("xaxis")]) == 1 + len(costs)
