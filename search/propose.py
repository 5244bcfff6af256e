"""The next candidate: a sampler proposes, and what was trained before or breaks a limit is refused and asked for again."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from random import Random

from .gain import by_gain, pool
from .proxy import Job, Known, Refusal
from .sampling import asked
from .space import Candidate, Space

ASKS = 50
"""Proposals that are asked for before an untried point is drawn at random (assumption)."""
ENOUGH = {"gp": 4, "tpe": 10, "nsga2": 10}
"""Runs that a rung must have seen before proposals are drawn from it (assumption; 10 is Optuna's n_startup_trials)."""


class Proposer:
    """Proposals for a space, as a pure function of its seed and of what was proposed and learnt before."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.levels = (space.proxy.steps * space.proxy.batch_tokens, *reversed(space.rungs))
        """Tokens at which losses are compared, the end first."""
        self.seen, self.proposed = dict[str, str](), 0
        self.made: dict[tuple[str, ...], Candidate] = {}

    def count(self, job: Job) -> None:
        """A job that is trained: never propose its model again."""
        self.seen.setdefault(job.model.model_dump_json(), job.run)
        self.proposed += 1

    def is_new(self, candidate: Candidate) -> bool:
        """Whether its model was never trained."""
        return candidate.trained not in self.seen

    def propose(self, known: Sequence[Known]) -> tuple[Candidate | None, tuple[Refusal, ...]]:
        """The next candidate to train, or None when the space has no other; and what was refused on the way."""
        refused = list[Refusal]()
        for candidate in islice(self._proposals(known), ASKS):
            why = self._why_not(candidate)
            if why is None:
                return candidate, tuple(refused)
            refused.append(Refusal(params=candidate.params, why=why))
        return self._untried(), tuple(refused)

    def _proposals(self, known: Sequence[Known]) -> Iterator[Candidate]:
        """What the sampler would train next; nothing where it leaves the choice to chance."""
        sampler, seed = self.space.search.sampler, Random(f"{self.space.seed} {self.proposed}").getrandbits(32)
        level = self._level(known)
        inside = [run for run in known if run.job.params]
        if sampler in ("tpe", "nsga2", "random"):
            yield from map(self._candidate, asked(self.space, inside, level, seed))
        elif sampler == "gp" and level is not None:
            new = [one for one in map(self._candidate, pool(self.space, inside, level)) if self._why_not(one) is None]
            yield from by_gain(self.space, new, inside, level, seed)

    def _level(self, known: Sequence[Known]) -> int | None:
        """The highest rung that enough runs have come to; none when there is no such rung."""
        enough = ENOUGH.get(self.space.search.sampler, 1)
        return next((level for level in self.levels if sum(level in run.losses for run in known) >= enough), None)

    def _untried(self) -> Candidate | None:
        """An untried feasible candidate, drawn evenly; in a large space among some random points of it."""
        random = Random(f"{self.space.seed} {self.proposed} untried")
        points = list(self.space.points(random))
        random.shuffle(points)
        return next((candidate for candidate in map(self._candidate, points) if self._why_not(candidate) is None), None)

    def _candidate(self, point: Mapping[str, str]) -> Candidate:
        """The space's candidate at a point, made once."""
        key = tuple(point.values())
        if key not in self.made:
            self.made[key] = self.space.candidate(point)
        return self.made[key]

    def _why_not(self, candidate: Candidate) -> str | None:
        """Why a candidate is refused; None for one that may be trained."""
        if not candidate.feasible:
            return f"above the limit of {', '.join(self.space.broken(candidate.costs))}"
        run = self.seen.get(candidate.trained)
        return None if run is None else f"the model of {run}"
