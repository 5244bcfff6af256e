import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import IO

import pytest
import yaml
from lpanas.lpa.data import DataConfig
from lpanas.search.record import Record
from lpanas.search.results import read_study
from lpanas.search.stored import read_records
from making import TINY, hear_interrupts

COMMAND = (sys.executable, "-c", "from lpanas.search.cli import main; main()")


def start(space: Path, out: Path, stderr: IO[bytes] | None = None) -> "subprocess.Popen[bytes]":
    words = ("search", str(space), "--out", str(out))
    return subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True, preexec_fn=hear_interrupts
    )


def ended_runs(out: Path) -> int:
    """Records in the study's database by now."""
    try:
        with closing(sqlite3.connect(f"file:{out}/study.db?mode=ro", uri=True, timeout=10)) as database:
            return database.execute("SELECT count(*) FROM trial_user_attributes WHERE key = 'record'").fetchone()[0]
    except sqlite3.OperationalError:  # no database yet, or no tables in it
        return 0


def kept_records(out: Path) -> list[Record]:
    """What a killed driver has left; nothing when it was killed before it had written the space."""
    if not (out / "space.yaml").exists():
        return []
    found = read_study(out)
    return [*found.records, *found.seeds]


def group_is_gone(group: int, seconds: float) -> bool:
    """Whether every process of a process group ends within so many seconds."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def workers(driver: int) -> list[int]:
    """The processes of a driver's workers: the children of the server that is its child."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
    return sorted(pid for pid, parent in parents.items() if parents.get(parent) == driver)


def tiny_file(folder: Path, pages: DataConfig, **search: int) -> Path:
    """The tiny space with more to choose from, on the pages' text."""
    raw = yaml.safe_load(TINY.replace("1e-2", "0.01"))
    raw["proxy"] |= {"data": pages.model_dump(mode="json"), "tokens": 3200}
    raw["vary"] |= {"bands": 2, "rebalance": ["none", "params"]}
    raw["search"] |= {"workers": 2} | search
    (folder / "tiny.yaml").write_text(yaml.safe_dump(raw))
    return folder / "tiny.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [1.0, 4.0])
def test_an_interrupted_search_says_so_in_one_line(seconds: float, tmp_path: Path, pages: DataConfig) -> None:
    space, out = tiny_file(tmp_path, pages, trials=9, noise_seeds=3), tmp_path / "out"
    with open(tmp_path / "stderr", "wb") as stderr:
        driver = start(space, out, stderr)
        time.sleep(seconds)  # anywhere in its imports, or in its runs
        os.killpg(driver.pid, signal.SIGINT)
        assert driver.wait() == 130
    assert group_is_gone(driver.pid, 10)
    assert (tmp_path / "stderr").read_text() == "lpanas: stopped; the same command goes on from here\n"


def wait_for_runs(driver: "subprocess.Popen[bytes]", out: Path, count: int) -> None:
    while driver.poll() is None and not ((out / "study.db").exists() and ended_runs(out) >= count):
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signals", "stopped"),
    [([signal.SIGINT], False), ([signal.SIGTERM], False), ([signal.SIGINT] * 2, False), ([signal.SIGINT] * 2, True)],
    ids=["Ctrl-C", "SIGTERM", "Ctrl-C twice", "Ctrl-C twice, workers stopped"],
)
def test_a_search_that_is_asked_to_end_leaves_its_records_and_no_process(
    signals: list[signal.Signals], stopped: bool, tmp_path: Path, pages: DataConfig
) -> None:
    space, out = tiny_file(tmp_path, pages, trials=40, noise_seeds=3), tmp_path / "out"
    with open(tmp_path / "stderr", "wb") as stderr:
        driver = start(space, out, stderr)
        wait_for_runs(driver, out, 2)
        for worker in workers(driver.pid) if stopped else []:
            os.kill(worker, signal.SIGSTOP)
        for number in signals:
            os.killpg(driver.pid, number)
        assert driver.wait() == 130
    assert group_is_gone(driver.pid, 10)
    assert (tmp_path / "stderr").read_text() == "lpanas: stopped; the same command goes on from here\n"
    records = kept_records(out)
    assert 1 <= len(records) < 40
    assert {(record.status, record.attempts) for record in records} <= {("complete", ()), ("pruned", ())}


@pytest.mark.slow
def test_workers_of_a_killed_driver_end_also_when_they_are_stopped(tmp_path: Path, pages: DataConfig) -> None:
    driver = start(tiny_file(tmp_path, pages, trials=40), tmp_path / "out")
    wait_for_runs(driver, tmp_path / "out", 1)
    stopped = workers(driver.pid)
    assert len(stopped) == 2
    os.kill(stopped[0], signal.SIGSTOP)
    driver.kill()
    driver.wait()
    assert group_is_gone(driver.pid, 10)


@pytest.mark.slow
def test_a_disk_that_is_full_is_said_in_one_line_and_waited_for_and_nothing_is_lost(tmp_path: Path, pages: DataConfig) -> None:
    space, out, said = tiny_file(tmp_path, pages, trials=12, noise_seeds=2), tmp_path / "out", tmp_path / "stderr"
    with open(said, "wb") as stderr:
        driver = start(space, out, stderr)
        wait_for_runs(driver, out, 2)
        resource.prlimit(driver.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        while not said.read_text():
            assert driver.poll() is None
            time.sleep(0.05)
        kept = {record.run: record for record in kept_records(out)}
        resource.prlimit(driver.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert driver.wait() == 0
    assert group_is_gone(driver.pid, 10)
    full, again = said.read_text().splitlines()
    assert "; trying again for " in full
    assert "the storage answers again" in again
    assert 1 <= len(kept) < 13
    records = {record.run: record for record in read_records(out / "records.jsonl")}
    assert len(records) == 13
    assert kept.items() <= records.items()


@pytest.mark.slow
def test_a_driver_killed_three_times_loses_and_repeats_nothing(tmp_path: Path, pages: DataConfig) -> None:
    space, out = tiny_file(tmp_path, pages, trials=9, noise_seeds=3), tmp_path / "out"
    kept: dict[str, str] = {}
    seed = time.time_ns()
    print(f"killed at moments drawn from the seed {seed}")
    chance = random.Random(seed)
    for kill in range(3):
        driver = start(space, out)
        wanted = chance.randint(3 * kill, 2 + 3 * kill)
        while driver.poll() is None and not (ended_runs(out) >= wanted and (out / "study.db").exists()):
            time.sleep(chance.random() / 5)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        assert group_is_gone(driver.pid, 10)
        now = {record.run: record.model_dump_json() for record in kept_records(out)}
        assert kept.items() <= now.items()
        kept = now

    assert start(space, out).wait() == 0
    records = {record.run: record for record in read_records(out / "records.jsonl")}
    assert len(records) == len((out / "records.jsonl").read_text().splitlines()) == 9 + 3 - 1
    assert all(records[run].model_dump_json() == text for run, text in kept.items())
    assert {record.status for record in records.values()} == {"complete"}
    trained = [(record.model.model_dump_json(), record.seed) for record in records.values()]
    assert len(set(trained)) == len(trained)
