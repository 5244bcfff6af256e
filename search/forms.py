"""The forms beside a train.yaml: refused before anything is written, and taken away once they are another config's."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..lpa import hf, titan
from ..lpa.config import UserError
from ..lpa.files import replace_text
from ..lpa.hf_tokenizer import hf_tokenizer
from ..lpa.train_config import TrainConfig
from . import axolotl, llamafactory
from .presets import load_config
from .replacing import free_name

KEPT = ".forms.json"
"""Of which config each form is, and the SHA-256 of its files: one that was edited, or trained in, is not removed."""


@dataclass(frozen=True)
class Form:
    """What lies beside a train.yaml."""

    names: tuple[str, ...]
    """Its files, or its folder."""
    start: str
    """The command in the folder of the train.yaml."""


BESIDE = {
    "hf": Form(("hf",), ""),
    "llamafactory": Form((llamafactory.CONFIG, llamafactory.DATASETS), f"llamafactory-cli train {llamafactory.CONFIG}"),
    "axolotl": Form((axolotl.CONFIG,), f"axolotl train {axolotl.CONFIG}"),
    "torchtitan": Form(("torchtitan",), ""),
}


def check(config: TrainConfig, folder: Path, forms: Sequence[str]) -> None:
    """Raises UserError for forms of a config that could not be written beside it, before anything is."""
    if {*forms} & {"hf", "llamafactory", "axolotl"}:
        hf.check(config.model, hf_tokenizer(config.data))
        if not _is_stale(folder, "hf", config):
            hf.check_place(folder / "hf", has_weights=False)
    if "torchtitan" in forms:
        titan.check(config.model)


def retire(folder: Path, config: TrainConfig, asked: Sequence[str] = ()) -> list[str]:
    """Take away forms of another config than the one that is going to be written; what was, in words. What nobody has touched
    is removed, the rest renamed. asked: forms that are written anew; of the same config, what was edited is kept beside."""
    removed, lines = list[str](), list[str]()
    kept = _kept(folder)
    for form in BESIDE:
        if not _is_stale(folder, form, config):
            lines += _edited(folder, form, kept.get(form, {}).get("files", {})) if form in asked else []
            continue
        for path in _there(folder, form):
            if _is_untouched(path, folder, kept.get(form, {}).get("files", {})):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                removed += [] if form in asked else [form]
            else:
                free = free_name(path)
                path.rename(free)
                lines.append(f"{path} was of the train.yaml before and is not as exported: kept as {free}")
        kept.pop(form, None)
    if removed:
        again = ",".join(dict.fromkeys(removed))
        lines.append(f"removed in {folder}, as of the train.yaml before: {again}; --to {again} writes them anew")
    if (removed or lines) and (folder / "trained").is_dir():
        lines.append(f"{folder / 'trained'} holds trainings of that: move it before this one is trained there")
    if removed or lines:
        _keep(folder, kept)
    return lines


def _edited(folder: Path, form: str, files: dict[str, str]) -> list[str]:
    """Keep what is going to be written over and is not as exported: a folder that is replaced whole, else each file."""
    paths = _there(folder, form) if form == "hf" else _written(folder, form)
    lines = []
    for path in (path for path in paths if not _is_untouched(path, folder, files)):
        free = free_name(path)
        path.rename(free)
        lines.append(f"{path} was not as exported: kept as {free}")
    return lines


def record(folder: Path, config: TrainConfig, forms: Sequence[str]) -> None:
    """Note of which config forms are that have just been written beside it."""
    kept = _kept(folder)
    for form in forms:
        files = {str(path.relative_to(folder)): _digest(path) for path in _written(folder, form)}
        kept[form] = {"config": _name(config), "files": files}
    _keep(folder, kept)


def starts(folder: Path) -> list[tuple[str, str]]:
    """(What lies there, the command that starts it, or an empty text where its README.md says it) of each form."""
    return [(its.names[0], its.start) for form, its in BESIDE.items() if _there(folder, form)]


def _there(folder: Path, form: str) -> list[Path]:
    paths = (folder / name for name in BESIDE[form].names)
    return [path for path in paths if path.exists() or path.is_symlink()]


def _is_stale(folder: Path, form: str, config: TrainConfig) -> bool:
    """Whether a form is there and of another config: as was noted, or else as the train.yaml beside it is."""
    if not _there(folder, form):
        return False
    noted = _kept(folder).get(form, {}).get("config")
    if noted is None:
        try:
            noted = _name(load_config(folder / "train.yaml"))
        except UserError:  # none, or edited so that it cannot be read
            return True
    return noted != _name(config)


def _is_untouched(path: Path, folder: Path, files: dict[str, str]) -> bool:
    """Whether all of it is as it was written, and nothing was put there but what Python makes of code."""
    if path.is_symlink():
        return False
    return all(not one.is_symlink() and files.get(str(one.relative_to(folder))) == _digest(one) for one in _files(path))


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for one in path.rglob("*"):
        if (one.is_symlink() or not one.is_dir()) and "__pycache__" not in one.parts:
            yield one


def _written(folder: Path, form: str) -> list[Path]:
    """The files that an export writes: other ones that lie in a folder of torchtitan's are its results."""
    if form != "torchtitan":
        return [one for path in _there(folder, form) for one in _files(path)]
    place = folder / form
    paths = [place / "README.md", *(place / titan.PACKAGE / name for name in titan.WRITTEN)]
    return [path for path in paths if path.exists()]


def _name(config: TrainConfig) -> str:
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:16]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _kept(folder: Path) -> dict[str, Any]:
    """What was noted; nothing where that cannot be read, and then nothing is taken for untouched."""
    try:
        its = json.loads((folder / KEPT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {form: one for form, one in its.items() if isinstance(one, dict)} if isinstance(its, dict) else {}


def _keep(folder: Path, kept: dict[str, Any]) -> None:
    if kept:
        replace_text(folder / KEPT, json.dumps(kept, indent=1) + "\n")
    else:
        (folder / KEPT).unlink(missing_ok=True)
