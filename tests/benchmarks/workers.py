"""How much faster a search's runs end on several local workers than on one.

    python tests/benchmarks/workers.py [--workers N] [--pairs N] [SPACE] [key=value ...]

Runs `lpanas search` (quickstart by default; N workers, one a core if left out) on N workers and on one, by turns, with the same
runs: a random sampler, whose proposals do not depend on what others have shown, and no rung. Prints how many times as fast the
whole command was (start, tables and export included), and from the first run's start to the last run's end.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from subprocess import run

from lpanas.search.record import Measured
from lpanas.search.stored import read_records

SAME_RUNS = ["--set", "search.sampler=random", "--set", "search.rungs=0"]


def search(words: list[str], workers: int) -> tuple[float, float, list[str]]:
    """Seconds of the whole command and from the first run's start to the last one's end; the runs."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "study"
        began = time.perf_counter()
        command = [sys.executable, "-c", "from lpanas.search.cli import main; main()", "search", *words]
        run([*command, "--out", out, "--workers", str(workers), *SAME_RUNS], check=True, capture_output=True)
        seconds = time.perf_counter() - began
        records = read_records(out / "records.jsonl")
    measured: list[Measured] = [record.measured for record in records if record.measured]
    ends = max(one.started + one.seconds for one in measured)
    training = sum(one.seconds for one in measured) / len(measured)
    print(f"  {workers} at a time: {seconds:.1f} s, {len(records)} runs, {training:.2f} s each", flush=True)
    return seconds, ends - min(one.started for one in measured), sorted(f"{r.placement} {r.seed}" for r in records)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("words", nargs="*")
    args = parser.parse_args()
    space = [word for word in args.words if "=" not in word][:1] or ["quickstart"]
    words = space + [part for word in args.words if "=" in word for part in ("--set", word)]
    for _ in range(args.pairs):
        whole, runs, same = search(words, args.workers)
        one_whole, one_runs, one_same = search(words, 1)
        assert same == one_same, "the two searches trained different models"
        print(f"{args.workers} workers are {one_whole / whole:.2f} times as fast, {one_runs / runs:.2f} in the runs alone")


if __name__ == "__main__":
    main()
