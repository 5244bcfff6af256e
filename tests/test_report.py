import re
from html import escape

import pandas as pd
import pytest
from lpanas.search import report
from lpanas.search.report import curves_figure, front_figure, front_points, write_report
from lpanas.search.results import Results
from lpanas.search.stored import read_records
from making import arm_records, ended, job, point, record, tiny_space
from plotly.offline import get_plotlyjs

SPACE = tiny_space("name=the <b>tiny one")
SCRIPT = "<script>alert('lost')</script>"
ARMS = arm_records(SPACE, 3.0, 3.1, 3.2, None)
LOST = ended(job(SPACE.candidate(point("dense", "1/4")), "trial-4"), status="failed", reason=SCRIPT)
BEST = ended(job(SPACE.candidate(point("1/4", "1/4")), "trial-5"), 2.9)
SEEDS = [ended(job(SPACE.arm("dense"), "noise-0", seed=1), 3.01)]
FOUND = Results(SPACE, [*ARMS, LOST, BEST], SEEDS)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    assert write_report(FOUND, folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def page(out):
    return (out / "report.html").read_text()


def body(page):
    return page.replace(get_plotlyjs(), "")


def test_the_page_has_a_row_for_every_run(page):
    rows = re.findall(r"<tr><td>((?:trial|noise)-\d+)</td>", page)
    assert rows == ["trial-0", "trial-1", "trial-2", "trial-3", "trial-4", "trial-5", "noise-0"]


def test_the_page_carries_plotly_js_once_and_loads_nothing(page):
    assert page.count(get_plotlyjs()) == 1
    assert not re.search(r"<(?:script|link|img)[^>]*(?:src|href)=", body(page))
    assert len(body(page)) < 500_000


def test_text_from_records_and_the_space_is_escaped(page):
    assert SCRIPT not in page
    assert escape(SCRIPT, quote=False).partition("alert")[0] in page
    assert "<b>tiny</b>" not in page
    assert "the &lt;b&gt;tiny one" in page


def test_the_page_names_the_winner_and_the_noise(page):
    assert "<b>trial-5</b>" in page
    assert f"<b>{FOUND.noise.resolvable_nats:.3f} nats</b>" in page


@pytest.mark.parametrize(
    ("records", "seeds", "words"),
    [
        ([], [], "there is no winner"),
        (ARMS[3:], [], "there is no winner"),
        (ARMS[:2], [], "was not measured"),
        (ARMS[1:2], SEEDS, "was not measured"),
    ],
)
def test_the_page_is_written_without_complete_records_and_without_noise(tmp_path, records, seeds, words):
    page = write_report(Results(SPACE, records, seeds), tmp_path).read_text()
    assert words in page
    assert all(f"<td>{its.run}</td>" in page for its in [*records, *seeds])
    assert read_records(tmp_path / "records.jsonl") == [*records, *seeds]


def test_the_tables_beside_the_page_hold_the_records_and_the_front(out):
    assert read_records(out / "records.jsonl") == [*FOUND.records, *SEEDS]
    front = pd.read_csv(out / "front.csv")
    assert list(front["run"]) == [its.run for its in FOUND.front]
    assert list(front["loss_nats"]) == sorted(its.loss_nats for its in FOUND.front)
    assert list(front["flops_per_token"]) == [its.costs["flops_per_token"] for its in FOUND.front]


def test_only_the_page_and_its_tables_are_left_in_the_folder(out):
    assert sorted(path.name for path in out.iterdir()) == ["front.csv", "records.jsonl", "report.html"]


def test_the_page_can_be_made_again_from_the_same_results(out, page):
    before = {name: (out / name).read_bytes() for name in ("front.csv", "records.jsonl")}
    write_report(FOUND, out)
    assert {name: (out / name).read_bytes() for name in before} == before
    without_ids = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")
    assert without_ids.sub("", body((out / "report.html").read_text())) == without_ids.sub("", body(page))


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


def test_the_learning_curves_are_those_of_the_records():
    drawn = [tuple(zip(trace.x, trace.y, strict=True)) for trace in curves_figure(FOUND).data]
    assert drawn == [its.curve for its in FOUND.records if its.curve]


def test_of_many_curves_the_arms_the_front_and_some_others_are_drawn_and_the_title_says_so(monkeypatch):
    monkeypatch.setattr(report, "CURVES", 3)
    others = [ended(job(SPACE.candidate(point("1/4", "1/4")), f"trial-{n}"), 5.0 + n) for n in range(6, 16)]
    figure = curves_figure(Results(SPACE, [*ARMS, BEST, *others], []))
    drawn = {trace.name for trace in figure.data}
    assert {"dense", "attention", "ffn", BEST.run} < drawn
    assert len(drawn) == len(figure.data) == 4 + 3
    assert figure.layout.title.text == "Learning curves: the arms, the front and 3 others of 14"
    assert curves_figure(FOUND).layout.title.text == "Learning curves"
