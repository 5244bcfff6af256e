"""What a search measures before its first run, seen by those who look at its folder."""

import signal
import time
from contextlib import suppress
from itertools import islice

import pytest
import yaml
from lpanas.lpa.config import UserError
from lpanas.search import folder, live
from lpanas.search.apart import measuring
from lpanas.search.watch import silence, views
from making import TINY
from test_kill import start

SAID = "measuring step_seconds: 3 of 20 pieces of a step, about 0.4 min to go"


@pytest.fixture
def out(tmp_path):
    """A folder in which a search measures."""
    out = tmp_path / "study"
    with folder.held(out), live.written(out), measuring("step_seconds", live.measuring(out, "tiny")) as say:
        say(SAID.partition(": ")[2])
        yield out


def test_who_looks_is_told_how_far_a_measurement_is(out, call):
    looking = views(out)
    for view in islice(looking, 2):
        assert (view.found, view.note, view.moment.said) == (None, "", SAID)
    code, said, error = call("watch", out)
    assert (code, error) == (0, "")
    assert said.startswith("tiny: started ")
    assert SAID in " ".join(said.split())
    told = f"lpanas: {out}: holds no study yet; its driver is {SAID} (lpanas watch {out})\n"
    for command in ("show", "report", "export", "confirm"):
        assert call(command, out) == (2, "", told)
    code, _, error = call("watch", out, "--port", 8080)
    assert (code, error) == (2, "lpanas: --port 8080: its driver is still measuring, and there is no study to be shown yet\n")


def test_a_long_piece_is_no_silence_and_a_driver_that_was_killed_is(out):
    moment = live.read(out)
    assert silence(moment.change(time=0.0), 1000.0) == ""
    assert "has ended without a word" in silence(moment.change(born="1"))
    assert "no word from" in silence(moment.change(machine="another"), 1000.0)


def test_a_measurement_that_stops_leaves_nothing_and_one_of_a_study_what_it_said_before(tmp_path):
    out, looking = tmp_path / "study", None
    with suppress(KeyboardInterrupt), folder.held(out), live.written(out):
        live.measuring(out, "tiny")(SAID)
        looking = views(out)
        assert next(looking).found is None
        raise KeyboardInterrupt
    assert not out.exists()
    with pytest.raises(UserError, match="holds no study"):
        next(looking)
    nothing = {"seconds": 9.0, "left": None, "done": 7, "tokens": 70, "exhausted": False, "workers": ()}
    before = live.Moment(name="tiny", phase="ended", **live.here(), **nothing)
    out.mkdir()
    (out / live.LIVE).write_text(before.model_dump_json())
    with live.written(out):
        live.measuring(out, "tiny")(SAID)
        assert (live.read(out).phase, live.read(out).done) == ("measuring", 7)
    assert live.read(out) == before


def test_a_search_that_was_killed_while_it_measured_goes_on_in_the_same_folder(pages, tmp_path, call, monkeypatch):
    monkeypatch.setenv("LPANAS_CACHE", str(tmp_path / "cache"))
    raw = yaml.safe_load(TINY.replace("1e-2", "0.01"))
    raw["proxy"]["data"] = pages.model_dump(mode="json")
    raw["objectives"] = ["loss_nats", "step_seconds"]
    path, out = tmp_path / "tiny.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(raw))
    driver = start(path, out)
    try:
        limit = time.monotonic() + 60
        while not (out / live.LIVE).exists() and time.monotonic() < limit:
            time.sleep(0.02)
        assert live.read(out).phase == "measuring"
        assert "pieces of a step" in live.read(out).said
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    code, said, _ = call("watch", out)
    assert code == 0
    assert "has ended without a word; the same command goes on from here" in " ".join(said.split())
    code, _, error = call("search", path, "--out", out, "--trials", 4)
    assert code == 0, error
    assert live.read(out).phase == "ended"
