import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
from lpanas.lpa.config import UserError
from lpanas.search import lease
from lpanas.search.lease import Holder
from lpanas.search.ledger import SEARCH, open_ledger
from making import ended, job, point, tiny_space

SPACE = tiny_space()
JOBS = [job(SPACE.candidate(point(*ranks)), f"trial-{n}") for n, ranks in enumerate([("1/4",), ("dense", "1/2")])]
OPEN = []
DRIVER = """
import sys, time
from lpanas.search.ledger import open_ledger
sys.path.insert(0, sys.argv[2])
from making import tiny_space
with open_ledger(tiny_space(), sys.argv[1], "s").held():
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request, url):
    return url if request.param == "sqlite" else request.getfixturevalue("server_url")


@pytest.fixture(autouse=True)
def closed():
    yield
    while OPEN:
        OPEN.pop().close()


def opened(url, name="s"):
    OPEN.append(open_ledger(SPACE, url, name))
    return OPEN[-1]


def text(ledger):
    return ledger.storage.get_study_user_attrs(ledger.studies[SEARCH]).get(lease.KEY)


def write(ledger, holder):
    ledger.storage.set_study_user_attr(ledger.studies[SEARCH], lease.KEY, json.loads(holder.text))


@contextmanager
def another_driver(url):
    """A process that holds the study; killed at the end, and not taken note of before that."""
    words = [sys.executable, "-c", DRIVER, url, os.path.dirname(__file__)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout.readline() == "held\n"
        try:
            yield driver
        finally:
            driver.kill()


def elsewhere(**of):
    return replace(Holder.here(), who="ann@far", pid=7, machine="another", since="2026-01-02T03:04:05+00:00", **of)


def test_a_second_driver_is_told_who_holds_the_study_and_a_killed_one_does_not_keep_it(place):
    with another_driver(place) as driver:
        with (
            pytest.raises(UserError, match=rf"the study 's' is held by \S+@\S+, process {driver.pid}, since 2\S+;"),
            opened(place).held(),
        ):
            pass
        os.kill(driver.pid, signal.SIGKILL)
        os.waitid(os.P_PID, driver.pid, os.WEXITED | os.WNOWAIT)  # dead, and still in the table of processes
        began = time.monotonic()
        with opened(place).held():
            assert time.monotonic() - began < lease.PATIENCE / 2  # not by waiting it out


def test_a_lease_is_given_back_however_its_driver_ends(place):
    ledger = opened(place)
    for error in (KeyboardInterrupt, UserError, None):
        try:
            with ledger.held():
                assert text(ledger)["pid"] == os.getpid()
                if error:
                    raise error
        except (KeyboardInterrupt, UserError):
            pass
        assert text(ledger) is None


def test_a_number_that_a_later_process_has_got_is_a_dead_holder(place):
    ledger = opened(place)
    write(ledger, replace(Holder.here(), born="1"))
    with ledger.held():
        assert text(ledger)["token"] != "1"


def test_a_driver_elsewhere_that_renews_its_lease_keeps_it(place, monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.05)
    watched, theirs = opened(place), opened(place)
    write(theirs, elsewhere())
    far = lease.Lease(theirs.storage, theirs.studies[SEARCH], "s")
    far.ours, stop = Holder(**text(theirs)), threading.Event()
    beats = threading.Thread(target=far.renew, args=(stop,))
    beats.start()
    try:
        with pytest.raises(UserError, match=r"held by ann@far, process 7, since 2026-01-02"), watched.held():
            pass
    finally:
        stop.set()
        beats.join()


def test_a_driver_elsewhere_that_is_silent_loses_its_lease(place, monkeypatch, capfd):
    monkeypatch.setattr(lease, "PATIENCE", 0.8)
    ledger = opened(place)
    write(ledger, elsewhere())
    with ledger.held():
        assert text(ledger)["pid"] == os.getpid()
    assert "held by ann@far, process 7" in capfd.readouterr().err


def test_a_driver_whose_lease_was_taken_writes_nothing_more(place):
    ledger = opened(place)
    with ledger.held():
        ledger.add(SEARCH, JOBS[0])
        write(opened(place), elsewhere())
        with pytest.raises(UserError, match=r"was taken over by ann@far, process 7"):
            ledger.tell(ended(JOBS[0], 3.0))
        with pytest.raises(UserError, match=r"was taken over by ann@far, process 7"):
            ledger.add(SEARCH, JOBS[1])
    left = opened(place)
    assert (left.recover(), left.count(SEARCH)) == ([JOBS[0]], 1)
    assert text(left)["who"] == "ann@far"


def test_a_driver_whose_lease_was_taken_and_given_back_writes_nothing_more(place):
    ledger = opened(place)
    with ledger.held():
        other = opened(place)
        write(other, elsewhere())
        theirs = lease.Lease(other.storage, other.studies[SEARCH], "s")
        theirs.ours = Holder(**text(other))
        theirs.release()
        with pytest.raises(UserError, match=r"another driver, which has ended"):
            ledger.add(SEARCH, JOBS[0])
    assert opened(place).count(SEARCH) == 0


def test_a_lease_is_renewed_while_its_driver_does_something_else(place, monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.05)
    ledger = opened(place)
    with ledger.held():
        first = text(ledger)["beat"]
        limit = time.monotonic() + 30
        while text(ledger)["beat"] < first + 3:
            assert time.monotonic() < limit
            time.sleep(0.01)
        ledger.add(SEARCH, JOBS[0])
    assert text(ledger) is None


def test_two_studies_in_one_storage_have_a_lease_each(place):
    with opened(place, "one").held(), opened(place, "two").held():
        opened(place, "one").check("data")
