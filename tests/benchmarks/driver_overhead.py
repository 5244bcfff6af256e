"""What a search takes besides training: process start, imports, proposals, bookkeeping, tables, page and export.

    python tests/benchmarks/driver_overhead.py [SPACE] [--set key=value ...]

Runs `lpanas search` (quickstart by default) once and prints the share of the workers' time that was not spent in runs. What a
worker waits at the end for the others' last runs is not the driver's and is printed apart.
"""

import sys
import tempfile
import time
from pathlib import Path
from subprocess import run

from lpanas.search.stored import read_records


def main() -> None:
    words = sys.argv[1:] if sys.argv[1:2] and not sys.argv[1].startswith("-") else ["quickstart", *sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "study"
        began = time.time()
        run([sys.executable, "-c", "from lpanas.search.cli import main; main()", "search", *words, "--out", out], check=True)
        ended = time.time()
        runs = [record.measured for record in read_records(out / "records.jsonl") if record.measured]
    ends = sorted(measured.started + measured.seconds for measured in runs)
    busy = sum(measured.seconds for measured in runs)
    workers = max(sum(a.started <= b.started < a.started + a.seconds for a in runs) for b in runs)
    tail = sum(ends[-1] - end for end in ends[-workers:])
    whole = workers * (ended - began)
    print(f"{len(runs)} runs on {workers} workers in {ended - began:.1f} s")
    print(f"training      {busy / whole:7.2%}  ({busy / len(runs):.2f} s a run)")
    print(f"last run's end{tail / whole:7.2%}")
    print(f"overhead      {1 - (busy + tail) / whole:7.2%}  ({whole - busy - tail:.1f} worker-seconds)")
    first = min(measured.started for measured in runs) - began
    print(f"  before the first run {first:.1f} s, after the last {ended - ends[-1]:.1f} s")
    print(f"largest worker {max(measured.peak_memory_bytes for measured in runs) / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
