"""`lpanas report`: what it writes, and what it says where it cannot."""

import gzip
import json
import os
import shutil
from pathlib import Path

import pytest
from lpanas.lpa.config import dump_yaml
from lpanas.lpa.files import forget_drafts, replace_text
from lpanas.search.folder import driven, held, storage_url
from lpanas.search.ledger import SEARCH
from lpanas.search.results import read_study, write_tables
from making import arm_records, job, tiny_space
from studies import study

PROSE = Path(__file__).parents[1] / "runs" / "reference" / "2026-11-25_prose"


@pytest.fixture
def folder(tmp_path):
    """Of a search that has no storage any more."""
    place, found = tmp_path / "study", study(12)
    place.mkdir()
    (place / "space.yaml").write_text(dump_yaml(found.space), encoding="utf-8")
    write_tables(found, place)
    return place


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_it_makes_the_page_and_says_where_it_is(folder, call):
    code, said, _ = call("report", folder)
    assert code == 0
    assert f"page: {folder / 'report.html'}" in said
    assert names(folder) == ["front.csv", "records.jsonl", "report.html", "space.yaml"]


@pytest.mark.parametrize("blocked", ["report.html", "front.csv", "records.jsonl"])
def test_what_cannot_be_written_is_a_line_and_leaves_no_draft(folder, call, blocked):
    records = (folder / "records.jsonl").read_bytes()
    (folder / "records.jsonl.gz").write_bytes(gzip.compress(records))
    (folder / blocked).unlink(missing_ok=True)
    (folder / blocked / "inside").mkdir(parents=True)
    code, _, said = call("report", folder)
    assert code == 2
    assert said.count("\n") == 1
    assert str(folder) in said
    assert not list(folder.glob(".*.draft"))


@pytest.mark.parametrize("content", [gzip.compress(b"{}\n" * 50, mtime=0)[:20], b"abc"], ids=["torn", "foreign"])
def test_records_that_are_torn_or_foreign_are_a_line(folder, call, content):
    (folder / "records.jsonl").unlink()
    (folder / "records.jsonl.gz").write_bytes(content)
    for command in ("report", "show"):
        code, _, said = call(command, folder)
        assert (code, said.count("\n")) == (2, 1)
        assert "records.jsonl.gz" in said


def test_records_that_are_no_text_are_a_line(folder, call):
    (folder / "records.jsonl").write_bytes(b"\xff\xfe\x00binary")
    code, _, said = call("report", folder)
    assert (code, said.count("\n")) == (2, 1)
    assert "records.jsonl: cannot be read" in said
    assert (folder / "records.jsonl").read_bytes() == b"\xff\xfe\x00binary"


@pytest.mark.parametrize("content", ["[1, null]", "{}", "[", '"calls"'])
def test_an_environment_that_is_none_is_a_line_and_nothing_is_written(folder, call, content):
    (folder / "environment.json").write_text(content)
    code, _, said = call("report", folder)
    assert (code, said.count("\n")) == (2, 1)
    assert f"{folder / 'environment.json'}: " in said
    assert "report.html" not in names(folder)


def test_calls_that_say_little_are_shown_as_far_as_they_go(folder, call):
    (folder / "environment.json").write_text(
        json.dumps([{"command": 5}, {"command": ["lpanas", "search", "a b"], "time": "now"}])
    )
    assert call("report", folder)[0] == 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<summary>now: lpanas search &#39;a b&#39;</summary>" in page


def test_a_verdict_that_cannot_be_read_is_said_on_the_page(folder, call):
    shutil.copytree(PROSE / "confirm", folder / "confirm")
    for torn in ("{", "{}", "[]"):
        (folder / "confirm" / "verdict.json").write_text(torn)
        assert call("report", folder)[0] == 0
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert f"There is a confirmation, but {folder / 'confirm' / 'verdict.json'}: cannot be read" in page
        assert f"lpanas report {folder / 'confirm'} makes it anew" in page


@pytest.mark.parametrize("name", ["d%20z", "a?b", "a%3Fb", "p%q", "plain", "with space", "é#&"])
def test_a_folders_name_is_no_url(tmp_path, name):
    place, space = tmp_path / name, tiny_space()
    with held(place), driven(place, space, "content", None) as ledger:
        ledger.add(SEARCH, job(space.arm("dense"), arm="dense"))
        ledger.tell(record := arm_records(space, 3.0)[0])
    assert (place / "study.db").is_file()
    assert names(tmp_path) == [name]
    assert read_study(place).records == [record]
    assert storage_url(place).startswith("sqlite:///")


def test_a_folder_beside_with_the_name_that_a_url_would_mean_stays_as_it_is(tmp_path, folder, call):
    twin = folder.rename(tmp_path / "d%20z")
    other = tmp_path / "d z"
    shutil.copytree(twin, other)
    before = (twin / "records.jsonl").read_bytes()
    (other / "study.db").touch()
    assert call("report", twin)[0] == 0
    assert (twin / "records.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--watch",), "--watch: of one study at a time; found 2 folders"),
        (("--figures", "csv"), "--figures: of one study at a time; found 2 folders"),
        (("--figures", "sgv"), "--figures sgv: unknown format 'sgv'"),
    ],
)
def test_options_that_do_not_go_together_are_a_line(folder, tmp_path, call, words, said):
    code, _, error = call("report", folder, tmp_path / "other", *words)
    assert (code, error.count("\n")) == (2, 1)
    assert said in error


def test_out_is_for_the_page_of_several(folder, call):
    code, _, error = call("report", folder, "--out", "x.html")
    assert (code, error.count("\n")) == (2, 1)
    assert "--out x.html: only the page of several studies" in error


def test_a_study_that_nothing_drives_is_written_once_under_watch(folder, call):
    code, said, _ = call("report", folder, "--watch")
    assert code == 0
    assert said.count("report.html") == 1
    assert 'id="again"' not in (folder / "report.html").read_text(encoding="utf-8")


def test_drafts_of_processes_that_are_gone_are_forgotten_and_others_stay(tmp_path):
    replace_text(tmp_path / "a.txt", "whole")
    gone = 2**22 + 1  # above Linux's largest number of a process
    (tmp_path / f".a.txt.{gone}.draft").touch()
    (tmp_path / f".a.txt.{os.getpid()}.draft").touch()
    (tmp_path / ".mine.draft").touch()
    forget_drafts(tmp_path)
    assert names(tmp_path) == [f".a.txt.{os.getpid()}.draft", ".mine.draft", "a.txt"]
