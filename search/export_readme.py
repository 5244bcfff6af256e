"""README.md and slurm.sh of a folder of exported configs: what is there, how to start it, what it would take."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

from ..lpa.config import UserError
from ..lpa.train_config import TrainConfig
from .anchored import unanchored
from .forms import starts
from .presets import load_config

SLURM, DENSE = "slurm.sh", "dense"
_TWIN = f"{DENSE}/train.yaml"
_PATHS = {
    True: "Its paths are whole, as at the export; relative ones start where the command does.",
    False: "**Some of its paths are relative, and start where the command does, not here.**",
}


def slurm() -> str:
    """A script for sbatch."""
    return resources.files("lpanas.search").joinpath("launch/train.sh").read_text(encoding="utf-8")


def readme(place: Path) -> str:
    """Of a target's folder, from the train.yaml and prediction.json that lie in it."""
    configs = sorted(
        [*place.glob("train.yaml"), *place.glob("*/train.yaml")], key=lambda path: (path.parent.name == DENSE, path)
    )
    named, again = {str(path.relative_to(place)): path for path in configs}, repeated(place)
    listed = "\n".join(
        f"- `{name}`: {_first(path)}{f'; it {again[name]}' if name in again else ''}" for name, path in named.items()
    )
    names = [name for name in named if name not in again]
    name = names[0]
    seeded = "\n".join(
        f"    lpanas train {one} --out {Path(one).parent / 'seed-1'} --set seed=1" for one in dict.fromkeys([name, _TWIN])
    )
    starts = "\n".join(f"    lpanas train {one}" for one in names)
    return f"""# Exported by lpanas

{listed}
- `prediction.json`, beside each: what it would take, against the dense twin, and what it rests on
- `{SLURM}`: any of them on the nodes of a Slurm job

What decided each key of a train.yaml stands above it, as a comment. `lpanas show {name}` says what it would run.

## Start it

In this folder, on one GPU (or a CPU); the same command goes on where it stopped:

{starts}

On N GPUs of one machine, and on a cluster:

    torchrun --nproc-per-node N --no-python lpanas train {name}
    sbatch --nodes 2 {SLURM} {name}

Results go to `train/` beside the config, or to `--out`. The text is the search's: set `data` to your own (`--set` or in the
file), the same for the dense twin. {_PATHS[_is_whole(configs[0])]}

{_others(configs, place)}## What it came to

    lpanas show .

compares what lies in folders beside each config with the dense twin's, seed by seed. One seed does not tell a small difference
from chance; more of them, for each of the two:

{seeded}

## What it would take

{_table(place)}
"""


def repeated(place: Path) -> dict[str, str]:
    """Configs of a target's folder that are the same training as another one there -> what is to be said of that."""
    first, again = dict[TrainConfig, str](), dict[str, str]()
    for path in sorted((*place.glob("train.yaml"), *place.glob("*/train.yaml")), key=lambda path: path.parent.name != DENSE):
        name = str(path.relative_to(place))
        try:
            config = load_config(path)
        except UserError:  # edited so that it cannot be read
            continue
        if (other := first.setdefault(config, name)) == _TWIN != name:
            again[name] = f"is the dense model itself: {_TWIN} alone need be trained"
        elif other != name:
            again[name] = f"is the same training as {other}: one of them is enough"
    return again


def _is_whole(path: Path) -> bool:
    """Whether a config's text is found wherever a training starts."""
    try:
        return not unanchored(load_config(path).data)
    except UserError:  # edited so that it cannot be read
        return True


def _others(configs: Sequence[Path], place: Path) -> str:
    """A section on the forms for other programs that lie beside the configs, if there are any."""
    lines = list[str]()
    for folder in dict.fromkeys(path.parent for path in configs):
        at = folder.relative_to(place)
        enter = "" if folder == place else f"cd {at} && "
        for name, command in starts(folder):
            lines.append(f"- `{at / name}`: " + (f"`{enter}{command}`" if command else f"see `{at / name / 'README.md'}`"))
    return "" if not lines else "\n".join(["## In other programs", "", "In this folder:", "", *lines, "", ""])


def _first(path: Path) -> str:
    """What a config's first line says of it."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        return lines.readline().strip("# \n").split(". Train it", 1)[0]


def _table(place: Path) -> str:
    """A row a prediction and one of the dense twin for each way of assuming."""
    rows, notes, dense = list[str](), dict[str, None](), dict[str, None]()
    found = list(_predictions(place))
    devices = dict.fromkeys(measured["device"] for _, its in found if (measured := its.get("measured")))
    for name, its in found:
        assumed, measured = its["assumed"], its.get("measured") or {}
        at = f"{assumed['mfu']:.3g} x {assumed['peak_tflops']:g} TFLOP/s"
        own, other = (_cells(measured, "" if devices else None, which) for which in ("", "dense_"))
        rows.append(_row(f"`{name}`", its["predicted"], own, at))
        dense[_row("`dense/train.yaml`", its["dense"], other, at)] = None
        notes[f"- {its['evidence']['run']} (`{name}`): {its['placement']}"] = None
    titles = ("config", "params", "FLOPs a token", "FLOPs in all", "GiB a GPU", "GiB, recomputed")
    titles += ("s a step, measured", "x dense", "hours, measured") if devices else ()
    titles += ("assumed s a step, one GPU", "assumed GPU hours", "assumed")
    table = "\n".join([f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}", *rows, *dense])
    return (
        f"{table}\n\nBy formula, before anything is trained. GiB a GPU: of a single one, with activations as the config has\n"
        "them (kept, unless it says `activation_checkpointing: true`); recomputed: with that key.\n"
        f"{_of_devices(list(devices))}Assumed times are not measured with lpanas train: a share of a GPU's peak, the same for "
        "all,\nof which low-rank layers reach less.\n\n" + "\n".join(notes)
    )


def _of_devices(devices: Sequence[str]) -> str:
    """What was measured, and on what."""
    if not devices:
        return ""
    return f"Measured: the sum of a step's pieces on {'; '.join(devices)}; hours on one such device, without evaluations.\n"


def _cells(measured: dict[str, Any], missing: str | None, which: str) -> list[str]:
    """Of what was measured; missing: what stands where nothing was. which: the dense twin's, or empty."""
    if not measured:
        return [] if missing is None else [missing] * 3
    seconds = measured[f"{which}step_seconds"]
    share = seconds / measured["dense_step_seconds"]
    return [f"{seconds:.4g}", f"{share:.3f}", f"{measured[f'{which}hours']:.4g}"]


def _predictions(place: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted([*place.glob("prediction.json"), *place.glob("*/prediction.json")]):
        with suppress(OSError, ValueError):  # another program's
            its = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(its, dict) and {"assumed", "predicted", "dense", "evidence"} <= set(its):
                yield str(path.parent.relative_to(place) / "train.yaml"), its


def _row(name: str, its: dict[str, Any], measured: list[str], at: str) -> str:
    cells = [name, f"{its['params']:,}", f"{its['flops_per_token']:,}", f"{its['flops']:.4g}"]
    memory = [its.get(key) for key in ("memory_bytes", "recomputed_memory_bytes")]
    cells += ["" if size is None else f"{size / 2**30:.2f}" for size in memory]  # an older file has one of them
    assumed = [its.get(f"assumed_{key}", its.get(key)) for key in ("step_seconds", "gpu_hours")]  # an older file's names
    cells += [*measured, *("" if figure is None else f"{figure:.4g}" for figure in assumed), at]
    return f"| {' | '.join(cells)} |"
