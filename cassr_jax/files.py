"""Files that are whole or not there."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedWriter
from pathlib import Path
from typing import Any

from cassr_jax.errors import InputError


@contextmanager
def replaced(path: Path) -> Iterator[BufferedWriter]:
    """A binary file that takes the place of `path` in one step when the block ends, and leaves nothing if it fails.

    Raises:
        InputError: the folder or file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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
    """`data`, of JSON's own types, with two spaces a level; the folder is made.

    Raises:
        InputError: the folder or file cannot be written.
    """
    with replaced(path) as file:
        file.write((json.dumps(data, indent=2) + "\n").encode())
