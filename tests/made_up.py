"""Confirmations whose runs are made up."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from lpanas.lpa.config import override, parse_yaml
from lpanas.search.confirm import job_of
from lpanas.search.course import Course
from lpanas.search.presets import parse_space
from lpanas.search.record import Job, Record
from lpanas.search.variants import variants
from making import TINY

SHAPE = "proxy.model={vocab_size: 264, d_model: 32, d_ff: 96, n_heads: 2, n_layers: 4, context: 16, rank_multiple: 2}"
CONFIRM = """
confirm:
  arms: [dense, attention, ffn, both]
  beside: []
  matches: [width]
  seeds: {sweep: 2, first: 3, most: 8}
"""


def protocol_space(*settings):
    return parse_space(override(parse_yaml(TINY + CONFIRM, "tiny.yaml"), [SHAPE, *settings]), "tiny.yaml")


def never(arm, factor, seed):
    return False


@dataclass(frozen=True)
class Losses:
    """What each run comes to."""

    arms: dict[str, float] = field(default_factory=lambda: {"dense": 2.0, "attention": 2.02, "ffn": 2.05, "both": 2.1})
    sizes: dict[str, dict[str, float]] = field(default_factory=dict)
    """Of a size of its own."""
    noise: float = 0.03
    best_factor: float = 1.0
    test_best_factor: float = 1.0
    diverges: Callable[[str, float, int], bool] = never
    fails: Callable[[str, float, int], bool] = never

    def valid(self, arm, control, factor, seed, size="proxy"):
        return self._loss(arm, control, factor / self.best_factor, seed, size, "valid")

    def test(self, arm, control, factor, seed, size="proxy"):
        return self._loss(arm, control, factor / self.test_best_factor, seed, size, "test")

    def _loss(self, arm, control, off, seed, size, split):
        words = f"{arm} {control} {seed} {split} {size}".encode()
        chance = np.random.default_rng(list(words)).normal()
        return self.sizes.get(size, self.arms)[arm] + 0.1 * math.log2(off) ** 2 + self.noise * chance

    def record(self, job: Job) -> Record:
        where = job.params
        words = (where["arm"], where.get("control"), float(where["lr_factor"]), job.seed)
        of = (words[0], *words[2:])
        status = "diverged" if self.diverges(*of) else "failed" if self.fails(*of) else "complete"
        complete = status == "complete"
        return Record(
            **{name: getattr(job, name) for name in Job.model_fields},
            status=status,
            loss_nats=self.valid(*words, where["size"]) if complete else None,
            test_loss_nats=self.test(*words, where["size"]) if complete else None,
            tokens=-(-job.recipe.tokens // (job.recipe.batch_size * job.model.context))
            * job.recipe.batch_size
            * job.model.context,
        )


def ask(space, records):
    return Course(space, variants(space, {}), records).wanted()


def play(space, losses, at_once=1, random=None, before=()):
    """All records of a confirmation, of whose runs so many are under way at a time and end in random order."""
    arms, records, running = variants(space, {}), list(before), {}
    while True:
        wanted = Course(space, arms, records).wanted()
        for cell in [cell for cell in wanted if cell.key not in running][: at_once - len(running)]:
            running[cell.key] = job_of(space, f"confirm-{len(records) + len(running)}", cell)
        if not running:
            return records
        key = random.choice(sorted(running)) if random else next(iter(running))
        records.append(losses.record(running.pop(key)))
