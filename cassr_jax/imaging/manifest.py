"""`manifest.json` beside the results: which picture became which file, with which settings.

It lets a second run skip finished pictures without mistaking one picture's result for another's, and keeps a run from
overwriting files that are not its own. A run under way appends its entries to `manifest.jsonl`, one line each, so an
entry costs little even in a large folder, and a killed run loses at most the line it was writing. Several runs may
share a folder.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from PIL import Image

from cassr_jax.errors import InputError
from cassr_jax.files import Json, exists, is_file, parse_json, read_json, write_json
from cassr_jax.locks import Owner, taking_turns

NAME = "manifest.json"
JOURNAL = "manifest.jsonl"
VERSION = 1
PREVIEW = "preview"  # the kind of a file that shows how far a run is; a finished picture goes without
LONGEST_NAME = 255  # bytes, the limit on every common file system


@dataclass(frozen=True)
class Entry:
    """The manifest's record of one picture.

    Attributes:
        input: the picture's real path.
        sha256: the digest of its content.
        outputs: kind ("result", "reference", "compare", or "preview" until it is done) -> file, relative to the output
            folder.
        settings: everything that decides the pixels, including the seed and the weights.
        status: "pending", "done" or "failed".
        error: why it failed.
        seconds: how long it took.
        written: kind -> digest of the written file's content, once the picture is done.
        run: the run that works on it, as the fields of an `Owner`.
        earlier: files that earlier runs wrote for the same picture and that this entry's outputs do not include.
    """

    input: str
    sha256: str
    outputs: dict[str, str]
    settings: dict[str, object]
    status: str = "pending"
    error: str | None = None
    seconds: float | None = None
    written: dict[str, str] = field(default_factory=dict)
    run: Json | None = None
    earlier: list[str] = field(default_factory=list)

    def same_picture(self, other: "Entry") -> bool:
        """Whether both have the same path (the picture may have been edited) or content (it may have been moved)."""
        return self.input == other.input or self.sha256 == other.sha256


class Manifest:
    """The entries of one output folder, by result file. Every change is written to disk at once."""

    def __init__(self, folder: Path, program: str = "sample.py"):
        """Reads the folder's manifest, if it has one.

        Raises:
            InputError: the manifest is damaged or belongs to another program.
        """
        self.folder, self.path, self.journal = folder, folder / NAME, folder / JOURNAL
        self._run = Owner.this(program)
        self.entries: dict[str, Entry] = {}
        self._owners: dict[str, Entry] = {}  # by each file's name, ignoring case as some file systems do
        if exists(self.path) or exists(self.journal):
            with taking_turns(self.path):  # another run may be moving the journal into the manifest
                self._read()

    def put(self, *entries: Entry) -> None:
        """Adds entries, or replaces those with the same result file.

        Raises:
            InputError: the journal cannot be written.
        """
        with taking_turns(self.path):
            self._append(entries)

    def claim(self, wanted: Sequence[Entry], overwrite: bool = False) -> list[str | None]:
        """Claims the files of each entry for this run, unless they belong to another.

        Args:
            overwrite: take files, too, that are no results of this program or those of another picture, but none that
                another run is about to write.

        Returns:
            For each entry, the reason why it may not be written, or None if it may.

        Raises:
            InputError: the journal cannot be written, or another run has damaged the manifest.
        """
        with taking_turns(self.path):
            self._read()
            reasons = []
            for entry in (self._with_earlier(replace(entry, run=asdict(self._run))) for entry in wanted):
                reasons.append(self._why_not(entry, overwrite))
                if reasons[-1] is None:
                    self._remember([entry])
            free = [entry for entry, reason in zip(wanted, reasons, strict=True) if reason is None]
            if free:
                self._append(free)
        return reasons

    def compact(self) -> None:
        """Moves the journal, including other runs' entries, into `manifest.json`.

        Raises:
            InputError: the manifest cannot be written; the journal is kept.
        """
        with taking_turns(self.path):
            self._read()
            if exists(self.journal):
                content = {"version": VERSION, "pictures": [asdict(entry) for entry in self.entries.values()]}
                write_json(self.path, content)
                self.journal.unlink()

    def done(self, entry: Entry, seconds: float) -> Entry:
        """The entry of a picture whose files have been written."""
        outputs = {kind: file for kind, file in entry.outputs.items() if kind != PREVIEW}
        written = {kind: sha256(self.place(file)) for kind, file in outputs.items()}
        return replace(entry, status="done", outputs=outputs, seconds=round(seconds, 2), written=written)

    def finished(self, wanted: Entry) -> bool:
        """Whether the same picture was restored with the same settings, and its files are unchanged."""
        entry = self.entries.get(wanted.outputs["result"])
        if entry is None or entry.status != "done":
            return False
        if entry.sha256 != wanted.sha256 or entry.settings != wanted.settings:
            return False
        return all(
            entry.outputs.get(kind) == file and self._as_written(entry, kind)
            for kind, file in wanted.outputs.items()
            if kind != PREVIEW
        )

    def rate(self, settings: Json) -> float | None:
        """Seconds for each pixel of the results that were made with these settings; None without any that is there."""
        seconds = pixels = 0.0
        for entry in self.entries.values():
            if entry.status == "done" and entry.settings == settings and entry.seconds:
                with contextlib.suppress(OSError), Image.open(self.folder / entry.outputs["result"]) as image:
                    seconds, pixels = seconds + entry.seconds, pixels + image.width * image.height
        return seconds / pixels if pixels else None

    def place(self, file: str) -> Path:
        """The path of a file in the output folder.

        Raises:
            InputError: its name or a link leads outside the folder, or a name is too long.
        """
        path = self.folder / file
        if not Path(os.path.realpath(path.parent)).is_relative_to(os.path.realpath(self.folder)):
            raise InputError(f"{path}: lies outside {self.folder}, expected a file below it")
        if long := [part for part in Path(file).parts if len(os.fsencode(part)) > LONGEST_NAME]:
            raise InputError(
                f"{path}: a name of {len(os.fsencode(long[0]))} bytes, expected at most {LONGEST_NAME}; rename it"
            )
        return path

    def _as_written(self, entry: Entry, kind: str) -> bool:
        path = self.folder / entry.outputs[kind]
        return is_file(path) and sha256(path) == entry.written.get(kind)

    def _why_not(self, wanted: Entry, overwrite: bool) -> str | None:
        advice = "expected another --output, another name for the picture, --overwrite or --skip-existing"
        for kind, file in wanted.outputs.items():
            owner, path = self._owners.get(file.casefold()), self.folder / file
            will_hold = None
            if owner is not None and owner.status == "pending" and (run := self._run_of(owner)) and run.may_live():
                mine = run.same_process(self._run)
                will_hold = f"{path}: will hold the result of {owner.input} ({run}), {advice}"
                if not mine:
                    will_hold += f'; if that run has ended, change "pending" to "failed" in {self._files()}'
                # Nobody can tell whether a run on another machine, or in a container that is gone, is still alive. If
                # it is, both write the same bytes.
                same = owner.sha256 == wanted.sha256 and owner.settings == wanted.settings
                if not mine and not (same and run.host != self._run.host):
                    return will_hold
            own = owner is not None and (owner.outputs.get(kind) == file or file in owner.earlier)
            if owner is not None and own and owner.same_picture(wanted):
                continue
            if os.path.lexists(path) and not (overwrite and is_file(path)):
                if owner is None:
                    return f"{path}: exists and is no result of this program, {advice}"
                return f"{path}: holds the result of {owner.input}, {advice}"
            if will_hold is not None:
                return will_hold
        return None

    def _run_of(self, entry: Entry) -> Owner | None:
        try:
            return Owner.of(entry.run) if entry.run else None
        except ValueError as error:
            result = entry.outputs.get("result")
            raise InputError(
                f"{self.path}: {result} has an invalid `run` {entry.run!r} ({error}); delete this entry"
            ) from error

    def _files(self) -> str:
        """The files that hold the entries, for a person who is to change one."""
        return " or ".join(str(path) for path in (self.path, self.journal) if exists(path))

    def _with_earlier(self, entry: Entry) -> Entry:
        """The entry with the files that earlier runs wrote for the same picture, which still belong to this program."""
        before = self.entries.get(entry.outputs["result"])
        if before is None or not before.same_picture(entry):
            return entry
        files = {*before.earlier, *before.outputs.values()} - {*entry.outputs.values()}
        return replace(entry, earlier=sorted(files))

    def _append(self, entries: Iterable[Entry]) -> None:
        entries = [self._with_earlier(replace(entry, run=asdict(self._run))) for entry in entries]
        lines = "".join(json.dumps(asdict(entry)) + "\n" for entry in entries).encode()
        try:
            with self.journal.open("ab+") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":  # a run was killed while it wrote
                        lines = b"\n" + lines
                file.write(lines)
        except OSError as error:
            raise InputError(f"{self.journal}: cannot be written ({error.strerror or error})") from error
        self._remember(entries)

    def _remember(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.entries[entry.outputs["result"]] = entry
            self._owners |= dict.fromkeys(
                (file.casefold() for file in (*entry.earlier, *entry.outputs.values())), entry
            )

    def _read(self) -> None:
        self.entries, self._owners = {}, {}
        try:
            if exists(self.path):
                content = read_json(self.path)
                if content["version"] != VERSION:
                    raise InputError(f"{self.path}: version {content['version']}, expected {VERSION}")
                self._remember(map(_entry, content["pictures"]))
            if exists(self.journal):
                whole = filter(_is_whole, self.journal.read_bytes().splitlines())
                self._remember(_entry(parse_json(line, JOURNAL)) for line in whole)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            message = f"{self.path}: not a manifest of this program ({error}), expected another output folder"
            raise InputError(message) from error


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _entry(fields: Json) -> Entry:
    entry = Entry(**fields)
    if not (isinstance(entry.written, dict) and isinstance(entry.earlier, list)):
        raise TypeError(f"{entry.outputs['result']} names files that are none")
    return entry


def _is_whole(line: bytes) -> bool:
    """Whether a line of the journal was written to its end: truncated JSON does not parse."""
    try:
        parse_json(line, JOURNAL, object)
    except InputError:
        return False
    return True
