"""`manifest.json` beside the results: which picture became which file, with what settings.

It is what lets a second run skip finished pictures without taking one picture's result for another's, and keeps any run
from overwriting a file that is not its own.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cassr_jax.errors import InputError
from cassr_jax.files import write_json

NAME = "manifest.json"
VERSION = 1


@dataclass(frozen=True)
class Entry:
    """One picture.

    Attributes:
        input: the file, as it was given.
        sha256: of its content.
        outputs: kind ("result", "reference", "compare") -> file, relative to the output folder.
        settings: everything that decides the pixels, the seed among it.
        status: "pending", "done" or "failed".
        error: why it failed.
        seconds: how long it took.
    """

    input: str
    sha256: str
    outputs: dict[str, str]
    settings: dict[str, Any]
    status: str = "pending"
    error: str | None = None
    seconds: float | None = None


class Manifest:
    """The entries of one output folder, by the result's file. Every change reaches the disk at once and whole."""

    def __init__(self, folder: Path):
        """Reads what the folder has.

        Raises:
            InputError: its manifest is damaged or of another program.
        """
        self.folder = folder
        self.path = folder / NAME
        self.entries: dict[str, Entry] = {}
        if self.path.exists():
            try:
                content = json.loads(self.path.read_text(encoding="utf-8"))
                if content["version"] != VERSION:
                    raise InputError(f"{self.path}: version {content['version']}, expected {VERSION}")
                entries = [Entry(**entry) for entry in content["pictures"]]
                self.entries = {entry.outputs["result"]: entry for entry in entries}
            except (OSError, ValueError, TypeError, KeyError) as error:
                if isinstance(error, InputError):
                    raise
                message = f"{self.path}: not a manifest of this program ({error}), expected another output folder"
                raise InputError(message) from error

    def put(self, *entries: Entry) -> None:
        """Adds entries or replaces those with the same result file."""
        self.entries |= {entry.outputs["result"]: entry for entry in entries}
        content = {"version": VERSION, "pictures": [asdict(entry) for entry in self.entries.values()]}
        write_json(self.path, content)

    def finished(self, wanted: Entry) -> bool:
        """Whether this very picture was restored with these very settings, and each wanted file is still there."""
        entry = self.entries.get(wanted.outputs["result"])
        return (
            entry is not None
            and entry.status == "done"
            and entry.sha256 == wanted.sha256
            and entry.settings == wanted.settings
            and all(entry.outputs.get(kind) == file for kind, file in wanted.outputs.items())
            and all((self.folder / file).is_file() for file in wanted.outputs.values())
        )

    def check_free(self, wanted: Entry) -> None:
        """Refuses to write over a file unless it is an earlier result of the same picture, by path or by content.

        Raises:
            InputError: names the file and what it is.
        """
        owners = {file: entry for entry in self.entries.values() for file in entry.outputs.values()}
        for file in wanted.outputs.values():
            owner, path = owners.get(file), self.folder / file
            if not path.exists():
                continue
            if owner is None:
                raise InputError(f"{path}: exists and is no result of this program, expected another --output")
            if owner.input != wanted.input and owner.sha256 != wanted.sha256:
                raise InputError(f"{path}: holds the result of {owner.input}, expected another --output")


def sha256(path: Path) -> str:
    """Of a file's content, hexadecimal.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
