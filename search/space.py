"""A space: the YAML that says what may vary, what is fixed and what is minimised; parameters -> candidates."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import chain, islice, product
from random import Random
from typing import Annotated, Any, Literal, Self

from optuna.distributions import BaseDistribution, CategoricalDistribution
from pydantic import Field, InstanceOf, ValidationError, model_validator

from ..lpa.config import Config, first_mistake, nearest
from ..lpa.cost import cost, rebalance
from ..lpa.model_config import ModelConfig
from ..lpa.placement import ATTENTION, FFN, Placement, Rank, parse_projections, parse_rank, rank_text
from ..lpa.step_table import StepTable
from ..lpa.train_config import TrainConfig
from .budget import Budget, Listed
from .candidate import COSTS, FORMULAS, STEP_SECONDS, Candidate, Costs
from .protocol import Protocol
from .rungs import rung_steps
from .sections import LIMIT, Arms, Limit, Target, Vary

ENUMERATED = 4096
"""Spaces up to this size are looked at point by point, larger ones by this many random points."""
PROBED = 200
"""Points that are tried, besides the corners, before limits count as contradictory."""


@dataclass(frozen=True)
class DenseStep:
    """A step of the dense target, as a study's record of it says."""

    seconds: float


class Space(Config):
    """What may vary, what is fixed, what is minimised."""

    name: str
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the proposals, the initial weights and the batches."""
    proxy: TrainConfig
    """The training of one trial; the search fills in its placement and FFN width."""
    target: Target
    vary: Vary
    arms: Arms = Arms()
    objectives: tuple[Literal["loss_nats", "flops_per_token", "params", "memory_bytes", "step_seconds"], ...] = (
        "loss_nats",
        "flops_per_token",
    )
    """Minimised together; loss_nats first, then the target's costs. step_seconds: of a training step, measured."""
    limits: dict[str, Limit] = {}
    """Largest cost of a candidate at the target: `params: 1.0 x dense`, or a number. Not trained when above it."""
    search: Budget = Budget()
    confirm: Protocol = Protocol()
    step_times: Annotated[InstanceOf[StepTable] | None, Field(exclude=True)] = None
    """The seconds of the target's pieces, once they are known; not of the YAML (see timetable.py)."""
    dense_step: Annotated[InstanceOf[DenseStep] | None, Field(exclude=True)] = None
    """Counts where step_times lacks pieces of the dense target; likewise not of the YAML."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not re.fullmatch(r"[^./\s\0][^/\n\0]*", self.name):
            raise ValueError(f"name: it names a folder, so without / and not beginning with a dot; found {self.name!r}")
        if self.objectives[:1] != ("loss_nats",) or len(set(self.objectives)) < len(self.objectives):
            raise ValueError("objectives: expected loss_nats first, then different costs")
        if self.proxy.seed:
            raise ValueError(f"proxy.seed: the space's own `seed` is that of every run, found {self.proxy.seed}")
        for name, model in (("proxy", self.proxy.model), ("target", self.target.model)):
            if model.placement.sublayers != "dense":
                raise ValueError(f"{name}.model.placement: the search fills it in, found '{model.placement.text}'")
            if model.n_layers < self.vary.bands:
                raise ValueError(f"vary.bands: {self.vary.bands} bands for the {model.n_layers} layers of the {name}")
            if model.tie_embeddings and self.proxy.optim.lr_rule == "mup":
                raise ValueError("proxy.optim.lr_rule: mup does not carry tied embeddings across widths, expected 'uniform'")
            self._check_ranks(name, model)
        for name in self.limits:
            if name not in COSTS:
                raise ValueError(f"limits.{name}: unknown cost, {nearest(name, COSTS)}")
        if self.target.step_times is not None and not self.asks_step_seconds:
            raise ValueError("target.step_times: step_seconds is neither among the objectives nor among the limits")
        self._check_search()
        self._check_feasible()
        if self.confirm.seeds.offset < self.search.noise_seeds:
            raise ValueError(
                f"confirm.seeds.offset: the search's own seeds go up to {self.search.noise_seeds - 1}, so one more"
            )
        return self

    def _check_search(self) -> None:
        """The rungs lie before the end, and every listed placement can be built."""
        try:
            _ = self.rungs
        except ValueError as error:
            raise ValueError(f"search.rungs: {error}") from None
        a_run = self.proxy.steps * self.proxy.batch_tokens
        if self.search.tokens is not None and self.search.tokens < a_run:
            raise ValueError(f"search.tokens: expected {a_run:,} or more, for one run; found {self.search.tokens:,}")
        for place, listed in enumerate(self.search.placements):
            try:
                self.listed(listed)
            except ValueError as error:
                reason = first_mistake(ModelConfig, error) if isinstance(error, ValidationError) else str(error)
                raise ValueError(f"search.placements.{place}: {reason}") from None

    @property
    def rungs(self) -> tuple[int, ...]:
        """The training tokens at which a run is judged, ascending, its end not among them."""
        steps = rung_steps(self.proxy.steps, self.search.eta, self.search.rungs)
        return tuple(step * self.proxy.batch_tokens for step in steps)

    def _check_ranks(self, where: str, model: ModelConfig) -> None:
        """Every rank saves something, and two choices never come down to one rank."""
        asked = [(f"vary.ranks.{group}", group, choices) for group, choices in self.vary.ranks.items()]
        asked += [(f"arms.{group}", group, (getattr(self.arms, group),)) for group in ("attention", "ffn")]
        for key, group, choices in asked:
            for name in (name for name in parse_projections(group) if name in model.projections):
                taken: dict[int | None, str] = {}
                for choice in choices:
                    placement = Placement.from_bands(model.n_layers, [{name: parse_rank(choice)}])
                    try:
                        rank = model.place(placement).rank(0, name)
                    except ValidationError as error:
                        message = first_mistake(ModelConfig, error).removeprefix("placement: ")
                        raise ValueError(f"{key}: {where}: {message}") from None
                    if rank in taken:
                        raise ValueError(
                            f"{key}: {taken[rank]} and {choice} are both rank {rank} in {name} of the {where}; "
                            f"lower {where}.model.rank_multiple ({model.rank_multiple})"
                        )
                    taken[rank] = choice

    def limit(self, name: str) -> float:
        """The largest allowed cost of a name, in its own unit."""
        factor = re.match(LIMIT, self.limits[name])
        assert factor is not None
        return float(factor[1]) * (self.dense_costs[name] if "dense" in self.limits[name] else 1)

    @property
    def asks_step_seconds(self) -> bool:
        """Whether step_seconds is an objective or has a limit."""
        return STEP_SECONDS in self.objectives or STEP_SECONDS in self.limits

    def broken(self, costs: Costs) -> list[str]:
        """The limits that are broken at such costs, as far as these and the dense target's are known (see costs)."""
        known = [name for name in self.limits if name in costs and name in self.dense_costs]
        return [name for name in known if costs[name] > self.limit(name)]

    def excess(self, costs: Costs) -> str:
        """The limits that are broken at such costs, and by how much: `params 1.25 x the limit`."""
        return ", ".join(f"{name} {costs[name] / self.limit(name):.4g} x the limit" for name in self.broken(costs))

    def _check_feasible(self) -> None:
        probes = chain(self.corners(), islice(self.drawn(Random(self.seed)), PROBED))
        if self.limits and not any(self.candidate(point).feasible for point in probes):
            limits = ", ".join(f"{name}: {limit}" for name, limit in self.limits.items())
            raise ValueError(f"limits: no candidate of the space keeps to {limits}")

    @cached_property
    def dense_costs(self) -> dict[str, int | float]:
        """The dense target's cost by name."""
        found = self.costs(self.target.model)
        if STEP_SECONDS not in found and self.dense_step is not None:
            found[STEP_SECONDS] = self.dense_step.seconds
        return found

    @cached_property
    def choices(self) -> dict[str, tuple[str, ...]]:
        """What may vary: a parameter for each (group, band), rebalance and factor_activation, each with its choices."""
        ranks = {
            rank_key(group, band, self.vary.bands): choices
            for group, choices in self.vary.ranks.items()
            for band in range(self.vary.bands)
        }
        return ranks | {"rebalance": self.vary.rebalance, "factor_activation": self.vary.factor_activation}

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's view of the choices."""
        return {name: CategoricalDistribution(choices) for name, choices in self.choices.items()}

    @property
    def size(self) -> int:
        """Points of the space (some of them the same candidate)."""
        total = 1
        for choices in self.choices.values():
            total *= len(choices)
        return total

    def points(self, random: Random) -> Iterator[dict[str, str]]:
        """Every point of a small space; of a large one ENUMERATED random points."""
        if self.size <= ENUMERATED:
            for point in product(*self.choices.values()):
                yield dict(zip(self.choices, point, strict=True))
        else:
            for _ in range(ENUMERATED):
                yield {name: random.choice(choices) for name, choices in self.choices.items()}

    def drawn(self, random: Random) -> Iterator[dict[str, str]]:
        """The same points in random order."""
        points = self.points(random)
        if self.size <= ENUMERATED:  # these come in order, of a larger space at random
            points = list(points)
            random.shuffle(points)
        yield from points

    def corners(self) -> Iterator[dict[str, str]]:
        """For each rebalance and factor_activation, the point with the lowest ranks and the one with the highest. Without
        rebalance they have the fewest and the most params and FLOPs; the other costs have them near the ends."""
        for rule, activation, pick in product(self.vary.rebalance, self.vary.factor_activation, (min, max)):
            ranks = {name: pick(choices, key=_size) for name, choices in self.choices.items() if name.startswith("rank")}
            yield ranks | {"rebalance": rule, "factor_activation": activation}

    def candidate(self, params: Mapping[str, str]) -> Candidate:
        """The candidate at a point of the space."""
        bands = [
            {
                name: parse_rank(params[rank_key(group, band, self.vary.bands)])
                for group in self.vary.ranks
                for name in parse_projections(group)
            }
            for band in range(self.vary.bands)
        ]
        return self._candidate(dict(params), bands, params["rebalance"], params["factor_activation"])

    def arm(self, name: str) -> Candidate:
        """A reference arm: one rank in the sublayers that it names, without rebalance. With its parameters where the space
        has such a point, and without any where it has not."""
        ranks = {
            projection: parse_rank(getattr(self.arms, group))
            for group, projections in (("attention", ATTENTION), ("ffn", FFN))
            if name in (group, "both")
            for projection in projections
        }
        return self._at_its_point([ranks], "none", "none")

    def listed(self, listed: Listed) -> Candidate:
        """A placement that the user asks for; with its parameters where the space has such a point."""
        return self._at_its_point(listed.bands, listed.rebalance, listed.factor_activation)

    def _at_its_point(self, bands: Sequence[Mapping[str, Rank]], rule: Any, activation: Any) -> Candidate:
        """The candidate, with its parameters where the space has such a point."""
        candidate = self._candidate({}, bands, rule, activation)
        params = {"rebalance": rule, "factor_activation": activation}
        for group in self.vary.ranks:
            for band in range(self.vary.bands):
                ranks = bands[band * len(bands) // self.vary.bands]
                texts = {rank_text(ranks.get(name)) for name in parse_projections(group)}
                params[rank_key(group, band, self.vary.bands)] = min(texts)
        params = {name: params[name] for name in self.choices}
        inside = all(value in self.choices[name] for name, value in params.items())
        if not inside or self.candidate(params).proxy != candidate.proxy:
            return candidate
        return self.candidate(params)

    def _candidate(self, params: dict[str, str], bands: Sequence[Mapping[str, Rank]], rule: Any, activation: Any) -> Candidate:
        models = []
        for model in (self.proxy.model, self.target.model):
            placed = model.change(placement=Placement.from_bands(model.n_layers, bands), factor_activation=activation)
            if placed.placement.sublayers == "dense":
                placed = model
            models.append(rebalance(placed, rule))
        costs = self.costs(models[1])
        return Candidate(params, models[0], models[1], costs, not self.broken(costs))

    def costs(self, target: ModelConfig) -> dict[str, int | float]:
        """What a target costs, by name; step_seconds once all its pieces were measured: of a search's candidates before any
        run, of a confirmation's arms not always."""
        figures = cost(target, self.target.microbatch, recomputes=self.target.activation_checkpointing).asdict()
        found: dict[str, int | float] = {name: figures[name] for name in FORMULAS}
        if self.step_times is not None:
            with suppress(KeyError):
                found[STEP_SECONDS] = self.step_times.step_seconds(target, self.target.model.d_ff, self.target.batch_size)
        return found


def rank_key(group: str, band: int, bands: int) -> str:
    """The parameter that says a group's rank in a band of depth."""
    return f"rank {group}" if bands == 1 else f"rank {group} band {band}"


def _size(choice: str) -> Fraction:
    """Ranks by size, dense last."""
    return parse_rank(choice) or Fraction(2)
