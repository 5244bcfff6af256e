import re
from html import escape

import pandas as pd
import pytest
from lpanas.search.report import write_report
from lpanas.search.results import Results
from lpanas.search.stored import read_records
from making import arm_records, ended, job, point, tiny_space
from page_tables import tables
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
    runs = [row["run"] for row in tables(page)["records"]]
    assert runs == ["trial-0", "trial-1", "trial-2", "trial-3", "trial-4", "trial-5", "noise-0"]


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
    text = body(page)
    assert "The winner, the only run on the front, is trial-5 (" in text
    assert f"resolve is {FOUND.noise.resolvable_nats:.3f} nats" in text


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
