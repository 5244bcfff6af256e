"""A real Ray on this machine: a node that stays, another that is lost, and Rays that searches start for themselves."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from lpanas.lpa.config import UserError
from lpanas.search.budget import ARMS
from lpanas.search.confirm import confirm
from lpanas.search.executor import LocalExecutor, Setup
from lpanas.search.ledger import CONFIRM, Ledger, open_ledger
from lpanas.search.record import Advanced, Fault, Record
from lpanas.search.results import read_study
from lpanas.search.study import search
from lpanas.search.variants import variants
from made_up import protocol_space
from making import TINY, hear_interrupts, job, same, tiny_space
from optuna.storages import InMemoryStorage

if find_spec("ray") is None:
    pytest.skip("Ray is not installed: pip install 'lpanas[ray]'", allow_module_level=True)

from lpanas.search import ray_cluster  # first: Ray reads its settings when it is imported
from lpanas.search.ray_cluster import ray
from lpanas.search.ray_executor import RayExecutor
from lpanas.search.ray_reaper import marked
from ray.cluster_utils import Cluster

pytestmark = [
    pytest.mark.filterwarnings("ignore:subprocess [0-9]* is still running:ResourceWarning"),  # Ray's own daemons
    pytest.mark.filterwarnings("ignore:unclosed file.*ray:ResourceWarning"),  # their logs
]

SPACE = tiny_space()
JOBS = [job(SPACE.arm(arm), f"trial-{number}", arm) for number, arm in enumerate(ARMS)]
LONG = JOBS[0].change(run="trial-9", model=JOBS[0].model.change(d_model=384, d_ff=1024))  # seconds a run
NODE = {"num_cpus": 1, "object_store_memory": ray_cluster.STORE_BYTES, "include_dashboard": False}
SOON = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
"""A node whose raylet has ended is given up after 2 s; one that is only slow has 10 s to answer each time, as Ray has it."""
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


@pytest.fixture(scope="module")
def one(cluster, setup, tmp_path_factory):
    """An executor with one actor, idle between tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", cluster.address)
        its = Setup(setup.config, setup.shards, tmp_path_factory.mktemp("checkpoints"))
        executor = begin(its, [], "search.hung_minutes=0.2")
    with executor:
        yield executor


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
        assert executor.jobs
        seen |= {message.run for message in executor.wait(1.0) if isinstance(message, Advanced)}


def pid(executor):
    """Of its actor's process, as soon as it has one without a job."""
    while executor.workers[0].state != "idle":
        list(executor.wait(0.1))
    return ray.get(executor.workers[0].actor.__ray_call__.remote(lambda self: os.getpid()))


def gone(mark, seconds):
    """Whether they all end within so many seconds."""
    limit = time.monotonic() + seconds
    while marked(mark) and time.monotonic() < limit:
        time.sleep(0.1)
    return not marked(mark)


def shared_memory():
    """Ray's own; other programs of this machine come and go."""
    return {name for name in os.listdir("/dev/shm") if "plasma" in name or "ray" in name}


def tiny_file(folder, pages, **search):
    raw = yaml.safe_load(TINY.replace("1e-2", "0.01"))
    raw["proxy"]["data"] = pages.model_dump(mode="json")
    raw["search"] |= search
    (folder / "tiny.yaml").write_text(yaml.safe_dump(raw))
    return folder / "tiny.yaml"


def by_run(record):
    return record.run


def ends(executor):
    """How the runs of an executor end."""
    return [message for message in until_ended(executor) if isinstance(message, (Fault, Record))]


def test_a_run_is_stopped_at_its_rung_or_goes_on_and_from_its_checkpoint(one):
    asking = JOBS[1].change(rungs=(320,))
    one.submit(asking)
    *_, stopped = until_ended(one)
    assert (stopped.status, stopped.tokens) == ("pruned", 320)
    one.submit(asking.change(run="trial-5", continues="trial-1", continues_at=320))
    *_, ended = until_ended(one, stop=False)
    assert (ended.status, ended.tokens, ended.tokens_before) == ("complete", 640, 320)
    assert ended.curve[: len(stopped.curve)] == stopped.curve


def test_a_confirmation_has_the_same_records_on_ray_as_here(one, setup):
    space = protocol_space(
        "confirm.arms=[dense, attention]",
        "confirm.claim=[attention better than dense]",
        "confirm.controls=[]",
        "confirm.lr_extend=0",
        "confirm.seeds={sweep: 1, first: 2, most: 2}",
    )

    def records(executor):
        ledger = Ledger(space, InMemoryStorage(), "s", of=CONFIRM)
        return sorted(map(same, confirm(space, variants(space, {}), ledger, executor, lambda state: None).records), key=by_run)

    with LocalExecutor(setup, 1) as local:
        here = records(local)
    assert len(here) == 2 * 3 + 2 * 2
    assert records(one) == here


def test_an_actor_that_dies_costs_its_run_and_an_idle_one_nothing(one, capfd):
    os.kill(pid(one), signal.SIGKILL)
    one.submit(JOBS[0])
    assert [record.status for record in ends(one)] == ["complete"]
    its = pid(one)
    one.submit(LONG)
    until_in_the_middle(one, 1)
    os.kill(its, signal.SIGKILL)
    (dead,) = ends(one)
    assert isinstance(dead, Fault)
    assert dead.record.reason.startswith("the worker ended (")
    assert dead.record == Record(**dict(LONG), status="failed", reason=dead.record.reason)
    assert "".join(capfd.readouterr()) == ""


def test_an_actor_that_hangs_costs_its_run_and_another_takes_its_place(one):
    hung = pid(one)
    one.submit(LONG)
    until_in_the_middle(one, 1)
    os.kill(hung, signal.SIGSTOP)
    assert ends(one) == [Fault(Record(**dict(LONG), status="failed", reason="no progress for 0.2 minutes"))]
    one.submit(JOBS[0])
    assert [record.status for record in ends(one)] == ["complete"]
    with pytest.raises(ProcessLookupError):
        os.kill(hung, 0)


def test_an_actor_that_finds_other_shards_is_not_used_and_the_last_one_says_so(one):
    """The last one with this executor: it has no actor afterwards."""
    one.content = "another"
    one._replace(one.workers[0])
    one.submit(JOBS[0])
    with pytest.raises(UserError, match="other token shards than the driver's"):
        until_ended(one)
    one.close()


def test_a_lost_node_costs_only_the_runs_on_it_and_they_are_run_again(joined, setup, said, tmp_path):
    space = tiny_space("search.trials=4", "search.workers=2", "proxy.tokens=6400", "proxy.evals=10", "search.rungs=0")
    its = Setup(setup.config.change(tokens=6400, evals=10), setup.shards)
    second = [joined.add_node(**NODE)]

    def watch(state):
        """Neither of two runs is near its end."""
        if second and [0 < len(state.curves.get(run, ())) <= 7 for run in state.running] == [True, True]:
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


def test_a_graph_without_a_gpu_is_one_line_and_no_run(joined, setup, said):
    its = replace(setup, config=setup.config.change(cuda_graph=True))
    with pytest.raises(UserError, match=r"no worker could start .*: cuda_graph: only on one GPU alone, found 1 on cpu"):
        begin(its, said, "search.workers=1")


def test_no_room_is_one_line_that_says_what_is_missing(joined, setup, said):
    with pytest.raises(UserError, match=r"has 64 CPU and 0.5 GPU .* largest has 1 CPU and 0 GPU"):
        begin(setup, said, "search.hung_minutes=0.02", "search.resources={num_cpus: 64, num_gpus: 0.5}", "search.workers=1")
    assert len(said) == 1
    assert not ray.is_initialized()


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
    for module in ("ray_cluster", "ray_executor"):
        monkeypatch.delitem(sys.modules, f"lpanas.search.{module}")
    code, out, err = call("search", tiny_file(tmp_path, pages), "--out", tmp_path / "out", "--executor", "ray")
    assert (code, out) == (2, "")
    assert err == "lpanas: --executor ray: Ray is not installed: pip install 'lpanas[ray]'\n"


@pytest.mark.parametrize(("word", "line"), [(b"", "no Ray cluster answers"), (b"HTTP/1.1 400 \r\n\r\n", "is no Ray cluster")])
def test_something_else_at_its_address_is_one_line_and_soon(word, line, monkeypatch):
    monkeypatch.setattr(ray_cluster, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            with server.accept()[0] as wire:
                wire.sendall(word)
                with suppress(ConnectionResetError):
                    while wire.recv(1000):  # until the other side has gone
                        pass

        thread = threading.Thread(target=answer)
        thread.start()
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(UserError, match=line):
            ray_cluster.connect()
        thread.join()


def test_a_ray_of_its_own_ends_with_the_search_however_that_ends(tmp_path, pages, cluster, call, monkeypatch):
    """Killed in the middle with an actor that is stopped; gone on with, and stopped by Ctrl-C twice; gone on with to
    its end on a cluster, which is quiet."""
    space, mark = tiny_file(tmp_path, pages, trials=5), f"LPANAS_TEST={tmp_path}"
    its = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    its |= dict([mark.split("=")]) | {"SPT_NOENV": "1"}  # without that Ray's processes overwrite their environment
    words = [*COMMAND, "search", space, "--executor", "ray", "--set", "proxy.tokens=3200"]
    shared = shared_memory()

    def start():
        command = [*words, "--out", "out"]
        pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
        return subprocess.Popen(command, cwd=tmp_path, env=its, start_new_session=True, preexec_fn=hear_interrupts, **pipes)

    def actor():
        while True:
            for number in marked(mark):
                with suppress(OSError):  # it has ended
                    if Path(f"/proc/{number}/cmdline").read_text().startswith("ray::Trainer.step"):
                        return number
            time.sleep(0.02)

    with start() as driver:
        os.kill(actor(), signal.SIGSTOP)
        driver.kill()
    assert gone(mark, 10)
    with start() as driver:
        actor()
        for _ in range(2):
            os.killpg(driver.pid, signal.SIGINT)
        assert driver.stderr.read() == "lpanas: stopped; the same command goes on from here\n"
    assert driver.returncode == 130
    assert gone(mark, 10)
    assert shared_memory() == shared
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    code, _, err = call(*words[len(COMMAND) :], "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert [record.status for record in read_study(tmp_path / "out").records] == ["complete"] * 5


def test_a_search_whose_node_is_given_up_ends_with_a_line(joined, setup, said):
    """The last one: it ends the cluster's head."""
    with begin(setup, said) as executor:
        executor.submit(LONG)
        until_in_the_middle(executor, 1)
        joined.head_node.kill_raylet()
        (lost,) = until_ended(executor)[-1:]
        assert isinstance(lost, Fault)
        executor.submit(LONG)  # as the driver does
        with pytest.raises(UserError, match="has given up the node of this search"):
            until_ended(executor)
