"""What a search's runs go on from: a folder each, in `checkpoints` of the study's folder."""

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from .record import Job, Record

CHECKPOINTS = "checkpoints"
KEPT_BYTES = 16 * 2**30
"""Of stopped runs' checkpoints (assumption); one takes 12 bytes a parameter of the proxy."""


def clear(checkpoints: Path | None, record: Record) -> None:
    """Remove what an ended run has no use for: all but that of a run that was stopped, which may be taken up again."""
    if checkpoints is not None and record.status != "pruned":
        shutil.rmtree(checkpoints / record.run, ignore_errors=True)
        with suppress(OSError):  # it is not empty, or was never made
            checkpoints.rmdir()


def trim(checkpoints: Path | None, in_use: Iterable[Job], limit: int = KEPT_BYTES) -> None:
    """Remove the oldest checkpoints of stopped runs until those that are left take no more than `limit` bytes. in_use: jobs
    whose checkpoints, and those of the runs that they continue, stay; their workers may move them at any moment."""
    if checkpoints is None or not checkpoints.exists():
        return
    used = {name for job in in_use for name in (job.run, job.continues)}
    kept = list[tuple[float, int, Path]]()
    for folder in checkpoints.iterdir():
        with suppress(OSError):  # it has just gone
            if folder.name not in used:
                size = sum(path.stat().st_size for path in folder.iterdir())
                kept.append((folder.stat().st_mtime, size, folder))
    total = sum(size for _, size, _ in kept)
    for _, size, folder in sorted(kept):
        if total > limit:
            total -= size
            shutil.rmtree(folder, ignore_errors=True)
