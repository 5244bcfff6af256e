import json
import socket
import threading
import time
import urllib.error
import urllib.request

import pytest
from lpanas.lpa.config import UserError
from lpanas.search import live
from lpanas.search.results import Results
from making import arm_records, point, record, tiny_space
from test_live import state_of

dashboard = pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed: pip install 'lpanas[dashboard]'")
from lpanas.search.dashboard import Copy, served  # noqa: E402


def results(*losses):
    space = tiny_space()
    return Results(space, arm_records(space, *losses), [])


@pytest.fixture
def copy():
    return Copy(results())


@pytest.fixture
def url(copy):
    with served(copy) as url:
        yield url.replace("dashboard", "api")


def read(url):
    with urllib.request.urlopen(url, timeout=20) as answer:
        return json.load(answer)


def test_candidates_are_trials_with_their_numbers_values_and_curves(copy, url):
    found = results(3.0, 3.1, 3.2)
    copy.update(found, None)
    trials = read(url)["trials"]
    assert [trial["number"] for trial in trials] == [0, 1, 2]
    assert [trial["values"] for trial in trials] == [one.values(found.space.objectives) for one in found.records]
    assert [[at["value"] for at in trial["intermediate_values"]] for trial in trials] == [[4.0, 3.0], [4.1, 3.1], [4.2, 3.2]]
    assert {attr["key"]: attr["value"] for attr in trials[1]["user_attrs"]}["arm"] == "attention"


def test_the_figures_are_ours_and_name_the_arms(copy, url):
    copy.update(results(3.0, 3.1, 3.2, 3.3), None)
    figures = {figure["id"]: json.loads(figure["graph_object"]) for figure in read(url)["plotly_graph_objects"]}
    assert set(figures) == {"front-flops_per_token", "learning-curves"}
    words = " ".join(note["text"] for note in figures["front-flops_per_token"]["layout"]["annotations"])
    assert all(arm in words for arm in ("dense", "attention", "ffn", "both", "winner"))
    said = [text for figure in figures.values() for trace in figure["data"] for text in trace.get("text") or []]
    assert any("trial-1</b> attention<br>0-3 q,k,v,o=1/4, d_ff 192<br>+0.1000 nats against dense" in text for text in said)


def test_what_ends_later_comes_in_at_its_number_and_what_runs_is_running(copy, url):
    copy.update(results(3.0), live.moment(state_of(3.0, running=("trial-3", "noise-0")), "searching"))
    assert [trial["state"] for trial in read(url)["trials"]] == ["Complete", "Running", "Running", "Running"]
    copy.update(results(3.0, 3.1, None), None)
    limit, states = time.monotonic() + 20, []
    while states[1:2] != ["Complete"] and time.monotonic() < limit:  # it reads anew every two seconds
        time.sleep(0.2)
        states = [trial["state"] for trial in read(url)["trials"]]
    assert states == ["Complete", "Complete", "Fail", "Running"]


def test_what_is_said_of_a_run_is_what_the_last_reading_says(copy, url):
    early = Results(tiny_space(), arm_records(tiny_space(), 3.0, 3.1)[1:], [])
    copy.update(early, None)
    copy.update(results(3.0, 3.1), None)
    assert copy.storage.trials[1].user_attrs["delta_nats"] == pytest.approx(0.1)


def test_candidates_above_the_limits_are_not_on_its_front(copy, url):
    best = record(1, 1.0, 10).change(feasible=False, params=point("1/4"))
    copy.update(Results(tiny_space(), [record(0, 2.0, 20), best], []), None)
    assert [trial["constraints"] for trial in read(url)["trials"]] == [[-1.0], [1.0]]


@pytest.mark.parametrize("method", ["DELETE", "POST", "PUT"])
def test_nobody_can_change_what_is_shown(copy, url, method):
    copy.update(results(3.0), None)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=20)
    assert refused.value.code == 403
    refused.value.close()
    assert len(read(url)["trials"]) == 1


def test_it_is_not_served_any_more_when_the_looking_has_ended(copy):
    with served(copy) as url:
        read(url.replace("dashboard", "api"))
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=5)
    assert not [thread for thread in threading.enumerate() if "serve_forever" in thread.name]


def test_a_host_that_is_none_is_one_line(copy):
    with pytest.raises(UserError, match=r"^--host nonsense\.invalid: "), served(copy, "nonsense.invalid"):
        pass


def test_a_port_that_is_taken_is_one_line_and_a_free_one_is_found_without(copy):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: cannot be listened at"), served(copy, port=port):
            pass
    with served(copy) as first, served(copy) as second:
        assert first != second
