"""The Multi-Process Service that workers of one GPU share; a program in NVIDIA's place starts and ends a process, and writes
down what it is told."""

import os
import signal
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from launching import started
from lpanas.lpa.config import UserError
from lpanas.search import mps
from lpanas.search.process import born

PROGRAM = """#!/bin/bash
folders=$(ls -d "$CUDA_MPS_PIPE_DIRECTORY" "$CUDA_MPS_LOG_DIRECTORY" | wc -l)
echo "${{CUDA_VISIBLE_DEVICES-}}$@ | $(cat) | $CUDA_MPS_PIPE_DIRECTORY | $folders" >> {told}
if [ {code} = 0 ] && [ "$*" = -d ]; then
    setsid sleep 1000 < /dev/null > /dev/null 2>&1 &
    echo $! > "$CUDA_MPS_PIPE_DIRECTORY/pid"
elif [ {code} = 0 ]; then
    kill "$(cat "$CUDA_MPS_PIPE_DIRECTORY/pid")"
fi
exit {code}
"""
DRIVER = """
import time
from lpanas.search.mps import serving
with serving(wanted=True) as environment:
    print(environment["CUDA_MPS_PIPE_DIRECTORY"], flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the program heard, a line a call."""
    return installed(tmp_path, monkeypatch, 0)


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a service's folder lies."""
    folder = tmp_path_factory.mktemp("temporary")
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


def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> Path:
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")  # which the service would number anew
    program, told = tmp_path / "bin" / "nvidia-cuda-mps-control", tmp_path / "told"
    program.parent.mkdir()
    program.write_text(PROGRAM.format(told=told, code=code))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return told


def test_a_service_lives_as_long_as_the_block_in_folders_of_its_own(told: Path) -> None:
    with mps.serving(wanted=True) as environment:
        pipes = environment["CUDA_MPS_PIPE_DIRECTORY"]
        assert told.read_text() == f"-d |  | {pipes} | 2\n"
    assert told.read_text().splitlines()[1] == f" | quit | {pipes} | 2"
    assert not Path(pipes).parent.exists()
    assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ


def test_it_ends_although_the_search_failed(told: Path) -> None:
    with pytest.raises(ZeroDivisionError), mps.serving(wanted=True):
        raise ZeroDivisionError
    assert "quit" in told.read_text()


def test_a_service_that_does_not_end_is_said_in_a_line_and_keeps_its_folder(
    told: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with mps.serving(wanted=True) as environment:
        told.parent.joinpath("bin", "nvidia-cuda-mps-control").write_text("#!/bin/bash\nexit 1\n")
    assert "nvidia-cuda-mps-control failed" in capsys.readouterr().err
    pid = service(Path(environment["CUDA_MPS_PIPE_DIRECTORY"]))
    assert lives(pid)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("wanted", [False, True])
def test_what_a_killed_driver_has_left_is_ended_by_the_next_one_and_nobody_elses(
    wanted: bool, told: Path, temporary: Path
) -> None:
    with driver() as (killed, left), driver() as (_, other):
        os.kill(killed, signal.SIGKILL)
        os.waitid(os.P_PID, killed, os.WEXITED | os.WNOWAIT)
        (temporary / f"{mps.PREFIX}begun").mkdir()  # by a driver that has not yet written its name there
        elsewhere = temporary / f"{mps.PREFIX}elsewhere"
        elsewhere.mkdir()
        (elsewhere / mps.OWNER).write_text(f"another-machine {killed} 1")
        pid = service(left)
        assert lives(pid)
        with mps.serving(wanted):
            assert not lives(pid)
            assert lives(service(other))
        assert f" | quit | {left} | 2" in told.read_text()
        assert {path.name for path in temporary.iterdir()} == {f"{mps.PREFIX}begun", elsewhere.name, other.parent.name}


def test_the_folder_of_a_service_that_is_gone_with_its_driver_is_removed(
    told: Path, temporary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with driver() as (killed, left):
        os.kill(service(left), signal.SIGKILL)
        os.kill(killed, signal.SIGKILL)
        os.waitid(os.P_PID, killed, os.WEXITED | os.WNOWAIT)
        mps.end_left()
        assert list(temporary.iterdir()) == []
        assert capsys.readouterr().err == ""
    assert told.exists()


def test_nothing_starts_where_it_is_not_wanted_or_one_is_named(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mps.serving(wanted=False) as environment:
        assert environment == {}
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "/somewhere")
    with mps.serving(wanted=True) as environment:
        assert environment == {}
    assert not told.exists()


def test_without_the_program_or_when_it_fails_there_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"search\.mps: there is no nvidia-cuda-mps-control here"), mps.serving(wanted=True):
        pass
    monkeypatch.undo()
    installed(tmp_path, monkeypatch, 1)
    with pytest.raises(UserError, match=r"search\.mps: nvidia-cuda-mps-control failed"), mps.serving(wanted=True):
        pass
