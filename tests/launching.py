"""Programs that tests start: none of their processes outlives the test, whatever becomes of it."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest

SECONDS = 150
"""After which a call of torchrun has failed; one takes ten or so, most of them imports."""


@contextmanager
def started(
    command: list[str], stderr: int = subprocess.PIPE, strict: bool = False, **environment: str
) -> Generator[subprocess.Popen[str]]:
    """A program, which has ended with all that it has started when the block has. That a wait for it takes too long is a
    failure, with the last it has said on standard error. strict: so is a process that would have outlived the block."""
    mark = f"lpanas_started={uuid4().hex}"
    whole = os.environ | environment | dict([mark.split("=")])
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=whole) as it:
        try:
            yield it
            left = marked(mark)
        except subprocess.TimeoutExpired as late:
            end(mark)
            out, error = it.communicate()
            pytest.fail(f"not done after {late.timeout} s: {(error or out)[-4000:]}")
        finally:
            end(mark)
    assert not (strict and left)


def output(command: list[str], seconds: float, **environment: str) -> str:
    """What a program prints that ends well."""
    with started(command, **environment) as it:
        out, error = it.communicate(timeout=seconds)
        assert it.returncode == 0, error[-4000:]
        return out


def marked(mark: str) -> list[int]:
    """The living processes that have inherited a mark."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def end(mark: str) -> None:
    """Those processes, and what they start meanwhile."""
    while left := marked(mark):
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


@contextmanager
def launched(
    processes: int, *words: object, restarts: int = 0, file_blocks: int | None = None
) -> Generator[subprocess.Popen[str]]:
    """`torchrun ...`, whose standard error is in its output. file_blocks: of 512 bytes, the most of a file."""
    agent = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    limit = [] if file_blocks is None else ["sh", "-c", f'ulimit -f {file_blocks} && exec "$0" "$@"']
    command = [*limit, *agent, f"--max-restarts={restarts}", *map(str, words)]
    with started(command, subprocess.STDOUT, strict=True, OMP_NUM_THREADS="1", PYTHONWARNINGS="default") as it:
        yield it


def children(process: int) -> list[int]:
    """Of a living one."""
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def torchrun(processes: int, *words: object, restarts: int = 0, file_blocks: int | None = None) -> tuple[int, str]:
    """Exit code and all that was printed."""
    with launched(processes, *words, restarts=restarts, file_blocks=file_blocks) as it:
        text, _ = it.communicate(timeout=SECONDS)
        return it.returncode, text


def lpanas_train(path: Path, out: Path, *words: object) -> tuple[object, ...]:
    """What torchrun is told to run."""
    return "--no-python", Path(sys.executable).with_name("lpanas"), "train", path, "--out", out, *words
