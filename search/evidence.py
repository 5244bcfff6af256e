"""What an exported config rests on: the run, the noise of its proxy, and a confirmation where there is one."""

from dataclasses import dataclass
from pathlib import Path

from ..lpa.config import UserError
from .confirmation import Confirmation
from .proxy import Record
from .results import Results
from .verdict import last_verdict
from .wording import claim, headline, ladder, sentence


@dataclass(frozen=True)
class Evidence:
    """Of one record."""

    study: str
    run: str
    arm: str | None
    seed: int
    runs: int
    """Of this model in the search: one, but for the dense arm's further seeds."""
    loss_nats: float | None
    """Of the run."""
    delta_nats: float | None
    """Less the dense arm's."""
    against_dense: str
    """better, worse or tied by the noise; empty of the dense arm."""
    tokens: int
    proxy_d_model: int
    proxy_layers: int
    resolvable_nats: float | None
    """The smallest difference between two single runs that is not yet chance."""
    noise_seeds: int
    """Seeds of the dense arm that it comes from; 0 where it was not measured."""
    claim: str | None
    """What was put to the test in a confirmation."""
    verdict: str | None
    """What came of it; None where there is none."""
    comparisons: tuple[str, ...]
    """What it says of this placement."""
    ladder: tuple[str, ...]
    """What it says of other sizes."""
    unread: str
    """Why the verdict cannot be read, if it cannot."""


def evidence(found: Results, record: Record, out: Path) -> Evidence:
    """What a record rests on. out: the study's folder."""
    confirmed, unread = confirmation(out)
    noise = found.noise
    return Evidence(
        study=found.space.name,
        run=record.run,
        arm=record.arm,
        seed=record.seed,
        runs=noise.n if noise is not None and record.arm == "dense" else 1,
        loss_nats=record.loss_nats,
        delta_nats=found.delta(record),
        against_dense=found.against_dense(record),
        tokens=record.tokens,
        proxy_d_model=record.model.d_model,
        proxy_layers=record.model.n_layers,
        resolvable_nats=noise.resolvable_nats if noise else None,
        noise_seeds=noise.n if noise else 0,
        claim=claim(confirmed) if confirmed and confirmed.claims else None,
        verdict=headline(confirmed) if confirmed and confirmed.claims else None,
        comparisons=tuple(of_record(confirmed, record)) if confirmed else (),
        ladder=tuple(ladder(confirmed, step) for step in confirmed.ladder) if confirmed else (),
        unread=unread,
    )


def confirmation(out: Path) -> tuple[Confirmation | None, str]:
    """What the confirmation in a study's folder says, if there is one, and why it cannot be read, if it cannot."""
    try:
        return last_verdict(out / "confirm"), ""
    except UserError as error:
        return None, str(error)


def of_record(confirmed: Confirmation, record: Record) -> list[str]:
    """What a confirmation says of a record's placement, if that is one of its arms, a sentence a comparison."""
    names = {one.arm for one in confirmed.arms if one.placement == record.model.placement.text}
    its = [one for one in confirmed.comparisons if names & {one.a, one.b}]
    return [f"{one.size}: {sentence(one, confirmed.matters_ppl_percent)}" for one in its]


def words(its: Evidence) -> list[str]:
    """The same in plain words."""
    delta = "" if its.delta_nats is None or its.arm == "dense" else f", {its.delta_nats:+.3f} against the dense arm"
    told = f" ({its.against_dense})" if delta and its.against_dense != "unknown" else ""
    loss = "no loss" if its.loss_nats is None else f"{its.loss_nats:.4f} nats"
    seeds = "one run" if its.runs == 1 else f"one of {its.runs} seeds"
    noise = "not measured"
    if its.resolvable_nats is not None:
        noise = f"{its.resolvable_nats:.3f} nats, from {its.noise_seeds} seeds of the dense arm"
    return [
        f"{loss}{delta}{told} after {its.tokens:,} tokens at d_model {its.proxy_d_model}, {its.proxy_layers} layers; {seeds}.",
        f"Smallest difference that single runs of the proxy resolve: {noise}.",
        *_confirmed(its),
    ]


def _confirmed(its: Evidence) -> list[str]:
    if its.unread:
        return [f"Confirmation: {its.unread}."]
    if its.verdict is None:
        return ["Not confirmed with seeds: lpanas confirm DIR would do that."]
    of_it = its.comparisons or ("It compares no arm of this placement.",)
    return [f"Confirmation of '{its.claim}': {its.verdict}.", *of_it, *its.ladder]
