"""A real Ray on this machine: a node that stays, another that is lost, and Rays that searches start for themselves."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from lpanas.lpa.config import UserError
from lpanas.search.budget import ARMS
from lpanas.search.executor import LocalExecutor, Setup
from lpanas.search.ledger import open_ledger
from lpanas.search.proxy import Advanced, Fault, Record
from lpanas.search.results import read_study
from lpanas.search.study import search
from making import TINY, job, plain, same, tiny_space

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'lpanas[ray]'")

from lpanas.search.ray_executor import STORE_BYTES, RayExecutor  # noqa: E402 (it imports Ray)
from ray.cluster_utils import Cluster  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:subprocess [0-9]* is still running:ResourceWarning"),  # Ray's own daemons
    pytest.mark.filterwarnings("ignore:unclosed file.*ray:ResourceWarning"),  # their logs
]

SPACE = tiny_space("search.hung_minutes=10")
JOBS = [job(SPACE.arm(arm), f"trial-{number}", arm) for number, arm in enumerate(ARMS)]
LONG = JOBS[0].change(run="trial-9", model=JOBS[0].model.change(d_model=768, d_ff=2048))  # seconds a run
NODE = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
SOON = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 1000, "health_check_failure_threshold": 5}
"""A node that does not answer is given up after 5 s; Ray's own numbers make it half a minute."""
COMMAND = (sys.executable, "-c", "from lpanas.search.cli import main; main()")


@pytest.fixture(scope="module")
def cluster():
    made = Cluster(initialize_head=True, head_node_args=NODE | {"_system_config": SOON})
    yield made
    made.shutdown()


@pytest.fixture
def joined(cluster, monkeypatch):
    """A cluster of one node, at RAY_ADDRESS."""
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    return cluster


@pytest.fixture
def said():
    return []


def begin(setup, said, *settings):
    return RayExecutor(setup, tiny_space(*settings).search, said.append)


def until_ended(executor, stop=True):
    """All that is told until no job is left; runs that ask are stopped, or not."""
    told = []
    while executor.jobs:
        for message in executor.wait(1.0):
            told.append(message)
            if isinstance(message, Advanced) and message.at_rung:
                executor.answer(message.run, not stop)
    return told


def until_in_the_middle(executor, runs):
    seen = set()
    while len(seen) < runs:
        seen |= {message.run for message in executor.wait(1.0) if isinstance(message, Advanced)}


def pid(worker):
    """Of an actor's process, as soon as it has no other call to answer."""
    return ray.get(worker.actor.__ray_call__.remote(lambda self: os.getpid()))


def processes(mark):
    """Living processes that have inherited a variable of their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes())
        except OSError:  # it has ended, or is not ours
            pass
    return found


def gone(mark, seconds):
    """Whether they all end within so many seconds."""
    limit = time.monotonic() + seconds
    while processes(mark) and time.monotonic() < limit:
        time.sleep(0.1)
    return not processes(mark)


def tiny_file(folder, pages, **search):
    raw = yaml.safe_load(TINY.replace("1e-2", "0.01"))
    raw["proxy"]["data"] = pages.model_dump(mode="json")
    raw["search"] |= search
    (folder / "tiny.yaml").write_text(yaml.safe_dump(raw))
    return folder / "tiny.yaml"


def test_a_search_on_it_has_the_records_of_a_local_one(joined, setup, said, tmp_path):
    found = []
    for name, executor in (("ray", begin(setup, said)), ("local", LocalExecutor(setup, 1))):
        with executor:
            ledger = open_ledger(SPACE, f"sqlite:///{tmp_path}/{name}.db", name)
            state = search(SPACE, ledger, executor, lambda state: None)
            found.append(plain([*state.records, *state.noise]))
    assert found[0] == found[1]
    assert len(found[0]) == SPACE.search.trials + SPACE.search.noise_seeds - 1
    assert said == []


def test_a_run_is_stopped_at_its_rung_or_goes_on_and_from_its_checkpoint(joined, setup, said, tmp_path):
    asking = JOBS[1].change(rungs=(320,))
    with begin(Setup(setup.config, setup.shards, tmp_path), said) as executor:
        executor.submit(asking)
        *_, stopped = until_ended(executor)
        assert (stopped.status, stopped.tokens) == ("pruned", 320)
        executor.submit(asking.change(run="trial-5", continues="trial-1", continues_at=320))
        *_, ended = until_ended(executor, stop=False)
    assert (ended.status, ended.tokens, ended.tokens_before) == ("complete", 640, 320)
    assert ended.curve[: len(stopped.curve)] == stopped.curve


def test_an_actor_that_dies_costs_its_run_and_one_that_hangs_too_and_an_idle_one_nothing(joined, setup, said, capfd):
    with begin(setup, said, "search.hung_minutes=0.1") as executor:
        (worker,) = executor.workers
        os.kill(pid(worker), signal.SIGKILL)
        executor.submit(LONG)
        until_in_the_middle(executor, 1)
        os.kill(victim := pid(worker), signal.SIGKILL)
        (dead,) = (message for message in until_ended(executor) if isinstance(message, (Fault, Record)))
        assert isinstance(dead, Fault)
        assert dead.record.reason.startswith("the worker ended (")
        assert dead.record == Record(**dict(LONG), status="failed", reason=dead.record.reason)

        executor.submit(LONG)
        until_in_the_middle(executor, 1)
        os.kill(hung := pid(worker), signal.SIGSTOP)
        (silent,) = (message for message in until_ended(executor) if isinstance(message, (Fault, Record)))
        assert silent == Fault(Record(**dict(LONG), status="failed", reason="no progress for 0.1 minutes"))
        executor.submit(JOBS[0])
        *_, record = until_ended(executor)
        assert record.status == "complete"
        assert len({victim, hung, pid(worker)}) == 3
    assert "".join(capfd.readouterr()) == ""
    with pytest.raises(ProcessLookupError):
        os.kill(hung, 0)


def test_a_lost_node_costs_only_the_runs_on_it_and_they_are_run_again(joined, setup, said, tmp_path):
    space = tiny_space("search.trials=4", "search.workers=2", "proxy.tokens=12800", "proxy.evals=20", "search.rungs=0")
    its = Setup(setup.config.change(tokens=12800, evals=20), setup.shards)
    second = [joined.add_node(**NODE)]

    def watch(state):
        if second and sum(bool(state.curves.get(run)) for run in state.running) == 2:
            joined.remove_node(second.pop(), allow_graceful=False)

    found = []
    for name, make in (("ray", lambda: RayExecutor(its, space.search, said.append)), ("local", lambda: LocalExecutor(its, 1))):
        with make() as executor:
            ledger = open_ledger(space, f"sqlite:///{tmp_path}/{name}.db", name)
            state = search(space, ledger, executor, watch if name == "ray" else lambda state: None)
            found.append({record.run: record for record in [*state.records, *state.noise]})
    tried = [run for run, record in found[0].items() if record.attempts]
    assert not second
    assert len(tried) == 1
    assert {run: same(record).change(attempts=()) for run, record in found[0].items()} == {
        run: same(record) for run, record in found[1].items()
    }


def test_no_room_is_one_line_that_says_what_is_missing(joined, setup, said):
    with pytest.raises(UserError, match=r"has 64 CPU and 0.5 GPU .* largest has 1 CPU and 0 GPU"):
        begin(setup, said, "search.hung_minutes=0.02", "search.resources={num_cpus: 64, num_gpus: 0.5}", "search.workers=1")
    assert len(said) == 1
    assert not ray.is_initialized()


def test_an_actor_that_finds_other_shards_is_not_used_and_the_last_one_says_so(joined, setup, said):
    with begin(setup, said) as executor:
        executor.content = "another"
        executor._replace(executor.workers[0])
        executor.submit(JOBS[0])
        with pytest.raises(UserError, match="other token shards than the driver's"):
            until_ended(executor)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", "no Ray cluster answers"),
        ("ray://127.0.0.1:10001", "expected HOST:PORT"),
        ("nonsense", "expected HOST:PORT"),
    ],
)
def test_a_cluster_that_cannot_be_reached_is_one_line(address, words, call, tmp_path, pages, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    code, out, err = call("search", tiny_file(tmp_path, pages), "--out", tmp_path / "out", "--executor", "ray")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err
    assert not (tmp_path / "out").exists()


def test_without_ray_it_is_one_line_that_names_the_remedy(call, tmp_path, pages, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "lpanas.search.ray_executor")
    code, out, err = call("search", tiny_file(tmp_path, pages), "--out", tmp_path / "out", "--executor", "ray")
    assert (code, out) == (2, "")
    assert err == "lpanas: --executor ray: Ray is not installed: pip install 'lpanas[ray]'\n"


def test_a_ray_of_its_own_is_quiet_and_ends_with_the_search_killed_or_not(tmp_path, pages):
    """Killed in the middle, then gone on with from another working folder."""
    space, mark = tiny_file(tmp_path, pages, trials=5), f"LPANAS_TEST={tmp_path}"
    its = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | dict([mark.split("=")])
    words = [*COMMAND, "search", space, "--out", "out", "--executor", "ray"]
    with subprocess.Popen(words, cwd=tmp_path, env=its, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as driver:
        while not (tmp_path / "out" / "study.db").exists():
            time.sleep(0.1)
        driver.kill()
    assert gone(mark, 10)
    ended = subprocess.run(words, cwd=tmp_path, env=its, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert gone(mark, 10)
    assert {record.status for record in read_study(tmp_path / "out").records} == {"complete"}
