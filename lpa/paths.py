"""The words that name a source -> its files: names, folders, globs; one rule for links; what is no text is said."""

import errno
import fnmatch
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from .config import UserError

MAGIC = frozenset("*?[")
SHARDS = frozenset({"meta.json", "train.bin", "valid.bin", "test.bin"})
"""A folder that holds all of these holds token shards: what was made of text is not read as text."""


def files_of(word: str) -> list[Path]:
    """The files that a word names. A name that exists is taken literally, anything else as a glob, in which `**` is any
    number of folders; of a folder, all that lie below it. Hidden ones count only where they are spelt out.

    Links are followed, each folder once, so that a loop ends. Folders of token shards are left out. Raises UserError: no such
    files, or a folder that cannot be read.
    """
    path = Path(os.path.expanduser(word))
    mode = _mode(path, follow=False)
    if mode is not None:
        return _named(word, path)
    if not MAGIC & set(word):
        raise UserError(f"data.text: no file matches '{word}'")
    found = sorted({*_expand(Path(path.anchor), path.relative_to(path.anchor).parts)})
    files = [path for path in found if stat.S_ISREG(_mode(path) or 0)]
    if not files:
        folders = f", only folders; for their files write '{word.rstrip('/')}/**'" if found else ""
        raise UserError(f"data.text: no file matches '{word}'{folders}")
    return files


def _named(word: str, path: Path) -> list[Path]:
    mode = _mode(path)
    if mode is None:
        raise UserError(f"data.text: '{word}' is a link to nothing")
    if stat.S_ISREG(mode):
        return [path]
    if not stat.S_ISDIR(mode):
        raise UserError(f"data.text: '{word}' is neither a file nor a folder")
    if set(_names(path)) >= SHARDS:
        raise UserError(f"data.text: '{word}' holds token shards already; a space or a config reads them with 'source: shards'")
    files = below(path)
    if not files:
        raise UserError(f"data.text: the folder '{word}' holds no files (hidden ones do not count)")
    return files


def below(folder: Path) -> list[Path]:
    """The files of a folder and of its folders, hidden ones left out. Raises UserError: a folder that cannot be read."""
    inner = (path for place in _folders(folder) for path in _entries(place))
    return sorted(path for path in inner if stat.S_ISREG(_mode(path) or 0))


def _folders(folder: Path) -> Iterator[Path]:
    """A folder and the folders below it, each once, however many links lead to it."""
    waiting, seen = [folder], set[tuple[int, int]]()
    while waiting:
        place = waiting.pop()
        status = place.stat()
        if (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            yield place
            waiting += [path for path in reversed(_entries(place)) if stat.S_ISDIR(_mode(path) or 0)]


def _entries(folder: Path, hidden: bool = False) -> list[Path]:
    names = _names(folder)
    if set(names) >= SHARDS:
        return []
    return [folder / name for name in names if hidden or not name.startswith(".")]


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f"data: the folder {folder} cannot be read: {error.strerror}") from None


def _expand(folder: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    """What below a folder matches the parts of a glob."""
    if not parts:
        yield folder
    elif parts[0] == "**":
        for place in _folders(folder):
            yield from _expand(place, parts[1:] or ("*",))
    elif not MAGIC & set(parts[0]):
        if _mode(folder / parts[0]) is not None:
            yield from _expand(folder / parts[0], parts[1:])
    elif stat.S_ISDIR(_mode(folder) or 0):
        for path in _entries(folder, parts[0].startswith(".")):
            if fnmatch.fnmatchcase(path.name, parts[0]):
                yield from _expand(path, parts[1:])


def _mode(path: Path, follow: bool = True) -> int | None:
    """What kind of thing a path is; None where there is nothing."""
    try:
        return os.stat(path, follow_symlinks=follow).st_mode
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise UserError(f"data.text: {path} cannot be read: {error.strerror}") from None
    except ValueError:  # a NUL
        return None
