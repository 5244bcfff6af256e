"""Configs are frozen, read once and strictly; what is wrong with one is said in one line."""

import difflib
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError


class UserError(Exception):
    """A mistake by the user: its text is one line that names the place, what was expected and what was found."""


def one_line(error: BaseException, limit: int = 200) -> str:
    """What an error of another library says, as one line of at most so many characters."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


class Config(BaseModel):
    """Base of every config: frozen, no unknown keys, no silent conversions between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @classmethod
    def parse(cls, raw: Mapping[str, Any], where: str) -> Self:
        """Validate plain data (as YAML gives it). `where` names its origin in errors; raises UserError."""
        try:
            return cls.model_validate(_tuples(raw))
        except ValidationError as error:
            raise UserError(f"{where}: {first_mistake(cls, error)}") from None
        except RecursionError:
            raise UserError(f"{where}: a part of it refers to itself") from None

    @classmethod
    def parse_json(cls, text: str, where: str, remedy: str = "") -> Self:
        """The config that model_dump_json has written; twice as fast as parse. remedy: what to do about a damaged one. Raises
        UserError."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise UserError(f"{where}: {first_mistake(cls, error)}{remedy and f'; {remedy}'}") from None

    def change(self, **fields: Any) -> Self:
        """A copy with these fields replaced, validated like any other."""
        return type(self).model_validate({**{name: getattr(self, name) for name in type(self).model_fields}, **fields})


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, BeforeValidator(_whole)]
"""A whole number that may be written 2.6e9."""


def nearest(word: str, known: Sequence[str]) -> str:
    """The end of an error line: the nearest right word where one is near, and otherwise the known ones."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError: no such file, a syntax error (line and column), a repeated key."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder; expected a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """The mapping that a YAML text holds; see read_yaml."""
    try:
        raw = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        raise UserError(f"{place}: YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: YAML: {one_line(error, 2000)}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{where}: expected a mapping of keys, found {_kind(raw)}")
    return raw


def override(raw: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """The mapping with each `dotted.key=value` put in (value read as YAML). Raises UserError."""
    result = dict(raw)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise UserError(f"--set {setting}: expected key=value")
        try:
            value = yaml.load(text, Loader=_Loader)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise UserError(f"--set {setting}: the value is not YAML") from None
        _put(result, key.split("."), value, setting)
    return result


def _put(raw: dict[str, Any], path: list[str], value: Any, setting: str) -> None:
    for name in path[:-1]:
        inner = raw.get(name) or {}
        if not isinstance(inner, dict):
            raise UserError(f"--set {setting}: '{name}' holds {_kind(inner)}, not keys")
        raw[name] = dict(inner)
        raw = raw[name]
    raw[path[-1]] = value


def dump_yaml(config: BaseModel, head: str = "", notes: Mapping[str, Sequence[str]] | None = None) -> str:
    """A config as YAML text that reads back to the same config, every field spelled out. notes: comments above keys, by the
    dotted names of keys at the first two levels."""
    lines = "".join(f"# {line}\n" for line in head.splitlines())
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=120)
    return lines + (_noted(text, notes) if notes else text)


def _noted(text: str, notes: Mapping[str, Sequence[str]]) -> str:
    """A dumped config with comments above its keys. Raises ValueError for a key that is not there."""
    lines, section, left = list[str](), "", dict(notes)
    for line in text.splitlines():
        match = re.match(r"(  )?([A-Za-z]\w*):", line)  # what a long value goes on with stands further right
        if match:
            section = section if match[1] else match[2]
            indent, key = match[1] or "", f"{section}.{match[2]}" if match[1] else match[2]
            for note in left.pop(key, ()):
                lines += textwrap.wrap(note, 118, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}#   ")
        lines.append(line)
    if left:
        raise ValueError(f"no such keys: {', '.join(left)}")
    return "\n".join(lines) + "\n"


class _Loader(yaml.SafeLoader):
    """YAML in which 3e-4 is a number and a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key '{key}' stands twice", problem_mark=key_node.start_mark)
            seen.add(str(key))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$|^[-+]?\.\d+[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _tuples(value: Any) -> Any:
    """YAML's lists as tuples, which is what frozen configs hold."""
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_tuples(inner) for inner in value)
    return value


def _kind(value: Any) -> str:
    names = {dict: "keys", list: "a list", tuple: "a list", str: "text", bool: "true/false", type(None): "nothing"}
    shown = repr(list(value) if isinstance(value, tuple) else value)
    return f"{shown if len(shown) < 60 else shown[:57] + '...'} ({names.get(type(value), 'a number')})"


_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "keys with values",
    "model_type": "keys with values",
}


def first_mistake(cls: type[BaseModel], error: ValidationError) -> str:
    """The first mistake that a ValidationError of a config tells: `dotted.key: expected ..., found ...`."""
    errors = sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden")  # a misspelt key is missing, too
    first = errors[0]
    key = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    prefix = f"{key}: " if key else ""
    kind, found = first["type"], first["input"]
    if kind == "extra_forbidden":
        return f"{prefix}unknown key, {nearest(str(first['loc'][-1]), _fields_at(cls, first['loc'][:-1]))}{more}"
    if kind == "missing":
        return f"{prefix}missing{more}"
    if kind == "json_invalid":
        return _no_json(str(first["ctx"]["error"]))
    if kind == "literal_error":
        known = re.findall(r"'([^']+)'", first["ctx"]["expected"])
        return f"{prefix}found {_kind(found)}, {nearest(str(found), known)}{more}"
    if kind == "value_error":
        message = str(first["ctx"]["error"])  # may begin with a dotted key of its own
        return f"{key}.{message}" if key and re.match(r"[\w.,]+: ", message) else f"{prefix}{message}"
    expected = _EXPECTED.get(kind) or first["msg"].replace("Input should be ", "")
    return f"{prefix}expected {expected}, found {_kind(found)}{more}"


def _no_json(error: str) -> str:
    """What is wrong with a text that is to be JSON. error: pydantic's words, which say where it could not go on."""
    line = re.search(r"\bline (\d+)", error)
    return f"is no {'whole ' * error.startswith('EOF')}JSON text{f' (line {line[1]})' if line else ''}"


def _fields_at(cls: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """The fields of the nested config at a path of keys."""
    for name in path:
        field = cls.model_fields.get(str(name))
        if field is None:
            continue  # the place in a list, or the key of a mapping, of configs
        inner = _config_in(field.annotation)
        if inner is None:
            return []
        cls = inner
    return list(cls.model_fields)


def _config_in(annotation: Any) -> type[BaseModel] | None:
    """The config that a field holds, or that its list or mapping holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _config_in(part))), None)
