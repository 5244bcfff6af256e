"""How a search proposes, judges and ends: the part of a space that may change from one call to the next."""

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ..lpa.config import Config, Count
from ..lpa.cost import Rebalance
from ..lpa.linear import FactorActivation
from ..lpa.placement import Rank, parse_projections, parse_rank, rank_text

ARMS = ("dense", "attention", "ffn", "both")
"""The reference arms, in the order in which every search trains them first."""
SAMPLERS = ("gp", "tpe", "nsga2", "random", "grid")


def _rank_choice(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"expected 'dense' or a fraction such as 1/4, found {value}")
    return rank_text(parse_rank(value))


RankChoice = Annotated[str, BeforeValidator(_rank_choice)]
"""`dense` or a fraction of full rank, as rank_text writes it."""


def _bands(value: object) -> object:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)  # a list would be no tuple to a strict config


def check_groups(groups: Iterable[str]) -> None:
    """Raises ValueError when a group of projections is unknown or two of them share one."""
    named: set[str] = set()
    for group in groups:
        try:
            projections = set(parse_projections(group))
        except ValueError as error:
            raise ValueError(f"ranks.{group}: {error}") from None
        if named & projections:
            raise ValueError(f"ranks.{group}: {min(named & projections)} stands in another group too")
        named |= projections


class Listed(Config):
    """A placement that the user asks for: `ranks: {attention: 1/4, ffn: [dense, 1/2]}`."""

    ranks: dict[str, Annotated[tuple[RankChoice, ...], BeforeValidator(_bands), Field(min_length=1)]]
    """For each group of projections its rank, or one for each of several equal bands of depth; the others stay dense."""
    rebalance: Rebalance = "none"
    factor_activation: FactorActivation = "none"

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_groups(self.ranks)
        for group, ranks in self.ranks.items():
            if len(ranks) not in (1, self.n_bands):
                raise ValueError(f"ranks.{group}: {len(ranks)} bands where another group has {self.n_bands}")
        return self

    @property
    def n_bands(self) -> int:
        """Bands of depth."""
        return max((len(ranks) for ranks in self.ranks.values()), default=1)

    @property
    def bands(self) -> list[dict[str, Rank]]:
        """The rank of each projection that is named, a band a row."""
        return [
            {
                name: parse_rank(ranks[band % len(ranks)])
                for group, ranks in self.ranks.items()
                for name in parse_projections(group)
            }
            for band in range(self.n_bands)
        ]


class Resources(Config):
    """What a worker takes of a node of a Ray cluster, in Ray's words."""

    num_cpus: Annotated[float, Field(ge=1e-3)] = 1.0
    """Cores; a run on a CPU has so many threads, one at least."""
    num_gpus: Annotated[float, Field(ge=0, le=1)] | None = None
    """A GPU, or a share of one: 0.5 for two runs on each. Left out: a GPU where the proxy trains on one, shared by
    workers_per_device."""


class Budget(Config):
    """How the search proposes, when it stops a run and when it ends."""

    sampler: Literal["gp", "tpe", "nsga2", "random", "grid"] = "gp"
    """gp: a Gaussian process of the loss, costs being known (ours); tpe, nsga2, random: Optuna's; grid: every point once."""
    placements: tuple[Listed, ...] = ()
    """Trained after the arms and the noise seeds; like those they are never stopped, nor held to the limits."""
    rungs: Annotated[int, Field(ge=0, le=8)] = 1
    """Token counts below proxy.tokens at which a run that is clearly behind is stopped: tokens / eta, tokens / eta^2, ..."""
    eta: Annotated[int, Field(ge=2)] = 4
    """Of the runs that come to a rung the best 1/eta go on, and those that the noise does not tell from them."""
    trials: Annotated[int, Field(ge=len(ARMS))] = 40
    """Candidates to train, the four arms included."""
    noise_seeds: Annotated[int, Field(ge=2)] = 4
    """Seeds of the dense arm, from which the noise is measured; the first is the arm's own run."""
    tokens: Annotated[Count, Field(gt=0)] | None = None
    """Training tokens of all runs together; no run starts that could exceed them."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """No new run starts after this long."""
    workers: Annotated[int, Field(gt=0)] | None = None
    """Runs at a time; one a core on a CPU, workers_per_device a GPU, when left out. They take the GPUs in turn."""
    workers_per_device: Annotated[int, Field(gt=0)] = 1
    """Runs that share a GPU."""
    mps: bool = False
    """Runs that share a GPU compute at the same time there, through a Multi-Process Service that the driver starts."""
    resources: Resources = Resources()
    """Of a worker under `--executor ray`."""
    hung_minutes: Annotated[float, Field(gt=0)] = 10.0
    """A worker that makes no progress for this long is replaced; longer than building a model and one validation take."""

    @property
    def planned(self) -> int:
        """Runs that there will be when the search ends."""
        return self.trials + self.noise_seeds - 1

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.trials < len(ARMS) + len(self.placements):
            least = len(ARMS) + len(self.placements)
            raise ValueError(f"trials: expected {least} or more, for the arms and the placements; found {self.trials}")
        return self
