"""What a confirmation says, in plain words: for its page and for a terminal."""

from collections.abc import Iterable, Iterator

from .budget import ARMS
from .claim import Verdict
from .confirmation import ArmResult, ComparisonResult, Confirmation, Ends, LadderStep, Moved
from .protocol import Match

VERDICTS: tuple[Verdict, ...] = ("confirmed", "refuted", "inconclusive")


FIXED = "intervals of 95 %, as if the seeds had been fixed beforehand"
"""What they are, as they stand beside p that the looks are counted in."""
MISSED = 0.25
"""Of the smallest effect that matters: what an arm may lose by an uncertain rate without a word (assumption)."""


def headline(found: Confirmation) -> str:
    """The claim's verdict at every size and match, in a line."""
    where = {
        verdict: [
            f"equal {_list(matches)} ({size.name})" for size in found.sizes if (matches := _matches(found, size.name, verdict))
        ]
        for verdict in VERDICTS
    }
    told = [f"{verdict} at {_list(where[verdict])}" for verdict in VERDICTS if where[verdict]]
    if len(told) == 1 and len(found.claims) > 1:
        told = [f"{found.claims[0].verdict} at every size and match"]
    text = f"the claim is {'; '.join(told)}"
    return _sentence_case(text) if found.finished else f"So far, as it has not come to its end, {text}"


def terms(found: Confirmation) -> str:
    """What the verdicts mean."""
    return (
        "Confirmed: every part of the claim is shown, however little the difference. Refuted: a part is shown not to reach "
        f"the {found.matters_ppl_percent:g} % of perplexity that matter. Of each size by itself, at the rates of the sweeps."
    )


COLUMNS = (
    "p: of what confirms and of what refutes, with the looks and by Holm's steps with the other comparisons counted in. "
    "95 %: as if there were one look and one comparison, so narrower than what decides."
)


def others(found: Confirmation) -> list[str]:
    """What the arms are that are no reference arms, by their placement at each size."""
    its = [one for one in found.arms if one.control is None and one.arm not in ARMS]
    placements = dict.fromkeys((one.arm, one.size, one.placement) for one in its)
    return [f"{arm} ({size}): {placement}" for arm, size, placement in placements]


def claim(found: Confirmation) -> str:
    """What is claimed, as the protocol says it."""
    return _list(dict.fromkeys(one.text for one in found.comparisons if one.family == "claim"))


Section = tuple[str, list[str]]
"""A title and what is said under it, a sentence or a few at a time."""


def sections(found: Confirmation) -> list[Section]:
    """All of it: what was found of each comparison, then the remarks."""
    return [*(_size(found, size.name) for size in found.sizes), *remarks(found)]


def remarks(found: Confirmation) -> list[Section]:
    """What is to be said besides the comparisons by themselves; a section that has nothing to say is left out."""
    all_of_it: list[Section] = [
        ("Not settled", list(_open(found))),
        ("Is it placement? (nats; intervals of 95 %, estimates that are not judged)", list(_controls(found))),
        (
            "From size to size (intervals of 95 % and orders as if the seeds had been fixed beforehand)",
            [ladder(found, step) for step in found.ladder],
        ),
        ("What a step of the target takes, x the dense arm's", list(_steps(found))),
        ("To mind", list(_minded(found))),
        ("Spent", [f"{found.runs} runs and {found.tokens:,} training tokens in all."]),
    ]
    return [(title, texts) for title, texts in all_of_it if texts]


def grouped(found: Confirmation) -> Iterator[tuple[str, list[ComparisonResult]]]:
    """The comparisons of each size and match under a title with the claim's verdict there; those beside it come after."""
    for size in found.sizes:
        its = [one for one in found.comparisons if one.size == size.name]
        for matches in dict.fromkeys(one.matches for one in its):
            verdict = next(one.verdict for one in found.claims if (one.size, one.match) == (size.name, matches[0]))
            title = f"{size.name} at equal {_list(matches)}"
            for family, text in (("claim", f"{title}: {verdict}"), ("beside", f"{title}, beside the claim")):
                if held := [one for one in its if (one.matches, one.family) == (matches, family)]:
                    yield text, held


def sentence(one: ComparisonResult, matters_ppl_percent: float) -> str:
    """A comparison with verdict, p, effect, interval and n."""
    head = f"{one.text} at equal {_list(one.matches)} is {_judged(one, matters_ppl_percent)}"
    if one.mean_nats is None or one.ppl_percent is None:
        return f"{head}, with {one.n} pairs of seeds."
    percent = f" ({_ends(one.t_ppl_percent, '+.2f')})" if one.t_ppl_percent else ""
    effect = f"{one.ppl_percent:+.2f} %{percent} in perplexity, {one.mean_nats:+.4f} nats{_within(one.t_nats)}"
    return f"{head}: {effect}, n = {one.n}."


def _judged(one: ComparisonResult, matters_ppl_percent: float) -> str:
    if one.verdict == "inconclusive":
        return f"inconclusive (p {p(one.confirm_p_holm)} to confirm, {p(one.refute_p_holm)} to refute)"
    shown, what = one.confirm_p_holm if one.verdict == "confirmed" else one.refute_p_holm, f"{matters_ppl_percent:g} %"
    by = ""
    if one.direction == "better" and one.verdict == "refuted":
        by = f"; not better by the {what} that matter"
    elif one.direction == "better" and one.effect != "unknown":
        by = f"; by less than the {what} that matter" if one.effect == "less than matters" else f"; by {what} or more"
    return f"{one.verdict} (p {p(shown)}{by})"


def _size(found: Confirmation, name: str) -> Section:
    shape = next(one for one in found.sizes if one.name == name)
    title = f"{name} (d_model {shape.d_model}, {shape.n_layers} layers, {shape.tokens:,} training tokens a run; {FIXED})"
    its = [one for one in found.comparisons if one.size == name]
    told = [_sentence_case(sentence(one, found.matters_ppl_percent)) for one in its if one.n > 1]
    unknown = len(its) - len(told)
    return title, [*told, *([f"{unknown} comparisons have fewer than two pairs of seeds."] if unknown else [])]


def _sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]


def _open(found: Confirmation) -> Iterator[str]:
    """What would settle what is not settled."""
    for size in found.sizes:
        its = [one for one in found.comparisons if (one.size, one.verdict) == (size.name, "inconclusive") and one.n > 1]
        told = [f"{one.text} at equal {_list(one.matches)}: {_more(one)}" for one in its]
        if told:
            yield f"At {size.name}: {'; '.join(told)}."
    seeds = [one.n + one.more_seeds for one in found.comparisons if one.family == "claim" and one.more_seeds]
    if found.finished and seeds:
        yield (
            "The looks of this confirmation are at their end. What has a number would probably be settled by another one: "
            f"lpanas confirm ... --out NEW --set confirm.seeds.offset={found.next_offset} --set confirm.seeds.most={max(seeds)}"
        )


def _more(one: ComparisonResult) -> str:
    if not one.more_seeds:
        return "more seeds than there is sense in"
    return f"about {one.n + one.more_seeds} seeds in all, {one.more_seeds} more"


def _controls(found: Confirmation) -> Iterator[str]:
    for one in found.controls:
        if one.mean_nats is not None:
            said = f"{one.a} against {one.b}: {one.mean_nats:+.4f}{_within(one.t_nats)}, n = {one.n}"
            yield f"At {one.size}, {one.says}: {said}."


def ladder(found: Confirmation, step: LadderStep) -> str:
    """How order and effects move, and what that says about the target."""
    head = f"From {step.small} to {step.large} at equal {_list(step.matches)}: "
    if min(step.seeds) < 2:
        return f"{head}too few seeds yet to compare the two sizes."
    sure = [f"{count} {how}" for count, how in ((step.same, "surely the same"), (step.reversed, "surely the other way round"))]
    pairs = step.same + step.reversed + step.undecided
    order = f"of {pairs} pairs of arms the order is {', '.join(sure)}, {step.undecided} undecided"
    rank = "" if step.spearman is None else f" (rank correlation {step.spearman:.2f}{_within(step.spearman_interval, '.2f')})"
    moves = "; ".join(_move(one) for one in step.moved)
    return f"{head}{order}{rank}. {moves}. {_target(found, step)}"


def _move(one: Moved) -> str:
    if one.small_nats is None or one.large_nats is None or one.change_nats is None:
        return f"{one.text}: not yet known at both"
    change = f"a change of {one.change_nats:+.4f}{_within(one.change_interval_nats)}"
    return f"{one.text}: {one.small_nats:+.4f} to {one.large_nats:+.4f} nats, {change}"


def _target(found: Confirmation, step: LadderStep) -> str:
    """What it says of the target: never more than that nothing speaks against it."""
    turned = [one.text for one in step.moved if {one.small_verdict, one.large_verdict} == {"confirmed", "refuted"}]
    if turned:
        return (
            f"Confirmed at one size and refuted at the other: {_list(turned)}. It depends on the size: {_far(found)} is open."
        )
    if step.reversed:
        return f"Arms surely change places between the sizes: their order here is no guide to {_far(found)}."
    moves = [one.change_interval_nats for one in step.moved if one.change_interval_nats]
    if any(low * high > 0 for low, high in moves):
        return f"No order surely turns, but effects move with the size: their amount does not carry to {_far(found)}."
    if step.undecided:
        return f"Nothing is seen to turn, but not every order is sure: that it carries to {_far(found)} is not shown."
    return f"The order is the same at both sizes; that it is so at {_far(found)} remains an extrapolation."


def _far(found: Confirmation) -> str:
    """The target, against the largest size."""
    params = next((one.target_costs["params"] for one in found.arms if one.arm == "dense"), None)
    largest = found.sizes[-1]
    return "the target" if params is None else f"the target ({params / largest.params:,.0f} x the parameters of {largest.name})"


def _steps(found: Confirmation) -> Iterator[str]:
    """step_seconds of the arms, which are the target's and so the same at every size."""
    its = [one for one in found.arms if one.size == found.sizes[0].name and not one.control and one.arm != "dense"]
    for matches in dict.fromkeys(one.matches for one in its):
        here = [(one.arm, found.step_share(one)) for one in its if one.matches == matches]
        if known := [f"{arm} {share:.3f}" for arm, share in here if share is not None]:
            yield f"At equal {_list(matches)}, the sum of its pieces: {', '.join(known)}."
    if whole := [(one.arm, one.whole_steps) for one in its if one.whole_steps is not None]:
        told = [f"{arm} {steps.ratio:.4f} ({steps.low:.4f} to {steps.high:.4f})" for arm, steps in whole]
        yield f"At equal step_seconds, whole steps in pairs: {', '.join(told)}."
    if found.step_times:
        yield found.step_times
        if lacking := [_where(one) for one in its if one.step_seconds is None]:
            yield f"Not known of {_list(lacking)}: pieces that were measured neither by the study nor afterwards on its device."


def _minded(found: Confirmation) -> Iterator[str]:
    """What makes a comparison worth less than it looks."""
    untrained = [_where(arm) for arm in found.arms if arm.lr is None and len(arm.tried) and _is_over(found, arm)]
    if untrained:
        yield f"No rate trains {_list(untrained)}: nothing can be said of it."
    lost = [f"{_where(arm)} at {tried.lr:.3g}" for arm in found.arms for tried in arm.tried if None in tried.losses_nats]
    if lost:
        yield f"Runs of a sweep diverged or failed, and these rates were judged by what was left, or not taken: {_list(lost)}."
    if found.winner_is is not None:
        yield f"The search's winner is the arm '{found.winner_is}': its runs are that arm's."
    missed = [
        f"{_where(arm)} ({arm.rate_missed_nats:.4f} nats)"
        for arm in found.arms
        if arm.rate_missed_nats is not None and arm.rate_missed_nats > MISSED * found.matters_nats
    ]
    if missed:
        yield (
            "Verdicts are of the arms at the rates that their sweeps led to. By noise alone these cost on average more "
            f"than the best ones would: {_list(missed)}. More seeds a rate (confirm.seeds.sweep) make it less."
        )
    edge = [f"{_where(arm)} ({arm.lr:.3g})" for arm in found.arms if arm.at_edge and arm.lr is not None]
    if edge:
        yield f"The best rate lies at an end of those that were tried: {_list(edge)}. These arms may be tuned too little."
    diverged = [f"{_where(arm)} ({len(arm.diverged)} of {len(arm.seeds)})" for arm in found.arms if arm.diverged]
    if diverged:
        yield f"Runs diverged, and count as guessing: {_list(diverged)}."
    failed = [f"{_where(arm)} ({len(arm.failed)})" for arm in found.arms if arm.failed]
    if failed:
        yield f"Runs failed; in the claim's comparisons other seeds stand in for them: {_list(failed)}."


def _is_over(found: Confirmation, arm: ArmResult) -> bool:
    """Whether its sweep has ended: nothing else is asked for, or all rates are there and none has a mean."""
    return found.finished or all(tried.mean_nats is None for tried in arm.tried)


def _where(arm: ArmResult) -> str:
    return f"{arm.name} at {arm.size}" if arm.control else f"{arm.arm} at equal {_list(arm.matches)} and {arm.size}"


def _matches(found: Confirmation, size: str, verdict: Verdict) -> list[Match]:
    return [one.match for one in found.claims if (one.size, one.verdict) == (size, verdict)]


def _within(interval: Ends | None, digits: str = "+.4f") -> str:
    return "" if interval is None else f" ({_ends(interval, digits)})"


def _ends(interval: Ends | None, digits: str) -> str:
    return "" if interval is None else f"{interval[0]:{digits}} to {interval[1]:{digits}}"


def p(value: float) -> str:
    """Two digits; below 0.0001 no digit means anything."""
    return f"{value:.2g}" if value >= 1e-4 else "< 0.0001"


def _list(words: Iterable[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last
