"""The records of a confirmation -> all that they say: a pure function."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from ..lpa.cost import body_params, cost, flops_per_token
from ..lpa.model_config import ModelConfig
from .claim import Comparison, together
from .confirmation import (
    ArmResult,
    ClaimResult,
    ComparisonResult,
    Confirmation,
    ControlResult,
    SizeShape,
    Tried,
    WholeSteps,
    ends,
)
from .course import Contest, Course, Pairs
from .finding import Finding, estimate, findings
from .ladder import ladder
from .protocol import WINNER, Control, Match, VersusFamily
from .record import Record
from .space import Space
from .summary import step_times
from .sweep import Rate
from .timing import Timed
from .variants import STEP_SECONDS, Variant, sized, sizes

NOTHING: Mapping[str, Timed] = MappingProxyType({})
EFFECT = Comparison("a control", "better", 0.0)
"""What a control's estimate is of."""


def conclude(
    space: Space, variants: Sequence[Variant], records: Sequence[Record], timed: Mapping[str, Timed] = NOTHING
) -> Confirmation:
    """What the records say of a protocol's comparisons. timed: by arm, how its width of equal step_seconds was measured."""
    course = Course(space, variants, records)
    protocol = space.confirm
    comparisons = tuple(one for size in course.sizes for one in _comparisons(course, size))
    return Confirmation(
        name=space.name,
        alpha=protocol.alpha,
        matters_ppl_percent=protocol.matters_ppl_percent,
        matters_nats=protocol.matters_nats,
        runs=len(records),
        tokens=sum(record.tokens for record in records),
        next_offset=protocol.seed(0, course.most),
        winner_is=_winner(variants),
        finished=not course.wanted(),
        sizes=tuple(_shape(space, course, name) for name in course.sizes),
        arms=tuple(_arm(course, models, timed) for models in _models(variants)),
        comparisons=comparisons,
        claims=tuple(_claim(comparisons, size, match) for size in course.sizes for match in protocol.matches),
        controls=tuple(one for size in course.sizes for one in _controls(course, size)),
        ladder=tuple(ladder(course, comparisons)),
        step_times=step_times(space),
        dense_step_seconds=space.dense_costs.get(STEP_SECONDS),
    )


def _shape(space: Space, course: Course, name: str) -> SizeShape:
    config = next(sized(space, size) for size in sizes(space) if size.name == name)
    model, figures = config.model, cost(config.model, 1)
    whole = config.steps * config.batch_tokens
    costs = (figures.params, figures.body_params, figures.flops_per_token)
    return SizeShape(name, model.d_model, model.d_ff, model.n_layers, *costs, whole)


def _models(variants: Sequence[Variant]) -> list[list[Variant]]:
    """An arm's variants that are one model at their size and one at the target, each by itself."""
    found = dict[tuple[str, str, Control | None, str, ModelConfig], list[Variant]]()
    for one in variants:
        found.setdefault((one.size, one.arm, one.control, one.trained(1.0), one.target), []).append(one)
    return list(found.values())


def _winner(variants: Sequence[Variant]) -> str | None:
    """The arm whose models are the winner's at every size and match."""
    models = dict[str, list[str]]()
    for one in variants:
        if not one.control:
            models.setdefault(one.arm, []).append(one.trained(1.0))
    return next((arm for arm, its in models.items() if arm != WINNER and its == models.get(WINNER)), None)


def _arm(course: Course, models: Sequence[Variant], timed: Mapping[str, Timed]) -> ArmResult:
    one = models[0]
    steps = timed.get(one.arm) if STEP_SECONDS in [its.match for its in models] else None
    sweep = course.sweep(one)
    factor, bowl = sweep.factor, sweep.bowl
    cells = course.ended(one)
    losses = {cell.seed: course.test_nats(cell) for cell in cells}
    kept = {seed: loss for seed, loss in losses.items() if math.isfinite(loss)}
    std = float(np.std(list(kept.values()), ddof=1)) if len(kept) > 1 else None
    error = None if std is None else std / math.sqrt(course.protocol.seeds.sweep)
    return ArmResult(
        size=one.size,
        arm=one.arm,
        matches=tuple(its.match for its in models),
        control=one.control,
        name=one.name,
        placement=one.model.placement.text,
        ranks=one.model.ranks_text,
        d_ff=one.model.d_ff,
        body_params=body_params(one.model),
        flops_per_token=flops_per_token(one.model),
        target_costs=course.space.costs(one.target),
        target_d_ff=one.target.d_ff,
        tried=tuple(_tried(one, rate) for rate in sweep.rates),
        lr=None if factor is None else one.at(factor).optim.lr,
        at_edge=sweep.at_edge,
        bowl_nats=None if factor is None or bowl is None else bowl.at(factor),
        rate_missed_nats=None if error is None or bowl is None else bowl.missed_nats(error),
        seeds=tuple(kept),
        losses_nats=tuple(kept.values()),
        diverged=tuple(cell.seed for cell in cells if course.records[cell.key].status == "diverged"),
        failed=tuple(seed for seed in losses if seed not in kept),
        mean_nats=float(np.mean(list(kept.values()))) if kept else None,
        std_nats=std,
        whole_steps=None if steps is None else WholeSteps(steps.ratio, steps.ratio_low, steps.ratio_high, steps.pairs),
    )


def _tried(one: Variant, rate: Rate) -> Tried:
    losses = tuple(loss if math.isfinite(loss) else None for loss in rate.losses)
    mean = rate.mean_nats
    return Tried(one.at(rate.factor).optim.lr, rate.factor, losses, mean if math.isfinite(mean) else None)


def _comparisons(course: Course, size: str) -> list[ComparisonResult]:
    found = list[ComparisonResult]()
    families: tuple[VersusFamily, ...] = ("claim", "beside")
    for family in families:
        contests = course.contests(size, family)
        pairs = course.judged(contests)
        judged = findings(
            [course.comparison(one) for one in contests], [one.differences for one in pairs], course.protocol.plan
        )
        found += [_compared(family, *all_of_it) for all_of_it in zip(contests, pairs, judged, strict=True)]
    return found


def _compared(family: VersusFamily, contest: Contest, pairs: Pairs, found: Finding) -> ComparisonResult:
    one = found.estimate
    return ComparisonResult(
        family=family,
        size=contest.a.size,
        matches=contest.matches,
        a=contest.versus.a,
        b=contest.versus.b,
        direction=contest.versus.direction,
        text=contest.versus.text,
        seeds=pairs.seeds,
        differences_nats=tuple(map(float, pairs.differences)),
        left_out=pairs.left_out,
        verdict=found.verdict,
        effect=found.effect,
        n=len(pairs.seeds),
        mean_nats=one.mean_nats if one else None,
        std_nats=one.std_nats if one else None,
        ppl_percent=one.ppl_percent if one else None,
        t_nats=ends(one.t if one else None),
        t_ppl_percent=one.t.ppl_percent if one and one.t else None,
        bca_nats=ends(one.bca if one else None),
        repeated_nats=ends(found.repeated),
        t_p=one.t_p if one else None,
        sign_flip_p=one.sign_flip_p if one else None,
        confirm_p=found.confirm_p,
        confirm_p_holm=found.confirm_p_holm,
        refute_p=found.refute_p,
        refute_p_holm=found.refute_p_holm,
        more_seeds=found.more_seeds,
    )


def _claim(comparisons: Sequence[ComparisonResult], size: str, match: Match) -> ClaimResult:
    its = [one for one in comparisons if (one.size, one.family) == (size, "claim") and match in one.matches]
    parts = {
        verdict: [one.text for one in its if one.verdict == verdict] for verdict in ("refuted", "inconclusive", "confirmed")
    }
    why = "; ".join(f"{name}: {', '.join(texts)}" for name, texts in parts.items() if texts)
    return ClaimResult(size, match, together(one.verdict for one in its), why)


def _controls(course: Course, size: str) -> list[ControlResult]:
    """The effect itself and what each control says of it; those of which both arms are there."""
    first = course.protocol.matches[0]
    there = {(one.arm, one.control): one for one in course.variants if one.size == size and one.match == first}
    asked: list[tuple[Control | None, tuple[str, Control | None], tuple[str, Control | None], str]] = [
        (None, ("attention", None), ("dense", None), "the effect itself"),
        ("scaled", ("dense", "scaled"), ("dense", None), "what a smaller start of attention does without any low rank"),
        ("scaled", ("attention", None), ("dense", "scaled"), "the effect against a dense arm that starts smaller, too"),
        ("init", ("attention", "init"), ("dense", "init"), "the effect under the other initialisation"),
        ("init", ("attention", "init"), ("attention", None), "what the other initialisation does to low rank"),
        ("init", ("dense", "init"), ("dense", None), "what it does to dense"),
        ("warmup", ("attention", "warmup"), ("dense", "warmup"), "the effect under the other warm-up"),
    ]
    return [
        _controlled(course, control, there[a], there[b], says)
        for control, a, b, says in (asked if course.protocol.controls else [])
        if a in there and b in there
    ]


def _controlled(course: Course, control: Control | None, a: Variant, b: Variant, says: str) -> ControlResult:
    """The difference over the seeds of both; of the effect itself all that there are."""
    differences = course.paired(a, b).differences
    one = estimate(EFFECT, differences) if len(differences) > 1 else None
    return ControlResult(
        size=a.size,
        control=control,
        a=a.name,
        b=b.name,
        n=len(differences),
        mean_nats=one.mean_nats if one else None,
        ppl_percent=one.ppl_percent if one else None,
        t_nats=ends(one.t if one else None),
        says=says,
    )
