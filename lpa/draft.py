"""A folder that is written beside its place and moved there whole, or not at all."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from .config import UserError

DRAFT = ".lpanas-draft-"
MARKER = ".lpanas-draft"
"""In every draft: only what bears both the name and this file is ever removed."""


def free_place(folder: Path) -> tuple[Path, list[str]]:
    """(the folder, without links and `..` in its name; the names that it holds). Raises UserError, before any work, when
    nothing could be moved there."""
    said = f"--out {folder}"
    try:
        place = folder.resolve(strict=folder.is_symlink())
        held = sorted(os.listdir(place)) if place.exists() else []
        above = next((parent for parent in place.parents if parent.exists()), place)
    except FileNotFoundError:
        raise UserError(f"{said}: a link to nothing") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise UserError(f"{said}: {getattr(error, 'strerror', None) or 'a loop of links'}") from None
    if not above.is_dir():
        raise UserError(f"{said}: {above} is a file")
    if not held and place == Path.cwd():
        raise UserError(f"{said}: the current folder cannot be replaced; expected another one")
    if not held and os.path.ismount(place):
        raise UserError(f"{said}: a mount point cannot be replaced; expected a folder below it")
    try:
        str(place).encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{said}: its name is not UTF-8, so that no config could name it") from None
    return place, held


@contextmanager
def draft_of(folder: Path) -> Generator[Path]:
    """A hidden folder beside the place, gone at the end, and so are the folders above that were made for it and stay empty.

    What killed processes have left there is removed: a living one holds the lock of its draft.
    """
    place = folder.absolute().parent
    made = [path for path in (place, *place.parents) if not path.exists()]
    draft, lock = None, -1
    try:
        place.mkdir(parents=True, exist_ok=True)
        with _locked(place):
            _tidy(place)
            draft = Path(tempfile.mkdtemp(dir=place, prefix=DRAFT))
            (draft / MARKER).touch()
            lock = os.open(draft, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
        draft.chmod(0o777 & ~_umask())
        yield draft
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
        if lock >= 0:
            os.close(lock)
        with suppress(OSError):  # the first that is not empty
            for path in made:
                path.rmdir()


def move(draft: Path, folder: Path, proof: str) -> None:
    """The draft to its place. Where another process was faster, its folder stays: the one that holds the file `proof`."""
    try:
        draft.rename(folder)
    except OSError:
        if not (folder / proof).exists():
            raise
    else:
        (folder / MARKER).unlink()


def _tidy(place: Path) -> None:
    for left in place.glob(f"{DRAFT}*"):
        with suppress(OSError), _locked(left, fcntl.LOCK_NB):
            if (left / MARKER).exists():
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _locked(folder: Path, flag: int = 0) -> Generator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | flag)
        yield
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
