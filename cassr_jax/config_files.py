"""Reads configurations from Python files and JSON, and changes them from the command line."""

import dataclasses
import inspect
import itertools
import json
import math
import re
import runpy
import traceback
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from cassr_jax.config import CascadeConfig, TrainConfig
from cassr_jax.errors import InputError
from cassr_jax.files import Json, exists, is_file, is_folder, parse_json
from cassr_jax.kinds import CONFIGS, KINDS
from cassr_jax.sharding.strategies import Strategy

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
C = TypeVar("C", bound="DataclassInstance")

_CLASS = "class"  # the JSON key for a network configuration's class, where a field accepts several


def shipped(path: Path) -> Path:
    """The file in `configs/` of this name, such as `sd15`; the path itself if there is none, or if it exists."""
    file = Path(str(resources.files("cassr_jax") / "configs")) / f"{path}.py"
    return file if len(path.parts) == 1 and not exists(path) and is_file(file) else path


def defined(path: Path, wanted: tuple[str, type[C]], other: tuple[str, type], instead: str) -> C:
    """The configuration that a Python file defines, with the type of every field checked.

    Args:
        wanted: its name in the file, and its class.
        other: the same of the configuration that a file of the other kind defines.
        instead: what to say of a file that only defines the other.

    Raises:
        InputError: the file is absent, fails, or defines something else; the message names it.
    """
    (name, kind), (other_name, other_kind) = wanted, other
    found = run_file(path, f"a Python file that defines `{name}`")
    config = found.get(name)
    if config is None and isinstance(found.get(other_name), other_kind):
        raise InputError(f"{path}: {instead}")
    if not isinstance(config, kind):
        raise InputError(f"{path}: defines `{name}` as {type(config).__name__}, expected a {kind.__name__}")
    return from_json(kind, to_json(config), str(path))


def read_config(path: Path, changes: Sequence[str] = (), strategy: Strategy | None = None) -> TrainConfig:
    """The `config` that a file of `configs/` defines, with the type of every field checked.

    Args:
        path: the file, or the name of one in `configs/`.
        changes: changes in the form that `override` takes.
        strategy: what takes the place of the configuration's own, before the changes.

    Raises:
        InputError: the file is absent, fails, or defines something else, or a change is invalid; the message names it.
    """
    instead = (
        "defines a cascade to sample with and nothing to train, expected a `config`, as in configs/smoke.py; sample.py "
        "takes this file"
    )
    path = shipped(path)
    config = defined(path, ("config", TrainConfig), ("cascade", CascadeConfig), instead)
    if strategy is not None:
        config = dataclasses.replace(config, strategy=strategy)
    config = override(config, changes)
    check_components(config.components, str(path))
    sources = {kind: resolve(source, path.parent) for kind, source in config.components.items()}
    return dataclasses.replace(config, components=sources, loras=resolve_loras(config.loras, path.parent))


def check_components(components: Mapping[str, str], where: str) -> None:
    """Checks the names of components, which a slip of the pen would have ignored; `where` names their place in errors.

    Raises:
        InputError: one is neither a kind of network nor the tokenizer.
    """
    expected = (*KINDS, "tokenizer")
    if unknown := sorted(components.keys() - {*expected}):
        raise InputError(f"{where}: components names {unknown[0]!r}, expected some of {', '.join(expected)}")


def resolve(component: str, base: Path) -> str:
    """A component's source: an existing path below `base`, the configuration's folder, or else `component` itself.

    `component` itself is a path from the working directory, or a hub id.
    """
    below = base / component
    return str(below) if exists(below) else component


def resolve_loras(loras: Mapping[str, float], base: Path) -> dict[str, float]:
    """The LoRAs of a configuration in the folder `base`, and their scales; each is resolved as a component is.

    Raises:
        InputError: two of them are the same file.
    """
    found: dict[str, float] = {}
    known: set[str] = set()
    for lora, scale in loras.items():
        place = resolve(lora, base)
        real = str(Path(place).resolve()) if exists(place) else place
        if real in known:
            raise InputError(f"loras name {lora} twice, expected each once; its scales may be added")
        known.add(real)
        # Not the real path: a link's name tells the format, and what lies beside the link belongs to it.
        found[str(Path(place).absolute()) if exists(place) else place] = scale
    return found


def run_file(path: Path, expected: str) -> dict[str, object]:
    """The names that a Python file defines, and their values.

    Args:
        path: the file.
        expected: what it should be, for the message if it is absent.

    Raises:
        InputError: the file is absent or fails; the message names it and the line.
    """
    if not is_file(path):
        raise InputError(f"{path}: {'is a folder' if is_folder(path) else 'no such file'}, expected {expected}")
    with naming(path):
        return runpy.run_path(str(path))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """A block that turns every exception of the Python file `path` into an InputError with the file and the line.

    The file is the user's program, so anything it raises, even an attempt to exit, is a fault in that file.
    """
    try:
        yield
    except _Named:  # raised by another file that this one runs
        raise
    except (Exception, SystemExit) as error:
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        expected = "; expected a Python file" if isinstance(error, SyntaxError) else ""
        raise _Named(f"{path}{_line(error, path)}: {kind}{error}{expected}") from error


class _Named(InputError):
    """An error in a Python file; its message names the file."""


def sibling(file: str, name: str) -> types.SimpleNamespace:
    """The definitions of the file `name` beside `file`, as attributes: `sibling(__file__, "sd15.py").cascade`.

    Raises:
        InputError: the file is absent or fails.
    """
    path = Path(file).with_name(name)
    return types.SimpleNamespace(**run_file(path, f"the configuration that {file} builds on"))


def _line(error: BaseException, path: Path) -> str:
    """The line of the file where the error arose, as text; empty if unknown."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def override(config: T, changes: Sequence[str]) -> T:
    """`config` after some changes `path.to.field=value`, applied in order.

    Values are JSON, but plain text for a text field; `null` is None for a field that may be None. An entry of a mapping
    is named like a field: `components.vae=runs/vae/export/vae`. Its name may hold dots: `data.mixture.../photos=1`.

    Raises:
        InputError: a field is unknown, or a value has another type than its field.
    """
    for change in changes:
        name, found, text = change.partition("=")
        if not found:
            raise InputError(f"{change!r}: expected FIELD=VALUE")
        config = cast(T, _changed(config, type(config), name.split("."), text, name))
    return config


def _changed(current: object, hint: object, path: list[str], text: str, what: str) -> object:
    if not path:
        return _parsed(hint, text, what)
    first, *rest = path
    if isinstance(current, Mapping):
        inner = get_args(hint)[1]
        if not any(map(dataclasses.is_dataclass, _alternatives(inner))):  # nothing is within its values
            return {**current, ".".join(path): _parsed(inner, text, what)}
        if rest and first not in current:
            raise InputError(f"{what}: there is no entry {first!r}, expected one of {', '.join(current) or 'none'}")
        return {**current, first: _changed(current.get(first), inner, rest, text, what)}
    default = _alternatives(hint)[0]
    if current is None and isinstance(default, type) and dataclasses.is_dataclass(default):
        current = default()  # its fields without a change keep their defaults
    if not dataclasses.is_dataclass(current):
        raise InputError(f"{what}: {current!r} has no field {first!r}, expected nothing after a plain value")
    hints = get_type_hints(type(current))
    if first not in hints:
        raise InputError(f"{what}: {type(current).__name__} has no field {first!r}, expected one of {', '.join(hints)}")
    value = _changed(getattr(current, first), hints[first], rest, text, what)
    try:
        return dataclasses.replace(current, **{first: value})  # pyright: ignore[reportArgumentType]
    except ValueError as error:  # the configuration's own checks
        raise InputError(f"{what}: {error}") from error


def _parsed(hint: object, text: str, what: str) -> object:
    if type(None) in get_args(hint) and text == "null":
        return None
    (inner, *others) = _alternatives(hint)
    if others or dataclasses.is_dataclass(inner):
        raise InputError(f"{what}: cannot be set to {text!r} as a whole, expected the name of one of its fields")
    if inner is str or get_origin(inner) is Literal:
        return _typed(inner, text, what)
    try:
        value = parse_json(text, what, object)
    except InputError as error:
        raise InputError(f"{what} is {text!r}, expected {_described(hint)}") from error
    return _typed(hint, value, what)


def describe_fields(config: Any, prefix: str = "") -> str:
    """A line for every field of a configuration, nested ones included: name, value, and comment in the source.

    Args:
        config: a configuration, or its class to show the defaults. Values are written as `override` takes them.
    """
    cls = config if isinstance(config, type) else type(config)
    hints, comments, lines = get_type_hints(cls), _comments(cls), []
    for field in dataclasses.fields(cls):
        inner = _alternatives(hints[field.name])[0]
        value = field.default if config is cls else getattr(config, field.name)
        nested = dataclasses.is_dataclass(inner)
        if not nested or value is None:
            text = "" if value is dataclasses.MISSING else f" = {_as_text(value, hints[field.name])}"
            comment = f"  # {comments[field.name]}" if field.name in comments else ""
            lines.append(f"  {prefix}{field.name}{text}{comment}")
        if nested:
            lines.append(describe_fields(value if dataclasses.is_dataclass(value) else inner, f"{prefix}{field.name}."))
    return "\n".join(lines)


def _as_text(value: Any, hint: Any) -> str:
    return value if isinstance(value, str) else json.dumps(_plain(value, hint))


def _comments(cls: type) -> dict[str, str]:
    """The explanation of each field: the comment on its line, or above it, or its entry in the docstring."""
    lines = [line.strip() for line in inspect.getsource(cls).splitlines()]
    found = dict(re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", inspect.getdoc(cls) or "", re.MULTILINE))
    found |= dict(re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", inspect.getdoc(cls) or "", re.MULTILINE))
    comments = {name: " ".join(text.split()) for name, text in found.items()}
    for above, line in itertools.pairwise(lines):
        if field := re.match(r"(\w+): [^#]*?(?:#\s*(.*))?$", line):
            text = field[2] or (above[1:].strip() if above.startswith("#") else None)
            comments |= {field[1]: text} if text else {}
    return comments


def to_json(config: "DataclassInstance") -> Json:
    """A configuration in JSON's own types. If a field accepts several classes, "class" names the one it has."""
    hints = get_type_hints(type(config))
    return {field.name: _plain(getattr(config, field.name), hints[field.name]) for field in dataclasses.fields(config)}


def _plain(value: object, hint: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = {} if _alternatives(hint) == [type(value)] else {_CLASS: type(value).__name__}
        return named | to_json(value)
    if isinstance(value, Mapping):
        return {key: _plain(entry, get_args(hint)[1]) for key, entry in value.items()}
    if isinstance(value, tuple):
        return [_plain(entry, get_args(hint)[0]) if get_args(hint) else entry for entry in value]
    return value


def from_json(cls: type[T], data: object, what: str) -> T:
    """The configuration `cls` that `to_json` wrote; absent fields keep their defaults. `what` names it in errors.

    Raises:
        InputError: a field is unknown, or a value has another type than its field.
    """
    if not isinstance(data, Mapping):
        raise InputError(f"{what} is {data!r}, expected an object with the fields of {cls.__name__}")
    hints = get_type_hints(cls)
    if unknown := sorted(set(data) - set(hints)):
        raise InputError(f"{what}: {cls.__name__} has no field {unknown[0]!r}, expected one of {', '.join(hints)}")
    values = {name: _typed(hints[name], value, f"{what}: {name}") for name, value in data.items()}
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:  # a field without default is absent, or the class's own checks fail
        raise InputError(f"{what}: {error}") from error


def _typed(hint: object, value: object, what: str) -> object:
    inner = _alternatives(hint)
    if value is None and type(None) in get_args(hint):
        return None
    if len(inner) > 1:
        return _network(inner, value, what)
    (hint,) = inner
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_json(hint, value, what)  # pyright: ignore[reportArgumentType]
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_typed(arguments[0], entry, what) for entry in value)
    if origin is Mapping and isinstance(value, Mapping):
        return {key: _typed(arguments[1], entry, f"{what}.{key}") for key, entry in value.items()}
    if hint is float and type(value) is int:
        try:
            return float(value)
        except OverflowError as error:
            raise InputError(f"{what} is {value!r}, expected a number up to 1e308") from error
    fits = value in arguments if origin is Literal else type(value) is (origin or hint)
    if isinstance(value, float) and fits and not math.isfinite(value):
        raise InputError(f"{what} is {value!r}, expected a finite number")
    if not fits:
        raise InputError(f"{what} is {value!r}, expected {_described(hint)}")
    return value


def _network(allowed: list[object], value: object, what: str) -> object:
    """The configuration of a network, for a field that accepts several classes."""
    names = [name for name, cls in CONFIGS.items() if cls in allowed]
    if not isinstance(value, Mapping) or value.get(_CLASS) not in names:
        raise InputError(f"{what} is {value!r}, expected an object with a {_CLASS!r} among {', '.join(names)}")
    return from_json(CONFIGS[value[_CLASS]], {name: entry for name, entry in value.items() if name != _CLASS}, what)


def _alternatives(hint: object) -> list[object]:
    """The types in a union, except None; any other type stands for itself."""
    if get_origin(hint) not in (Union, types.UnionType):
        return [hint]
    return [argument for argument in get_args(hint) if argument is not type(None)]


def _described(hint: object) -> str:
    described = [
        f"one of {', '.join(map(str, get_args(inner)))}"
        if get_origin(inner) is Literal
        else f"a list of {getattr(get_args(inner)[0], '__name__', 'values')}"
        if get_origin(inner) is tuple
        else f"a value of type {getattr(get_origin(inner) or inner, '__name__', inner)}"
        for inner in _alternatives(hint)
    ]
    return " or ".join(described + ["null"] * (type(None) in get_args(hint)))
