"""A study's folder: whose it is, who holds it, where it was made."""

import fcntl
import json
import os
import platform
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from sqlalchemy.engine import URL

from ..lpa.config import UserError, dump_yaml, one_line
from ..lpa.files import forget_drafts, replace_text
from .ledger import CONFIRM, SEARCH, Ledger, measured_in, open_ledger
from .space import Space
from .storage import shown

SPACE, DATABASE, ENVIRONMENT, RECORDS, LOCK = "space.yaml", "study.db", "environment.json", "records.jsonl", ".lock"
LIVE, PART = "live.json", "step_seconds.part.json"


WORDS = {SEARCH: "search", CONFIRM: "confirmation"}
"""What a study is of."""


def storage_url(folder: Path) -> str:
    """The URL of the folder's own SQLite file."""
    url = URL.create("sqlite", database=str((folder / DATABASE).absolute()))  # a name may hold what a URL would read otherwise
    return url.render_as_string()


def study_name(folder: Path, url: str | None) -> str:
    """The name of its Optuna studies: the folder's on a server, which holds many, and always the same in the folder's own
    file, so that the folder may be moved."""
    return folder.resolve().name if url else "lpanas"


def check_kind(folder: Path, of: str) -> Path:
    """A folder of a search, or of a confirmation, by check_folder. Raises UserError when it holds the other."""
    folder = check_folder(folder)
    if (folder / ENVIRONMENT).exists() and (kind := study_in(folder, None)[1]) != of:
        raise UserError(f"--out {folder}: holds a {WORDS[kind]}; expected a new folder, or that of a {WORDS[of]}")
    return folder


def check_folder(folder: Path, *markers: str) -> Path:
    """The folder, without `..` in its name; touches nothing. Raises UserError when it holds other things than a study's, or
    than what has one of the markers, patterns of names."""
    markers = markers or (ENVIRONMENT, DATABASE, LIVE, PART)  # the last two stay of a driver that stopped while it measured
    folder = folder.resolve() if ".." in folder.parts else folder
    try:
        names = sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []
    except OSError as error:
        raise UserError(f"--out {folder}: {error.strerror}") from None
    if set(names) - {LOCK} and not any(fnmatch(name, marker) for name in names for marker in markers):
        raise UserError(f"--out {folder}: holds '{names[-1]}' and no {markers[0]}; expected a new or empty folder")
    return folder


@contextmanager
def held(folder: Path) -> Generator[None]:
    """The folder, made if need be and held by this process alone; the hold ends with the process, however it ends.

    Raises UserError when it cannot be written or another process holds it.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / LOCK, "a+")  # noqa: SIM115 (held for the whole block)
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be written: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise UserError(f"--out {folder}: held by the running process {lock.read().strip() or 'of another user'}") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        forget_drafts(folder)
        try:
            yield
        finally:
            if [entry.name for entry in folder.iterdir()] == [LOCK]:  # a mistake was found before anything was written
                (folder / LOCK).unlink()
                if made:
                    folder.rmdir()


def write_setup(folder: Path, space: Space, study: str) -> None:
    """environment.json, an entry a call, and space.yaml, complete and as run. study: its name in the storage."""
    path = folder / ENVIRONMENT
    replace_text(path, json.dumps([*calls(folder), {"study": study, **environment(space)}], indent=1) + "\n")
    replace_text(folder / SPACE, dump_yaml(space, "The resolved space, as run."))


def calls(folder: Path) -> list[dict[str, Any]]:
    """The entries of environment.json so far, one a call. Raises UserError."""
    path = folder / ENVIRONMENT
    try:
        entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {one_line(error)}") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path}: expected a list of calls, an entry a call")
    return entries


def study_in(folder: Path, url: str | None) -> tuple[str, str]:
    """The name of the study whose folder it is, and what it is of: a search, or a confirmation. Raises UserError."""
    entries = calls(folder)
    words = str(entries[-1].get("study", "")) if entries else ""
    name, _, kind = words.rpartition(" ")
    return (name, kind) if kind == CONFIRM else (study_name(folder, url), SEARCH)


def environment(space: Space) -> dict[str, Any]:
    """What a reader needs to repeat a call: versions, commit, device, command line."""
    packages = ("lpanas", "torch", "optuna", "numpy", "pandas", "plotly", "pydantic", "scipy")
    on_gpu = space.proxy.device != "cpu" and torch.cuda.is_available()  # a cluster's head may have none, and its workers do
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": ["lpanas", *(shown(word) if "://" in word else word for word in sys.argv[1:])],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: metadata.version(name) for name in packages},
        "commit": commit(),
        "device": f"{torch.cuda.device_count()} GPUs" if on_gpu else f"cpu, {os.cpu_count()} cores",
    }


def measured_before(folder: Path, url: str | None, study: Path | None = None) -> dict[str, str]:
    """What the storage of a folder that may be new says was measured for its study, by file. study: as in driven. Raises
    UserError."""
    return measured_in(url or storage_url(folder), *_named(folder, url, study))


def _named(folder: Path, url: str | None, study: Path | None) -> tuple[str, str]:
    """The name of its study, and what it is of."""
    name = study_name(study or folder, url)
    if study is None:
        return name, SEARCH
    if url:  # a study may have several, each in a folder of its own
        name = f"{name}/{folder.resolve().name}"
    return name, CONFIRM


@contextmanager
def driven(folder: Path, space: Space, content: str, url: str | None, study: Path | None = None) -> Generator[Ledger]:
    """The ledger of a held folder, checked to be this space's on this data, and driven by this process alone. study: the folder
    of the search, for a confirmation in the other one. Raises UserError."""
    name, of = _named(folder, url, study)
    ledger = open_ledger(space, url or storage_url(folder), name, of=of)
    with closing(ledger), ledger.held():
        ledger.check(content)
        write_setup(folder, space, f"{name} {of}")
        yield ledger


def commit() -> str | None:
    """The commit of the checkout that this program runs from, with a + when it was changed; none for an installed copy."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=True)
        describe = [*git, "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
