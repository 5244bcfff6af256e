import math

import pytest
from lpanas.search import curve_figures
from lpanas.search.curve_figures import COLUMNS, curve_rows, curves_figure
from lpanas.search.results import Results
from making import arm_records, ended, job, point, tiny_space

SPACE = tiny_space("search.rungs=1", "search.eta=2")
ARMS = arm_records(SPACE, 3.0, 3.1, 3.2, None)
BEST = ended(job(SPACE.candidate(point("1/4", "1/4")), "trial-5"), 2.9)
SEED = ended(job(SPACE.arm("dense"), "noise-0", seed=1), 3.01)
FOUND = Results(SPACE, [*ARMS, BEST], [SEED])


def other(number, loss=None, status=None, **changes):
    return ended(job(SPACE.candidate(point("dense", "1/4")), f"trial-{number}"), loss, status).change(**changes)


STOPPED = other(6, status="pruned", curve=((320, 4.2),), tokens=320)
DIVERGED = other(7, status="diverged", curve=((320, 5.0),), tokens=400)
LOST = other(8, curve=((320, 4.4),), tokens=320)


def curves_of(figure):
    """What is drawn: each run's points, and the other runs that have a mark with its symbol."""
    lines, marks = {}, {}
    for trace in figure.drawing.data:
        for run, x, y in zip(trace.customdata or (), trace.x, trace.y, strict=False):
            if trace.mode.startswith("lines") and run is not None:
                lines.setdefault(run, []).append((x, y))
            elif run is not None:
                marks[run] = (trace.marker.symbol, x, y)
    return lines, marks


def test_a_row_is_an_evaluation_of_a_candidate():
    rows = curve_rows(FOUND)
    assert list(rows.columns) == COLUMNS
    assert list(rows.itertuples(index=False, name=None)) == [
        ("trial-0", "dense", "dense", "complete", 320, 4.0),
        ("trial-0", "dense", "dense", "complete", 640, 3.0),
        ("trial-1", "attention", "attention", "complete", 320, 4.1),
        ("trial-1", "attention", "attention", "complete", 640, 3.1),
        ("trial-2", "ffn", "ffn", "complete", 320, 4.2),
        ("trial-2", "ffn", "ffn", "complete", 640, 3.2),
        ("trial-5", "", "both", "complete", 320, 3.9),
        ("trial-5", "", "both", "complete", 640, 2.9),
    ]


def test_the_curves_that_are_drawn_are_those_of_the_records_with_gaps_between_them():
    figure = curves_figure(Results(SPACE, [*ARMS, BEST, other(6, 3.3), other(7, 3.4)], []))
    expected = {its.run: list(its.curve) for its in [*ARMS[:3], BEST]}
    assert curves_of(figure)[0] == expected | {"trial-6": [(320, 4.3), (640, 3.3)], "trial-7": [(320, 4.4), (640, 3.4)]}
    (both,) = [its for its in figure.drawing.data if "trial-6" in (its.customdata or ()) and its.mode == "lines"]
    assert both.customdata == ("trial-6", "trial-6", None, "trial-7", "trial-7", None)


def test_ends_of_runs_that_did_not_complete_have_marks_that_differ_without_colour():
    figure = curves_figure(Results(SPACE, [*ARMS, STOPPED, DIVERGED, LOST], []))
    marks = curves_of(figure)[1]
    assert {run: mark[1:] for run, mark in marks.items()} == {
        "trial-6": (320, 4.2),
        "trial-7": (320, 5.0),
        "trial-8": (320, 4.4),
    }
    assert len({mark[0] for mark in marks.values()}) == 3
    named = {trace.name: trace.marker.symbol for trace in figure.drawing.data if trace.name}
    assert named["stopped at a rung"] == marks["trial-6"][0]
    assert named["diverged"] == marks["trial-7"][0]
    assert "1 ended before their first evaluation" in figure.words  # the last arm


def test_a_run_that_was_taken_up_again_is_one_curve():
    again = other(9, 3.5, continues="trial-6", continues_at=320, tokens_before=320, curve=((320, 4.2), (640, 3.5)))
    lines, marks = curves_of(curves_figure(Results(SPACE, [*ARMS, STOPPED, again], [])))
    assert lines["trial-9"] == [(320, 4.2), (640, 3.5)]
    assert "trial-6" not in lines.keys() | marks.keys()


def test_the_rungs_are_lines_with_their_tokens():
    figure = curves_figure(FOUND)
    assert [line.x0 for line in figure.drawing.layout.shapes] == list(SPACE.rungs) == [320]
    (note,) = figure.drawing.layout.annotations
    assert note.text == "320"
    assert 10**note.x == pytest.approx(320)


def test_of_many_curves_the_arms_the_front_and_some_others_are_drawn_and_the_words_say_so(monkeypatch):
    monkeypatch.setattr(curve_figures, "CURVES", 3)
    others = [other(n, 5.0 + n) for n in range(6, 16)]
    figure = curves_figure(Results(SPACE, [*ARMS, BEST, *others], []))
    drawn = set(curves_of(figure)[0])
    assert {"trial-0", "trial-1", "trial-2", BEST.run} < drawn
    assert len(drawn) == 4 + 3
    assert "Of 14 candidates the arms, the front and 3 others are drawn" in figure.words
    assert "others are drawn" not in curves_figure(FOUND).words


@pytest.mark.parametrize("worst", [1e6, math.inf])
def test_a_loss_that_has_blown_up_does_not_squash_the_others_and_is_told_in_words(worst):
    blown = other(20, 3.3).model_copy(update={"curve": ((320, 4.3), (640, worst)), "status": "diverged"})
    records = [*ARMS, *(other(n, 3.3 + n / 100) for n in range(5, 15))]
    usual, figure = curves_figure(Results(SPACE, records, [])), curves_figure(Results(SPACE, [*records, blown], []))
    assert figure.drawing.layout.yaxis.range[1] == pytest.approx(usual.drawing.layout.yaxis.range[1], abs=0.2)
    assert "1 of 14 curves go above the figure, up to " in figure.words
    assert "above the figure" not in usual.words


def test_the_beginning_of_long_curves_is_shown():
    curve = tuple((10 * n, 3.0 + 3.0 * 0.7**n) for n in range(1, 100))
    figure = curves_figure(Results(SPACE, [other(n, 3.0, curve=curve) for n in range(4)], []))
    low, high = figure.drawing.layout.yaxis.range
    assert low < 3.0
    assert high > curve[0][1]


@pytest.mark.parametrize("records", [[], ARMS[3:], [other(4, status="failed")]])
def test_without_curves_the_words_say_so(records):
    figure = curves_figure(Results(SPACE, records, []))
    assert len(figure.drawing.data) == len(figure.rows) == 0
    assert figure.words == "No candidate has come to an evaluation with a finite loss."


@pytest.mark.parametrize("records", [ARMS[:1], [STOPPED], [BEST, BEST.change(run="trial-6")]])
def test_one_record_one_point_and_equal_curves_are_drawn(records):
    lines, marks = curves_of(curves_figure(Results(SPACE, records, [])))
    assert lines.keys() | marks.keys() == {record.run for record in records}


def test_many_curves_are_few_traces():
    records = [*ARMS, *(other(n, 3.3 + n / 1000) for n in range(5, 400))]
    assert len(curves_figure(Results(SPACE, records, [])).drawing.data) < 20
