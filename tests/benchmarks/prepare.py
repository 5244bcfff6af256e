"""Peak memory and speed of `lpanas prepare` on one core, on text that repeats only in part.

    python tests/benchmarks/prepare.py [--megabytes 200] [--tokenizer bpe|bytes] [--vocab-size 32000] [--form jsonl|txt]

The text is drawn from the standard library's lines, with one word in twenty changed to a random one, in documents of 1 to 20
KB (jsonl) or as one file (txt). Memory is the process's own peak (ru_maxrss), speed is megabytes of text a second of the
whole command, and a core's: a second of processor time.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path


def documents(size: int) -> Iterator[str]:
    root = Path(sysconfig.get_paths()["stdlib"])
    lines = [line for path in sorted(root.glob("*.py")) for line in path.read_text("utf-8", "ignore").splitlines()]
    chance, done = random.Random(0), 0
    while done < size:
        first = chance.randrange(len(lines))
        text = "\n".join(lines[first : first + chance.randint(30, 600)])
        text = re.sub(r"\w+", lambda word: f"{chance.getrandbits(30):x}" if chance.random() < 0.05 else word[0], text)
        done += len(text)
        yield text


def write(path: Path, size: int) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for text in documents(size):
            file.write(json.dumps({"text": text}) + "\n" if path.suffix == ".jsonl" else text + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--tokenizer", default="bpe")
    parser.add_argument("--vocab-size", type=int, default=32000)
    parser.add_argument("--form", default="jsonl")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"text.{given.form}"
        write(path, given.megabytes * 10**6)
        words = ["prepare", str(path), "--out", f"{folder}/shards", "--tokenizer", given.tokenizer]
        words += ["--vocab-size", str(given.vocab_size)] if given.tokenizer == "bpe" else []
        command = [sys.executable, "-c", "from lpanas.search.cli import main; main()", *words]
        began = time.time()
        process = subprocess.Popen(["taskset", "-c", "0", *command], env=os.environ | {"RAYON_NUM_THREADS": "1"})
        _, status, used = os.wait4(process.pid, 0)
        seconds, core = time.time() - began, used.ru_utime + used.ru_stime
        meta = json.loads((Path(folder) / "shards" / "meta.json").read_text())
        size = sum(meta["text_bytes"].values()) / 1e6
        print(f"exit {status}: {size:.0f} MB of text, {sum(meta['tokens'].values()):,} tokens of {meta['vocab_size']:,}")
        print(f"peak memory {used.ru_maxrss / 1024:.0f} MiB")
        print(f"{seconds:.1f} s, {size / seconds:.1f} MB/s; {core:.1f} s of a core, {size / core:.1f} MB/s a core")


if __name__ == "__main__":
    main()
