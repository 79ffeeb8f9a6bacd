"""Files: writing them whole or not at all, reading JSON that may be damaged, and searching folders with links."""

import errno
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedWriter
from pathlib import Path
from typing import Any, TypeVar

from cassr_jax.errors import InputError

T = TypeVar("T")
Json = dict[str, Any]  # a JSON object; whoever reads an entry knows its type

JSON_DEPTH = 100  # nested objects and lists; the program itself writes fewer than 10
_KINDS = {dict: "an object", list: "a list", object: "a value"}
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]+:/")  # a single letter would be a drive
_NOTHING_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


@contextmanager
def replaced(path: Path) -> Iterator[BufferedWriter]:
    """A binary file that replaces `path` in one step when the block ends, and vanishes if the block fails.

    Raises:
        InputError: the folder or file cannot be written.
    """
    mode = _mode(path)
    if mode and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a pipe or a device must stay what it is
        with path.open("wb") as file:
            yield file
        return
    temporary = _beside(path, "tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                yield file
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of `folder` when the block ends, and vanishes if the block fails.

    Whatever was at `folder` is moved away first and deleted last; if the new one cannot take its place, it comes back.

    Raises:
        InputError: a folder or file cannot be written.
    """
    folder = Path(os.path.realpath(folder))  # a link stays one
    new, old = (_beside(folder, end) for end in ("tmp", "old"))
    try:
        try:
            new.mkdir(parents=True)
            yield new
            try:
                if _mode(folder):
                    os.rename(folder, old)
                os.rename(new, folder)
            except BaseException:
                if _mode(old):
                    os.rename(old, folder)
                raise
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error})") from error


def _beside(path: Path, end: str) -> Path:
    """A free hidden name beside `path`."""
    # The name may already be as long as allowed. Other machines have processes of the same number.
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.{end}")


def write_json(path: Path, data: object) -> None:
    """Write `data`, which has JSON's own types, indented by two spaces; create the folder.

    NaN and the infinities become null, since JSON cannot express them.

    Raises:
        InputError: the folder or file cannot be written.
    """
    with replaced(path) as file:
        file.write((json.dumps(_finite(data), indent=2, allow_nan=False) + "\n").encode())


def _finite(data: object) -> object:
    if isinstance(data, Mapping):
        return {name: _finite(entry) for name, entry in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(entry) for entry in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def read_json(path: Path, kind: type[T] = dict) -> T:
    """The content of a JSON file: a JSON object by default, a list if `kind` is `list`, any value if it is `object`.

    Raises:
        InputError: the file cannot be read, is not JSON, holds another kind of value, or is nested too deep.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    return parse_json(text, path, kind)


def parse_json(text: str | bytes, where: object, kind: type[T] = dict) -> T:
    """The value of a JSON text; `where` names it in errors.

    Raises:
        InputError: the text is not JSON, holds another kind of value, or is nested more than `JSON_DEPTH` levels deep.
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


def _depth(data: object) -> int:
    """The depth to which objects and lists are nested; computed without recursion, which has its own limit."""
    level, depth = [data], 0
    while level := [value for value in level if isinstance(value, (dict, list))]:
        depth += 1
        level = [child for value in level for child in (value.values() if isinstance(value, dict) else value)]
    return depth


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether something is at `path`, or where it leads as a link.

    Raises:
        InputError: nobody can tell: a name in it is too long, or lies in a folder that may not be entered.
    """
    return _mode(path) != 0


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file is at `path`, or where it leads as a link; raises InputError as `exists` does."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is at `path`, or where it leads as a link; raises InputError as `exists` does."""
    return stat.S_ISDIR(_mode(path))


def _mode(path: str | os.PathLike[str]) -> int:
    """The kind and the permissions of what is at `path`; 0 if nothing is."""
    try:
        return os.stat(path).st_mode
    except ValueError:  # a null character, which no name has
        return 0
    except OSError as error:
        if error.errno in _NOTHING_THERE:
            return 0
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def same_place(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Whether two paths, which need not exist, are the same once their links are followed."""
    return os.path.realpath(one) == os.path.realpath(other)


def check_outside(
    folder: Path, other: Path, name: str, why: str = "what is written there would be read with the rest"
) -> None:
    """Checks that one folder, such as an output, does not lie within another, such as the one that is read.

    Neither needs to exist; links are followed.

    Raises:
        InputError: `folder` is `other`, whose name in errors is `name`, or lies below it; the message says `why` not.
    """
    if Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(other)):
        found = "is" if same_place(folder, other) else "lies within"
        raise InputError(f"{folder}: {found} {name}, {other}, expected a folder outside it: {why}")


def files_below(
    folder: Path,
    exclude: Path | None = None,
    unreadable: Callable[[InputError], object] | None = None,
    broken: Callable[[Path], object] = lambda _: None,
    recursive: bool = True,
) -> Iterator[Path]:
    """The files of a folder and its sub-folders, sorted by name within each; links to folders are followed.

    A folder that several paths lead to is searched once, so links cannot form a loop. Hidden files and folders are
    skipped, and so is `exclude`.

    Args:
        unreadable: called with the reason for each folder that cannot be listed or entered, and for each link that
            cannot be followed, instead of raising it.
        broken: called with each link that leads nowhere.
        recursive: whether sub-folders are searched.

    Raises:
        InputError: a folder or a link cannot be read.
    """

    def report(reason: InputError) -> None:
        if unreadable is None:
            raise reason
        unreadable(reason)

    def unlisted(error: OSError) -> None:
        report(InputError(f"{error.filename}: cannot be read ({error.strerror})"))

    seen = set() if exclude is None else {os.path.realpath(exclude)}
    for root, folders, files in os.walk(folder, onerror=unlisted, followlinks=True):
        real = os.path.realpath(root)
        closed = not os.access(root, os.X_OK)  # its names can be listed, and nothing more
        folders[:] = (
            []
            if closed or real in seen or not recursive
            else sorted(name for name in folders if not name.startswith("."))
        )
        if real in seen:
            continue
        seen.add(real)
        if closed:
            report(InputError(f"{root}: cannot be entered, expected a folder with the permission to search it"))
            continue
        for path in (Path(root, name) for name in sorted(files) if not name.startswith(".")):
            try:
                found = is_file(path)
            except InputError as reason:
                report(reason)
                continue
            if found:
                yield path
            elif path.is_symlink() and not exists(path):
                broken(path)


def check_local(path: str | os.PathLike[str], what: str) -> None:
    """Checks that `path` is a path on this machine; `what` names it in errors.

    Raises:
        InputError: `path` is an address such as `gs://bucket/folder`, which this package neither reads nor writes, or
            it is empty.
    """
    if not os.fspath(path):  # which Path would take for the working folder
        raise InputError(f"{what} is '', expected a path; . is the working folder")
    if _ADDRESS.match(os.fspath(path)):
        raise InputError(f"{what} is {path}, an address, expected a path on this machine; mount or copy it first")


def check_folder(folder: Path) -> None:
    """Checks that files can be written into a folder, which may yet have to be made; nothing is made here.

    Raises:
        InputError: a link that leads nowhere or a file is in its place or in that of a parent, its name is too long, or
            it cannot be written.
    """
    exists(folder)  # nobody can tell if a name is too long
    path = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not exists(path):
        raise InputError(f"{folder}: cannot be made, since {path} is a link that leads nowhere; expected a folder")
    if not is_folder(path):
        raise InputError(f"{folder}: cannot be made, since {path} is a file; expected a folder")
    if not os.access(path, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: {path} is read-only, expected a folder that can be written")
