"""Text files that are, at any instant, the whole old one or the whole new one."""

import os
from pathlib import Path


def replace_text(path: Path, text: str, *, sync: bool = True) -> None:
    """Write a file beside its place and move it there. sync: also through a crash of the machine, which takes a disk's time."""
    draft = path.with_name(f".{path.name}.draft")
    with open(draft, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    draft.replace(path)
