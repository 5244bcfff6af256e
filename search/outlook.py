"""What a confirmation will train up to its first look, before any of it has run."""

from ..lpa.config import UserError
from .course import Course
from .protocol import WINNER
from .space import Space
from .variants import guesses, variants


def check_budget(course: Course) -> None:
    """Raises UserError when the budget ends before the first look."""
    most, seeds = course.protocol.tokens, course.protocol.seeds
    if most is not None and most < course.least:
        raise UserError(
            f"confirm.tokens: {most:,} do not reach the first look: {course.least:,} are needed, for "
            f"{len(course.protocol.lr_factors)} learning rates x {seeds.sweep} seeds and {seeds.first} further seeds of "
            f"{len(course.models)} models"
        )


def outlook(space: Space) -> str:
    """In a line; or why it would be refused, as far as the space alone can say (its data are not looked at)."""
    protocol = space.confirm
    try:
        course = Course(space, variants(space, guesses(space)), [])
        check_budget(course)
    except UserError as error:
        return f"would be refused: {error}"
    more = (
        " and the winner's, which are not counted here" if WINNER in protocol.arms and WINNER not in protocol.placements else ""
    )
    claim = ", ".join(one.text for one in protocol.versus("claim"))
    models = f"{len(course.models)} models{more}, {len(course.sizes)} sizes"
    runs = f"{len(course.models) * course.runs_each} runs and {course.least:,} tokens up to the first look"
    return f"{claim}; at equal {', '.join(protocol.matches)}; {models}; {runs}"
