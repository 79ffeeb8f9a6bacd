"""Configurations as Python files, and changes to them from the command line."""

import dataclasses
import json
import runpy
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from cassr_jax.config import TrainConfig
from cassr_jax.errors import InputError

T = TypeVar("T")


def read_config(path: Path) -> TrainConfig:
    """The `config` that a file of `configs/` defines."""
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected a Python file that defines `config`")
    config = runpy.run_path(str(path)).get("config")
    if not isinstance(config, TrainConfig):
        raise InputError(f"{path}: defines `config` as {type(config).__name__}, expected a TrainConfig")
    return config


def override(config: T, changes: Sequence[str]) -> T:
    """`config` with `path.to.field=value` changes; values are JSON, or plain text for a text field.

    Raises:
        InputError: an unknown field, or a value of another type than the field's own.
    """
    for change in changes:
        name, found, text = change.partition("=")
        if not found:
            raise InputError(f"{change!r}: expected FIELD=VALUE")
        config = _set(config, name.split("."), text, name)
    return config


def _set(config: Any, path: list[str], text: str, name: str) -> Any:
    first, *rest = path
    fields = [f.name for f in dataclasses.fields(config)]
    if first not in fields:
        raise InputError(f"{name}: {type(config).__name__} has no field {first!r}, it has {', '.join(fields)}")
    current = getattr(config, first)
    value = _set(current, rest, text, name) if rest else _parse(text, current, name)
    return dataclasses.replace(config, **{first: value})


def _parse(text: str, current: Any, name: str) -> Any:
    if isinstance(current, str):
        return text
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{name}: {text!r} is not a value of type {type(current).__name__}") from error
    if isinstance(current, float) and type(value) is int:
        value = float(value)
    if isinstance(current, tuple) and isinstance(value, list):
        value = tuple(value)
    if current is not None and value is not None and type(value) is not type(current):
        raise InputError(f"{name}: {text} is a {type(value).__name__}, expected a {type(current).__name__}")
    return value


def to_json(config: Any) -> dict[str, Any]:
    """A configuration as JSON's own types."""
    return dataclasses.asdict(config)


def from_json(cls: type[T], data: Any, what: str) -> T:
    """The configuration `cls` that `to_json` wrote; absent fields keep their defaults. `what` names it in errors.

    Raises:
        InputError: an unknown field, or a value of another type than the field's own.
    """
    if not isinstance(data, Mapping):
        raise InputError(f"{what}: {type(data).__name__}, expected an object with the fields of {cls.__name__}")
    hints = get_type_hints(cls)
    if unknown := sorted(set(data) - set(hints)):
        raise InputError(f"{what}: {cls.__name__} has no field {unknown[0]!r}, it has {', '.join(hints)}")
    try:
        return cls(**{name: _typed(hints[name], value, f"{what}: {name}") for name, value in data.items()})
    except TypeError as error:
        raise InputError(f"{what}: {error}") from error


def _typed(hint: Any, value: Any, what: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_json(hint, value, what)  # pyright: ignore[reportArgumentType]
    if origin is Literal:
        if value not in arguments:
            raise InputError(f"{what} is {value!r}, expected one of {', '.join(map(str, arguments))}")
        return value
    if origin in (Union, types.UnionType):
        inner = [a for a in arguments if a is not type(None)]
        return None if value is None else _typed(inner[0], value, what)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_typed(arguments[0], v, what) for v in value)
    if origin is Mapping and isinstance(value, Mapping):
        return {key: _typed(arguments[1], v, f"{what}.{key}") for key, v in value.items()}
    expected = origin or hint
    if expected is float and type(value) is int:
        return float(value)
    if type(value) is not expected:
        raise InputError(f"{what} is {value!r}, expected a value of type {expected.__name__}")
    return value
