"""What `lpanas export` does: picks -> plans -> files, and what is said of them."""

from collections.abc import Sequence
from pathlib import Path

from . import terminal
from .export import picks, planned, several, write
from .predict import MFU, PEAK_TFLOPS, Assumed
from .results import read_study


def export(
    directory: Path, storage: str | None, asked: Sequence[str], target: str | None, mfu: float | None, peak: float | None
) -> list[Path]:
    """Of a study's folder; the train.yaml of each pick, then of each dense twin. peak: TFLOP/s of a GPU. Nothing is written
    unless all of it can be. Raises UserError."""
    assumed = Assumed(MFU if mfu is None else mfu, PEAK_TFLOPS if peak is None else peak).check()
    found = read_study(directory, storage)
    plans = [(words, planned(found, record, target)) for words, record in picks(found, asked).items()]
    dense, caveats, paths, apart = dict[Path, None](), dict[str, None](), list[Path](), several(asked)
    for words, plan in plans:
        done = write(plan, directory, assumed, apart)
        dense[done.dense] = None
        caveats |= dict.fromkeys(done.caveats)
        paths.append(done.path)
        also = f", {words}" if apart else ""
        terminal.console.print(f"{plan.record.run}{also} ({plan.record.placement}): {done.path}", markup=False)
        for line in done.replaced:
            terminal.console.print(line, markup=False)
    for path in dense:
        terminal.console.print(f"dense twin: {path}", markup=False)
    for line in caveats:
        terminal.console.print(line, markup=False)
    return [*paths, *dense]
