"""What an exported config rests on: the run, the noise of its proxy, and a confirmation where there is one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..lpa.config import UserError
from ..lpa.model_config import ModelConfig
from .anchored import anchored
from .candidate import STEP_SECONDS
from .confirmation import Confirmation
from .record import Record
from .results import Results
from .stored import read_space
from .summary import step_times
from .variants import Variant, variants
from .verdict import last_verdict
from .widths import by_arm, kept
from .wording import claim, headline, ladder, sentence


@dataclass(frozen=True)
class Confirmed:
    """What a confirmation said when it was last written, and of which models."""

    verdict: Confirmation
    variants: list[Variant]
    proxy: ModelConfig
    """Dense, as the sizes of the ladder change it."""


@dataclass(frozen=True)
class SweptRate:
    """Peak learning rates that a confirmation's sweeps found best at a size, by the proxy's rule."""

    size: str
    lr: float
    """Of the record's arm."""
    dense_lr: float | None


@dataclass(frozen=True)
class Evidence:
    """Of one record."""

    study: str
    run: str
    arm: str | None
    seed: int
    runs: int
    """Of this model in the search: one, but for the dense arm's further seeds."""
    chosen_among: int | None
    """Runs that it was chosen among by its loss, which so flatters it; None where it was not chosen so."""
    loss_nats: float | None
    """Of the run."""
    delta_nats: float | None
    """Less the dense arm's."""
    against_dense: str
    """better, worse or tied by the noise; empty of the dense arm."""
    tokens: int
    proxy_d_model: int
    proxy_layers: int
    proxy_context: int
    proxy_data: dict[str, Any]
    """The text, and the windows that the loss is of."""
    proxy_lr: float
    resolvable_nats: float | None
    """The smallest difference between two single runs that is not yet chance."""
    noise_seeds: int
    """Seeds of the dense arm that it comes from; 0 where it was not measured."""
    claim: str | None
    """What was put to the test in a confirmation."""
    verdict: str | None
    """What came of it; None where there is none."""
    comparisons: tuple[str, ...]
    """What it says of this model: the placement as it is, at other matches with another width of the FFN, is another."""
    swept: tuple[SweptRate, ...]
    """Of this model and of dense."""
    ladder: tuple[str, ...]
    """What it says of other sizes."""
    step_seconds: float | None
    """Of a training step at the space's target, where it is a cost: the sum of measured pieces."""
    dense_step_seconds: float | None
    step_times: str
    """On what they were measured."""
    unread: str
    """Why the verdict cannot be read, if it cannot."""


def evidence(found: Results, record: Record, out: Path) -> Evidence:
    """What a record rests on. out: the study's folder."""
    confirmed, unread = confirmation(out)
    noise, proxy = found.noise, found.space.proxy
    verdict = confirmed.verdict if confirmed else None
    return Evidence(
        study=found.space.name,
        run=record.run,
        arm=record.arm,
        seed=record.seed,
        runs=noise.n if noise is not None and record.arm == "dense" else 1,
        chosen_among=_chosen_among(found, record),
        loss_nats=record.loss_nats,
        delta_nats=found.delta(record),
        against_dense=found.against_dense(record),
        tokens=record.tokens,
        proxy_d_model=record.model.d_model,
        proxy_layers=record.model.n_layers,
        proxy_context=record.model.context,
        proxy_data=anchored(proxy.data).model_dump(mode="json"),
        proxy_lr=proxy.optim.lr,
        resolvable_nats=noise.resolvable_nats if noise else None,
        noise_seeds=noise.n if noise else 0,
        claim=claim(verdict) if verdict and verdict.claims else None,
        verdict=headline(verdict) if verdict and verdict.claims else None,
        comparisons=tuple(of_record(confirmed, found, record)) if confirmed else (),
        swept=tuple(_swept(confirmed, found, record)) if confirmed else (),
        ladder=tuple(ladder(verdict, step) for step in verdict.ladder) if verdict else (),
        step_seconds=record.costs.get(STEP_SECONDS),
        dense_step_seconds=found.space.dense_costs.get(STEP_SECONDS),
        step_times=step_times(found.space),
        unread=unread,
    )


def _chosen_among(found: Results, record: Record) -> int | None:
    """Of the knee and of the lowest loss, but for arms: these are trained whatever comes of them."""
    best = {one.run for one in (found.winner, *found.front[:1]) if one is not None}
    return sum(one.feasible for one in found.complete) if record.arm is None and record.run in best else None


def confirmation(out: Path) -> tuple[Confirmed | None, str]:
    """What the confirmation in a study's folder says, if there is one, and why it cannot be read, if it cannot."""
    folder = out / "confirm"
    try:
        if (verdict := last_verdict(folder)) is None:
            return None, ""
        space = read_space(folder)
        return Confirmed(verdict, variants(space, by_arm(kept(space, folder, {}))), space.proxy.model), ""
    except UserError as error:
        return None, str(error)


def of_record(confirmed: Confirmed, found: Results, record: Record) -> list[str]:
    """What a confirmation says of a record's model, if that is one of its arms, a sentence a comparison."""
    its, verdict = _places(confirmed, found, record), confirmed.verdict
    return [
        f"{one.size}: {sentence(one, verdict.matters_ppl_percent)}"
        for one in verdict.comparisons
        if any((one.size, arm, match) in its for arm in (one.a, one.b) for match in one.matches)
    ]


def _places(confirmed: Confirmed, found: Results, record: Record) -> set[tuple[str, str, str]]:
    """(size, arm, match) where a confirmation has a record's model: from the same proxy, and the same at the target."""
    if confirmed.proxy != found.space.proxy.model:
        return set()
    its = (one for one in confirmed.variants if one.control is None and one.target == record.target)
    return {(one.size, one.arm, one.match) for one in its}


def _swept(confirmed: Confirmed, found: Results, record: Record) -> Iterator[SweptRate]:
    """A rate a size that has swept the record's model."""
    its = _places(confirmed, found, record)
    rated = [one for one in confirmed.verdict.arms if one.control is None and one.lr is not None]
    for size in confirmed.verdict.sizes:
        here = [one for one in rated if one.size == size.name]
        mine = [one.lr for one in here if any((one.size, one.arm, match) in its for match in one.matches)]
        dense = [one.lr for one in here if one.arm == "dense"]
        if mine and mine[0] is not None:
            yield SweptRate(size.name, mine[0], dense[0] if dense else None)


def words(its: Evidence) -> list[str]:
    """The same in plain words."""
    delta = "" if its.delta_nats is None or its.arm == "dense" else f", {its.delta_nats:+.3f} against the dense arm"
    told = f" ({its.against_dense})" if delta and its.against_dense != "unknown" else ""
    loss = "no loss" if its.loss_nats is None else f"{its.loss_nats:.4f} nats"
    seeds = "one run" if its.runs == 1 else f"one of {its.runs} seeds"
    if its.chosen_among is not None:
        seeds += f", chosen among {its.chosen_among}, which flatters it"
    noise = "not measured"
    if its.resolvable_nats is not None:
        noise = f"{its.resolvable_nats:.3f} nats, from {its.noise_seeds} seeds of the dense arm"
    return [
        f"{loss}{delta}{told} after {its.tokens:,} tokens at d_model {its.proxy_d_model}, {its.proxy_layers} layers; {seeds}.",
        f"Smallest difference that single runs of the proxy resolve: {noise}.",
        *_timed(its),
        *_confirmed(its),
    ]


def _timed(its: Evidence) -> list[str]:
    if its.step_seconds is None or its.dense_step_seconds is None:
        return []
    share = its.step_seconds / its.dense_step_seconds
    return [f"A step of the space's target takes {its.step_seconds:.4g} s, x {share:.3f} dense. {its.step_times}"]


def _confirmed(its: Evidence) -> list[str]:
    if its.unread:
        return [f"Confirmation: {its.unread}."]
    if its.verdict is None:
        return ["Not confirmed with seeds: lpanas confirm DIR would do that."]
    of_it = its.comparisons or ("It compares no arm that is this model.",)
    return [f"Confirmation of '{its.claim}': {its.verdict}.", *of_it, *_rates(its), *its.ladder]


def _rates(its: Evidence) -> Iterator[str]:
    """The best rates of the sweeps beside the exported one."""
    if not its.swept:
        return
    alone = its.arm == "dense"
    beside = ["" if alone or one.dense_lr is None else f" (dense {one.dense_lr:.2g})" for one in its.swept]
    best = ", ".join(f"{one.lr:.2g}{dense} at {one.size}" for one, dense in zip(its.swept, beside, strict=True))
    yield (
        f"Best learning rate of the confirmation's sweeps: {best}. Exported is the search's, {its.proxy_lr:.2g}"
        f"{'' if alone else ', for both'}: a short sweep {'' if alone else 'of each '}at the target would say more."
    )
