"""What is to be said of several studies, in plain sentences: for the page and for the terminal."""

from collections.abc import Sequence

from .compare import Comparison, Study
from .compare_rows import pairs, reference

UNTOLD = {
    "tied": "not told from it by single runs",
    "unknown": "whether single runs tell it from these is not known",
}
"""Of pairs that do not say which one is lower: what is said of the other one."""


def headline(compared: Comparison) -> str:
    """Which study's winner has the lowest loss, at which cost, and which others single runs do not tell from it."""
    won = [(value, study) for study in compared.studies if (value := compared.value(study, study.found.winner)) is not None]
    if not won:
        return "None of these studies has a winner whose loss can be held against another's"
    value, best = min(won, key=lambda one: one[0])
    if len(won) == 1:
        return f"Only {best.label} has a winner to compare: {_placed(compared, best, value)}"
    known = [pair for pair in pairs(compared) if pair.difference_nats is not None]
    if all(pair.told == "tied" for pair in known):
        return f"By loss single runs do not tell the winners apart; the lowest is that of {_placed(compared, best, value)}"
    line = f"The winner with the lowest loss is that of {_placed(compared, best, value)}"
    mine = [pair for pair in known if best.label in (pair.a, pair.b)]
    others = {told: [pair.b if pair.a == best.label else pair.a for pair in mine if pair.told == told] for told in UNTOLD}
    more = [f"{words}: {', '.join(others[told])}" for told, words in UNTOLD.items() if others[told]]
    return "; ".join([line, *(more or ["single runs tell it from the others"])])


def _placed(compared: Comparison, study: Study, value: float) -> str:
    winner = study.found.winner
    assert winner is not None
    shares = ", ".join(f"{study.found.relative(winner, cost):.3f} x dense in {cost}" for cost in compared.costs)
    loss = f"{value:.4f} nats" if compared.comparable else f"{value:+.4f} nats against its own dense arm"
    return f"{study.label} ({winner.run}: {loss}, {shares})"


def cautions(compared: Comparison) -> list[str]:
    """What does not compare and why, which studies are missing something."""
    lines = []
    if compared.comparable:
        known = sum(study.content is not None for study in compared.studies)
        if known < len(compared.studies):
            lines.append("That the text is the same is taken from the spaces: not every study has its storage here to tell")
        seeds = [study.found.space.seed for study in compared.studies]
        if len(set(seeds)) > 1:
            lines.append(f"The seeds differ ({_each(compared, list(map(str, seeds)))}), which moves losses by their noise")
    else:
        lines.append(
            "The proxies do not train the same way on the same tokens, so their losses do not compare: what is compared is the "
            f"loss less that of the study's own dense arm. Different: {', '.join(one.key for one in compared.trainings)}"
        )
    if compared.targets:
        keys = ", ".join(one.key for one in compared.targets)
        lines.append(f"Costs are shares of each study's own dense target, and the targets differ: {keys}")
    return lines + _missing(compared)


def _missing(compared: Comparison) -> list[str]:
    lines = []
    for study in compared.studies:
        found = study.found
        dense = found.arms.get("dense")
        if found.winner is None:
            lines.append(f"{study.label} has no winner: no candidate within its limits was trained to the end")
        elif dense is None or dense.loss_nats is None:
            left = "" if compared.comparable else ", so nothing of it can be held against the others"
            lines.append(f"{study.label} has no dense arm with a loss{left}")
        if found.noise is None and found.winner is not None:
            lines.append(f"The noise of {study.label} is not known: fewer than two seeds of its dense arm ended well")
    if not all(cost in study.found.costs for study in compared.studies for cost in compared.costs):
        lines.append("The studies minimise no cost together; a front is drawn against a cost that it was not searched for, too")
    return lines


def volumes(compared: Comparison) -> str:
    """What hypervolumes are taken to, or why there are none."""
    ends = reference(compared)
    if ends is None:
        return "No hypervolumes: fronts of other losses, targets or objectives, or none at all, enclose nothing in common"
    corner = ", ".join(f"{value:.4f} {name if name == 'loss_nats' else f'x dense in {name}'}" for name, value in ends.items())
    return f"Hypervolume: what a front encloses up to {corner}; larger is better. It has noise, too"


def differences(compared: Comparison) -> list[str]:
    """What differs, a key a line, with the value of each study."""
    kinds = {"proxy": compared.trainings, "target": compared.targets}
    return [f"{kind}: {one.key}: {_each(compared, one.values)}" for kind, its in kinds.items() for one in its]


def _each(compared: Comparison, values: Sequence[str]) -> str:
    return ", ".join(f"{value} in {study.label}" for value, study in zip(values, compared.studies, strict=True))
