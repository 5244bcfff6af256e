"""Equal step_seconds in a confirmation: which widths it asks for, the file in its folder that keeps them, and when they are
measured: once, before any run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, Protocol

from ..lpa.config import Config, UserError
from ..lpa.model_config import ModelConfig
from . import measured, timing
from .apart import Say, check_here, measuring, untold
from .carry import dense_training
from .equal_time import COVERAGE
from .folder import PART
from .ledger import Ledger
from .measured import Kept, Texts, in_storage, text_of
from .protocol import WITHIN
from .space import Space
from .timing import Task, Timed, Timings
from .variants import STEP_SECONDS, low_rank_targets

FILE = "step_seconds.json"
Device = Literal["cpu", "cuda"]


Measure = Callable[[Task, Say], Timings]


class Place(Protocol):
    """What an executor says of its workers."""

    @property
    def device(self) -> str:
        """cpu or cuda."""
        ...

    @property
    def threads(self) -> int:
        """Of a worker on a CPU."""
        ...


class Asked(Config):
    """What the widths are good for."""

    target: ModelConfig
    """The dense one."""
    batch_size: int
    microbatch: int
    """Sequences in a step, and in one forward pass of it."""
    activation_checkpointing: bool = False
    device: Device
    arms: dict[str, str]
    """The placement of each low-rank arm."""

    @property
    def flat(self) -> dict[str, object]:
        """Its figures by dotted key."""
        target = {f"target.model.{key}": value for key, value in self.target.model_dump(mode="json").items()}
        steps = {f"target.{key}": getattr(self, key) for key in ("batch_size", "microbatch", "activation_checkpointing")}
        return target | steps | {"device": self.device} | {f"confirm.arms '{arm}'": text for arm, text in self.arms.items()}


class StepSeconds(Config):
    """The file: what was asked, and what was measured."""

    asked: Asked
    within: float
    """What a ratio of times may miss of 1."""
    coverage: float
    """Of the ratios' intervals."""
    measured: Timings


def by_arm(found: StepSeconds | None) -> Mapping[str, int]:
    """d_ff of each arm; nothing where the protocol asks for none."""
    return {} if found is None else {arm: its.d_ff for arm, its in found.measured.arms.items()}


def timed(found: StepSeconds | None) -> Mapping[str, Timed]:
    """What was measured of each arm, likewise."""
    return {} if found is None else found.measured.arms


def of(
    space: Space, folder: Path, place: Place, texts: Texts, measure: Measure = timing.measured, tell: Say = untold
) -> StepSeconds | None:
    """The widths of a confirmation: its own, or measured now; None where none are asked for. Writes nothing but PART, which
    has each arm as soon as it is measured, so that the same command goes on. texts: what its
    storage has; tell: hears how far a measurement is.

    Raises UserError when its own are another protocol's, and when none can be measured.
    """
    if STEP_SECONDS not in space.confirm.matches:
        return None
    arms = low_rank_targets(space)
    asked = _asked(space, arms, "cuda" if place.device == "cuda" else "cpu")
    if (its := text_of(folder, FILE, texts)) is not None:
        return _checked(its, _parsed(its, "give another --out"), asked, "give another --out")
    check_here(asked.device, "confirm.matches: step_seconds", "; start it on one that has, or leave step_seconds out")
    with measuring("widths of equal step_seconds", tell) as say:
        under = space.step_times.under if space.step_times is not None else None
        threads = (under.threads if under else 0) or place.threads
        task = Task(
            dense_training(space, asked.device), arms, threads, WITHIN, space.confirm.timing_minutes, under, folder / PART
        )
        timings = measure(task, say)
    return StepSeconds(asked=asked, within=WITHIN, coverage=COVERAGE, measured=timings)


def kept(space: Space, folder: Path, texts: Texts) -> StepSeconds | None:
    """The widths of a confirmation; None where the protocol asks for none. texts: what the storage has. Raises UserError when
    they are missing, or another protocol's."""
    if STEP_SECONDS not in space.confirm.matches:
        return None
    its, back = text_of(folder, FILE, texts), "put the confirmation's own back"
    if its is None:
        raise UserError(f"{folder / FILE}: missing; the arms at equal step_seconds have the widths that it names")
    found = _parsed(its, back)
    return _checked(its, found, _asked(space, low_rank_targets(space), found.asked.device), back)


def keep(found: StepSeconds | None, folder: Path, ledger: Ledger) -> None:
    """Write the widths down, before the first run; see measured.keep."""
    if found is not None:
        text, where = found.model_dump_json(indent=1) + "\n", in_storage(folder / FILE)
        measured.keep(folder, FILE, text, ledger, lambda there: StepSeconds.parse_json(there, where) == found)
        (folder / PART).unlink(missing_ok=True)


def _asked(space: Space, arms: Mapping[str, ModelConfig], device: Device) -> Asked:
    return Asked(
        target=space.target.model,
        batch_size=space.target.batch_size,
        microbatch=space.target.microbatch,
        activation_checkpointing=space.target.activation_checkpointing,
        device=device,
        arms={arm: _words(placed) for arm, placed in arms.items()},
    )


def _words(placed: ModelConfig) -> str:
    activation = placed.factor_activation
    return placed.placement.text + (f", {activation}" if activation != "none" else "")


def _parsed(its: Kept, remedy: str) -> StepSeconds:
    return StepSeconds.parse_json(its.text, its.where, remedy)


def _checked(its: Kept, found: StepSeconds, asked: Asked, remedy: str) -> StepSeconds:
    """What a text says. Raises UserError when it was measured for anything else."""
    there, here = found.asked.flat, asked.flat
    for key in [*there, *(key for key in here if key not in there)]:
        if there.get(key) != here.get(key):
            raise UserError(
                f"{its.where}: measured for another protocol: {key} ({there.get(key, 'nothing')} there, "
                f"{here.get(key, 'nothing')} here); {remedy}"
            )
    if missing := sorted(set(asked.arms) - set(found.measured.arms)):
        raise UserError(f"{its.where}: no width of '{missing[0]}'; {remedy}")
    return found
