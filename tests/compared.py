"""Small studies to hold against each other, in memory and in folders."""

import shutil
from contextlib import closing
from pathlib import Path

from lpanas.lpa.config import dump_yaml
from lpanas.search.compare import Study
from lpanas.search.ledger import NOISE, SEARCH, open_ledger
from lpanas.search.results import Results, write_tables
from making import arm_records, ended, job, record, tiny_space

SPACE = tiny_space()
DENSE = SPACE.dense_costs["flops_per_token"]


def seeds(space, *losses):
    return [ended(job(space.arm("dense"), f"noise-{n}", seed=n + 1), loss) for n, loss in enumerate(losses)]


def study(label, losses, space=SPACE, noise=(3.02, 3.04), content=None, more=()):
    """A dense arm of loss 3.00, by which the resolvable difference is 0.1217 nats, and candidates as (loss, share) pairs."""
    records = [record(0, 3.00, DENSE, arm="dense")] if noise is not None else []
    records += [record(n, loss, round(DENSE * share)) for n, (loss, share) in enumerate(losses, 1)]
    return Study(label, Path(label), Results(space, [*records, *more], seeds(space, *(noise or ()))), content)


A = study("a", [(3.1, 0.5), (3.3, 0.4), (3.2, 0.6)])
B = study("b", [(2.9, 0.8), (3.18, 0.45)])
OTHER_TARGET = tiny_space("target.model.d_ff=256")
OTHER_LR = tiny_space("proxy.optim.lr=2e-2")
EMPTY = Study("none", Path("none"), Results(SPACE, [], []))
FAILED = Study("failed", Path("failed"), Results(SPACE, arm_records(SPACE, None, None), []))
NO_DENSE = study("no dense", [(3.1, 0.5), (3.0, 0.9)], noise=None)

SCRIPT = '<script>window.harmed = "1"<'
IMAGE = "<img src=x onerror='window.harmed = 1'>\"&%{x}"
OUTLIER = study("outlier", [(3.1, 0.5), (3.0, 0.6), (2.9, 0.7), (1e6, 0.01)])
THREE = tiny_space("objectives=[loss_nats, params, memory_bytes]")
ARMS = arm_records(THREE, 3.0, 3.1, 3.2, 3.3)
ODD = study(IMAGE, [(3.1, 0.5), (3.2, 0.4)], OTHER_LR.change(name=SCRIPT))
CASES = {
    "two": (A, B),
    "apart": (A, study("b", [(2.9, 0.8), (3.3, 0.4)], OTHER_LR), study("c", [(3.0, 0.5)], OTHER_TARGET)),
    "eight": tuple(study(f"s{n}", [(3.1 - n / 50, 0.5 - n / 50), (3.2, 0.3)]) for n in range(8)),
    "missing": (A, EMPTY, FAILED, NO_DENSE),
    "nothing": (EMPTY, FAILED),
    "no dense": (A, Study("no dense", Path("x"), Results(OTHER_LR, NO_DENSE.found.records, []))),
    "outlier": (A, OUTLIER),
    "identical": (study("a", [(3.0, 1.0)] * 3), study("b", [(3.0, 1.0)])),
    "one objective": (A, study("b", [(3.1, 0.5)], tiny_space("objectives=[loss_nats]"))),
    "three objectives": tuple(
        Study(name, Path(name), Results(THREE, arm_records(THREE, 3, 3.1, 3.2, 3.3), [])) for name in "ab"
    ),
    "odd names": (ODD, study(SCRIPT, [(3.1, 0.5)]), study("%{x} <b>b</b>", [(3.0, 0.5)])),
}


def written(folder, found):
    folder.mkdir(parents=True)
    (folder / "space.yaml").write_text(dump_yaml(found.space), encoding="utf-8")
    write_tables(found, folder)
    return folder


def stored(folder, found, content, tables):
    """The same with a storage of its own."""
    written(folder, found)
    keep(found, content, f"sqlite:///{shutil.copy(tables, folder / 'study.db')}", "lpanas")
    return folder


def keep(found, content, url, name):
    """A study in a storage that may hold others."""
    with closing(open_ledger(found.space, url, name)) as ledger:
        ledger.check(content)
        for kind, records in ((SEARCH, found.records), (NOISE, found.seeds)):
            for its in records:
                ledger.add(kind, its)
                ledger.tell(its)
