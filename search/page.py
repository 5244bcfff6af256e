"""What all pages share: the template's frame, and the colour and the symbol of each arm."""

import tempfile
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path

import jinja2
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from ..lpa.config import UserError

COLOURS = {"dense": "#000000", "attention": "#0072B2", "ffn": "#D55E00", "both": "#009E73"}
"""Of the sublayers that hold low rank: Okabe and Ito's colour-blind-safe palette."""
SYMBOLS = {"dense": "star", "attention": "circle", "ffn": "square", "both": "diamond"}
LOW_RANK = {sublayers: "no low rank" if sublayers == "dense" else f"low rank in {sublayers}" for sublayers in COLOURS}
"""What a legend says of them."""
FURTHER = (
    ("#CC79A7", "triangle-up"),
    ("#E69F00", "triangle-down"),
    ("#56B4E9", "pentagon"),
    ("#666666", "hexagon"),
    ("#CC79A7", "cross"),
    ("#E69F00", "x"),
    ("#56B4E9", "bowtie"),
    ("#666666", "hourglass"),
)
"""Of arms of other names: the rest of that palette and grey (its yellow fades on white), then again with other symbols."""


LAYOUT = {
    "template": "plotly_white",
    "font": {"family": "system-ui, sans-serif", "color": "#1a1a1a"},
    "dragmode": False,
}
"""Of a figure that is read on a phone, too: there a finger that moves scrolls the page."""
LEGEND = {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"}
"""Below a figure, however high that is."""
CONFIG = {"responsive": True, "displaylogo": False, "modeBarButtons": [["toImage"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]]}


def looks(arms: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and symbol of each arm, by name."""
    others = [arm for arm in dict.fromkeys(arms) if arm not in COLOURS]
    known = {arm: (COLOURS[arm], SYMBOLS[arm]) for arm in COLOURS}
    return known | {arm: FURTHER[place % len(FURTHER)] for place, arm in enumerate(others)}


def plain(text: str) -> str:
    """A user's text for plotly, which takes some HTML for markup."""
    return escape(text, quote=False)


def div(figure: go.Figure) -> str:
    """A figure as a part of a page, as wide as there is room."""
    return figure.to_html(full_html=False, include_plotlyjs=False, config=CONFIG)


def text_of(name: str) -> str:
    """A file beside this one: a template or a script."""
    return resources.files("lpanas.search").joinpath(name).read_text(encoding="utf-8")


def rendered(template: str, **values: object) -> str:
    """A page that loads nothing."""
    loader = jinja2.FunctionLoader(text_of)
    pages = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return pages.get_template(template).render(plotly_js=get_plotlyjs(), **values)


def check_place(page: Path, option: str) -> None:
    """Raises UserError, before any work, when a page could not be written where an option says."""
    if page.is_dir():
        raise UserError(f"{option} {page}: is a folder; expected a file's name")
    if not page.parent.is_dir():
        raise UserError(f"{option} {page}: {page.parent} is no folder")
    try:
        with tempfile.TemporaryFile(dir=page.parent):  # what a folder's mode says is not all: /proc, a disk that is read-only
            pass
    except OSError as error:
        raise UserError(f"{option} {page}: cannot be written: {error.strerror}") from None
