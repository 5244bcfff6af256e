"""What `lpanas export` does for a study: picks -> plans -> files, and what is said of them."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..lpa.files import replace_text, writing
from . import terminal
from .export import picks, planned, several, write
from .export_readme import DENSE, readme, repeated
from .forms import check
from .hf_export import export_forms
from .predict import MFU, PEAK_TFLOPS, Assumed
from .results import read_study


def assumed(mfu: float | None, peak_tflops: float | None) -> Assumed:
    """What times are foretold with, None being what is usual. Raises UserError."""
    return Assumed(MFU if mfu is None else mfu, PEAK_TFLOPS if peak_tflops is None else peak_tflops).check()


def export(
    directory: Path,
    storage: str | None,
    asked: Sequence[str],
    target: str | None,
    its: Assumed,
    forms: tuple[str, ...],
    say: Callable[[str], None],
) -> None:
    """Of a study's folder: the train.yaml of each pick, that of each dense twin, and the forms beside each. Nothing is written
    unless all of it can be.

    say: told what is missing in the forms. Raises UserError.
    """
    found, apart = read_study(directory, storage), several(asked)
    plans = [(words, planned(found, record, target)) for words, record in picks(found, asked).items()]
    for _, plan in plans:
        place, folder = plan.places(directory, apart)
        check(plan.config, folder, forms)
        check(plan.twin, place / DENSE, forms)
    written = [(words, plan, write(plan, directory, its, apart, forms)) for words, plan in plans]
    for words, plan, done in written:
        also = _also(words, plan.record.run) if apart else ""
        _print([f"{plan.record.run}{also} ({plan.record.placement}): {done.path}", *done.replaced])
    dense = dict.fromkeys(done.dense for *_, done in written)
    _print(f"dense twin: {path}" for path in dense)
    for path in dict.fromkeys([*(done.path for *_, done in written), *dense]):
        _print(map(str, export_forms(path, forms, say)))
    for place in dict.fromkeys(plan.places(directory, apart)[0] for _, plan in plans):
        with writing(place):
            replace_text(place / "README.md", readme(place))
        _print(f"{place / name} {why}" for name, why in repeated(place).items())
    _print(dict.fromkeys(line for *_, done in written for line in done.caveats))


def _also(words: str, run: str) -> str:
    """The words by which a run was picked, without its own name and number."""
    its = [word for word in words.split(", ") if word not in (run, run.rpartition("-")[2])]
    return "".join(f", {word}" for word in its)


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        terminal.console.print(line, markup=False)
