"""Stages of a measurement, each bounded in time, whose rows are in a file as soon as they are there."""

import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from clocks import Clocks, constants
from contenders import last_lines
from lpanas.lpa.config import UserError, one_line
from lpanas.lpa.files import replace_text
from lpanas.lpa.metrics import device_name
from lpanas.lpa.step_table import driver, processor
from lpanas.search.folder import commit

Rows = Iterator[dict[str, Any]]

PACKAGES = ("lpanas", "torch", "triton", "transformers", "litgpt")
ENDING_SECONDS = 30
"""For a process that is asked to end (assumption)."""


class OverError(BaseException):
    """A stage's time is over. No part of a stage takes it for a failure of its own."""


class Report:
    """What the stages found, and where it is kept."""

    def __init__(self, path: Path | None, device: torch.device, clocks: Clocks | None = None) -> None:
        """path: may have stages of other calls, which stay. Raises UserError when it cannot be read or written, and when what
        it has was measured elsewhere or otherwise."""
        self.path, self.clocks, self.failed = path, clocks or Clocks(), False
        here = environment(device)
        self.found: dict[str, Any] = (kept(path, here) if path else {}) | {"command": sys.argv, "environment": here}
        try:
            self.write()
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror}") from None

    def run(self, name: str, stage: Callable[[], Rows], limit: float) -> None:
        """A stage, to its end, its failure or its limit in seconds; its rows stay whichever it is."""
        its: dict[str, Any] = {"command": sys.argv, "rows": []}
        self.found[name], began = its, time.perf_counter()
        before = signal.signal(signal.SIGALRM, _over)
        signal.setitimer(signal.ITIMER_REAL, limit)
        try:
            for row in stage():
                its["rows"].append(row)
                self.failed |= "failed" in row
                self.write()
                print(f"{name}: {json.dumps(finite(row))[:400]}", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            its["failed"] = "interrupted"
            raise
        except OverError:
            its["failed"] = f"stopped after {limit:g} s"
        except Exception as error:  # the other stages are worth having
            its["failed"] = last_lines(error)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            self.failed |= "failed" in its
            ended = time.perf_counter()
            its |= {"seconds": ended - began, "clocks": self.clocks.during(began, ended)}
            self.write()

    @property
    def text(self) -> str:
        """As JSON, null for what is no number."""
        return json.dumps(finite(self.found), indent=1, allow_nan=False)

    def write(self) -> None:
        """Into its file."""
        if self.path:
            replace_text(self.path, self.text + "\n")


def kept(path: Path, here: dict[str, Any]) -> dict[str, Any]:
    """What a file has of other calls; nothing where there is none. here: this call's environment. Raises UserError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        there = found["environment"]
        keys = sorted({*there, *here} - {"time"})
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: none of this program's results ({one_line(error)}); name another file") from None
    other = [f"{key} ({there.get(key)} there, {here.get(key)} here)" for key in keys if there.get(key) != here.get(key)]
    if other:
        raise UserError(f"{path}: measured otherwise: {', '.join(other)}; name another file")
    return found


def _over(*_: object) -> None:
    raise OverError


def finite(value: Any) -> Any:
    """Plain data in which None stands for infinite numbers and for those that are none."""
    if isinstance(value, dict):
        return {key: finite(its) for key, its in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(its) for its in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def output(words: Sequence[str], seconds: float, env: Mapping[str, str] | None = None) -> str:
    """What a program prints. Whatever ends the wait ends the program: first it is asked, so that it may end its own. Raises
    RuntimeError with the last of what it said when it fails, or takes longer."""
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    try:
        out, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        said = _end(process)
        raise RuntimeError(f"not done after {seconds:g} s: {said[-1500:]}") from None
    except BaseException:
        _end(process)
        raise
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {said[-1500:]}")
    return out


def _end(process: subprocess.Popen[str]) -> str:
    """Its last words."""
    process.terminate()
    try:
        return process.communicate(timeout=ENDING_SECONDS)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[1]


def environment(device: torch.device) -> dict[str, Any]:
    """Device, versions, and what of its GPU does not change."""
    found: dict[str, Any] = {"python": platform.python_version(), "time": time.time(), "commit": commit()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    found |= {"device": device_name(device), "processor": processor(), "threads": torch.get_num_threads()}
    if device.type != "cuda":
        return found
    return found | {"cuda": torch.version.cuda, "driver": driver(), **constants(device)}


def one_gpu(device: torch.device) -> dict[str, str]:
    """The environment of a program that is to see this process's first GPU alone, which is the one that is measured."""
    if device.type != "cuda":
        return dict(os.environ)
    return os.environ | {"CUDA_VISIBLE_DEVICES": (os.environ.get("CUDA_VISIBLE_DEVICES") or "0").split(",")[0]}
