"""Several studies, read together: what they are called, what they share, and so what of them compares."""

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..lpa.config import UserError
from ..lpa.model_config import ModelConfig
from .folder import DATABASE, storage_url, study_in
from .ledger import open_ledger
from .record import Record
from .results import Results, read_study

MOST = 8
"""Studies that colours and symbols tell apart."""
WATCHED = {"seed", "evals", "eval_steps", "test", "log_every", "checkpoint_every", "device", "microbatch", "data.max_epochs"}
"""Keys of a proxy that change no loss, or only as another seed would."""
MEMORY = ("microbatch", "activation_checkpointing")
"""Keys of a target that decide its memory."""
FILLED_IN = {"model.placement", "model.factor_activation", "model.rank_multiple", "model.ffn_multiple"}
"""Keys of a model that say which candidates there are."""
SOURCE = {f"data.{key}" for key in ("source", "text", "dataset", "split", "shards", "text_field", "tokenizer", "end_of_text")}
SOURCE |= {"data.vocab_size"}
"""Keys that say where tokens come from; which those are is better known by the hash of their content."""


@dataclass(frozen=True)
class Study:
    """One of the studies that are compared."""

    label: str
    """The end of its folder's path that no other has."""
    folder: Path
    found: Results
    content: str | None = None
    """Hash of its text and of how that became tokens, where its storage is there to tell."""


@dataclass(frozen=True)
class Difference:
    """A key that is not the same in all studies."""

    key: str
    values: tuple[str, ...]
    """A study each."""


@dataclass(frozen=True)
class Comparison:
    """Two or more studies and what follows from them together."""

    studies: tuple[Study, ...]

    @cached_property
    def trainings(self) -> list[Difference]:
        """What is not the same in how the proxies train; where there is anything, losses do not compare."""
        flat = [_training(study.found) for study in self.studies]
        known = {study.content for study in self.studies if study.content is not None}
        if all(study.content is not None for study in self.studies):
            flat = [{key: value for key, value in one.items() if key not in SOURCE} for one in flat]
        texts = [Difference("data (hash of the tokens)", tuple(study.content or "not known" for study in self.studies))]
        return _differences(flat) + (texts if len(known) > 1 else [])

    @cached_property
    def targets(self) -> list[Difference]:
        """What is not the same in the models whose cost counts; where there is anything, shares are of different costs."""
        spaces = [study.found.space for study in self.studies]
        flat = [{**_shape(its.target.model)} | {key: str(getattr(its.target, key)) for key in MEMORY} for its in spaces]
        tables = [its.step_times for its in spaces if its.step_times is not None]
        if len(tables) == len(spaces):
            batches = [{"batch_size": str(its.target.batch_size)} for its in spaces]
            flat = [one | _flat(its.under) | batch for one, its, batch in zip(flat, tables, batches, strict=True)]
        return _differences([{key: value for key, value in one.items() if f"model.{key}" not in FILLED_IN} for one in flat])

    @property
    def comparable(self) -> bool:
        """Whether a loss of one study can be held against a loss of another."""
        return not self.trainings

    @property
    def measure(self) -> str:
        """What is compared: losses, or what they are above the study's own dense arm."""
        return "loss_nats" if self.comparable else "delta_nats"

    @cached_property
    def costs(self) -> list[str]:
        """The costs that every study minimises; where there is none, those that any does."""
        each = [study.found.costs for study in self.studies]
        every = list(dict.fromkeys(cost for costs in each for cost in costs))
        return [cost for cost in every if all(cost in costs for costs in each)] or every

    def value(self, study: Study, record: Record | None) -> float | None:
        """A record's loss, or its delta, nats; None for none."""
        if record is None:
            return None
        return record.loss_nats if self.comparable else study.found.delta(record)


def read_studies(folders: Sequence[Path], url: str | None = None) -> Comparison:
    """The studies in some folders. Raises UserError."""
    if not 2 <= len(folders) <= MOST:
        raise UserError(f"expected 2 to {MOST} studies to compare, found {len(folders)}")
    places = [folder.resolve() for folder in folders]
    for one, other in combinations(range(len(places)), 2):
        if places[one] == places[other]:
            raise UserError(f"{folders[other]}: stands twice among the studies to compare")
        if url and places[one].name == places[other].name:
            raise UserError(f"--storage: there {folders[one]} and {folders[other]} are one study, '{places[one].name}'")
    found = [read_study(folder, url) for folder in folders]
    contents = [_content(folder, its, url) for folder, its in zip(folders, found, strict=True)]
    return Comparison(tuple(map(Study, labels(places), folders, found, contents)))


def labels(places: Sequence[Path]) -> list[str]:
    """For each folder the shortest end of its path, the same number of parts for all, that tells it from the others."""
    for parts in range(1, max(len(place.parts) for place in places)):
        ends = [str(Path(*place.parts[-parts:])) for place in places]
        if len(set(ends)) == len(ends):
            return ends
    return [str(place) for place in places]


def _content(folder: Path, found: Results, url: str | None) -> str | None:
    """The hash of a study's tokens by its storage; None where there is none."""
    if not url and not (folder / DATABASE).exists():
        return None
    name, kind = study_in(folder, url)
    with closing(open_ledger(found.space, url or storage_url(folder), name, of=kind, create=False)) as ledger:
        return ledger.content


def _training(found: Results) -> dict[str, str]:
    """What decides a loss, but for the seed and the candidate, by dotted key."""
    proxy, model = found.space.proxy, found.space.proxy.model
    flat = _flat(proxy) | {f"model.{key}": value for key, value in _shape(model).items()}
    flat |= {"tokens": f"{proxy.steps * proxy.batch_tokens:,}"}
    flat |= {"optim.lr_base_width": str(proxy.optim.lr_base_width or model.d_model)}
    return {key: value for key, value in flat.items() if key not in WATCHED | FILLED_IN}


def _shape(model: ModelConfig) -> dict[str, str]:
    """A model's keys, with what is meant where one is left out."""
    return _flat(model) | {"n_kv_heads": str(model.kv_heads), "head_dim": str(model.d_head)}


def _flat(config: BaseModel) -> dict[str, str]:
    """A config's values as text, by dotted key."""

    def walk(raw: dict[str, Any], path: str) -> Iterable[tuple[str, str]]:
        for key, value in raw.items():
            if isinstance(value, dict):
                yield from walk(value, f"{path}{key}.")
            else:
                text = ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
                yield path + key, text or "nothing"

    return dict(walk(config.model_dump(mode="json"), ""))


def _differences(flat: Sequence[dict[str, str]]) -> list[Difference]:
    keys = dict.fromkeys(key for one in flat for key in one)
    found = [Difference(key, tuple(one.get(key, "nothing") for one in flat)) for key in keys]
    return [one for one in found if len(set(one.values)) > 1]
