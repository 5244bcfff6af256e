"""A confirmation -> its page."""

import math
from pathlib import Path

from ..lpa.config import dump_yaml
from ..lpa.files import replace_text
from .confirmation import Confirmation
from .forest import CONTROLS, VERDICTS, comparison_rows, control_rows, forest_figure
from .ladder_figures import effect_figures, rank_figures
from .page import div, rendered
from .space import Space
from .verdict_figures import cost_figures, rate_figures
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
