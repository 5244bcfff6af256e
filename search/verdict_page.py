"""A confirmation -> its page."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from ..lpa.config import dump_yaml
from ..lpa.files import replace_text
from .confirmation import Confirmation
from .figure import Figure
from .forest import CONTROLS, VERDICTS, comparison_rows, control_rows, forest_figure
from .ladder_figures import effect_figures, effect_rows, rank_figures, rank_rows
from .page import div, rendered
from .space import Space
from .verdict_figures import cost_figures, cost_rows, known_costs, rate_figures, rate_rows
from .wording import claim, headline, sections, terms


def write_page(found: Confirmation, space: Space, place: Path) -> Path:
    """verdict.html into the confirmation's folder; its path."""
    page = rendered(
        "verdict.html",
        name=found.name,
        found=found,
        protocol=space.confirm,
        guess_nats=math.log(space.proxy.model.vocab_size),
        sizes={shape.name: shape for shape in found.sizes},
        claim=claim(found),
        headline=headline(found),
        terms=terms(found),
        whole_steps=any(one.whole_steps for one in found.arms),
        sections=sections(found),
        forest=div(forest_figure(comparison_rows(found), VERDICTS, found.matters_nats)),
        rates=[div(figure) for figure in rate_figures(found)],
        costs=[div(figure) for figure in cost_figures(found)],
        effects=[div(figure) for figure in effect_figures(found) if found.ladder],
        ranks=[div(figure) for figure in rank_figures(found) if found.ladder],
        controls=div(forest_figure(control_rows(found), CONTROLS, found.matters_nats)),
        space=dump_yaml(space),
    )
    path = place / "verdict.html"
    replace_text(path, page)
    return path


def figures(found: Confirmation) -> list[Figure]:
    """All of the page that have something drawn, for files: a panel is a figure, numbered, as names of sizes name no files."""
    forests = (("comparisons", comparison_rows(found), VERDICTS), ("controls", control_rows(found), CONTROLS))
    costs = pd.concat([cost_rows(found, cost).assign(cost=cost) for cost in known_costs(found)])
    matters = found.matters_nats
    its = [Figure(name, name, "", rows, forest_figure(rows, kinds, matters)) for name, rows, kinds in forests if len(rows)]
    its += _panels("rates", rate_figures(found), rate_rows(found), ["size", "panel"])
    its += _panels("costs", cost_figures(found), costs, ["cost", "size"])
    if found.ladder:
        its += _panels("effects", effect_figures(found), effect_rows(found), ["matches"])
        its += _panels("ranks", rank_figures(found), rank_rows(found), ["matches"])
    return its


def _panels(name: str, drawings: Sequence[go.Figure], rows: pd.DataFrame, by: list[str]) -> Iterator[Figure]:
    """Each panel with its rows. rows: of all panels, each panel's in the order of the drawings."""
    groups = [its for _, its in rows.groupby(by, sort=False)]
    for number, (drawing, its) in enumerate(zip(drawings, groups, strict=True), 1):
        yield Figure(f"{name}_{number}", str(drawing["layout"]["title"]["text"]), "", its, drawing)
