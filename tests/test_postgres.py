import json
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from lpanas.lpa.config import UserError
from lpanas.search import storage
from lpanas.search.executor import LocalExecutor
from lpanas.search.ledger import NOISE, SEARCH, open_ledger
from lpanas.search.results import read_study
from lpanas.search.study import search
from making import Call, ended, hear_interrupts, job, plain, point, tiny_space
from postgres import PASSWORD, Postgres
from test_kill import COMMAND, tiny_file

SPACE = tiny_space()
JOBS = [job(SPACE.candidate(params), f"trial-{n}") for n, params in enumerate([point("1/4"), point("dense", "1/2")])]


@pytest.fixture
def space(tmp_path, pages) -> Path:
    return tiny_file(tmp_path, pages, trials=6, noise_seeds=2, workers=1)


@pytest.fixture
def executor(setup):
    with LocalExecutor(setup, 1) as one:
        yield one


def searched(url, executor, watch=lambda state: None):
    """The records of a search, as a new process makes it."""
    with closing(open_ledger(SPACE, url, "s")) as ledger, ledger.held():
        state = search(SPACE, ledger, executor, watch)
    return plain(state.records + state.noise)


def recorded(url):
    with closing(open_ledger(SPACE, url, "s")) as ledger:
        return [record.model_dump_json() for kind in (SEARCH, NOISE) for record in ledger.records(kind)]


def driver(space: Path, out: Path, url: str) -> "subprocess.Popen[str]":
    words = [*COMMAND, "search", str(space), "--out", str(out), "--storage", url]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=hear_interrupts)


def wait_for_a_run(url: str, out: Path) -> None:
    """Until a run has ended in a search that another process makes."""
    limit = time.monotonic() + 120
    while not ((out / "space.yaml").exists() and read_study(out, url).records):
        assert time.monotonic() < limit
        time.sleep(0.1)


def test_the_records_on_a_server_are_those_in_a_file_though_the_server_restarts(postgres, server_url, url, executor, capfd):
    restarts = []

    def restart(state):
        if state.done > len(restarts):
            restarts.append(state.done)
            postgres.restart()

    at_server = searched(server_url, executor, restart)
    assert len(restarts) > 3
    assert at_server == searched(url, executor)
    assert len(recorded(server_url)) == 7


def test_a_server_that_stays_away_ends_the_search_and_what_was_written_stays(
    postgres, server_url, executor, monkeypatch, setup, capfd
):
    def stop(state):
        if state.done == 2 and not kept:
            kept[:] = recorded(server_url)
            postgres.stop()

    kept = []
    with monkeypatch.context() as impatient:
        impatient.setattr(storage, "PATIENCE", 1.0)
        with pytest.raises(UserError) as error:
            searched(server_url, executor, stop)
    assert re.fullmatch(r"--storage \S+:\*\*\*@\S+: .*; the same command goes on from here", str(error.value))
    postgres.start()
    assert len(kept) == 2
    with LocalExecutor(setup, 1) as another:
        searched(server_url, another)
    assert len(recorded(server_url)) == 7
    assert set(kept) <= set(recorded(server_url))


@pytest.mark.slow
def test_a_search_on_a_server_goes_on_from_another_folder_once_its_driver_is_dead(call: Call, server_url, space, tmp_path):
    first, again = tmp_path / "a" / "one", tmp_path / "b" / "one"  # two folders, as on two machines: one study
    with driver(space, first, server_url) as killed:
        wait_for_a_run(server_url, first)
        killed.send_signal(signal.SIGSTOP)
        code, out, err = call("search", space, "--out", again, "--storage", server_url)
        assert (code, out) == (2, "")
        assert re.fullmatch(rf"lpanas: the study 'one' is held by \S+, process {killed.pid}, since .*\n", err)
        killed.send_signal(signal.SIGKILL)
    kept = [record.model_dump_json() for record in read_study(first, server_url).records]
    code, out, err = call("search", space, "--out", again, "--storage", server_url)
    assert (code, err) == (0, "")
    lines = (again / "records.jsonl").read_text().splitlines()
    assert set(kept) <= set(lines)
    assert len(lines) == 6 + 1
    assert not (again / "study.db").exists()
    assert PASSWORD not in out + "".join(path.read_text() for path in again.iterdir() if path.is_file())
    assert ":***@" in (again / "environment.json").read_text()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_what_is_written_while_the_server_is_away_is_there_once(postgres: Postgres, server_url, how, capfd):
    with closing(open_ledger(SPACE, server_url, "s")) as ledger, ledger.held():
        ledger.add(SEARCH, JOBS[0])
        postgres.stop(how)
        back = threading.Timer(1.0, postgres.start)
        back.start()
        ledger.tell(ended(JOBS[0], 3.0))
        back.join()
        postgres.restart()
        ledger.add(SEARCH, JOBS[1])
    said = capfd.readouterr().err
    assert re.match(
        r"lpanas: --storage postgresql\+psycopg://lpanas:\*\*\*@127.0.0.1:\d+/.*; trying again for 10 minutes\n", said
    )
    assert "the storage answers again" in said
    with closing(open_ledger(SPACE, server_url, "s")) as ledger:
        assert ledger.recover() == [JOBS[1]]
        assert (ledger.records(SEARCH), ledger.count(SEARCH), ledger.count(NOISE)) == ([ended(JOBS[0], 3.0)], 2, 0)


def test_two_searches_may_come_first_to_a_new_server(server_url):
    words = "import sys; from lpanas.search.storage import open_storage; open_storage(sys.argv[1])"
    both = [subprocess.Popen([sys.executable, "-c", words, server_url], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for one in both:
        assert (one.communicate()[1], one.returncode) == ("", 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((PASSWORD, "wr0ng"), "password authentication failed for user"),
        (("127.0.0.1", "nowhere.invalid"), "nowhere.invalid"),
        (("lpanas:", "nobody:"), "nobody"),
    ],
)
def test_a_server_that_refuses_is_one_line_without_the_password(change, words, server_url, call, space, tmp_path):
    code, _, err = call("search", space, "--out", tmp_path / "out", "--storage", server_url.replace(*change))
    assert (code, err.count("\n")) == (2, 1)
    assert re.match(r"lpanas: --storage postgresql\+psycopg://\w+:\*\*\*@", err)
    assert words in err
    assert PASSWORD not in err
    assert "wr0ng" not in err
    assert not (tmp_path / "out").exists()


def test_a_database_in_ascii_holds_a_study(postgres: Postgres, server_url):
    import psycopg

    with psycopg.connect(postgres._conninfo, autocommit=True) as connection:
        connection.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0")
    with closing(open_ledger(SPACE, postgres.url("ascii"), "s")) as ledger:
        ledger.add(SEARCH, JOBS[0])
    with closing(open_ledger(SPACE, postgres.url("ascii"), "s")) as ledger:
        assert json.loads(ledger.recover()[0].model_dump_json()) == json.loads(JOBS[0].model_dump_json())
