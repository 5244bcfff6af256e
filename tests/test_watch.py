import signal
import time
from itertools import islice

import pytest
import yaml
from lpanas.lpa.config import override, parse_yaml
from lpanas.search import live
from lpanas.search.watch import silence, views
from making import TINY
from test_kill import start


def moment(**changes):
    counts = {"seconds": 9.0, "left": None, "done": 0, "tokens": 0, "exhausted": False, "workers": ()}
    return live.Moment(**{"name": "tiny", "phase": "searching"} | live.here() | counts | changes)


@pytest.mark.parametrize(
    ("changes", "seconds", "words"),
    [
        ({}, 0.0, ""),
        ({"phase": "ended"}, 100.0, ""),
        ({"phase": "stopped"}, 100.0, "stopped; the same command goes on"),
        ({}, 100.0, "no word from the driver's process"),
        ({"machine": "another", "time": 0.0}, 1.0, ""),  # its clock is not ours
        ({"machine": "another"}, 100.0, "no word from the driver's process"),
        ({"born": "1"}, 0.0, "has ended without a word"),
        ({"born": "1", "machine": "another"}, 0.0, ""),
    ],
)
def test_what_is_said_of_a_driver_is_what_it_does(changes, seconds, words):
    said = silence(moment(**changes), seconds)
    assert words in said
    assert bool(said) == bool(words)


GOES_ON, COMPLETE = "the same command goes on from here", "the study is complete, and the same command writes its page"


@pytest.mark.parametrize("changes", [{"born": "1", "phase": "starting"}, {"born": "1"}, {"phase": "stopped"}])
def test_of_a_complete_study_it_is_said_that_it_is_complete(changes):
    for complete, words in ((False, GOES_ON), (True, COMPLETE)):
        assert silence(moment(**changes), is_complete=complete).endswith(f"; {words}")
    assert silence(moment(), is_complete=True) == silence(moment(phase="ended"), is_complete=True) == ""


def test_a_complete_search_whose_page_is_written_anew_by_a_driver_that_is_killed_is_complete(slow, tmp_path, call):
    out = tmp_path / "study"
    assert call("search", slow, "--out", out, "--set", "proxy.tokens=640")[0] == 0
    ended = call("watch", out, "--terminal")[1]
    with live.written(out):
        (view,) = islice(views(out), 1)
        assert (view.moment.phase, view.note) == ("starting", "")
        left = live.read(out).change(born="1")  # as a process that is gone leaves it
    (out / live.LIVE).write_text(left.model_dump_json())
    shown = call("watch", out, "--terminal")[1]
    assert "ended after" in shown
    assert COMPLETE in " ".join(shown.split())
    assert shown.splitlines()[0] == ended.splitlines()[0]
    (out / live.LIVE).write_text(left.model_dump_json())
    raw = yaml.safe_load((out / "space.yaml").read_text())
    raw["search"]["trials"] += 1
    (out / "space.yaml").write_text(yaml.safe_dump(raw))  # a driver of more trials that was killed before the next
    (view,) = islice(views(out), 1)
    assert view.moment.phase == "starting"
    assert view.note.endswith(GOES_ON)


def test_a_driver_that_is_late_by_its_own_clock_is_silent():
    assert "for 100 s" in silence(moment(time=time.time() - 100))


@pytest.fixture
def slow(pages, tmp_path):
    """A space whose runs take a second or two each."""
    settings = ["proxy.tokens=40000", "proxy.evals=20", "search.workers=2"]
    raw = override(parse_yaml(TINY, "tiny.yaml"), settings)
    raw["proxy"]["data"] = {"source": "text", "text": list(pages.text), "valid_tokens": 256, "max_epochs": None}
    path = tmp_path / "slow.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def test_a_running_search_is_seen_until_its_driver_is_killed(slow, tmp_path, call):
    out = tmp_path / "study"
    driver = start(slow, out)
    try:
        limit = time.monotonic() + 60
        while not (out / live.LIVE).exists() and time.monotonic() < limit:
            time.sleep(0.1)
        seen = set()
        for view in views(out):
            seen |= {worker.run for worker in view.moment.workers if worker.tokens_per_second}
            if (view.found.records and len(seen) > 2) or time.monotonic() > limit:
                break
            time.sleep(0.1)
        assert len(seen) > 2
        code, shown, _ = call("watch", out)
        assert code == 0
        assert "of 7 runs" in shown
        assert "tokens/s" in shown
        assert "trial-0" in shown
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    view = next(views(out))
    assert f"process {driver.pid} has ended without a word" in view.note
    assert view.found.records


def test_a_search_that_has_ended_is_shown_once(slow, tmp_path, call):
    out = tmp_path / "study"
    assert call("search", slow, "--out", out, "--set", "proxy.tokens=640")[0] == 0
    code, shown, _ = call("watch", out, "--terminal")
    assert code == 0
    assert "7 of 7 runs" in shown
    assert "ended after" in shown
    before = (out / "study.db").read_bytes()
    assert all(view.note == "" for view in islice(views(out), 3))
    assert (out / "study.db").read_bytes() == before


def test_a_search_that_is_started_again_says_so_at_once_and_what_it_was_when_that_fails(slow, tmp_path, call):
    out = tmp_path / "study"
    assert call("search", slow, "--out", out, "--set", "proxy.tokens=640")[0] == 0
    with live.written(out):
        assert live.read(out).phase == "starting"
    assert live.read(out).phase == "ended"


@pytest.mark.parametrize("broken", [b"{", b"\xff", b"{}", None])
def test_a_moment_that_cannot_be_read_is_a_note(slow, tmp_path, call, broken):
    out = tmp_path / "study"
    assert call("search", slow, "--out", out, "--set", "proxy.tokens=640")[0] == 0
    looking = views(out)
    seen = next(looking)
    (out / live.LIVE).unlink()
    if broken is not None:
        (out / live.LIVE).write_bytes(broken)
    view = next(looking)
    assert view.moment == seen.moment
    assert live.LIVE in view.note
    assert call("watch", out)[0] == 0


@pytest.mark.parametrize("where", ["", "file", "folder"])
def test_what_holds_no_study_is_one_line(call, tmp_path, where):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for command in ("watch", "report", "export"):
        code, shown, said = call(command, where and tmp_path / where)
        assert (code, shown, said.count("\n")) == (2, "", 1)
        assert ("holds no study" in said) or not where


def test_looking_makes_no_storage(slow, tmp_path, call):
    out, other = tmp_path / "study", tmp_path / "other.db"
    assert call("search", slow, "--out", out, "--set", "proxy.tokens=640")[0] == 0
    for command in ("watch", "report", "export"):
        code, _, said = call(command, out, "--storage", f"sqlite:///{other}")
        assert (code, said.count("\n")) == (2, 1)
        assert "there is no study 'study' in it" in said
        assert not other.exists()


def test_a_port_is_refused_where_nothing_is_served(tmp_path, call):
    assert call("watch", tmp_path, "--terminal", "--port", "8080")[0] == 2
