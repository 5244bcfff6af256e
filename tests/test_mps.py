"""The Multi-Process Service that workers of one GPU share; a program in NVIDIA's place starts and ends a process, and writes
down what it is told."""

import os
import signal
import socket
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from launching import started
from lpanas.lpa.config import UserError
from lpanas.search import mps
from lpanas.search.executor import LocalExecutor, Setup
from lpanas.search.process import born
from lpanas.search.record import Fault
from making import job, tiny_space

JOB = job(tiny_space().arm("dense"), "trial-0", "dense")

PROGRAM = """#!/bin/bash
# Its service keeps its starter's output open, which a pipe would wait for.
here=$CUDA_MPS_PIPE_DIRECTORY
said=$(cat)
echo "${{CUDA_VISIBLE_DEVICES-all}} $* | $said | $here | $(ls -d "$here" "$CUDA_MPS_LOG_DIRECTORY" | wc -l)" >> {told}
[ {code} = 0 ] || {{ echo "no such luck" >&2; exit {code}; }}
if [ "$*" = -d ]; then
    setsid sleep 1000 < /dev/null &
    echo $! > "$here/pid"
elif [ "$said" = quit ]; then
    kill "$(cat "$here/pid")"
elif [ "$said" = get_server_list ]; then
    cat "$here/pid"
elif [[ "$said" = get_client_list* ]]; then
    cat {told}.clients
elif ! kill -0 "${{said##* }}"; then
    echo "error: killed before" > {told}.clients
elif [ -e {told}.stuck ]; then
    echo CUDA_ERROR_UNKNOWN
fi
"""
DRIVER = """
import time
from lpanas.search.mps import serving
with serving(True, ["0"]) as services:
    print(services["0"].environment["CUDA_MPS_PIPE_DIRECTORY"], flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the program heard, a line a call."""
    return installed(tmp_path, monkeypatch, 0)


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a service's folder lies."""
    folder = tmp_path_factory.mktemp("tmp")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)  # which is read once
    return folder


@contextmanager
def driver() -> Generator[tuple[int, Path]]:
    """A process with a service, and the folder of the service's pipes."""
    with started([sys.executable, "-c", DRIVER]) as it:
        assert it.stdout
        yield it.pid, Path(it.stdout.readline().strip())


def service(pipes: Path) -> int:
    """Its process."""
    return int((pipes / "pid").read_text())


def lives(pid: int) -> bool:
    """Whether a process goes on; one that was told to end has a moment for it."""
    until = time.monotonic() + 0.2
    while born(pid) not in ("", "ended") and time.monotonic() < until:
        time.sleep(0.01)
    return born(pid) not in ("", "ended")


def gone(path: Path) -> bool:
    """Whether a file has been removed, within a while."""
    until = time.monotonic() + 20
    while path.exists() and time.monotonic() < until:
        time.sleep(0.01)
    return not path.exists()


def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> Path:
    monkeypatch.delenv(mps.PIPES, raising=False)
    monkeypatch.setenv(mps.DEVICES, "2,3")  # which the service would number anew
    program, told = tmp_path / "bin" / mps.CONTROL, tmp_path / "told"
    program.parent.mkdir()
    program.write_text(PROGRAM.format(told=told, code=code))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    told.with_suffix(".clients").touch()
    return told


def lines(told: Path) -> list[str]:
    """What the program was asked, a line of its input each."""
    return [line.strip() for its in told.read_text().splitlines() for line in its.split("|")[:2]]


def test_a_service_of_numbered_gpus_sees_all_of_them_and_lives_as_long_as_the_block_in_folders_of_its_own(told: Path) -> None:
    with mps.serving(True, ["2", "3", "2"]) as services:
        assert services["2"] is services["3"]
        pipes = services["2"].environment[mps.PIPES]
        assert told.read_text() == f"all -d |  | {pipes} | 2\n"
        pid = service(Path(pipes))
        assert lives(pid)
    assert told.read_text().splitlines()[1] == f"all  | quit | {pipes} | 2"
    assert not lives(pid)
    assert not Path(pipes).parent.exists()
    assert mps.PIPES not in os.environ


def test_a_part_of_a_gpu_has_a_service_of_its_own_which_sees_it_alone(told: Path) -> None:
    with mps.serving(True, ["MIG-a", "MIG-b", "MIG-a"]) as services:
        folders = [services[lease].environment[mps.PIPES] for lease in ("MIG-a", "MIG-b")]
        assert told.read_text().splitlines() == [
            f"{lease} -d |  | {pipes} | 2" for lease, pipes in zip(("MIG-a", "MIG-b"), folders, strict=True)
        ]
        assert len(set(folders)) == 2
    assert not any(Path(folder).parent.exists() for folder in folders)


def test_it_ends_although_the_search_failed(told: Path) -> None:
    with pytest.raises(ZeroDivisionError), mps.serving(True, ["0"]):
        raise ZeroDivisionError
    assert "quit" in lines(told)


def test_a_service_that_does_not_end_is_said_in_a_line_and_keeps_its_folder(
    told: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with mps.serving(True, ["0"]) as services:
        told.parent.joinpath("bin", mps.CONTROL).write_text("#!/bin/bash\necho too busy\nexit 1\n")
    pipes = Path(services["0"].environment[mps.PIPES])
    assert f"nvidia-cuda-mps-control failed: too busy ({pipes.parent})" in capsys.readouterr().err
    pid = service(pipes)
    assert lives(pid)
    os.kill(pid, signal.SIGKILL)


def test_a_service_ends_with_a_driver_that_is_killed_and_nobody_elses_does(told: Path) -> None:
    with driver() as (killed, left), driver() as (_, other):
        pid = service(left)
        assert lives(pid)
        os.kill(killed, signal.SIGKILL)
        assert gone(left.parent)
        assert not lives(pid)
        assert lives(service(other))
    assert lines(told).count("quit") == 1


def test_nothing_starts_where_it_is_not_wanted_or_one_is_named(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mps.serving(False, ["0"]) as services:
        assert services == {}
    with mps.serving(True, []) as services:  # runs train on a CPU
        assert services == {}
    monkeypatch.setenv(mps.PIPES, "/somewhere")
    for wanted in (True, False):
        with mps.serving(wanted, ["0", "1"]) as services:
            assert services["0"] is services["1"]
            assert services["0"].environment == {}
    assert not told.exists()


def test_without_the_program_or_when_it_fails_there_is_a_line(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.delenv(mps.PIPES, raising=False)
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(UserError, match=r"search\.mps: there is no nvidia-cuda-mps-control"), mps.serving(True, ["0"]):
            pass
    installed(tmp_path, monkeypatch, 1)
    with pytest.raises(UserError, match=r"search\.mps: nvidia-cuda-mps-control failed: no such luck"), mps.serving(True, ["0"]):
        pass
    assert list(temporary.iterdir()) == []


def test_a_folder_whose_sockets_would_have_too_long_a_name_is_another(
    told: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = temporary / ("long" * 20)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    monkeypatch.setattr("tempfile.tempdir", None)
    with mps.serving(True, ["0"]) as services:
        address = f"{services['0'].environment[mps.PIPES]}/control_privileged"
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(address)  # which refuses a longer one
    assert list(deep.iterdir()) == []


ONE, OTHER, ANOTHERS = os.getpid(), os.getppid(), 1
"""Processes that live."""


@pytest.mark.parametrize(
    ("clients", "ended"), [([], []), ([ANOTHERS], []), ([ANOTHERS, ONE, OTHER], [ONE, OTHER])], ids=["none", "others", "both"]
)
def test_before_clients_are_killed_their_work_is_ended_and_no_other_clients(
    clients: list[int], ended: list[int], told: Path
) -> None:
    told.with_suffix(".clients").write_text("".join(f"{one}\n" for one in clients))
    with mps.serving(True, ["0"]) as services:
        pid = service(Path(services["0"].environment[mps.PIPES]))
        for one in (ONE, OTHER):
            assert services["0"].release([one, None])
        assert [line for line in lines(told) if "terminate" in line] == [f"terminate_client {pid} {one}" for one in ended]
        told.with_suffix(".stuck").touch()
        assert services["0"].release([ONE]) == (not ended)


def pids(executor: LocalExecutor) -> list[int | None]:
    return [worker.process.pid for worker in executor.workers]


@pytest.mark.parametrize("is_stuck", [False, True])
def test_a_worker_that_must_be_killed_costs_those_beside_it_nothing_unless_its_work_does_not_end(
    is_stuck: bool, told: Path, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine whose driver believes that there is a GPU; its workers see that there is none."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setenv(mps.DEVICES, "0")
    its = Setup(setup.config.change(device="auto", tokens=64 * 10**6, evals=1), setup.shards)  # tells of itself every second
    with LocalExecutor(its, 2, hung_minutes=0.1, mps=True) as executor:
        first = service(Path(executor.services["0"].environment[mps.PIPES]))
        hung, other = pids(executor)
        told.with_suffix(".clients").write_text(f"{hung}\n{other}\n")
        if is_stuck:
            told.with_suffix(".stuck").touch()
        assert hung
        os.kill(hung, signal.SIGSTOP)
        for number in (1, 2):
            executor.submit(JOB.change(run=f"trial-{number}"))
        faults = list[Fault]()
        while not faults:
            faults += [one for one in executor.wait() if isinstance(one, Fault)]
        faults += [one for one in executor.wait(0) if isinstance(one, Fault)]
        assert f"terminate_client {first} {hung}" in lines(told)
        assert "killed before" not in told.with_suffix(".clients").read_text()
        assert [one.record.run for one in faults] == (["trial-1", "trial-2"] if is_stuck else ["trial-1"])
        assert lives(first) != is_stuck
        assert (pids(executor)[1] == other) != is_stuck
        assert {hung, None}.isdisjoint(pids(executor))
        assert lives(service(Path(executor.services["0"].environment[mps.PIPES])))
        if is_stuck:
            assert "could not be ended apart" in faults[1].record.reason
    assert gone(Path(executor.services["0"].environment[mps.PIPES]).parent)
