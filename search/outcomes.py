"""What exported configs came to once they were trained: beside their dense twin, and beside the proxy that chose them."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from ..lpa.config import UserError
from ..lpa.data import DataConfig
from ..lpa.metrics import METRICS, read_metrics
from ..lpa.train import CONFIG as AS_TRAINED
from ..lpa.train_config import TrainConfig
from .export import CONFIG, PREDICTION
from .export_readme import DENSE
from .presets import load_config
from .statistics import Interval, t_interval

FASTER = ("kernels", "cuda_graph", "average_every", "activation_checkpointing")
"""Keys that change a training's speed, and not its result."""


@dataclass(frozen=True)
class Training:
    """Of an exported config, as far as it has come."""

    config: TrainConfig
    """As it ran: `--set` may have changed it."""
    folder: Path
    steps: int
    """Done."""
    curve: dict[int, float]
    """Validation loss, nats, by training tokens."""
    tokens_per_second: float | None
    """Median of its log lines."""
    ran_on: tuple[str, ...]
    """`2 x NVIDIA H100, bfloat16, kernels plain`; several where it went on elsewhere, none where its log does not say."""

    @property
    def last(self) -> tuple[int, float] | None:
        """Tokens and validation loss of the last evaluation."""
        return max(self.curve.items(), default=None)


@dataclass(frozen=True)
class Pair:
    """A training and its dense twin's: everything but the model is the same."""

    training: Training
    dense: Training

    @property
    def tokens(self) -> int | None:
        """The last count that both were evaluated at."""
        return max(set(self.training.curve) & set(self.dense.curve), default=None)

    @property
    def is_alike(self) -> bool:
        """Whether the two ran on the same devices, all the time, in the same precision and the same way."""
        return len(self.training.ran_on) == 1 and self.training.ran_on == self.dense.ran_on


@dataclass(frozen=True)
class Compared:
    """The pairs of a config at one count of tokens."""

    tokens: int
    differences_nats: tuple[float, ...]
    """Less dense, one a pair: a seed."""
    interval: Interval | None
    """Student's of their mean; None for fewer than two pairs and where all are alike."""
    speed: float | None
    """Tokens a second over the dense twin's, the pairs' mean; None where a log does not tell, or not all ran alike."""
    unlike: tuple[tuple[str, ...], tuple[str, ...]] | None
    """What a training and its twin ran on that did not run alike."""

    @property
    def mean_nats(self) -> float:
        """Of the differences."""
        return fmean(self.differences_nats)


@dataclass(frozen=True)
class Proxy:
    """The run by which a config was chosen."""

    loss_nats: float
    tokens: int
    """Training tokens after which."""
    context: int | None
    data: DataConfig | None
    """None where the prediction does not say."""

    def has_tokens_of(self, training: Training) -> bool:
        """Whether the same text was cut into the same tokens and splits."""
        left_out = {"valid_tokens", "max_epochs"}
        data = training.config.data.model_dump(exclude=left_out)
        return self.data is not None and self.data.model_dump(exclude=left_out) == data


@dataclass(frozen=True)
class Unpaired:
    """A training without a twin's to compare it with."""

    training: Training
    keys: tuple[str, ...]
    """By which it differs from the nearest of the twin's of its seed; none where the twin has not been trained with it."""


@dataclass(frozen=True)
class Outcome:
    """An exported config and its trainings."""

    name: str
    """Of its file, from the target's folder."""
    trainings: tuple[Training, ...]
    compared: Compared | None
    """With the dense twin; None for itself and where no two can be compared."""
    repeated: tuple[Path, ...]
    """Folders, its own and the twin's, that could make a pair of a seed that another pair has come further with."""
    proxy: Proxy | None
    others: tuple[Path, ...]
    """Folders beside it that hold a training of another model."""
    unpaired: tuple[Unpaired, ...] = ()
    """Its trainings that no twin's is like, where the twin has been trained."""
    mistakes: tuple[str, ...] = ()
    """What cannot be read of it, a line each; where that is its config, nothing else is known of it."""


def is_exported(folder: Path) -> bool:
    """Whether `lpanas export` has written the folder of a target."""
    return (folder / DENSE / CONFIG).is_file()


def exported_with(folder: Path) -> Path | None:
    """The target's folder that a training's, or a config's, is part of."""
    return next((place for place in folder.resolve().parents[:2] if is_exported(place)), None)


def exported_in(folder: Path) -> list[Path]:
    """The targets' folders in a folder."""
    return sorted(place for place in folder.iterdir() if is_exported(place))


def outcomes(place: Path) -> list[Outcome]:
    """The exported configs of a target's folder, the dense twin last."""
    twin = place / DENSE / CONFIG
    files = sorted(path for path in (place / CONFIG, *place.glob(f"*/{CONFIG}")) if path.is_file() and path != twin)
    dense = _outcome(place, twin, None)
    return [*(_outcome(place, path, dense.trainings) for path in files), dense]


def _outcome(place: Path, path: Path, dense: Sequence[Training] | None) -> Outcome:
    """Of a config's file. dense: the twin's trainings; None for the twin itself."""
    name, mistakes = str(path.relative_to(place)), list[str]()
    try:
        its, others = _trainings(path, mistakes)
    except UserError as error:
        return Outcome(name, (), None, (), None, (), mistakes=(str(error),))
    proxy = None
    try:
        proxy = _proxy(path)
    except UserError as error:
        mistakes.append(str(error))
    pairs, repeated = _pairs(its, dense or ())
    unpaired = _unpaired(its, dense) if dense else []
    return Outcome(
        name, tuple(its), compare(pairs), tuple(repeated), proxy, tuple(others), tuple(unpaired), tuple(mistakes)
    )  # fmt: skip


def compare(pairs: Sequence[Pair]) -> Compared | None:
    """The pairs at the last count of tokens that all of them were evaluated at, or else as many of them as can be."""
    tokens = [pair.tokens for pair in pairs if pair.tokens is not None]
    if not tokens:
        return None
    at = max(set(tokens), key=lambda count: (sum(_is_at(pair, count) for pair in pairs), count))
    its = [pair for pair in pairs if _is_at(pair, at)]
    differences = [pair.training.curve[at] - pair.dense.curve[at] for pair in its]
    interval = t_interval(np.array(differences)) if len(its) > 1 else None
    unlike = next(((pair.training.ran_on, pair.dense.ran_on) for pair in its if not pair.is_alike), None)
    return Compared(at, tuple(differences), interval, None if unlike else _speed(its), unlike)


def _is_at(pair: Pair, tokens: int) -> bool:
    return tokens in pair.training.curve and tokens in pair.dense.curve


def _speed(pairs: Sequence[Pair]) -> float | None:
    ratios = [
        pair.training.tokens_per_second / pair.dense.tokens_per_second
        for pair in pairs
        if pair.training.tokens_per_second and pair.dense.tokens_per_second
    ]
    return fmean(ratios) if len(ratios) == len(pairs) else None


def _pairs(its: Sequence[Training], dense: Sequence[Training]) -> tuple[list[Pair], list[Path]]:
    """One a seed, of trainings that differ in their model alone: the pair that has come furthest; and the other folders. A
    training that is repeated tells nothing new of chance."""
    every = [Pair(one, other) for one in its for other in dense if other.config.is_twin(one.config)]
    chosen = dict[int, Pair]()
    for pair in sorted(every, key=lambda pair: (pair.tokens or 0, pair.training.steps, pair.dense.steps)):
        chosen[pair.training.config.seed] = pair
    pairs = [chosen[seed] for seed in sorted(chosen)]
    return pairs, sorted(_folders(every) - _folders(pairs))


def _unpaired(its: Sequence[Training], dense: Sequence[Training]) -> list[Unpaired]:
    found = list[Unpaired]()
    for one in its:
        unlike = [other.config.unlike(one.config) for other in dense]
        if all(unlike):
            nearest = min((keys for keys in unlike if "seed" not in keys), key=len, default=[])
            found.append(Unpaired(one, tuple(nearest)))
    return found


def _folders(pairs: Sequence[Pair]) -> set[Path]:
    return {one.folder for pair in pairs for one in (pair.training, pair.dense)}


def _trainings(file: Path, mistakes: list[str]) -> tuple[list[Training], list[Path]]:
    """Of a config's model, and the folders that hold another's; what of them cannot be read goes to the mistakes. Raises
    UserError for the config."""
    config, its, others = load_config(file), list[Training](), list[Path]()
    for folder in sorted(path.parent for path in file.parent.glob(f"*/{METRICS}")):
        try:
            as_trained = load_config(folder / AS_TRAINED)
            if as_trained.model == config.model:
                its.append(_training(as_trained, folder))
            else:
                others.append(folder)
        except UserError as error:
            mistakes.append(str(error))
    return its, others


def _training(config: TrainConfig, folder: Path) -> Training:
    rows = read_metrics(folder)
    timed = [row for row in rows if "tokens_per_second" in row]
    curve = {int(row["tokens"]): row["valid_loss_nats"] for row in rows if "valid_loss_nats" in row}
    done = int(rows[-1]["step"]) if rows else 0
    speed = median(row["tokens_per_second"] for row in timed) if timed else None
    ran = [row for row in rows if {"tokens_per_second", "devices"} & set(row)]
    return Training(config, folder, done, curve, speed, _ran_on(ran, config))


def _ran_on(rows: Sequence[Mapping[str, Any]], config: TrainConfig) -> tuple[str, ...]:
    """What rows say of their speed, and the keys that change it; nothing where one of the rows does not say."""
    if not all({"devices", "device", "precision"} <= set(row) for row in rows):
        return ()
    return tuple(dict.fromkeys(f"{row['devices']} x {row['device']}, {row['precision']}{_ways(row, config)}" for row in rows))


def _ways(row: Mapping[str, Any], config: TrainConfig) -> str:
    """The keys that change a speed where they are not as usual, by the row or, of an older version, by the config: that says
    what it was when the training last went on."""
    share = config.batch_size // row["devices"]
    micro = row.get("microbatch", min(config.microbatch or share, share))
    usual = {key: TrainConfig.model_fields[key].default for key in FASTER}
    values = {key: row.get(key, getattr(config, key)) for key in FASTER}
    keys = [f"microbatch {micro}"] * (micro < share) + [f"{key} {values[key]}" for key in FASTER if values[key] != usual[key]]
    return "".join(f", {key}" for key in keys)


def _proxy(file: Path) -> Proxy | None:
    """Of the prediction beside a config. Raises UserError when it cannot be read."""
    path = file.parent / PREDICTION
    if not path.exists():
        return None
    try:
        its = json.loads(path.read_text(encoding="utf-8"))["evidence"]
        loss, tokens, context, data = its["loss_nats"], int(its["tokens"]), its.get("proxy_context"), its.get("proxy_data")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: not a prediction that can be read") from None
    if loss is None or not math.isfinite(loss):
        return None
    return Proxy(float(loss), tokens, context, data and DataConfig.parse(data, f"{path}: evidence.proxy_data"))
