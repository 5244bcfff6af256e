"""The page of a search says what its records say, whatever these are."""

import json
import math
import re
import shutil
from html import escape, unescape
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from lpanas.search.export import export
from lpanas.search.presets import load_space
from lpanas.search.report import bits_per_nat, figures, lost, picture, write_report
from lpanas.search.results import Results, read_study
from lpanas.search.stored import read_records
from making import arm_records, ended, job, point, tiny_space
from page_tables import UNKNOWN, tables, value
from plotly.offline import get_plotlyjs
from studies import ODD, SCRIPT, named, study

SPACE = tiny_space("name=the <b>tiny one")
ARMS = arm_records(SPACE, 3.0, 3.1, 3.2, None)
LOST = ended(job(SPACE.candidate(point("dense", "1/4")), "trial-4"), status="failed", reason=SCRIPT)
BEST = ended(job(SPACE.candidate(point("1/4", "1/4")), "trial-5"), 2.9)
SEEDS = [ended(job(SPACE.arm("dense"), "noise-0", seed=1), 3.01)]
FOUND = Results(SPACE, [*ARMS, LOST, BEST], SEEDS)
PROSE = Path(__file__).parents[1] / "runs" / "reference" / "2026-11-25_prose"
MAKE = {"tiny": lambda: FOUND, "forty": lambda: study(40), "prose": lambda: read_study(PROSE), **ODD}
MB = 1e6


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder, what was found and the page of a case, which is made once."""
    known = {}

    def make(case):
        if case not in known:
            folder, found = tmp_path_factory.mktemp("study"), MAKE[case]()
            assert write_report(found, folder) == folder / "report.html"
            known[case] = folder, found, (folder / "report.html").read_text(encoding="utf-8")
        return known[case]

    return make


@pytest.fixture(scope="module")
def out(made):
    return made("tiny")[0]


@pytest.fixture(scope="module")
def page(made):
    return made("tiny")[2]


def body(page):
    return page.replace(get_plotlyjs(), "")


def text(page):
    """What a reader reads outside of the tables, space by space."""
    shown = re.sub(r"<(script|style|table).*?</\1>", " ", body(page), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", "", shown)).split())


def held(page, name):
    """The data that the page's script reads."""
    return json.loads(re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', body(page), re.DOTALL)[1])


def is_rounded(shown, wanted):
    """Whether a cell is a number with as many decimals as it has."""
    if wanted is None:
        return shown == UNKNOWN
    return abs(value(shown) - wanted) <= 0.5001 * 10.0 ** -len(shown.partition(".")[2])


@pytest.mark.parametrize("case", MAKE)
def test_a_row_of_the_table_says_what_its_record_says(made, case):
    _, found, page = made(case)
    dense = next((its.loss_nats for its in found.records if its.arm == "dense"), None)
    records = [*found.records, *found.seeds]
    for row, its in zip(tables(page)["records"], records, strict=True):
        known = its.loss_nats is not None
        assert (row["run"], row["arm"], row["status"], row["reason"]) == (its.run, its.arm or "", its.status, cell(its.reason))
        assert (row["placement"], value(row["d_ff"]), value(row["seed"])) == (its.placement, its.target.d_ff, its.seed)
        assert value(row["tokens"]) == its.tokens
        assert is_rounded(row["loss_nats"], its.loss_nats)
        assert is_rounded(row["bits_per_byte"], its.bits_per_byte)
        assert row["perplexity"] == "inf" or is_rounded(row["perplexity"], math.exp(its.loss_nats) if known else None)
        assert is_rounded(row["delta_nats"], its.loss_nats - dense if known and dense is not None else None)
        for cost in found.costs:
            assert is_rounded(row[f"{cost}_share"], its.costs[cost] / found.space.dense_costs[cost])


def cell(text):
    return " ".join(text.split())


@pytest.mark.parametrize("case", MAKE)
def test_the_scripts_data_are_the_records_to_nine_digits_and_its_drawings_are_the_figures(made, case):
    _, found, page = made(case)
    data, records = held(page, "data"), [*found.records, *found.seeds]
    rows = [dict(zip(data["columns"], row, strict=True)) for row in data["rows"]]
    assert [row["run"] for row in rows] == [its.run for its in records]
    for row, its in zip(rows, records, strict=True):
        assert row["loss_nats"] == (None if its.loss_nats is None else pytest.approx(its.loss_nats, rel=1e-8))
        assert row["reason"] == its.reason
    assert set(held(page, "drawings")) == {figure.name for figure in figures(found)}
    shown = re.findall(r'<div class="plotly-graph-div" id="(\w+)"', page)
    assert shown == [figure.name for figure in figures(found) if figure.drawing.data]


@pytest.mark.parametrize("case", MAKE)
def test_the_page_carries_plotly_js_once_and_loads_nothing(made, case):
    page = made(case)[2]
    assert page.count(get_plotlyjs()) == 1
    assert not re.search(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=|@import|url\(", body(page))
    assert len(page.encode()) < 6 * MB


def test_a_page_of_thousands_is_small(tmp_path):
    found = study(2000, "objectives=[loss_nats, flops_per_token, params]")
    assert write_report(found, tmp_path).stat().st_size < 8 * MB


def test_text_from_records_and_the_space_is_escaped(page):
    assert SCRIPT not in page
    assert escape(SCRIPT, quote=False).partition("onerror")[0] in page
    assert "<b>tiny</b>" not in page
    assert "the &lt;b&gt;tiny one" in page


def test_names_are_text_wherever_they_stand(tmp_path):
    text = body(write_report(named(SCRIPT), tmp_path).read_text(encoding="utf-8"))
    assert not re.search(r"<(?:img|script>window)", text)
    for figure in held(text, "drawings").values():
        assert "<img" not in json.dumps(figure)
        assert "<script" not in json.dumps(figure)


def test_the_page_names_the_winner_the_arms_and_the_noise(page):
    said = text(page)
    winner = f"The winner, the only run on the front, is trial-5 ({BEST.placement}; d_ff {BEST.target.d_ff}): 2.9000 nats"
    assert winner in said
    assert f"resolve is {FOUND.noise.resolvable_nats:.3f} nats" in said
    share = ARMS[1].costs["flops_per_token"] / SPACE.dense_costs["flops_per_token"]
    told = f"{FOUND.against_dense(ARMS[1])}), {share:.3f} x dense in flops_per_token"
    assert f"Of the reference arms: dense 3.0000 nats; attention 3.1000 nats (+0.1000 against dense: {told}; ffn 3.2" in said
    assert "; both failed." in said


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
    assert [row["run"] for row in tables(page)["records"]] == [its.run for its in [*records, *seeds]]
    assert read_records(tmp_path / "records.jsonl") == [*records, *seeds]


def test_runs_that_ended_badly_stand_together_by_their_reason(made):
    _, found, page = made("none complete")
    reasons = {(its.status, its.reason) for its in found.records if its.status != "pruned"}
    rows = tables(page)["lost"]
    assert {(row["status"], row["reason"]) for row in rows} == reasons
    assert [value(row["runs"]) for row in rows] == sorted((value(row["runs"]) for row in rows), reverse=True)
    assert sum(value(row["runs"]) for row in rows) == sum(its.status != "pruned" for its in found.records)
    assert "lost" not in tables(made("identical points")[2])
    assert lost(found.records)[0].runs[0] in {its.run for its in found.records}


def test_a_picture_has_every_layer_with_the_rank_of_each_projection():
    for its in FOUND.records:
        rows = [row for count, row in picture(its) for _ in range(count)]
        wanted = [[its.target.rank(layer, name) for name in its.target.projections] for layer in range(its.target.n_layers)]
        full = [min(its.target.projection(name)) for name in its.target.projections]
        found = [[rank and round(rank * most) for rank, most in zip(row, full, strict=True)] for row in rows]
        assert found == wanted
        assert all(one[1] != other[1] for one, other in pairwise(picture(its)))


def test_bits_a_byte_are_proportional_to_nats():
    found = study(20)
    for its in found.complete:
        assert its.loss_nats * bits_per_nat(found.complete) == pytest.approx(its.bits_per_byte)
    assert bits_per_nat([]) is None


def test_the_verdict_of_a_confirmation_stands_at_the_top(tmp_path):
    shutil.copytree(PROSE / "confirm", tmp_path / "confirm")
    shutil.copy(PROSE / "environment.json", tmp_path)
    said = text(write_report(read_study(PROSE), tmp_path).read_text(encoding="utf-8"))
    assert said.index("The claim is refuted at every size and match.") < said.index("The winner")
    assert "This is a screening" not in said
    other = read_study(PROSE)
    model = other.arms["dense"].model.change(placement="0-3 q=1/8")
    target = other.arms["dense"].target.change(placement="0-11 q=1/8")
    better = other.winner.change(run="trial-99", loss_nats=1.5, params={}, model=model, target=target)
    later = Results(other.space, [*other.records, better], other.seeds)
    said = text(write_report(later, tmp_path).read_text(encoding="utf-8"))
    assert "The claim is refuted" in said
    assert "The winner itself is a screening by single runs" in said
    (tmp_path / "confirm" / "verdict.json").write_text("{")
    said = text(write_report(read_study(PROSE), tmp_path).read_text(encoding="utf-8"))
    assert "The claim is" not in said
    assert f"Whether it is true: lpanas confirm {tmp_path}" in said


def test_what_was_exported_is_named_with_the_command_that_trains_it(tmp_path):
    assert "Exported" not in write_report(FOUND, tmp_path).read_text(encoding="utf-8")
    path = export(FOUND, FOUND.winner, tmp_path).path
    said = text(write_report(FOUND, tmp_path).read_text(encoding="utf-8"))
    assert f"{path} (Exported by lpanas from trial-5 of the study" in said
    assert f"lpanas train {path}" in said
    assert f"lpanas train {path.parent / 'dense' / 'train.yaml'}" in said
    (tmp_path / "export" / "other" / "train.yaml").mkdir(parents=True)
    assert f"lpanas train {path}" in text(write_report(FOUND, tmp_path).read_text(encoding="utf-8"))


def test_how_it_was_run_can_be_repeated_from_the_page(made, tmp_path):
    shutil.copy(PROSE / "environment.json", tmp_path)
    page = write_report(read_study(PROSE), tmp_path).read_text(encoding="utf-8")
    assert "lpanas search prose.yaml --out prose --workers 2" in text(page)
    assert "torch 2.13.0+cpu" in text(page)
    (tmp_path / "again.yaml").write_text(unescape(re.search(r"<pre[^>]*>(.*)</pre>", page, re.DOTALL)[1]), encoding="utf-8")
    assert load_space(str(tmp_path / "again.yaml"), []) == read_study(PROSE).space


def test_the_tables_beside_the_page_hold_the_records_and_the_front(out):
    assert read_records(out / "records.jsonl") == [*FOUND.records, *SEEDS]
    front = pd.read_csv(out / "front.csv")
    assert list(front["run"]) == [its.run for its in FOUND.front]
    assert list(front["loss_nats"]) == sorted(its.loss_nats for its in FOUND.front)
    assert list(front["flops_per_token"]) == [its.costs["flops_per_token"] for its in FOUND.front]


def test_only_the_page_and_its_tables_are_left_in_the_folder(out):
    assert sorted(path.name for path in out.iterdir()) == ["front.csv", "records.jsonl", "report.html"]


def test_the_page_can_be_made_again_from_the_same_results(out):
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    write_report(FOUND, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
