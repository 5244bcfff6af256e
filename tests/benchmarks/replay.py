"""A table of recorded runs, and searches replayed on it: a run is looked up instead of trained, its tokens are counted."""

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from lpanas.lpa.config import UserError, read_yaml
from lpanas.search import noise
from lpanas.search.ledger import NOISE, SEARCH
from lpanas.search.pareto import hypervolume, non_dominated
from lpanas.search.presets import parse_space
from lpanas.search.record import Record
from lpanas.search.space import Space

MARGIN = 0.01
"""How far beyond the table's worst value the reference point lies, as a share of the objective's range (assumption): so the
ends of the front count a little, too."""


@dataclass(frozen=True)
class Table:
    """Every candidate of one space, trained in full, with its loss at the same token counts."""

    space: Space
    records: dict[tuple[str, ...], Record]
    """By their parameters, in the order of the space's choices."""
    seeds: list[Record] = field(default_factory=list)
    """Further seeds of the dense arm."""

    def __post_init__(self) -> None:
        if len(self.records) < self.space.size or any(record.loss_nats is None for record in self.records.values()):
            complete = sum(record.loss_nats is not None for record in self.records.values())
            raise UserError(f"table: expected a complete run of each of the {self.space.size} points, found {complete}")
        if len({tuple(tokens for tokens, _ in record.curve) for record in self.records.values()}) > 1:
            raise UserError("table: expected the same token counts in every curve")

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """The token counts at which a loss was recorded; the last one is a full run."""
        return tuple(tokens for tokens, _ in next(iter(self.records.values())).curve)

    @property
    def run_tokens(self) -> int:
        """Tokens of one full run."""
        return self.counts[-1]

    @property
    def tokens(self) -> int:
        """Tokens of the whole table."""
        return self.run_tokens * len(self.records)

    def record(self, params: Mapping[str, object]) -> Record:
        """The run at a point of the space."""
        return self.records[tuple(str(params[name]) for name in self.space.choices)]

    def values(self, record: Record, tokens: int) -> tuple[float, ...]:
        """The objectives of a run at one of the counts: loss_nats there, and the costs."""
        loss_nats = record.curve[self.counts.index(tokens)][1]
        return tuple(loss_nats if name == "loss_nats" else float(record.costs[name]) for name in self.space.objectives)

    @cached_property
    def points(self) -> np.ndarray:
        """The objectives of all full runs. (records, objectives)"""
        return np.array([self.values(record, self.run_tokens) for record in self.records.values()])

    @cached_property
    def reference(self) -> np.ndarray:
        """The corner up to which the dominated hypervolume counts. (objectives,)"""
        low, high = self.points.min(axis=0), self.points.max(axis=0)
        return high + MARGIN * (high - low)

    @cached_property
    def volume(self) -> float:
        """The hypervolume that the whole table dominates."""
        return hypervolume(self.points, self.reference)

    @cached_property
    def front(self) -> np.ndarray:
        """The objectives of the runs that no other dominates. (front, objectives)"""
        return self.points[non_dominated(self.points)]

    @cached_property
    def resolvable_nats(self) -> float:
        """The smallest difference in loss that is not yet chance, from the seeds of the dense arm; 0 where there are none."""
        dense = [record for record in self.records.values() if record.arm == "dense"]
        measured = noise.at([*dense, *self.seeds], self.run_tokens)
        return measured.resolvable_nats if measured else 0.0

    def met(self, points: np.ndarray) -> int:
        """How many of the front have a match within the noise: no higher cost, and a loss that may be as low but for chance.
        points: (n, objectives)."""
        allowed = self.front + self.resolvable_nats * (np.array(self.space.objectives) == "loss_nats")
        return int(np.any(np.all(points[:, None, :] <= allowed[None, :, :], axis=2), axis=0).sum())

    def share(self, points: np.ndarray) -> float:
        """The hypervolume of some runs as a share of the table's; the same in whatever units the objectives are.
        points: (n, objectives)."""
        return hypervolume(points, self.reference) / self.volume


def read_table(folder: Path) -> Table:
    """The table in a folder: space.yaml and records.jsonl.gz (of other seeds, only the dense arm's). Raises UserError."""
    space = parse_space(read_yaml(folder / "space.yaml"), str(folder / "space.yaml"))
    path = folder / "records.jsonl.gz"
    try:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    records = [Record.parse(json.loads(line), f"{path}:{number}") for number, line in enumerate(lines, 1)]
    candidates = [record for record in records if record.run.startswith(SEARCH) and record.params]
    by_point = {tuple(record.params[name] for name in space.choices): record for record in candidates}
    return Table(space, by_point, [record for record in records if record.run.startswith(NOISE)])


@dataclass(frozen=True)
class Finished:
    """A candidate has been trained in full."""

    spent: int
    """Tokens that the search has trained by then, all its runs together."""
    values: tuple[float, ...]
    """Its objectives."""


@dataclass
class Replay:
    """One search on the table: what it has spent and what it has finished."""

    table: Table
    budget: int
    """Tokens; nothing goes on once they are spent."""
    spent: int = 0
    finished: list[Finished] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """Whether the budget is spent."""
        return self.spent >= self.budget

    def start(self, params: Mapping[str, object]) -> "Run":
        """A new run of a candidate. One that was trained before costs its tokens again."""
        return Run(self, self.table.record(params))

    def start_seed(self, number: int) -> "Run":
        """A run of the dense arm with another seed; it costs its tokens like any other."""
        return Run(self, self.table.seeds[number % len(self.table.seeds)], counts=False)


@dataclass
class Run:
    """A run of the replay, trained piece by piece."""

    replay: Replay
    record: Record
    tokens: int = 0
    """Trained so far."""
    counts: bool = True
    """Whether it is a candidate, whose end counts for the hypervolume."""

    def train(self, tokens: int | None = None) -> tuple[float, ...]:
        """Train on to a token count of the table, or to the end; the objectives there."""
        table = self.replay.table
        tokens = table.run_tokens if tokens is None else tokens
        self.replay.spent += tokens - self.tokens
        self.tokens = tokens
        values = table.values(self.record, tokens)
        if tokens == table.run_tokens and self.counts:
            self.replay.finished.append(Finished(self.replay.spent, values))
        return values


class Searcher(Protocol):
    """A way to search, as a pure function of its seed."""

    def __call__(self, replay: Replay, seed: int) -> None:
        """Start runs and train them until the replay is over."""
