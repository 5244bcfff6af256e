"""Records -> what they say: the noise, the front, the arms, the winner."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..lpa.config import UserError
from ..lpa.files import replace_text
from . import noise, pareto, timetable
from .folder import RECORDS
from .ledger import NOISE, SEARCH, Ledger
from .record import Record
from .space import Space
from .stored import read_folder

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Results:
    """The records of a study and what follows from them."""

    space: Space
    records: list[Record]
    """Of candidates, by number."""
    seeds: list[Record]
    """Of further seeds of the dense arm."""

    @cached_property
    def complete(self) -> list[Record]:
        """The candidates with a loss."""
        return [record for record in self.records if record.status == "complete"]

    @cached_property
    def arms(self) -> dict[str, Record]:
        """The reference arms that have been run, by name."""
        return {record.arm: record for record in self.records if record.arm is not None}

    @property
    def tokens(self) -> int:
        """Trained on in all runs together."""
        return sum(record.tokens - record.tokens_before for record in (*self.records, *self.seeds))

    @cached_property
    def noise(self) -> noise.Noise | None:
        """Over the seeds of the dense arm, its own run included."""
        dense = [record for record in self.records if record.arm == "dense"]
        losses = [record.loss_nats for record in [*dense, *self.seeds] if record.loss_nats is not None]
        return noise.measure(losses)

    @cached_property
    def front(self) -> list[Record]:
        """The non-dominated candidates that keep to the limits, lowest loss first."""
        rows = [record for record in self.complete if record.feasible]
        if not rows:
            return []
        chosen = pareto.non_dominated(self.points(rows))
        return sorted((r for r, on_front in zip(rows, chosen, strict=True) if on_front), key=lambda r: r.loss_nats or 0.0)

    @cached_property
    def winner(self) -> Record | None:
        """The knee of the front."""
        front = self.front
        return front[pareto.knee(self.points(front))] if front else None

    @property
    def winner_words(self) -> str:
        """What the winner is on the front."""
        ends = self.front[:1] + self.front[-1:]
        if len(self.front) == 1:
            return "the only run on the front"
        on_end = self.winner is not None and self.winner.run in {record.run for record in ends}
        return "an end of the front, which has no knee" if on_end else "the knee of the front"

    def points(self, records: Sequence[Record]) -> np.ndarray:
        """(n, objectives) of complete records."""
        return np.array([record.values(self.space.objectives) for record in records])

    def relative(self, record: Record, cost: str) -> float:
        """A cost as a share of the dense target's."""
        return record.costs[cost] / self.space.dense_costs[cost]

    def delta(self, record: Record) -> float | None:
        """The loss less the dense arm's (of the same seed and batches), nats."""
        dense = self.arms.get("dense")
        if dense is None or dense.loss_nats is None or record.loss_nats is None:
            return None
        return record.loss_nats - dense.loss_nats

    def against_dense(self, record: Record) -> str:
        """Whether one run of each tells the candidate from the dense arm: better, worse or tied."""
        delta = self.delta(record)
        if delta is None or self.noise is None:
            return "unknown"
        if record.arm == "dense":
            return ""
        return "tied" if abs(delta) <= self.noise.resolvable_nats else "better" if delta < 0 else "worse"

    @property
    def band(self) -> tuple[float, float] | None:
        """The lowest and the highest loss that one run does not tell from the dense arm's, nats; None without noise."""
        dense = self.arms.get("dense")
        if dense is None or dense.loss_nats is None or self.noise is None:
            return None
        return dense.loss_nats - self.noise.resolvable_nats, dense.loss_nats + self.noise.resolvable_nats

    def tied(self, record: Record) -> list[Record]:
        """The other candidates whose loss this proxy cannot tell from a record's."""
        if self.noise is None or record.loss_nats is None:
            return []
        return [
            other
            for other in self.complete
            if other.run != record.run and abs((other.loss_nats or 0.0) - record.loss_nats) <= self.noise.resolvable_nats
        ]

    @cached_property
    def tied_with_front(self) -> list[Record]:
        """The candidates behind the front that are within noise of it: nothing on it dominates them any more when their loss is
        lower by what single runs resolve. They keep to the limits."""
        on_front = {record.run for record in self.front}
        behind = [record for record in self.complete if record.feasible and record.run not in on_front]
        if self.noise is None or not behind:
            return []
        front, points = self.points(self.front), self.points(behind)
        points[:, 0] -= self.noise.resolvable_nats
        no_larger = np.all(front[:, None] <= points[None], axis=2)  # (front, behind)
        dominated = no_larger & np.any(front[:, None] < points[None], axis=2)
        return [record for record, lost in zip(behind, dominated.any(axis=0), strict=True) if not lost]

    def pick(self, which: str) -> Record:
        """`knee`, `loss` (the lowest), `cost` (the lowest first cost on the front) or a run. Raises UserError."""
        front = self.front
        if which in ("knee", "loss", "cost"):
            if not front:
                raise UserError("there is no complete run within the limits to pick from")
            if which == "knee":
                assert self.winner is not None
                return self.winner
            return front[0] if which == "loss" else min(front, key=lambda record: record.costs[self.costs[0]])
        run = f"{SEARCH}-{which}" if which.isdigit() else which
        found = [record for record in self.records if record.run == run]
        if not found:
            runs = f", or {self.records[0].run} to {self.records[-1].run}" if self.records else ""
            raise UserError(f"--pick {which}: no such run; knee, loss, cost{runs}")
        if found[0].loss_nats is None:
            raise UserError(f"--pick {which}: that run {found[0].status}: {found[0].reason}{self._instead(found[0])}")
        return found[0]

    def _instead(self, record: Record) -> str:
        """The complete run of the same candidate, in words."""
        its = (record.model, record.target, record.seed)
        same = [other.run for other in self.complete if (other.model, other.target, other.seed) == its]
        return f"; {same[0]} is the same placement, complete: --pick {same[0].removeprefix(f'{SEARCH}-')}" if same else ""

    @property
    def costs(self) -> list[str]:
        """The costs among the objectives, or all of them when only the loss is minimised."""
        return [name for name in self.space.objectives if name != "loss_nats"] or list(self.space.dense_costs)

    @property
    def priced(self) -> list[str]:
        """The costs that count: these, and those that have a limit alone."""
        return list(dict.fromkeys([*self.costs, *(name for name in self.space.limits if name in self.space.dense_costs)]))

    def table(self, records: Sequence[Record]) -> "pd.DataFrame":
        """A row a record, units in the columns' names."""
        import pandas as pd  # no table is made before the first run

        return pd.DataFrame([self.row(record) for record in records])

    def row(self, record: Record) -> dict[str, object]:
        """What the tables say of a record, units in the names."""
        measured = record.measured
        return {
            "run": record.run,
            "arm": record.arm or "",
            "sublayers": record.target.placement.sublayers,
            "status": record.status,
            "loss_nats": record.loss_nats,
            "perplexity": record.perplexity,
            "bits_per_byte": record.bits_per_byte,
            "delta_nats": self.delta(record),
            "against_dense": self.against_dense(record),
            **record.costs,
            **{f"{name}_share": self.relative(record, name) for name in record.costs},
            "placement": record.placement,
            "d_ff": record.target.d_ff,
            "proxy_placement": record.model.placement.text,
            "proxy_d_ff": record.model.d_ff,
            "seed": record.seed,
            "tokens": record.tokens,
            "continues": record.continues or "",
            "seconds": measured.seconds if measured else None,
            "reason": record.reason,
        }


def results(space: Space, ledger: Ledger) -> Results:
    """What a study holds."""
    return Results(space, ledger.records(SEARCH), ledger.records(NOISE))


def read_study(folder: Path, url: str | None = None) -> Results:
    """What a study's folder holds. Raises UserError."""
    stored = read_folder(folder, url, SEARCH)
    space = timetable.kept(stored.space, folder, stored.measured, stored.records)
    seeds = [record for record in stored.records if record.run.startswith(NOISE)]
    return Results(space, [record for record in stored.records if not record.run.startswith(NOISE)], seeds)


def write_tables(found: Results, out: Path) -> None:
    """records.jsonl, a line a run, and front.csv, the non-dominated ones."""
    lines = [record.model_dump_json() for record in [*found.records, *found.seeds]]
    replace_text(out / RECORDS, "".join(line + "\n" for line in lines))
    replace_text(out / "front.csv", found.table(found.front).to_csv(index=False))
