import json
import sys

import pytest
from lpanas.lpa.config import UserError
from lpanas.search import storage
from lpanas.search.ledger import SEARCH, open_ledger
from lpanas.search.storage import open_storage, patiently, shown
from making import ended, job, point, tiny_space
from optuna.exceptions import StorageInternalError
from sqlalchemy import event
from sqlalchemy.exc import DatabaseError, OperationalError

SPACE = tiny_space()
JOB = job(SPACE.candidate(point("1/4")), "trial-0")
AWAY = OperationalError("SELECT", {}, Exception("the server is away"))
BROKEN = DatabaseError("SELECT", {}, Exception("the file is no database"))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://ann:s3cret@host:5432/db",
        "postgresql+psycopg://ann@host/db?password=s3cret&sslmode=require",
        "postgresql+psycopg://ann:s3cret@host:port/db",  # not a URL that can be read
        "mysql+pymysql://ann:s3cret%40@host/db",
    ],
)
def test_a_password_is_never_shown(url):
    assert "s3cret" not in shown(url)
    assert "ann" in shown(url)
    assert "***" in shown(url)
    with pytest.raises(UserError) as error:
        open_storage(url.replace("psycopg:", "nodriver:").replace("pymysql", "nodriver"))
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize("url", ["sqlite:////tmp/a b/study.db", "postgresql+psycopg:///db", "postgresql+psycopg://host/db"])
def test_a_url_without_a_password_is_shown_as_it_is(url):
    assert shown(url) == url


def test_a_driver_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(
        UserError, match=r"--storage postgresql\+psycopg://host/db: .*psycopg.*pip install 'lpanas\[postgresql\]'"
    ):
        open_storage("postgresql+psycopg://host/db")


def test_the_old_name_of_postgresql_is_told_from_the_right_one():
    with pytest.raises(UserError, match=r"expected postgresql\+psycopg://USER@HOST/DATABASE"):
        open_storage("postgres://host/db")


def test_a_folder_with_braces_in_its_name_holds_a_study(tmp_path):
    (tmp_path / "{a}").mkdir()
    open_storage(f"sqlite:///{tmp_path}/{{a}}/study.db").engine.dispose()
    assert (tmp_path / "{a}" / "study.db").exists()


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_fails_for_a_while_is_done_once_it_can_be(wrapped, capfd):
    calls = []

    def do():
        calls.append(1)
        if len(calls) > 2:
            return "done"
        if wrapped:
            raise StorageInternalError("wrapped") from AWAY
        raise AWAY

    assert patiently("sqlite:///x", do) == "done"
    first, last = capfd.readouterr().err.splitlines()
    assert first == "lpanas: --storage sqlite:///x: the server is away; trying again for 10 minutes"
    assert last.startswith("lpanas: the storage answers again, after ")


def test_what_cannot_pass_is_one_line_at_once(capfd):
    calls = []

    def do():
        calls.append(1)
        raise BROKEN

    with pytest.raises(UserError, match=r"--storage sqlite:///x: the file is no database$"):
        patiently("sqlite:///x", do)
    assert (len(calls), capfd.readouterr().err) == (1, "")


def test_patience_ends(monkeypatch, capfd):
    monkeypatch.setattr(storage, "PATIENCE", 0.3)
    calls = []

    def do():
        calls.append(1)
        raise AWAY

    with pytest.raises(UserError, match=r"the server is away; the same command goes on from here$"):
        patiently("sqlite:///x", do)
    assert len(calls) > 1


def test_a_full_disk_is_waited_out_and_nothing_is_written_twice(url, capfd):
    """SQLite says `database or disk is full` when it may have no more pages than it has."""
    ledger = open_ledger(SPACE, url, "s")
    ledger.add(SEARCH, JOB)
    with ledger.storage.engine.connect() as connection:
        pages = iter([connection.exec_driver_sql("PRAGMA page_count").scalar()])
    event.listen(
        ledger.storage.engine,
        "checkout",
        lambda connection, *_: connection.execute(f"PRAGMA max_page_count = {next(pages, 10**9)}"),
    )
    large = ended(JOB, status="failed", reason="x" * 100_000)
    ledger.tell(large)
    assert "disk is full; trying again" in capfd.readouterr().err
    again = open_ledger(SPACE, url, "s")
    assert (again.recover(), again.count(SEARCH), again.records(SEARCH)) == ([], 1, [large])


def test_a_job_that_was_written_twice_is_one_run(url):
    """As when the answer to a write was lost, so that it was made again."""
    for told in (0, 1):
        name = f"s{told}"
        ledger = open_ledger(SPACE, url, name)
        ledger.add(SEARCH, JOB)
        row = ledger._runs[SEARCH].pop(JOB.run)
        ledger.add(SEARCH, JOB)
        if told == 0:
            ledger._runs[SEARCH][JOB.run] = row
        ledger.tell(ended(JOB, 3.0))
        again = open_ledger(SPACE, url, name)
        assert (again.recover(), again.count(SEARCH), again.records(SEARCH)) == ([], 1, [ended(JOB, 3.0)])
        trials = again.storage.get_all_trials(again.studies[SEARCH])
        assert sorted(trial.state.name for trial in trials) == ["COMPLETE", "FAIL"]
        assert [json.loads(trial.user_attrs["record"])["run"] for trial in trials if "record" in trial.user_attrs] == [
            "trial-0"
        ]
