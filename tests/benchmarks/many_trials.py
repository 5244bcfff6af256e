"""A study of many recorded trials: how long it takes to open, to propose, to tell and to report.

    python tests/benchmarks/many_trials.py [TRIALS | DIR]

Makes a study of the preset `projections` (16,384 points) with 5,000 candidates in a SQLite file, through the ledger that a
search writes with: arms, seeds, proposals; every second one stopped at the rung, one in a hundred failed, curves of 10
points from a formula. Then each step is measured in a process of its own, that process's start and imports included. DIR: a
folder that keeps the study; one that is there already is measured as it is.
"""

import math
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from random import Random
from subprocess import run

from lpanas.lpa.placement import parse_rank
from lpanas.search.budget import ARMS
from lpanas.search.candidate import Candidate
from lpanas.search.folder import driven, storage_url
from lpanas.search.ledger import NOISE, SEARCH, Ledger, open_ledger
from lpanas.search.presets import load_space
from lpanas.search.record import Job, Measured, Record
from lpanas.search.space import Space

LIMIT = 10.0
"""Seconds that opening, proposing and reporting may take each."""


def candidates(space: Space, random: Random) -> Iterator[Candidate]:
    """Feasible candidates, each once, in a random order."""
    seen = set[str]()
    while True:
        for candidate in map(space.candidate, space.points(random)):
            if candidate.feasible and candidate.trained not in seen:
                seen.add(candidate.trained)
                yield candidate


def job(space: Space, run: str, candidate: Candidate, **of: object) -> Job:
    """A job as the driver writes it."""
    fields = {"params": candidate.params, "model": candidate.proxy, "target": candidate.target, "costs": candidate.costs}
    return Job(run=run, seed=space.seed, feasible=candidate.feasible, rungs=space.rungs, **fields).change(**of)


def record(space: Space, job: Job, number: int, random: Random) -> Record:
    """How a run may have ended: a loss that grows with what was cut, and falls as a power of the tokens."""
    cut = sum(math.log2(1 / float(rank)) for rank in map(parse_rank, list(job.params.values())[:-2]) if rank)
    end, whole = 1.6 + 0.01 * cut + random.gauss(0, 0.005), space.proxy.steps * space.proxy.batch_tokens
    tokens = [*space.rungs, *(whole * tenth // 10 for tenth in range(3, 11)), whole // 10]
    curve = tuple((at, end * (at / whole) ** -0.05) for at in sorted(tokens))
    if job.arm is None and number % 100 == 7:
        return Record(**dict(job), status="failed", reason="the worker process ended (SIGKILL)")
    if job.arm is None and job.run.startswith(SEARCH) and number % 2:
        curve = tuple(point for point in curve if point[0] <= space.rungs[0])
    status = "complete" if curve[-1][0] == whole else "pruned"
    loss = end if status == "complete" else None
    measured = Measured(device="cpu", started=1.8e9 + number, seconds=60.0, train_seconds=58.0, peak_memory_bytes=10**9)
    return Record(
        **dict(job), status=status, reason="" if loss else "behind", loss_nats=loss, bits_per_byte=loss,
        tokens=curve[-1][0], curve=curve, measured=measured,
    )  # fmt: skip


def make(folder: Path, trials: int) -> None:
    """The study, written as a search writes it."""
    space, random = load_space("projections", [f"search.trials={trials + 1}"]), Random(0)
    folder.mkdir()
    jobs = [job(space, f"{SEARCH}-{n}", space.arm(arm), arm=arm) for n, arm in enumerate(ARMS)]
    jobs += [job(space, f"{NOISE}-{n}", space.arm("dense"), seed=n + 1) for n in range(space.search.noise_seeds - 1)]
    jobs += [job(space, f"{SEARCH}-{n + 4}", one) for n, one in enumerate(islice(candidates(space, random), trials - 4))]
    with driven(folder, space, "made up", None) as ledger:
        began = time.perf_counter()
        for number, one in enumerate(jobs):
            ledger.add(one.run.partition("-")[0], one)
            ledger.tell(record(space, one, number, random))
            if (number + 1) % 1000 == 0:
                print(f"  {number + 1:,} written: {time.perf_counter() - began:.1f} ms a job and its record", flush=True)
                began = time.perf_counter()


def reopened(folder: Path) -> tuple[Space, Ledger]:
    """The study as the driver opens it."""
    space = load_space("projections", [])
    return space, open_ledger(space, storage_url(folder), "lpanas")


def open_all(folder: Path) -> None:
    """What the driver does before its first proposal."""
    _, ledger = reopened(folder)
    assert ledger.recover() == []
    print(f"{len(ledger.records(SEARCH)):,} candidates, {len(ledger.records(NOISE))} seeds", end="; ")


def propose(folder: Path, sampler: str) -> None:
    """The next candidate, and the one after it."""
    from lpanas.search.propose import Proposer
    from lpanas.search.study import State

    space, ledger = reopened(folder)
    space = space.change(search=space.search.change(sampler=sampler))
    records, proposer = ledger.records(SEARCH), Proposer(space)
    for one in records:
        proposer.count(one)
    known = State(space, records, ledger.records(NOISE)).known
    for which in ("first", "second"):
        began = time.perf_counter()
        proposal = proposer.propose(known)
        assert proposal is not None
        proposer.count(job(space, f"{SEARCH}-{which}", proposal.candidate))
        print(f"the {which} {time.perf_counter() - began:.2f} s ({len(proposal.refused)} refused)", end="; ")


def tell(folder: Path) -> None:
    """One more job and its record."""
    space, ledger = reopened(folder)
    count = ledger.count(SEARCH)
    one = job(space, f"{SEARCH}-{count}", next(candidates(space, Random(1))))
    ended = record(space, one, 8, Random(2))
    for what, write in (("job", lambda: ledger.add(SEARCH, one)), ("record", lambda: ledger.tell(ended))):
        began = time.perf_counter()
        write()
        print(f"a {what} {1000 * (time.perf_counter() - began):.1f} ms", end="; ")


def report(folder: Path) -> None:
    """`lpanas report DIR`."""
    from lpanas.search.cli import app

    sys.stdout.flush()
    with open(os.devnull, "w") as nowhere:
        shown, sys.stdout = sys.stdout, nowhere
        app(["report", str(folder)], standalone_mode=False)
        sys.stdout = shown
    sizes = [f"{name} {(folder / name).stat().st_size / 2**20:.1f} MiB" for name in ("report.html", "records.jsonl")]
    print(", ".join(sizes), end="; ")


STEPS: dict[str, Callable[[Path], None]] = {
    "open": open_all,
    "propose gp": lambda folder: propose(folder, "gp"),
    "propose tpe": lambda folder: propose(folder, "tpe"),
    "tell": tell,
    "report": report,
}


def main() -> None:
    if len(sys.argv) == 3:
        STEPS[sys.argv[1]](Path(sys.argv[2]))
        print(f"largest {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
        return
    word = sys.argv[1] if sys.argv[1:] else "5000"
    trials = int(word) if word.isdigit() else 5000
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "study" if word.isdigit() else Path(word)
        if not folder.exists():
            print(f"making {trials:,} trials")
            make(folder, trials)
        for step in STEPS:
            print(f"{step}: ", end="", flush=True)
            began, cpu = time.perf_counter(), os.times().children_user
            run([sys.executable, __file__, step, str(folder)], check=True)
            seconds, cpu = time.perf_counter() - began, os.times().children_user - cpu
            print(f"  {seconds:.1f} s, {cpu:.1f} s of CPU{'' if seconds < LIMIT else f', above {LIMIT:.0f} s'}", flush=True)


if __name__ == "__main__":
    main()
