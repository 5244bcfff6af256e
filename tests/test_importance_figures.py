import math
from itertools import product
from random import Random

import numpy as np
import pytest
from lpanas.search.importance_figures import importance_figure
from lpanas.search.importance_rows import importance_rows
from lpanas.search.results import Results
from lpanas.search.rungs import goes_on
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
    assert "Runs without a loss to learn from: 1 above that of guessing (5.58 nats)." in with_it.words


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


STOPPING = tiny_space("vary.rebalance=[none, params]", "search.eta=4", "search.rungs=1", "proxy.tokens=2560")
RUNG = STOPPING.rungs[0]
CANDIDATES = {where: STOPPING.candidate(point(*where)) for where in WHERE}


def staged(where, number, early, late, status="complete", at=RUNG, **changes):
    """A run with a loss at the rung and, when it is complete, one at the end."""
    made = ended(job(CANDIDATES[where], f"trial-{number}"), late if status == "complete" else None, status)
    curve = ((RUNG, early), (2560, late)) if status == "complete" else ((RUNG, early),) if early is not None else ()
    return made.change(curve=curve, tokens=2560 if status == "complete" else at, **changes)


def halved(n, seed):
    """Successive halving of eta 4 by the loss: what the choices do is the same at the rung and at the end, noise 0.05."""
    random, rung, records = Random(seed), list[float](), []
    for number in range(n):
        where = random.choice(WHERE)
        late = 3 + sum(effect * (level != "dense") for effect, level in zip((0.03, 0.1), where[:2], strict=True))
        late += random.gauss(0, 0.05)
        rung.append(late + 1 + random.gauss(0, 0.02))
        on = goes_on(np.array(rung)[:, None], np.ones(len(rung), bool), number, 4)
        records.append(staged(where, number, rung[-1], late, "complete" if on else "pruned"))
    return Results(STOPPING, records, [])


def test_effects_are_those_of_all_runs_though_the_worst_three_quarters_were_stopped():
    found = halved(400, 0)
    assert 200 < sum(one.status == "pruned" for one in found.records) < 320
    ends = Results(STOPPING, found.complete, [])
    error = 3 * math.hypot(0.05, 0.02) * math.sqrt(2 / 133)  # thrice that of a difference between levels of 133 runs each
    for choice, true in (("rank attention", 0.03), ("rank ffn", 0.1)):
        assert row(found, "loss_nats", choice)["effect"] == pytest.approx(true, abs=error)
        assert row(ends, "loss_nats", choice)["effect"] < 0.75 * true
    its = row(found, "loss_nats", "rank ffn")
    assert (its["n"], its["rung"]) == (400, RUNG)
    assert its["spread"] > its["chance"]


def test_the_words_and_the_axis_say_which_loss_it_is_and_which_runs_have_none():
    late = [staged(where, number, 4.0 + 0.01 * number, 3.0) for number, where in enumerate(WHERE)]
    stopped = [staged(where, 20 + number, 4.5, None, "pruned") for number, where in enumerate(WHERE[:3])]
    lost = [staged(WHERE[0], 30, None, None, "diverged", 64), staged(WHERE[1], 31, 9.9, None, "failed")]
    figure = importance_figure(Results(STOPPING, [*late, *stopped, *lost], []))
    assert f"The loss is that after {RUNG} tokens, as 3 of 17 runs were stopped there: those that" in figure.words
    assert "Runs without a loss to learn from: 1 diverged, 1 above that of guessing (5.58 nats)." in figure.words
    assert "Loss: 15 runs" in figure.words
    assert figure.drawing.layout.xaxis.title.text == f"<b>loss</b>, nats, at<br>{RUNG} tokens"
    assert set(figure.rows["rung"].dropna()) == {RUNG}
    assert f"after {RUNG} tokens" in figure.drawing.data[0].hovertext[0]
    assert row(Results(STOPPING, late + stopped, []), "loss_nats", "rebalance")["n"] == 15


def test_without_stopped_runs_the_loss_is_the_final_one_and_nothing_is_said():
    found = Results(
        STOPPING, [staged(where, number, 4.0 + number, 3.0 + 0.1 * number) for number, where in enumerate(WHERE)], []
    )
    figure = importance_figure(found)
    assert figure.rows["rung"].isna().all()
    assert "tokens" not in figure.words
    assert "Runs without" not in figure.words
    ends = [record.loss_nats for record in found.records]
    last = [np.mean(ends[place::2]) for place in (0, 1)]
    assert row(found, "loss_nats", "rebalance")["effect"] == pytest.approx(last[1] - last[0])


def test_a_run_that_was_taken_up_again_counts_once():
    first = staged(WHERE[0], 20, 4.0, None, "pruned")
    again = staged(WHERE[0], 21, 4.0, 3.0, continues="trial-20", continues_at=RUNG)
    stopped = [staged(where, 30 + number, 4.1, None, "pruned") for number, where in enumerate(WHERE)]
    found = Results(STOPPING, [first, *stopped, again], [])
    assert set(importance_rows(found)["n"]) == {13}
    assert f"after {RUNG} tokens, as 12 of 13 runs" in importance_figure(found).words


def test_of_two_rungs_it_is_the_last_before_which_hardly_any_was_stopped():
    space = tiny_space("search.eta=2", "search.rungs=2", "proxy.tokens=2560")
    low, high = space.rungs
    where = [its[:2] for its in WHERE]

    def run(number, stop):
        made = ended(job(space.candidate(point(*where[number % 12])), f"trial-{number}"), None, "pruned")
        return made.change(tokens=stop, curve=tuple((tokens, 4.0 + 0.01 * number) for tokens in (low, high) if tokens <= stop))

    many = importance_figure(Results(space, [run(number, high) for number in range(49)] + [run(49, low)], []))
    assert set(many.rows["rung"].dropna()) == {high}
    assert f"after {high:,} tokens, as 49 of 50 runs were stopped there: " in many.words
    assert "Runs without a loss to learn from: 1 stopped before." in many.words
    fewer = importance_figure(Results(space, [run(number, high) for number in range(48)] + [run(48, low), run(49, low)], []))
    assert set(fewer.rows["rung"].dropna()) == {low}
    assert f"after {low:,} tokens, as 50 of 50 runs were stopped there or later: " in fewer.words


def test_of_many_choices_those_that_do_most_are_drawn_and_the_words_say_so():
    space = tiny_space(
        "proxy.model.n_layers=6", "target.model.n_layers=6", "vary.bands=6",
        "vary.ranks={q: [dense, 1/4], k: [dense, 1/4], v: [dense, 1/4], o: [dense, 1/4], up: [dense, 1/4], down: [dense, 1/4]}",
    )  # fmt: skip
    names = [name for name, its in space.choices.items() if len(its) > 1]
    assert len(names) == 36
    random, records = Random(0), []
    for number in range(60):
        params = {name: random.choice(list(its)) for name, its in space.choices.items()}
        loss = 3 + sum(0.001 * place * (params[name] == "1/4") for place, name in enumerate(names))
        records.append(ended(job(space.candidate(params), f"trial-{number}"), loss))
    figure = importance_figure(Results(space, records, []))
    loss = figure.rows[figure.rows["outcome"] == "loss_nats"]
    assert list(loss["choice"]) == names[::-1]
    assert "Of 36 choices the 32 that do most are drawn." in figure.words
    assert loss["chance"].notna().tolist() == [True] * 32 + [False] * 4
    drawn = {text.split("</b>")[0][3:] for text in words(figure) if text.startswith("<b>")}
    assert drawn == set(names[4:])
    assert len(figure.drawing.data[0].x) == 32
