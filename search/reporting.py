"""What `lpanas report` does: pages, tables and figures of what lies in folders, and what is shown of it."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..lpa.config import UserError
from ..lpa.files import writing
from . import figure_files, terminal
from .confirmation import Confirmation
from .figure import Figure
from .folder import study_in
from .ledger import CONFIRM
from .report import figures, write_report
from .results import Results, read_study
from .verdict import read_verdict, write_verdict

COMPARED = Path("compare.html")


def report(folder: Path, url: str | None, formats: Sequence[str] = ()) -> None:
    """Tables and page of a search or of a confirmation anew from its storage, and its figures as files. Raises UserError."""
    if study_in(folder, url)[1] == CONFIRM:
        space, records, confirmed = read_verdict(folder, url)
        with writing(folder):
            paths = write_verdict(confirmed, space, records, folder)
        terminal.print_confirmation(confirmed, paths | _files(confirmed, folder, formats))
        return
    found = read_study(folder, url)
    with writing(folder):
        paths: dict[str, object] = {"page": write_report(found, folder)}
    if (verdict := folder / "confirm" / "verdict.html").exists():
        paths["its confirmation"] = verdict
    terminal.print_results(found, paths | _files(found, folder, formats))


def _files(found: Results | Confirmation, folder: Path, formats: Sequence[str]) -> dict[str, object]:
    """The figures as files; where they are, if any were asked for."""
    if not formats or not figure_files.write_files(_figures(found), place := folder / "figures", formats):
        return {}
    return {"figures": place}


def _figures(found: Results | Confirmation) -> list[Figure]:
    if isinstance(found, Results):
        return figures(found)
    from . import verdict_page

    return verdict_page.figures(found)


def follow(folder: Path, url: str | None, formats: Sequence[str] = ()) -> None:
    """The page of a study that another process drives, anew as it goes, until that has ended or Ctrl-C; then all of it."""
    from . import watch
    from .follow import follow as following

    with suppress(KeyboardInterrupt), writing(folder):
        following(watch.views(folder, url), folder, url, lambda line: terminal.console.print(line, markup=False))
    report(folder, url, formats)


def compare(folders: Sequence[Path], url: str | None, page: Path) -> None:
    """Searches side by side on a page. Raises UserError."""
    from .compare import read_studies
    from .compare_page import check_page, write_comparison

    check_page(page)
    compared = read_studies(folders, url)
    terminal.print_comparison(compared, write_comparison(compared, page))


def check(folders: Sequence[Path], out: Path | None, formats: Sequence[str], watch: bool) -> None:
    """Raises UserError where options do not go together."""
    several = len(folders) > 1
    if out is not None and not several:
        raise UserError(f"--out {out}: only the page of several studies is written elsewhere than into their folder")
    if several and (formats or watch):
        raise UserError(f"--{'figures' if formats else 'watch'}: of one study at a time; found {len(folders)} folders")
