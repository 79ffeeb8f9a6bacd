"""Configurations as Python files, and changes to them from the command line."""

import dataclasses
import json
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

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
