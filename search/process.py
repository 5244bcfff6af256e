"""Which process of which machine: what tells a living one from a later one of the same number."""

import os
import platform
from functools import cache
from pathlib import Path


@cache
def machine() -> str:
    """The same for two processes that can see each other: one boot of one kernel, one space of process numbers."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return platform.node()


def born(pid: int) -> str:
    """When a process started; empty where that cannot be seen, `ended` for one that only waits to be taken note of."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return ""
    return "ended" if state in "ZX" else rest[18]
