"""Text that becomes tokens, on the command line: what is named, progress, what came of it. Nothing here imports torch."""

import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ..lpa.config import UserError
from ..lpa.shards import Shards
from ..lpa.sources import DataConfig, Watch, unwatched
from ..lpa.splits import SPLITS

WIDTH = 120
"""Columns where there is no terminal to ask."""


def config(
    source: Sequence[str], tokenizer: str, vocab_size: int | None, text_field: str, end_of_text: str | None
) -> DataConfig:
    """The config that the command line's words mean. Raises UserError."""
    if "" in source:
        raise UserError("SOURCE: expected files, folders or globs, found an empty name")
    if tokenizer.lower() == "bpe" and vocab_size is None:
        raise UserError("--tokenizer bpe needs its number of tokens: --vocab-size N")
    if tokenizer.lower() != "bpe" and vocab_size is not None:
        raise UserError(f"--vocab-size: only '--tokenizer bpe' has it, found '{tokenizer}'")
    named: dict[str, Any] = {"source": "text", "text": tuple(source)}
    special = [word for word in source if word == "stdlib" or word.startswith("hf:")]
    if special and len(source) > 1:
        raise UserError(f"'{special[0]}' stands alone, found {len(source)} sources")
    if special == ["stdlib"]:
        named = {"source": "stdlib"}
    elif special:
        named = {"source": "hf", "dataset": special[0].removeprefix("hf:")}
    rules = {"tokenizer": tokenizer, "vocab_size": vocab_size, "text_field": text_field, "end_of_text": end_of_text}
    return DataConfig.parse(named | rules, "prepare")


@contextmanager
def progress() -> Generator[Watch]:
    """A bar on a terminal for what takes longer than a second; silence elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield unwatched
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("", visible=False)
        began = last = time.monotonic()

        def watch(what: str, done: int, whole: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= 0.1:  # a call of rich takes longer than a document
                last = now
                bar.update(task, description=what, completed=done, total=whole or None, visible=now - began > 1)

        yield watch


def print_shards(shards: Shards) -> None:
    """Tokens and bytes of each split, and how a config names them; a split that is empty is warned of."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("split", "tokens", "bytes of text", "bytes a token"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for split in SPLITS:
        tokens, size = shards.tokens[split], shards.text_bytes[split]
        table.add_row(split, f"{tokens:,}", f"{size:,}", f"{size / tokens:.3f}" if tokens else "")
    console.print(table)
    console.print(f"{shards.vocab_size:,} different tokens as {shards.dtype}; in a space or a config:", markup=False)
    console.print(f"  data: {{source: shards, shards: {shards.folder.absolute()}}}", markup=False, soft_wrap=True)
    console.print(f"  model: {{vocab_size: {shards.vocab_size}, ...}}, or more", markup=False)
    if empty := [split for split in SPLITS if not shards.tokens[split]]:
        advice = "a search needs many documents: several files, rows, or a text file well above 2 MiB"
        print(f"lpanas: no document fell to {' and '.join(empty)}; {advice}", file=sys.stderr)
