"""Results -> figures -> one page."""

from pathlib import Path

from ..lpa.config import dump_yaml
from ..lpa.files import replace_text
from .curve_figures import curves_figure
from .front_figures import front_figure
from .page import rendered
from .results import Results, write_tables


def write_report(found: Results, out: Path) -> Path:
    """records.jsonl, front.csv and report.html into the study's folder; the page's path."""
    write_tables(found, out)
    figures = [front_figure(found, cost) for cost in found.costs] + [curves_figure(found)]
    page = rendered(
        "report.html",
        name=found.space.name,
        found=found,
        figures=[figure.to_html(full_html=False, include_plotlyjs=False) for figure in figures],
        rows=found.table([*found.records, *found.seeds]).to_dict("records"),
        space=dump_yaml(found.space),
    )
    path = out / "report.html"
    replace_text(path, page)
    return path
