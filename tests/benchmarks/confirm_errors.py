"""Whole confirmations of a known truth: how often `lpanas confirm` errs, and what it sees.

    python tests/benchmarks/confirm_errors.py [--studies 2000] [--only "null; power"] [--seed 0] [--json FILE]

A run's loss is made up: what its arm and learning rate truly come to, and noise. All else is the protocol's own code: the
course asks for the runs (sweeps on validation, the rate chosen, seeds that decide on test, looks, further seeds while a
comparison is open), and the claim, attention better than dense, ffn and both, is judged with Holm's correction over all its
comparisons: of `null` and `what matters` six, at equal width and at equal params (and FLOPs, the same models), of the other
truths three, at equal width, as that takes half the time. Else the defaults of a protocol hold, without controls. Errors are
held against the truth at the rates that were chosen, and against that at each arm's best rate.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
from lpanas.lpa.config import override, parse_yaml
from lpanas.search.claim import Verdict, gather, together, verdicts
from lpanas.search.confirm import job_of
from lpanas.search.course import Cell, Contest, Course
from lpanas.search.presets import parse_space
from lpanas.search.record import Job, Record
from lpanas.search.sequential import LEVELS
from lpanas.search.space import Space
from lpanas.search.statistics import t_power
from lpanas.search.variants import Variant, variants

NOISE_NATS = 0.02
"""Standard deviation of a run's loss over seeds (about that of the CPU proxies)."""
STD_NATS = NOISE_NATS * math.sqrt(2)
"""Of the difference of two arms whose noise is independent."""
SPACE = """
name: made-up
proxy:
  model: {vocab_size: 264, d_model: 32, d_ff: 96, n_heads: 2, n_layers: 4, context: 16, rank_multiple: 2}
  optim: {lr: 1e-2}
  tokens: 640
  batch_size: 4
target: {model: {vocab_size: 264, d_model: 64, d_ff: 192, n_heads: 2, n_layers: 4, context: 32, rank_multiple: 4}}
vary: {ranks: {attention: [dense, 1/4]}}
confirm: {arms: [dense, attention, ffn, both], beside: [], controls: [], matches: [width]}
"""


@dataclass(frozen=True)
class Truth:
    """What is true of made-up runs."""

    effect_nats: float = 0.0
    """How much better attention is than every other arm, at the best rate of each."""
    stds: Mapping[str, float] = field(default_factory=dict)
    """Noise by arm, over NOISE_NATS; 1 when left out."""
    shared: float = 0.0
    """Of the noise's variance, what all arms of a seed have in common."""
    freedom: int | None = None
    """Degrees of freedom of noise that is t-distributed; normal when left out. Of the same deviation."""
    curve: float = 0.0
    """What half or twice the best rate costs, over NOISE_NATS; four times that at a quarter. 0: every rate is as good."""
    octaves: Mapping[str, float] = field(default_factory=dict)
    """Of the best rate over 1, by arm; 0 when left out."""
    settings: tuple[str, ...] = ()
    """Keys of the protocol that are set otherwise."""

    def nats(self, arm: str, factor: float) -> float:
        """The true loss at a rate, less that of dense at its best one."""
        off = math.log2(factor / self.best(arm))
        return -self.effect_nats * (arm == "attention") + self.curve * NOISE_NATS * off**2

    def best(self, arm: str) -> float:
        """Its best rate, over the proxy's."""
        return 2.0 ** self.octaves.get(arm, 0.0)

    def noise(self, arm: str, common: float, random: np.random.Generator) -> float:
        """Of a run. common: its seed's."""
        own = _draw(self, random)
        return NOISE_NATS * self.stds.get(arm, 1.0) * (math.sqrt(self.shared) * common + math.sqrt(1 - self.shared) * own)


def _draw(truth: Truth, random: np.random.Generator) -> float:
    if truth.freedom is None:
        return float(random.normal())
    return float(random.standard_t(truth.freedom)) * math.sqrt((truth.freedom - 2) / truth.freedom)


BETWEEN = {"dense": 0.5, "attention": -0.3, "ffn": 0.2, "both": -0.5}
NULL, MATTERS_NATS = Truth(), math.log1p(0.01)
ALL = ("confirm.matches=[width, params, flops]",)
UNEQUAL = {"dense": 1.0, "attention": 2.0, "ffn": 0.5, "both": 1.5}
TRUTHS: dict[str, Truth] = {
    "null": replace(NULL, settings=ALL),
    "null, width": NULL,
    "null, correlated 0.5": replace(NULL, shared=0.5),
    "null, noise 1 : 2 : 0.5 : 1.5": replace(NULL, stds=UNEQUAL),
    "null, t with 4 degrees": replace(NULL, freedom=4),
    "what matters": Truth(MATTERS_NATS, settings=ALL),
    "what matters, noise 1 : 2 : 0.5 : 1.5": Truth(MATTERS_NATS, stds=UNEQUAL),
    "what matters, t with 4 degrees": Truth(MATTERS_NATS, freedom=4),
    "power, 0.5 sd": Truth(0.5 * STD_NATS),
    "power, 1 sd": Truth(STD_NATS),
    "power, 2 sd": Truth(2 * STD_NATS),
    "power, 1 sd, t with 4 degrees": Truth(STD_NATS, freedom=4),
    **{f"rates, curve {curve:g}": replace(NULL, curve=curve) for curve in (0.5, 1.0, 2.0, 4.0)},
    "rates, curve 1, 6 seeds a rate": replace(NULL, curve=1.0, settings=("confirm.seeds.sweep=6",)),
    "rates, curve 1, noise 1 : 2 : 0.5 : 1.5": replace(NULL, curve=1.0, stds=UNEQUAL),
    "rates, curve 1, best rates between those tried": replace(NULL, curve=1.0, octaves=BETWEEN),
}


@cache
def protocol(settings: tuple[str, ...]) -> tuple[Space, list[Variant], dict[str, Record]]:
    """A space, its arms, and the records so far without a loss, by what they train."""
    space = parse_space(override(parse_yaml(SPACE, "made up"), settings), "made up")
    return space, variants(space, {}), {}


def _ended(space: Space, blank: dict[str, Record], cell: Cell, loss_nats: float) -> Record:
    """The record of a run; what does not depend on the loss is made once for all studies."""
    if cell.key not in blank:
        job = job_of(space, "confirm-0", cell)
        blank[cell.key] = Record(**{name: getattr(job, name) for name in Job.model_fields}, status="complete")
        assert blank[cell.key].trained == cell.key
    return blank[cell.key].model_copy(update={"loss_nats": loss_nats, "test_loss_nats": loss_nats})


def play(truth: Truth, seed: int) -> list[Record]:
    """All runs of a confirmation; all that are asked for at a time end together."""
    space, arms, blank = protocol(truth.settings)
    random, common, records = np.random.default_rng(seed), dict[int, float](), list[Record]()
    while wanted := Course(space, arms, records).wanted():
        for cell in wanted:
            if cell.seed not in common:
                common[cell.seed] = _draw(truth, random)
            arm = cell.variant.arm
            loss_nats = 2.0 + truth.nats(arm, cell.factor) + truth.noise(arm, common[cell.seed], random)
            records.append(_ended(space, blank, cell, loss_nats))
    return records


@dataclass(frozen=True)
class Judged:
    """A comparison of one study."""

    verdict: Verdict
    matches: tuple[str, ...]
    seeds: int
    best_nats: float
    """The true difference at each arm's best rate."""
    chosen_nats: float
    """At the rates that were chosen."""

    def errs(self, verdict: Verdict, best: bool = False) -> bool:
        """Whether it is this verdict and not true. best: of the best rates."""
        true_nats = self.best_nats if best else self.chosen_nats
        wrong = true_nats > -1e-12 if verdict == "confirmed" else true_nats < -MATTERS_NATS + 1e-12
        return self.verdict == verdict and wrong


def judge(truth: Truth, records: Sequence[Record]) -> list[Judged]:
    """The comparisons of a claim, as the program judges them (conclude.py's verdicts, without its figures)."""
    space, arms, _ = protocol(truth.settings)
    course = Course(space, arms, records)
    contests = course.contests(course.sizes[0], "claim")
    differences = [one.differences for one in course.judged(contests)]
    plan = course.protocol.plan
    evidence = [gather(course.comparison(one), x, plan) for one, x in zip(contests, differences, strict=True)]
    found = zip(contests, differences, verdicts(evidence, plan), strict=True)
    return [_judged(truth, course, one, len(x), verdict) for one, x, verdict in found]


def _judged(truth: Truth, course: Course, one: Contest, seeds: int, verdict: Verdict) -> Judged:
    factors = [course.sweep(arm).factor for arm in (one.a, one.b)]
    assert None not in factors
    at = [truth.nats(arm.arm, factor) for arm, factor in zip((one.a, one.b), factors, strict=True) if factor is not None]
    best = truth.nats(one.a.arm, truth.best(one.a.arm)) - truth.nats(one.b.arm, truth.best(one.b.arm))
    return Judged(verdict, one.matches, seeds, best, at[0] - at[1])


@dataclass(frozen=True)
class Rates:
    """What many studies of one truth have come to; all but the seeds are shares."""

    truth: str
    studies: int
    false_confirmed: float
    """Studies in which any comparison is confirmed that is not so at the rates that were chosen."""
    false_confirmed_best: float
    """... that is not so at the best rates."""
    false_claims: float
    """Studies in which the claim is confirmed at any match and not so (chosen)."""
    false_refuted: float
    """Studies in which any comparison is refuted that is as large as matters (chosen)."""
    confirmed: float
    """Of all comparisons."""
    refuted: float
    seeds: float
    """Of a comparison, in the mean."""
    seconds: float

    def margin(self, share: float) -> float:
        """Two standard errors of a share."""
        return 2 * math.sqrt(share * (1 - share) / self.studies)


def measure(name: str, studies: int, seed: int) -> Rates:
    """So many confirmations of a truth."""
    began, truth = time.perf_counter(), TRUTHS[name]
    found = [judge(truth, play(truth, seed + number)) for number in range(studies)]
    every = [one for judged in found for one in judged]
    return Rates(
        truth=name,
        studies=studies,
        false_confirmed=_share([any(one.errs("confirmed") for one in judged) for judged in found]),
        false_confirmed_best=_share([any(one.errs("confirmed", best=True) for one in judged) for judged in found]),
        false_claims=_share([_false_claim(judged) for judged in found]),
        false_refuted=_share([any(one.errs("refuted") for one in judged) for judged in found]),
        confirmed=_share([one.verdict == "confirmed" for one in every]),
        refuted=_share([one.verdict == "refuted" for one in every]),
        seeds=float(np.mean([one.seeds for one in every])),
        seconds=time.perf_counter() - began,
    )


def _share(which: Sequence[bool]) -> float:
    return float(np.mean(which))


def _false_claim(judged: Sequence[Judged]) -> bool:
    """Whether the claim is confirmed at a match where any part of it is not true."""
    for match in {match for one in judged for match in one.matches}:
        parts = [one for one in judged if match in one.matches]
        if together(one.verdict for one in parts) == "confirmed" and any(one.errs("confirmed") for one in parts):
            return True
    return False


def predicted(truth: Truth) -> tuple[float, float]:
    """The power of the last look alone: at Holm's first level, and at the one that is left to the last open comparison.
    (Looking earlier, too, adds a little.)"""
    space, arms, _ = protocol(truth.settings)
    course = Course(space, arms, [])
    plan, several = course.protocol.plan, len(course.contests(course.sizes[0], "claim"))
    levels = [LEVELS[plan.test](plan.looks, alpha)[-1] for alpha in (plan.alpha / several, plan.alpha)]
    low, high = (t_power(truth.effect_nats, STD_NATS, plan.most, level) for level in levels)
    return low, high


HEAD = (
    "truth", "studies", "any false confirmation", "at best rates", "a false claim", "any false refutation",
    "comparisons confirmed", "refuted", "seeds", "predicted power",
)  # fmt: skip


def printed(found: Sequence[Rates]) -> str:
    """A table in Markdown, shares in per cent with two standard errors."""
    rows = ["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
    for one in found:
        shares = (one.false_confirmed, one.false_confirmed_best, one.false_claims, one.false_refuted)
        errors = [f"{share:.1%} ± {one.margin(share):.1%}" for share in shares]
        power = "{:.2f} to {:.2f}".format(*predicted(TRUTHS[one.truth])) if one.truth.startswith("power") else ""
        rest = [f"{one.confirmed:.1%}", f"{one.refuted:.1%}", f"{one.seeds:.1f}", power]
        rows.append("| " + " | ".join([one.truth, f"{one.studies:,}", *errors, *rest]) + " |")
    return "\n".join(rows)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--studies", type=int, default=2000, help="of each truth")
    words.add_argument("--only", default="", help="beginnings of names, separated by semicolons; all when left out")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--json", type=Path, help="where the figures go, too")
    given = words.parse_args()
    names = [name for name in TRUTHS if name.startswith(tuple(part.strip() for part in given.only.split(";")))]
    if not names:
        words.error(f"--only {given.only}: known: {'; '.join(TRUTHS)}")
    found = list[Rates]()
    for name in names:
        found.append(measure(name, given.studies, given.seed))
        print(f"{name}: {given.studies:,} studies, {found[-1].seconds:.0f} s", file=sys.stderr)
        if given.json:
            given.json.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n", encoding="utf-8")
    print(printed(found))


if __name__ == "__main__":
    main()
