"""Studies as a page may meet them: made up, by their seed alone."""

import json
from random import Random

from lpanas.search.record import Measured
from lpanas.search.results import Results
from making import arm_records, ended, job, tiny_space

SCRIPT = "<script>window.harmed = 1</script><img src=x onerror='window.harmed = 1'>\"'&"
REASONS = {"pruned": "behind at 160 tokens", "diverged": "the training loss was nan at step 3", "failed": "the worker was lost"}
GROUPS = "q: [dense, 1/4], k: [dense, 1/4], v: [dense, 1/4], o: [dense, 1/4], gate: [dense, 1/2, 1/4], down: [dense, 1/4]"
VARY = (f"vary.ranks={{{GROUPS}}}", "vary.bands=2", "vary.rebalance=[none, params]")
"""So much that thousands of candidates differ."""


def study(count, *settings, seed=0, seeds=3, lost=0.2):
    """A search of so many candidates, arms included: low rank raises the loss, with noise; some runs are pruned, diverge or
    fail; two workers."""
    space, random = tiny_space(*VARY, "search.trials=10000", "search.rungs=1", *settings), Random(seed)
    arms = arm_records(space, *[1.0] * min(4, count))
    arms = [one.change(**shown(one, random, number)) for number, one in enumerate(arms)]
    points = space.drawn(random)
    others = [candidate(space, next(points), random, number, lost) for number in range(len(arms), count)]
    dense = [ended(job(space.arm("dense"), f"noise-{n}", seed=n + 1), 1.0) for n in range(seeds)]
    further = [one.change(**shown(one, random, 4 + number)) for number, one in enumerate(dense)]
    return Results(space, [*arms, *others], further)


def candidate(space, point, random, number, lost):
    made = ended(job(space.candidate(point), f"trial-{number}"), 1.0)
    status = random.choice(list(REASONS)) if random.random() < lost else "complete"
    if status == "complete":
        return made.change(**shown(made, random, number))
    curve = () if status == "failed" else ((160, 4.0 + random.random()),)
    its = {"loss_nats": None, "bits_per_byte": None, "curve": curve, "tokens": 160 if curve else 0, "status": status}
    return made.change(**its, reason=REASONS[status], measured=None if status == "failed" else moment(random, number))


def shown(record, random, number):
    """A loss that low rank raises, and all that goes with it."""
    ranks = [rank for row in record.target.placement.layers for rank in row if rank is not None]
    loss = 3.0 + 0.3 * len(ranks) / 28 + random.gauss(0, 0.01)
    curve = tuple((tokens, loss + (640 - tokens) / 1280) for tokens in (160, 320, 640))
    return {"loss_nats": loss, "bits_per_byte": loss * 1.5, "curve": curve, "measured": moment(random, number)}


def moment(random, number):
    started, seconds = 1.7e9 + 31.0 * (number // 2) + random.random(), 28 + 2 * random.random()
    return Measured(device="cpu", started=started, seconds=seconds, train_seconds=25.0, peak_memory_bytes=10**8)


def named(name, seeds=3):
    """A study whose space is called so, as far as a folder may be, and whose runs failed for a reason that is called so."""
    found = study(12, f"name={json.dumps(name.replace('/', ''))}", seeds=seeds)
    lost = ended(found.records[-1].change(run="trial-12"), status="failed")
    renamed = [one.change(reason=name) if one.status != "complete" else one for one in [*found.records, lost]]
    return Results(found.space, renamed, found.seeds)


def first(found, count):
    """The same after so many candidates, without further seeds."""
    return Results(found.space, found.records[:count], [])


def only(found, *status):
    return Results(found.space, [one for one in found.records if one.status in status], found.seeds)


def identical(count):
    """So many candidates that cost and lose the same."""
    found = study(count, lost=0.0)
    alike = ("costs", "loss_nats", "bits_per_byte", "curve", "target", "model")
    same = {name: getattr(found.records[-1], name) for name in alike}
    return Results(found.space, [one.change(**same) for one in found.records], [])


def astray(count):
    """One with a candidate whose loss is huge."""
    found = study(count, lost=0.0)
    far = {"loss_nats": 1e6, "bits_per_byte": 1.5e6, "curve": ((160, 1e5), (640, 1e6))}
    return Results(found.space, [one.change(**far) if n == 5 else one for n, one in enumerate(found.records)], found.seeds)


ODD = {
    "nothing has ended": lambda: first(study(4), 0),
    "one record": lambda: first(study(4), 1),
    "one record that failed": lambda: Results(tiny_space(), arm_records(tiny_space(), None), []),
    "none complete": lambda: only(study(40, lost=0.9), "pruned", "diverged", "failed"),
    "only failed ones": lambda: only(study(60, lost=0.9), "failed"),
    "without the dense arm": lambda: Results((its := study(12)).space, its.records[1:], []),
    "one objective": lambda: study(20, "objectives=[loss_nats]"),
    "three objectives": lambda: study(20, "objectives=[loss_nats, params, memory_bytes]"),
    "limits": lambda: study(20, "limits={params: 0.9 x dense}"),
    "identical points": lambda: identical(8),
    "losses astray": lambda: astray(20),
    "odd names": lambda: named(SCRIPT),
}
"""Studies that a page has to survive."""
