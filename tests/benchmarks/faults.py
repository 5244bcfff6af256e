"""A search of 40 short runs, hit at random: what is lost?

    python tests/benchmarks/faults.py [--seed N] [--kills 20] [--drivers 5] [--stops 2] [--workers 1] [--minutes 10]
        [--postgres | --storage URL] [--nodes 1] [--event COMMAND ...] [-- MORE WORDS OF lpanas search]

Runs `lpanas search` once undisturbed and once while, at moments drawn from the seed, its workers are killed (SIGKILL) and
stopped (SIGSTOP: they hang), its driver is killed and started again with the same command, its disk is full for some seconds
(a tmpfs that is filled; where none may be mounted, a limit on the size of files), its PostgreSQL server (--postgres: one of our
own) is away for 3 s, and each COMMAND is run once (say, one that ends a Ray node). Then it says what it checked; exit code 1:
something is wrong.

With --nodes N the searches run on a Ray of two nodes with a core each (with --workers 2 on both), and N times during the second
one a node is lost and another joins.

An event waits until a run has ended since the one before, so with one worker no run is hit twice, the order of runs and all
decisions at rungs are the undisturbed search's, and its records and front must be the same to the last bit, `measured` and
`attempts` aside. Where a run is a recorded failure after all, or with more workers, whose timing decides who is proposed and
who is stopped, only candidates that ended well in both are compared, and their front; that is said.
"""

import argparse
import atexit
import fcntl
import os
import resource
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Self

from lpanas.lpa.config import UserError
from lpanas.search.checkpoints import CHECKPOINTS
from lpanas.search.folder import LOCK, storage_url, study_name
from lpanas.search.ledger import open_ledger
from lpanas.search.presets import load_space
from lpanas.search.record import Record
from lpanas.search.results import Results, read_study
from lpanas.search.space import Space
from optuna.trial import FrozenTrial

sys.path.append(str(Path(__file__).parents[1]))
from postgres import Postgres

SPACE = f"""
name: faults
proxy:
  model: {{vocab_size: 264, d_model: 32, d_ff: 88, n_heads: 2, n_layers: 2, context: 64, rank_multiple: 4}}
  data: {{source: text, text: ['{sysconfig.get_path("stdlib")}/*.py'], valid_tokens: 8192}}
  optim: {{lr: 8e-3}}
  tokens: 102400
  batch_size: 8
  evals: 4
  device: cpu
target:
  model: {{shape: llama-9m, context: 256, rank_multiple: 8, ffn_multiple: 8}}
vary:
  ranks: {{attention: [dense, 1/4, 1/8], ffn: [dense, 1/2, 1/4, 1/8]}}
  bands: 2
arms: {{attention: 1/4, ffn: 1/4}}
objectives: [loss_nats, flops_per_token]
search: {{trials: 37, noise_seeds: 4, rungs: 1, hung_minutes: 0.1}}
"""
Events = list[tuple[str, Callable[[], object]]]
"""What happens, in words and as a call."""
Verdicts = Iterator[tuple[bool, str]]
"""What was looked at, and whether it is as it should be."""
KNOWN = ("torchinductor", "ray")
"""Temporary folders that others make and leave: compiled code, a Ray's logs."""
FULL_SECONDS = 6.0
"""For which the disk stays full, unless the driver ends before."""


@dataclass
class Search:
    """A search by the command line, in a process group of its own, started as often as it takes."""

    folder: Path
    words: list[str]
    environment: dict[str, str]
    storage: str | None
    driver: "subprocess.Popen[bytes] | None" = None
    exits: Counter[int] = field(default_factory=Counter)
    snapshots: dict[str, str] = field(default_factory=dict)
    """Every record as it was first seen."""
    changed: set[str] = field(default_factory=set)
    on_ray: bool = False
    records: list[Record] = field(default_factory=list)
    """As they were last seen."""
    slowest_end: float = 0.0
    """Seconds that the processes of a killed driver took to end."""

    def start(self) -> None:
        command = [sys.executable, "-c", "from lpanas.search.cli import main; main()", "search", *self.words]
        command += ["--out", str(self.folder), *(["--storage", self.storage] if self.storage else [])]
        self.driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=self.environment, start_new_session=True)

    def ended(self) -> int | None:
        """The exit code of a driver that has ended by itself."""
        assert self.driver is not None
        code = self.driver.poll()
        if code is not None:
            self.exits[code] += 1
            self.wait_for_group()
        return code

    def kill(self) -> None:
        assert self.driver is not None
        self.driver.kill()
        self.driver.wait()
        self.exits[-signal.SIGKILL] += 1
        self.wait_for_group()
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """A search that is given up ends."""
        if self.driver is not None and self.driver.poll() is None:
            self.driver.kill()
            self.driver.wait()

    def wait_for_group(self) -> None:
        """Until every process of the last driver's has ended, or 30 s."""
        assert self.driver is not None
        began = time.monotonic()
        while time.monotonic() - began < 30 and (group(self.driver.pid) or (self.on_ray and self.workers)):
            time.sleep(0.02)
        self.slowest_end = max(self.slowest_end, time.monotonic() - began)

    @property
    def workers(self) -> list[int]:
        """The children of the server that is the driver's child, or the actors."""
        if self.on_ray:
            return sorted(filter(is_actor, of_environment(self.environment)))
        parents = group(self.driver.pid) if self.driver is not None else {}
        return sorted(pid for pid, parent in parents.items() if self.driver and parents.get(parent) == self.driver.pid)

    def look(self) -> list[Record]:
        """The records by now, compared with those seen before."""
        with suppress(UserError):  # the study is being made, or its server is away
            found = read_study(self.folder, self.storage)
            self.records = [*found.records, *found.seeds]
        for record in self.records:
            text = self.snapshots.setdefault(record.run, record.model_dump_json())
            if text != record.model_dump_json():
                self.changed.add(record.run)
        return self.records

    def trials(self) -> list[FrozenTrial]:
        """All trials of its studies, as Optuna reads them."""
        space, url = load_space(self.words[0], []), self.storage or storage_url(self.folder)
        with closing(open_ledger(space, url, study_name(self.folder, self.storage), create=False)) as ledger:
            return [trial for study in ledger.studies.values() for trial in ledger.storage.get_all_trials(study)]


def is_actor(pid: int) -> bool:
    """Whether a process is a worker on Ray."""
    with suppress(OSError):
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().startswith(b"ray::Trainer")
    return False


class Nodes:
    """A Ray of two nodes on this machine, the second of which can be lost."""

    def __init__(self, environment: dict[str, str]) -> None:
        os.environ |= {name: environment[name] for name in ("TMPDIR", "LPANAS_CACHE", "OMP_NUM_THREADS")} | {"SPT_NOENV": "1"}
        from ray.cluster_utils import Cluster

        soon = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
        self.one = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=self.one | {"_system_config": soon})
        self.second = self.cluster.add_node(**self.one)
        environment |= {"RAY_ADDRESS": self.cluster.address}

    def lose(self) -> None:
        self.cluster.remove_node(self.second, allow_graceful=False)
        self.second = self.cluster.add_node(**self.one)


def group(leader: int) -> dict[int, int]:
    """The living processes of a process group, and their parents."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent, pgrp, *_ = entry.read_text().rpartition(")")[2].split()
            if int(pgrp) == leader and state != "Z":
                found[int(entry.parent.name)] = int(parent)
    return found


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A folder with a disk of its own of 64 MiB, where that may be made; whether it was."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "lpanas-faults", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def fill(search: Search, mounted: bool) -> None:
    """No process of the search can write for some seconds."""
    assert search.driver is not None
    filler, limit = search.folder.parent / "filler", (1000, resource.RLIM_INFINITY)
    if mounted:
        with suppress(OSError), open(filler, "wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
    else:
        for pid in group(search.driver.pid):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)
    until = time.monotonic() + FULL_SECONDS
    while time.monotonic() < until and search.driver.poll() is None:
        time.sleep(0.05)
    filler.unlink(missing_ok=True)
    for pid in [] if mounted else group(search.driver.pid):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def hit(search: Search, number: signal.Signals, random: Random) -> bool:
    """Send a signal to a worker; whether there was one."""
    with suppress(ProcessLookupError, IndexError):
        os.kill(random.choice(search.workers), number)
        return True
    return False


def disturb(search: Search, events: Events, random: Random, planned: int, until: float, run_seconds: float = 0.0) -> None:
    """Run the search to its end; an event within so many seconds after each of as many ended runs, drawn evenly."""
    places = sorted(random.sample(range(1, planned - 1), len(events)))
    last, began = 0, time.monotonic()
    search.start()
    while time.monotonic() < until:
        done = len(search.look())
        code = search.ended()
        if code == 0:
            break
        if code is not None:
            search.start()
        elif places and done >= places[0] and done > last and search.workers:
            time.sleep(random.random() * run_seconds)
            if search.driver is None or search.driver.poll() is not None or not search.workers:
                continue
            name, do = events.pop(0)
            print(f"{time.monotonic() - began:6.1f} s  {done:2} of {planned} ended: {name}", flush=True)
            last = len(search.look())
            places.pop(0)
            do()
        else:
            time.sleep(0.2)


def plain(record: Record) -> Record:
    return record.change(measured=None, attempts=(), microbatch=None)


def check(undisturbed: list[Record], search: Search, planned: int, workers: int, events_left: int) -> Verdicts:
    records, trials, space = search.look(), search.trials(), load_space(search.words[0], [])
    runs = Counter(record.run for record in records)
    ended = sum(trial.state.is_finished() and "record" in trial.user_attrs for trial in trials)
    statuses = ", ".join(f"{count} {status}" for status, count in Counter(record.status for record in records).items())
    yield events_left == 0, f"all events took place ({events_left} did not)"
    yield len(runs) == len(records) == len(trials) == ended == planned, f"{planned} runs planned, one record each: {statuses}"
    yield not search.changed, f"{len(search.snapshots)} records as they were first seen, changed since: {len(search.changed)}"
    failed = [record for record in records if record.status == "failed"]
    for record in failed:
        print(f"a recorded failure: {record.run}, {record.reason}; before: {'; '.join(record.attempts)}")
    if workers == 1 and not failed:
        same = sorted(map(plain, records), key=str) == sorted(map(plain, undisturbed), key=str)
        yield same, "all records are those of the undisturbed search, to the last bit"
    both = [{key(one): one for one in found if one.status == "complete"} for found in (undisturbed, records)]
    common = both[0].keys() & both[1].keys()
    fronts = [[key(one) for one in front([found[each] for each in sorted(common)], space)] for found in both]
    curves = all(both[0][each].curve == both[1][each].curve for each in common)
    where = f"over the {len(common)} candidates that ended well in both ({len(both[0])} and {len(both[1])} did)"
    yield fronts[0] == fronts[1] and curves, f"the front, {len(fronts[0])} records, is the undisturbed search's, {where}"


def key(record: Record) -> str:
    return f"{record.model.model_dump_json()} {record.seed}"


def front(records: list[Record], space: Space) -> list[Record]:
    return Results(space, records, []).front


def nothing_is_left(search: Search, shared: set[str], temporary: Path) -> Verdicts:
    left = of_environment(search.environment)
    yield not left, f"no process is left ({len(left)}); a driver's ended within {search.slowest_end:.1f} s of it"
    new = {name for name in os.listdir("/dev/shm") if not name.startswith("PostgreSQL.")} - shared  # a server's is its own
    yield not new, f"nothing new in /dev/shm {sorted(new) or ''}"
    drafts = [path.name for path in search.folder.rglob("*.draft")]
    yield not drafts, f"no draft of a file is left {drafts or ''}"
    sockets = list(temporary.glob("pymp-*"))  # multiprocessing's, with the socket of the server
    others = [path.name for path in temporary.iterdir() if path not in sockets and not path.name.startswith(KNOWN)]
    killed = search.exits[-signal.SIGKILL]
    yield (
        not others and len(sockets) <= killed,
        f"{len(sockets)} folders with a dead socket, of {killed} killed drivers",
    )
    with open(search.folder / LOCK) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield True, "nobody holds the folder"
        except OSError:
            yield False, "somebody holds the folder"
    stopped = {record.run for record in search.look() if record.status == "pruned"}
    kept = {path.name for path in search.folder.glob(f"{CHECKPOINTS}/*")}
    yield kept <= stopped, f"checkpoints are left of {len(kept)} runs, all stopped at a rung"


def of_environment(environment: dict[str, str]) -> list[int]:
    """The processes that have our temporary folder in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"TMPDIR={environment['TMPDIR']}\0".encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
    return found


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=20, help="of workers")
    parser.add_argument("--drivers", type=int, default=5, help="kills of the driver")
    parser.add_argument("--stops", type=int, default=2, help="of workers, which then hang")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10.0, help="after which the disturbed search is given up")
    parser.add_argument("--postgres", action="store_true", help="on a PostgreSQL server of our own, which is restarted once")
    parser.add_argument("--storage", help="a server's URL instead of the folder's own file")
    parser.add_argument("--event", action="append", default=[], help="a command that is run once during the search")
    parser.add_argument("--nodes", type=int, default=0, help="of a Ray that are lost, each once; the searches run on it")
    parser.add_argument("more", nargs="*", help="further words for lpanas search")
    return parser.parse_args()


def main() -> None:
    options_ = options()
    random = Random(options_.seed)
    server = Postgres() if options_.postgres else None
    if server is not None:
        server.start()
        atexit.register(server.close)
        options_.storage = server.database("faults")
    with tempfile.TemporaryDirectory() as home_name, small_disk(Path(home_name) / "disk") as mounted:
        home = Path(home_name)
        (home / "faults.yaml").write_text(SPACE)
        temporary = home / "tmp"
        temporary.mkdir()
        environment = os.environ | {"TMPDIR": str(temporary), "LPANAS_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1"}
        words = [str(home / "faults.yaml"), "--workers", str(options_.workers), *options_.more]
        ray = Nodes(environment) if options_.nodes else None
        words += ["--executor", "ray"] if ray else []
        space = load_space(words[0], [])
        planned = space.search.trials + space.search.noise_seeds - 1
        shared = set(os.listdir("/dev/shm"))

        began = time.monotonic()
        with Search(home / f"calm-{os.getpid()}", words, environment, options_.storage, on_ray=ray is not None) as calm:
            disturb(calm, [], random, planned, began + 60 * options_.minutes)
        undisturbed = calm.look()
        seconds = time.monotonic() - began
        print(f"undisturbed: {len(undisturbed)} runs in {seconds:.0f} s, load {os.getloadavg()[0]:.1f}", flush=True)

        search = Search(home / "disk" / f"hit-{os.getpid()}", words, environment, options_.storage, on_ray=ray is not None)
        events: Events = [
            *[("a worker is killed", lambda: hit(search, signal.SIGKILL, random))] * options_.kills,
            *[("a worker is stopped and hangs", lambda: hit(search, signal.SIGSTOP, random))] * options_.stops,
            *[("the driver is killed and started again", search.kill)] * options_.drivers,
            (f"the disk is full ({'tmpfs' if mounted else 'limit on files'})", lambda: fill(search, mounted)),
            *([("a Ray node is lost, and another joins", ray.lose)] * options_.nodes if ray else []),
            *([("the PostgreSQL server is away for 3 s", lambda: server.restart(3.0))] if server else []),
            *[(command, lambda command=command: subprocess.run(command, shell=True, check=True)) for command in options_.event],
        ]
        random.shuffle(events)
        print(f"{len(events)} events, seed {options_.seed}", flush=True)
        began = time.monotonic()
        with search:
            disturb(search, events, random, planned, began + 60 * options_.minutes, 0.6 * seconds / planned)
        exits = ", ".join(f"{count} x {code}" for code, count in sorted(search.exits.items()))
        tried = sum(len(record.attempts) for record in search.look())
        print(f"disturbed: {time.monotonic() - began:.0f} s; the driver's exit codes: {exits}; {tried} attempts failed")
        if ray:
            ray.cluster.shutdown()
        verdicts = [
            *check(undisturbed, search, planned, options_.workers, len(events)),
            *nothing_is_left(search, shared, temporary),
        ]
    for good, text in verdicts:
        print(f"{'ok ' if good else 'BAD'} {text}")
    sys.exit(not all(good for good, _ in verdicts))


if __name__ == "__main__":
    main()
