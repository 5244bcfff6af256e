"""Writing an export anew over an earlier one: what was edited by hand is kept beside it, and a line says where."""

import hashlib
import shutil
from itertools import count
from pathlib import Path

from ..lpa.files import replace_text

STAMP = "# SHA-256 of the lines above, by which the next export knows an edited file, and keeps it: "


def replace_config(path: Path, text: str) -> list[str]:
    """Write a train.yaml, stamped; what was there, if that was another or was edited."""
    text += _stamp(text)
    if not path.exists():
        replace_text(path, text)
        return []
    before = path.read_text(encoding="utf-8", errors="replace")
    kept = "" if before == text or _is_stamped(before) else f"; that was not as exported, and is kept as {_keep(path)}"
    replace_text(path, text)
    if _bare(before) == _bare(text) and not kept:
        return []
    trained = path.parent / "train"
    more = f"; {trained} holds a training of that: give this one another --out" if trained.is_dir() else ""
    return [f"replaced {path}, {_what(_bare(before), _bare(text))}{kept}{more}"]


def replace_script(path: Path, text: str) -> list[str]:
    """Write a script that is the same for all; what was there, if that was another."""
    edited = path.exists() and path.read_bytes() != text.encode()
    said = [f"replaced {path}; what was there is kept as {_keep(path)}"] if edited else []
    replace_text(path, text)
    return said


def _what(before: list[str], after: list[str]) -> str:
    """What was there, in words. Both without comments, after the run that they are of."""
    was, now = before[0].removeprefix("# "), after[0].removeprefix("# ")
    if was == now:
        return f"which was of the same run, with other {'comments' if before == after else 'keys'}"
    return (
        f"which was: {was}" if was.startswith(("Exported by lpanas", "The dense twin")) else "which was not exported by lpanas"
    )


def _stamp(text: str) -> str:
    return f"{STAMP}{hashlib.sha256(text.encode()).hexdigest()[:16]}\n"


def _is_stamped(text: str) -> bool:
    """Whether it is, to the byte, as an export has written it."""
    above, found, _ = text.rpartition(STAMP)
    return bool(found) and text == above + _stamp(above)


def free_name(path: Path) -> Path:
    """The first of NAME.old, NAME.old-2, ... that is free."""
    names = (path.with_name(f"{path.name}.old{'' if number == 1 else f'-{number}'}") for number in count(1))
    return next(one for one in names if not one.exists())


def _keep(path: Path) -> Path:
    """Copy a file beside its place."""
    free = free_name(path)
    shutil.copy2(path, free)
    return free


def _bare(text: str) -> list[str]:
    """A config's lines without comments, and the run that it is of."""
    lines = text.splitlines()
    return [lines[0].split(". ", 1)[0] if lines else "", *(line for line in lines if not line.lstrip().startswith("#"))]
