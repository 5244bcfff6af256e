"""Names and files -> spaces and models: the presets and the named shapes of spaces/."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ..lpa.config import UserError, nearest, override, parse_yaml, read_yaml
from ..lpa.model_config import ModelConfig
from ..lpa.train_config import TrainConfig
from .space import Space


def load_space(name: str, settings: Sequence[str] = ()) -> Space:
    """The space of a preset's name or of a YAML file, with `--set` applied. Raises UserError."""
    if name in presets():
        raw = parse_yaml(resources.files("lpanas.spaces").joinpath(f"{name}.yaml").read_text(encoding="utf-8"), f"{name}.yaml")
    elif "/" in name or name.endswith((".yaml", ".yml")):
        raw = read_yaml(Path(name))
    else:
        raise UserError(f"{name}: no such preset, {nearest(name, presets())} (a file ends in .yaml)")
    return parse_space(override(raw, settings), name)


def parse_space(raw: Mapping[str, Any], where: str) -> Space:
    """A space from plain data, its named shapes filled in. Raises UserError."""
    shaped = with_shapes(raw, f"{where}: ", "proxy.model", "target.model")
    confirm = shaped.get("confirm")
    if isinstance(confirm, dict) and isinstance(confirm.get("sizes"), (list, tuple)):
        here = enumerate(confirm["sizes"])
        each = [with_shapes(one, f"{where}: confirm.sizes.{n}.", "model") if isinstance(one, dict) else one for n, one in here]
        shaped["confirm"] = confirm | {"sizes": each}
    return Space.parse(shaped, where)


def load_config(path: Path, settings: Sequence[str] = ()) -> TrainConfig:
    """The training of a YAML file, with `--set` applied. Raises UserError."""
    raw = override(read_yaml(path), settings)
    return TrainConfig.parse(with_shapes(raw, f"{path}: ", "model"), str(path))


def presets() -> list[str]:
    """The names of the spaces that come with the program."""
    names = [entry.name.removesuffix(".yaml") for entry in resources.files("lpanas.spaces").iterdir()]
    return sorted(name for name in names if "." not in name and name not in ("models", "__init__", "__pycache__"))


def shapes() -> dict[str, dict[str, Any]]:
    """The named shapes of models.yaml."""
    return parse_yaml(resources.files("lpanas.spaces").joinpath("models.yaml").read_text(encoding="utf-8"), "models.yaml")


def named_shape(name: str, rest: Mapping[str, Any], where: str) -> ModelConfig:
    """A dense model of a named shape with some of its keys set otherwise. Raises UserError."""
    return ModelConfig.parse(_shape(name, f"{where}:") | dict(rest), f"{where} {name}")


def with_shapes(raw: Mapping[str, Any], where: str, *paths: str) -> dict[str, Any]:
    """The mapping in which every model at a dotted path has its `shape: NAME` replaced by what the shape says; the model's
    other keys go before it. Raises UserError."""
    result = dict(raw)
    for path in paths:
        first, _, rest = path.partition(".")
        inner = result.get(first)
        if not isinstance(inner, dict):
            continue
        if rest:
            result[first] = with_shapes(inner, f"{where}{first}.", rest)
        elif "shape" in inner:
            shape = _shape(inner["shape"], f"{where}{first}.shape:")
            result[first] = shape | {key: value for key, value in inner.items() if key != "shape"}
    return result


def _shape(name: Any, where: str) -> dict[str, Any]:
    known = shapes()
    if not isinstance(name, str) or name not in known:
        raise UserError(f"{where} unknown shape '{name}', {nearest(str(name), list(known))}")
    return dict(known[name])
