"""Ends what is left of a Ray that a search had started for itself; a process of its own, which outlives a killed driver.

The kernel ends that Ray's raylet and head with their driver, but the raylet's agents go on for a minute: they want to tell the
head of its end first.
"""

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

SECONDS = 8.0
"""For which a process that is being started by another may still appear (assumption; measured: none does)."""


def marked(mark: str) -> list[int]:
    """Other processes that have a variable, NAME=VALUE, in their environment; none where the system has no /proc."""
    found = list[int]()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is not ours
            if f"{mark}\0".encode() in (folder / "environ").read_bytes() and int(folder.name) != os.getpid():
                found.append(int(folder.name))
    return found


def main() -> None:
    """Wait until the driver closes the pipe or ends; then end all that has its mark."""
    sys.stdin.read()
    until = time.monotonic() + SECONDS
    while (left := marked(sys.argv[1])) and time.monotonic() < until:
        for number in left:
            with suppress(OSError):
                os.kill(number, signal.SIGKILL)
        time.sleep(0.05)


if __name__ == "__main__":
    main()
