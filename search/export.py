"""Records -> complete full-scale training configs, each beside its dense twin, with what decided them."""

import json
import textwrap
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from ..lpa.config import UserError, dump_yaml, first_mistake, one_line
from ..lpa.files import replace_text, writing
from ..lpa.model_config import ModelConfig
from ..lpa.train_config import TrainConfig
from .anchored import anchored, unanchored
from .candidate import STEP_SECONDS
from .carry import rebuilt, retarget, train_config
from .caveats import caveats
from .evidence import Evidence, evidence, words
from .export_readme import DENSE, SLURM, readme, slurm
from .forms import retire
from .predict import Assumed, Measured, Prediction, lines, predict
from .record import Record
from .replacing import replace_config, replace_script
from .results import Results
from .rules import rules
from .space import Space
from .summary import measured_on

CONFIG, PREDICTION = "train.yaml", "prediction.json"


@dataclass(frozen=True)
class Forecast:
    """What prediction.json holds: a training beside its dense twin."""

    target: str
    """A named shape, or the space's target."""
    placement: str
    microbatch: int
    """Sequences in one forward pass on a GPU."""
    assumed: Assumed
    predicted: Prediction
    dense: Prediction
    evidence: Evidence
    measured: Measured | None
    """Where step_seconds were a cost of the study, and at its own target."""


@dataclass(frozen=True)
class Written:
    """A config that was written."""

    record: Record
    path: Path
    """Of its train.yaml."""
    dense: Path
    """Of its dense twin's."""
    replaced: tuple[str, ...]
    """What lay there before and was another, in words, and where it is now, if it was edited."""
    caveats: tuple[str, ...]
    """What does not hold of the target."""

    @property
    def text(self) -> str:
        """Where it is, and what it has replaced."""
        return "; ".join([str(self.path), *self.replaced])


@dataclass(frozen=True)
class Planned:
    """An export before it is written."""

    found: Results
    record: Record
    space: Space
    """With the target that is meant."""
    config: TrainConfig
    shape: str | None
    """The target's name; None for the space's own."""

    def places(self, out: Path, apart: bool) -> tuple[Path, Path]:
        """The folders of the target and of the config in a study's folder: one, unless picks lie apart."""
        place = out / "export" / (self.shape or "target")
        return place, place / self.record.run if apart else place

    @cached_property
    def twin(self) -> TrainConfig:
        """The dense one: the same data, tokens, batch, seed and rule."""
        return train_config(self.space, self.space.target.model).change(data=self.config.data)

    def caveats(self, its: Evidence) -> list[str]:
        """What does not hold of this target."""
        return [*caveats(self.space, self.config, self.shape, bool(its.ladder)), *unanchored(self.config.data)]


def export(
    found: Results, record: Record, out: Path, shape: str | None = None, assumed: Assumed | None = None, apart: bool = False
) -> Written:
    """Write a record's training at the space's target, or at another named shape, with its dense twin; see write."""
    return write(planned(found, record, shape), out, assumed or Assumed(), apart)


def planned(found: Results, record: Record, shape: str | None = None) -> Planned:
    """The training of a record's placement at a target. Raises UserError for an unknown shape or one that cannot hold the
    placement."""
    space = found.space if shape is None else retarget(found.space, shape)
    try:
        config = train_config(space, rebuilt(space, record).target)
    except ValueError as error:
        reason = first_mistake(ModelConfig, error) if isinstance(error, ValidationError) else one_line(error)
        raise UserError(f"--target {shape}: {reason}" if shape else f"target.model: {reason}") from None
    return Planned(found, record, space, config.change(data=anchored(config.data)), shape)


def write(plan: Planned, out: Path, assumed: Assumed, apart: bool = False, forms: Sequence[str] = ()) -> Written:
    """Write train.yaml and prediction.json into export/target/ (or export/<shape>/) of a study's folder `out`, or apart from
    other picks into a folder of the run's name in there; and dense/train.yaml, slurm.sh and README.md for all of them. Forms
    that lie beside a config and are of another one are taken away. forms: what is going to be written anew beside each.
    Raises UserError."""
    place, folder = plan.places(out, apart)
    its = forecast(plan, out, assumed)
    twin = f"{'../' if apart else ''}{DENSE}/{CONFIG}"
    text = dump_yaml(plan.config, _head(plan, its, twin), rules(plan.space, plan.record, plan.config, plan.shape))
    dense = dump_yaml(plan.twin, _dense_head(plan, its), rules(plan.space, None, plan.twin, plan.shape))
    files = [folder / CONFIG, place / DENSE / CONFIG, place / SLURM, folder / PREDICTION, place / "README.md"]
    with writing(folder), _wholly(files):
        for one in (folder, place / DENSE):
            one.mkdir(parents=True, exist_ok=True)
        replaced = [*retire(folder, plan.config, forms), *retire(place / DENSE, plan.twin, forms)]
        replaced += [*replace_config(folder / CONFIG, text), *replace_config(place / DENSE / CONFIG, dense)]
        replaced += replace_script(place / SLURM, slurm())
        replace_text(folder / PREDICTION, json.dumps(asdict(its), indent=1, allow_nan=False) + "\n")
        replace_text(place / "README.md", readme(place))
    return Written(plan.record, folder / CONFIG, place / DENSE / CONFIG, tuple(replaced), tuple(plan.caveats(its.evidence)))


@contextmanager
def _wholly(files: Iterable[Path]) -> Generator[None]:
    """Where one of the files cannot be written, none is left that was not there before, nor a folder."""
    new = [path for path in files if not path.exists()]
    made = {above for path in new for above in path.parents if not above.exists()}
    try:
        yield
    except OSError:
        for path in new:
            path.unlink(missing_ok=True)
        with suppress(OSError):
            for folder in sorted(made, reverse=True):
                folder.rmdir()
        raise


def picks(found: Results, asked: Sequence[str]) -> dict[str, Record]:
    """The records of `knee`, `loss,cost`, `12`, ..., each run once, under the words that name it. Raises UserError."""
    named = dict[str, tuple[list[str], Record]]()
    for word in _words(asked):
        if not word:
            raise UserError("--pick: expected knee, loss, cost or a run, found nothing beside a comma")
        record = found.pick(word)
        named.setdefault(record.run, ([], record))[0].append(word)
    return {", ".join(its): record for its, record in named.values()}


def several(asked: Sequence[str]) -> bool:
    """Whether picks go into folders of their own: when more than one is asked for, be they the same run or not."""
    return len(_words(asked)) > 1


def _words(asked: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(word.strip() for one in asked for word in one.split(",")))


def forecast(plan: Planned, out: Path, assumed: Assumed) -> Forecast:
    """What a training would take, beside its dense twin, and what it rests on."""
    return Forecast(
        target=plan.shape or "target",
        placement=plan.config.model.placement.text,
        microbatch=plan.config.microbatch or plan.config.batch_size,
        assumed=assumed,
        predicted=predict(plan.config, assumed),
        dense=predict(plan.twin, assumed),
        evidence=evidence(plan.found, plan.record, out),
        measured=_measured(plan),
    )


def _measured(plan: Planned) -> Measured | None:
    """A training by its study's step_seconds, which hold at the study's target."""
    table, seconds, dense = plan.found.space.step_times, plan.record.costs.get(STEP_SECONDS), plan.found.space.dense_costs
    if table is None or seconds is None or plan.shape is not None:
        return None
    hours = plan.config.steps / 3600
    other = dense[STEP_SECONDS]
    return Measured(measured_on(table.under), seconds, hours * seconds, other, hours * other)


def _head(plan: Planned, its: Forecast, twin: str) -> str:
    """What a reader of the file should know, as comments."""
    where = f"at {plan.shape}" if plan.shape else "at the space's target"
    return "\n".join(
        [
            f"Exported by lpanas from {plan.record.run} of the study '{plan.found.space.name}'. "
            f"Train it: lpanas train {CONFIG}",
            *_wrapped([f"Placement {where}: {its.placement}."], ""),
            f"Its dense twin: {twin}. README.md says how to start both.",
            "Evidence:",
            *_wrapped([*words(its.evidence), *plan.caveats(its.evidence)]),
            f"Predicted ({PREDICTION}), before anything is trained:",
            *_wrapped(lines(its.predicted, its.dense, its.assumed, its.microbatch, its.measured)),
            "What decided each key stands above it.",
        ]
    )


def _wrapped(said: Sequence[str], indent: str = "  ") -> list[str]:
    """Sentences as lines of a comment."""
    return [part for one in said for part in textwrap.wrap(one, 116, initial_indent=indent, subsequent_indent=f"{indent}  ")]


def _dense_head(plan: Planned, its: Forecast) -> str:
    where = f"at {plan.shape}" if plan.shape else "at the space's target"
    return "\n".join(
        [
            f"The dense twin {where} of what is exported from the study '{plan.found.space.name}'. Train it: "
            f"lpanas train {CONFIG}",
            "The same data, tokens, batch, seed and rule of the learning rate, without any low rank: for comparison.",
            f"Predicted: {its.dense.params:,} params, {its.dense.flops:.4g} training FLOPs in all.",
        ]
    )
