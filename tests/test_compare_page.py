"""Several studies on one page: what is drawn and written is what their rows say, and nothing of theirs is run as HTML."""

import io
import os
import re
from html import unescape
from pathlib import Path

import pytest
from compared import CASES, EMPTY, IMAGE, OUTLIER, SCRIPT, A, B, stored, written
from lpanas.lpa.config import UserError
from lpanas.search import terminal
from lpanas.search.compare import Comparison
from lpanas.search.compare_page import LOOKS, check_page, front_figure, write_comparison
from lpanas.search.compare_rows import front_rows, pairs, study_rows, winner_rows
from lpanas.search.compare_words import cautions, headline
from page_tables import UNKNOWN, tables, value
from plotly.offline import get_plotlyjs
from rich.console import Console


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The comparison and the page of a case; each is made once."""
    known = {}

    def make(case):
        if case not in known:
            compared, page = Comparison(CASES[case]), tmp_path_factory.mktemp("page") / "compare.html"
            assert write_comparison(compared, page) == page
            known[case] = compared, page.read_text(encoding="utf-8")
        return known[case]

    return make


def body(page):
    return page.replace(get_plotlyjs(), "")


def same(text, wanted):
    """Whether a cell says a text, a number but for its rounding, or that nothing is known."""
    if wanted is None:
        return text in (UNKNOWN, "no winner")
    if isinstance(wanted, str):
        return text == " ".join(wanted.split())
    return value(text) == pytest.approx(wanted, rel=1e-3, abs=6e-4)


@pytest.mark.parametrize("case", CASES)
def test_every_cell_of_the_tables_is_what_the_rows_say(made, case):
    compared, page = made(case)
    shown = tables(page)
    rows = {
        "winners": [list(row.values()) for row in winner_rows(compared)],
        "studies": [list(row.values()) for row in study_rows(compared)],
        "pairs": [[one.a, one.b, one.difference_nats, one.resolvable_nats, one.told] for one in pairs(compared)],
        "trainings": [[one.key, *one.values] for one in compared.trainings],
        "targets": [[one.key, *one.values] for one in compared.targets],
    }
    rows = {name: its for name, its in rows.items() if its}
    assert set(shown) == set(rows)
    for name, wanted in rows.items():
        for cells, row in zip(shown[name], wanted, strict=True):
            left = list(cells.values())
            for each in row:  # the page's order is another
                found = next((text for text in left if same(text, each)), None)
                assert found is not None, (name, each, left)
                left.remove(found)
            assert left == []


@pytest.mark.parametrize("case", CASES)
def test_the_page_begins_with_the_headline_and_what_does_not_compare(made, case):
    compared, page = made(case)
    text = " ".join(unescape(re.sub(r"<[^>]*>", " ", body(page).partition("<h2>")[0])).split())
    at = 0
    for line in (headline(compared), *cautions(compared)):
        at = text.index(" ".join(line.split()), at) + 1


@pytest.mark.parametrize("case", CASES)
def test_a_figure_draws_its_rows_and_nothing_else(case):
    compared = Comparison(CASES[case])
    for cost in compared.costs:
        figure = front_figure(compared, cost)
        rows = front_rows(compared, cost)
        drawn = sorted((x, y) for trace in figure.drawing.data for x, y in zip(trace.x, trace.y, strict=True))
        assert drawn == [
            pytest.approx(each, rel=1e-5, abs=1e-6) for each in sorted(zip(rows["share"], rows["value"], strict=True))
        ]
        lines = [trace for trace in figure.drawing.data if trace.mode == "lines+markers"]
        assert len(lines) == len(set(rows[rows["is_step"]]["study"]))
        for line in lines:
            assert list(line.x) == sorted(line.x)
            assert list(line.y) == sorted(line.y, reverse=True)
        assert all(isinstance(trace.x, tuple) and isinstance(trace.y, tuple) for trace in figure.drawing.data)


def test_studies_are_told_apart_by_colour_and_by_symbol():
    assert len({colour for colour, _ in LOOKS}) == len({symbol for _, symbol in LOOKS}) == 8
    figure = front_figure(Comparison(CASES["eight"]), "flops_per_token")
    lines = [trace for trace in figure.drawing.data if trace.mode == "lines+markers"]
    assert len({(trace.line.color, trace.line.dash) for trace in lines}) == 8
    assert [trace.name for trace in lines] == [f"s{n}" for n in range(8)]


def test_the_winner_is_larger_and_filled():
    figure = front_figure(Comparison((A, B)), "flops_per_token")
    for trace, one in zip([t for t in figure.drawing.data if t.mode == "lines+markers"], (A, B), strict=True):
        large = [n for n, size in enumerate(trace.marker.size) if size == max(trace.marker.size)]
        filled = [n for n, symbol in enumerate(trace.marker.symbol) if not symbol.endswith("-open")]
        assert [trace.y[n] for n in large] == [trace.y[n] for n in filled] == [one.found.winner.loss_nats]


def test_a_huge_loss_squashes_nothing_and_is_counted():
    figure = front_figure(Comparison((A, OUTLIER)), "flops_per_token")
    low, high = figure.drawing.layout.yaxis.range
    assert 2.7 < low < 2.9
    assert 3.3 < high < 3.5
    assert "1 of the points lie above the picture" in figure.words
    assert front_figure(Comparison((A, B)), "flops_per_token").drawing.layout.yaxis.range is None


def test_the_axis_says_what_is_compared():
    titles = [
        front_figure(Comparison(CASES[case]), "flops_per_token").drawing.layout.yaxis.title.text for case in ("two", "apart")
    ]
    assert ["loss_nats" in titles[0], "delta_nats" in titles[1]] == [True, True]


def test_where_nothing_can_be_drawn_the_words_stand_alone(made):
    figure = front_figure(Comparison(CASES["nothing"]), "flops_per_token")
    assert (len(figure.drawing.data), figure.words) == (0, "No study has a candidate on a front that can be drawn.")
    assert "Plotly.newPlot" not in body(made("nothing")[1])
    assert "Plotly.newPlot" in body(made("two")[1])


def test_the_page_carries_plotly_js_once_and_loads_nothing(made):
    page = made("eight")[1]
    assert page.count(get_plotlyjs()) == 1
    assert not re.search(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=|@import|url\(", body(page))
    assert len(body(page)) < 300_000


def test_names_are_text_wherever_they_stand(made):
    page = made("odd names")[1]
    assert SCRIPT not in body(page)
    assert not re.search(r"<(?:img|b>b)", body(page))
    assert {row["study"] for row in tables(page)["winners"]} == {IMAGE, SCRIPT, "%{x} <b>b</b>"}
    assert SCRIPT in {row["space"] for row in tables(page)["studies"]}


def test_names_are_text_in_figures(made):
    """What plotly.js is handed, with the escapes of JSON undone, holds no tag but our own, and no template but ours."""
    calls = re.findall(r"Plotly\.newPlot\((.*?)\)\s*(?:\.then|}|;)", body(made("odd names")[1]), re.DOTALL)
    assert calls
    for call in calls:
        handed = call.replace("\\u003c", "<").replace("\\u003e", ">").replace("\\u002f", "/")
        assert set(re.findall(r"<\w+|</\w+", handed)) <= {"<b", "</b", "<br", "<extra", "</extra"}
        assert set(re.findall(r'"hovertemplate":"(.*?)"', handed)) == {"%{text}<extra></extra>"}


def test_a_page_of_ours_is_replaced_and_nothing_else(tmp_path):
    page = tmp_path / "compare.html"
    check_page(page)
    write_comparison(Comparison((A, B)), page)
    before = body(page.read_text(encoding="utf-8"))
    check_page(page)
    write_comparison(Comparison((A, EMPTY)), page)
    assert body(page.read_text(encoding="utf-8")) != before
    (tmp_path / "report.html").write_text("<title>lpanas: mine</title>")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    cases = {
        tmp_path / "report.html": "holds something else than such a page",
        tmp_path / "dangling": "holds something else",
        tmp_path / "pipe": "holds something else",
        tmp_path: "is a folder; expected a file's name",
        tmp_path / "none" / "a.html": "none is no folder",
        page / "a.html": "compare.html is no folder",
        Path("/proc/a.html"): "cannot be written",
    }
    for place, words in cases.items():
        with pytest.raises(UserError, match=words):
            check_page(place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["compare.html", "dangling", "pipe", "report.html"]


def test_the_screen_names_every_study_its_winner_and_the_page(monkeypatch):
    for case, studies in CASES.items():
        shown = io.StringIO()
        monkeypatch.setattr(terminal, "console", Console(file=shown, width=250, highlight=False))
        terminal.print_comparison(Comparison(studies), Path("[b]compare.html"))
        screen = shown.getvalue()
        assert screen.endswith("page: [b]compare.html\n")
        assert len(screen.splitlines()) < 40
        for one in studies:
            row = re.search(rf"^{re.escape(one.label)} +.*of 6 .*$", screen, re.MULTILINE)
            assert row, (case, screen)
            assert f" {one.found.winner.run if one.found.winner else 'none'} " in row[0]


def test_several_folders_make_a_page_here_or_where_it_is_said(call, tmp_path, tables, monkeypatch):
    one, other = stored(tmp_path / "one", A.found, "1", tables), written(tmp_path / "other", B.found)
    kept = {path: path.read_bytes() for folder in (one, other) for path in folder.iterdir()}
    (here := tmp_path / "here").mkdir()
    monkeypatch.chdir(here)
    code, screen, err = call("report", one, other)
    assert (code, err) == (0, "")
    assert screen.endswith("page: compare.html\n")
    assert call("report", one, other, "--out", "b.html")[0] == 0
    assert sorted(path.name for path in here.iterdir()) == ["b.html", "compare.html"]
    assert {path: path.read_bytes() for folder in (one, other) for path in folder.iterdir()} == kept


def test_mistakes_are_one_line_and_nothing_is_written(call, tmp_path, monkeypatch):
    one, other = written(tmp_path / "one", A.found), written(tmp_path / "other", B.found)
    confirmation = written(tmp_path / "confirm", A.found)
    (confirmation / "environment.json").write_text('[{"study": "lpanas confirm"}]')
    (here := tmp_path / "here").mkdir()
    monkeypatch.chdir(here)
    cases = {
        (one, one): "stands twice among the studies to compare",
        (one, confirmation): "holds a confirmation; expected a search",
        (one, here): "holds no study",
        (one, "nowhere"): "nowhere: holds no study",
        (one, ""): "expected a folder, found an empty name",
        (one, other, "--out", here): "is a folder; expected a file's name",
        (one, other, "--out", other / "records.jsonl"): "holds something else than such a page",
        (one, "--out", "a.html"): "--out a.html: only the page of several studies",
        (one, other, "--storage", "sqlite:///none.db"): "there is no study 'one' in it",
        (): "Missing argument",
    }
    for words, line in cases.items():
        code, out, err = call("report", *words)
        assert (code, out) == (2, ""), words
        assert line in err
        assert len(err.splitlines()) == 1
    assert list(here.iterdir()) == []
