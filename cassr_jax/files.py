"""Files that are whole or not there, JSON that may be damaged, and folders that hold links."""

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedWriter
from pathlib import Path
from typing import Any, TypeVar

from cassr_jax.errors import InputError

T = TypeVar("T")

JSON_DEPTH = 100  # objects and lists within each other; what is written here has fewer than 10
_KINDS = {dict: "an object", list: "a list", object: "a value"}
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]+:/")  # a letter alone would be a drive


@contextmanager
def replaced(path: Path) -> Iterator[BufferedWriter]:
    """A binary file that takes the place of `path` in one step when the block ends, and leaves nothing if it fails.

    Raises:
        InputError: the folder or file cannot be written.
    """
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}.tmp")  # a name may be as long as it can be already
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


def write_json(path: Path, data: Any) -> None:
    """Write `data`, of JSON's own types, with two spaces a level; the folder is made.

    NaN and the infinities become null, since JSON has no such numbers.

    Raises:
        InputError: the folder or file cannot be written.
    """
    with replaced(path) as file:
        file.write((json.dumps(_finite(data), indent=2, allow_nan=False) + "\n").encode())


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {name: _finite(entry) for name, entry in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(entry) for entry in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def read_json(path: Path, kind: type[T] = dict) -> T:
    """What a JSON file holds: an object, a list where `kind` is `list`, or any value where it is `object`.

    Raises:
        InputError: the file cannot be read, or as `parse_json`.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    return parse_json(text, path, kind)


def parse_json(text: str | bytes, where: object, kind: type[T] = dict) -> T:
    """What a JSON text holds; `where` names it in errors.

    Raises:
        InputError: it is not JSON, holds another kind of value, or is nested more than `JSON_DEPTH` levels deep.
    """
    try:
        data = json.loads(text)
        deep = _depth(data) > JSON_DEPTH
    except RecursionError:
        data, deep = None, True
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({error}), expected {_KINDS[kind]}") from error
    if deep:
        raise InputError(f"{where}: nested too deep, expected at most {JSON_DEPTH} levels")
    if not isinstance(data, kind):
        raise InputError(f"{where}: holds {type(data).__name__} {str(data)[:40]!r}, expected {_KINDS[kind]}")
    return data


def _depth(data: Any) -> int:
    """How many objects and lists lie within each other; without recursion, which has its own limit."""
    level, depth = [data], 0
    while level := [value for value in level if isinstance(value, (dict, list))]:
        depth += 1
        level = [child for value in level for child in (value.values() if isinstance(value, dict) else value)]
    return depth


def files_below(
    folder: Path, exclude: Path | None = None, unreadable: Callable[[OSError], object] | None = None
) -> Iterator[Path]:
    """The files of a folder and of its sub-folders, sorted by name within each; links to folders are followed.

    A folder that can be reached in several ways is searched once, so that a link to a folder above it ends there.
    Hidden files and folders are passed over, and so is `exclude`.

    Args:
        unreadable: what to do about a folder that cannot be read, instead of raising.

    Raises:
        InputError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error

    seen = set() if exclude is None else {os.path.realpath(exclude)}
    for root, folders, files in os.walk(folder, onerror=unreadable or refuse, followlinks=True):
        real = os.path.realpath(root)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real not in seen:
            seen.add(real)
            paths = (Path(root, name) for name in sorted(files) if not name.startswith("."))
            yield from (path for path in paths if path.is_file())


def check_local(path: str | os.PathLike[str], what: str) -> None:
    """
    Raises:
        InputError: `path` is an address as `gs://bucket/folder`, which no part of this package reads or writes.
    """
    if _ADDRESS.match(os.fspath(path)):
        raise InputError(f"{what} is {path}, an address, expected a path of this machine; mount or copy it first")
