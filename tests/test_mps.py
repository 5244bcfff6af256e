"""The Multi-Process Service that workers of one GPU share; a program in NVIDIA's place writes down what it is told."""

import os
from pathlib import Path

import pytest
from lpanas.lpa.config import UserError
from lpanas.search import mps

PROGRAM = """#!/bin/bash
folders=$(ls -d "$CUDA_MPS_PIPE_DIRECTORY" "$CUDA_MPS_LOG_DIRECTORY" | wc -l)
echo "${{CUDA_VISIBLE_DEVICES-}}$@ | $(cat) | $CUDA_MPS_PIPE_DIRECTORY | $folders" >> {told}
exit {code}
"""


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the program heard, a line a call."""
    return installed(tmp_path, monkeypatch, 0)


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


def test_a_service_that_does_not_end_is_said_in_a_line(told: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with mps.serving(wanted=True):
        told.parent.joinpath("bin", "nvidia-cuda-mps-control").write_text("#!/bin/bash\nexit 1\n")
    assert "nvidia-cuda-mps-control failed" in capsys.readouterr().err


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
