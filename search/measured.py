"""What is measured before a study's first run and holds for all of them: a text in the study's storage, by the name of the
file in its folder that has a copy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..lpa.config import UserError
from ..lpa.files import replace_text
from .ledger import Ledger

Texts = Mapping[str, str]
"""By the name of the file."""


@dataclass(frozen=True)
class Kept:
    """A text that was written down."""

    text: str
    where: str
    """For errors."""


def text_of(folder: Path, file: str, texts: Texts) -> Kept | None:
    """The storage's text, or where it has none (it is of an older version, or there is no storage) the folder's; None where
    there is neither. Raises UserError."""
    path = folder / file
    if file in texts:
        return Kept(texts[file], in_storage(path))
    try:
        return Kept(path.read_text(encoding="utf-8"), str(path)) if path.exists() else None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def in_storage(path: Path) -> str:
    """The storage's text of a file, for errors."""
    return f"{path} in the storage"


def keep(folder: Path, file: str, text: str, ledger: Ledger, is_ours: Callable[[str], bool]) -> None:
    """Write it down, before the first run. is_ours: whether a text says the same as this one.

    Raises UserError when there are runs already, and what was measured for them is lost or is another than this.
    """
    held, path = ledger.measured.get(file), folder / file
    if held is None:
        if ledger.count(ledger.main) and not path.exists():
            raise UserError(f"{path}: missing, and the runs there go by it; put it back, or give another --out")
        ledger.keep_measured(file, text)
    elif not is_ours(held):
        raise UserError(f"{path}: another driver has begun the study with other times; the same command goes on with those")
    else:
        text = held
    if not path.exists() or path.read_bytes() != text.encode():
        replace_text(path, text)
