"""Text files that are, at any instant, the whole old one or the whole new one."""

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from .config import UserError


def replace_text(path: Path, text: str, *, sync: bool = True) -> None:
    """Write a file beside its place and move it there. sync: also through a crash of the machine, which takes a disk's time."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")  # two processes may write the same file
    try:
        with open(draft, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        with suppress(OSError):
            draft.unlink()
        raise


@contextmanager
def writing(folder: Path) -> Generator[None]:
    """Raises UserError where something in a folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from None


def forget_drafts(folder: Path) -> None:
    """Remove what replace_text has left in a folder, in processes that have been killed."""
    for draft in folder.glob(".*.draft"):
        process = draft.name.split(".")[-2]
        if process.isdecimal() and not _runs(int(process)):
            with suppress(OSError):
                draft.unlink()


def _runs(process: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True
