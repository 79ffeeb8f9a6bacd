"""Runs parts in processes of their own, within a time, and keeps what each of them finds."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from cassr_jax.errors import InputError
from cassr_jax.files import Json, read_json, write_json


class LeftOut(Exception):
    """A part cannot be measured here; the message says why."""


class _Late(Exception):
    """A part did not end in time."""


@dataclass(frozen=True)
class Part:
    """A measurement.

    Attributes:
        name: its name in the results, which begins with the word for parts of its kind.
        process: parts that follow each other with the same word here share a process. They are in rising order of the
            memory that they need: after one that does not fit, the others are left out.
        measure: gives the figures, in JSON's own types; it can be pickled.
    """

    name: str
    process: str
    measure: Callable[[], Json]

    @property
    def kind(self) -> str:
        return self.name.split()[0]


class Results:
    """What was measured on one kind of device, in one JSON file; a part that is recorded is safe at once.

    Args:
        path: the file, which may exist.
        device: describes the device and the versions of all that takes part.

    Raises:
        InputError: the file is of another device or other versions.
    """

    def __init__(self, path: Path, device: Json):
        self._path = path
        self.content: Json = {"device": device, "parts": {}, "left_out": {}}
        if path.is_file():
            self.content = read_json(path)
        if found := [name for name, value in device.items() if self.content["device"].get(name) != value]:
            name = found[0]
            raise InputError(
                f"{path}: was measured with {name} {self.content['device'].get(name)}, expected {device[name]}; give "
                "another folder with --output"
            )

    @property
    def parts(self) -> Json:
        return self.content["parts"]

    def record(self, name: str, figures: Json) -> None:
        self.content["left_out"].pop(name, None)
        self.parts[name] = figures
        write_json(self._path, self.content)

    def leave_out(self, name: str, why: str) -> None:
        """Name a part that was not measured; what is known of it from another time stays."""
        self.content["left_out"][name] = why
        write_json(self._path, self.content)


def run(parts: Sequence[Part], results: Results, *, again: bool, seconds: float, say: Callable[[str], object]) -> None:
    """Measures the parts that the results do not have yet, or all of them `again`, for at most so many seconds."""
    end = time.monotonic() + seconds
    for _, group in groupby(parts, key=lambda part: part.process):
        _run_together([*group], results, again, end, say)


def _run_together(
    parts: Sequence[Part], results: Results, again: bool, end: float, say: Callable[[str], object]
) -> None:
    worker: _Worker | None = None
    last, full = 0.0, None
    try:
        for part in parts:
            found: Json | None = results.parts.get(part.name)
            if found is None or again:
                left = end - time.monotonic()
                if full or left <= last:  # a part takes no less than the one before
                    found = {"left_out": full or f"{max(left, 0):.0f} s were left"}
                else:
                    worker = worker or _Worker()
                    found, worker = worker.measure(part, left)
                say(f"{part.name}: {_outcome(found)}")
                if "left_out" in found:
                    results.leave_out(part.name, found["left_out"])
                else:
                    results.record(part.name, found)
            last = found.get("took", last)
            if found.get("out_of_memory"):
                full = f"{part.name} did not fit into the memory"
    finally:
        if worker:
            worker.end()


def _outcome(found: Json) -> str:
    if "left_out" in found:
        return f"left out, {found['left_out']}"
    return found.get("error") or f"{found['took']:.0f} s"


class _Worker:
    """A process that measures parts, one at a time."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,))
        self._process.start()
        theirs.close()

    def measure(self, part: Part, seconds: float) -> "tuple[Json, _Worker | None]":
        """What comes of a part, and the worker for the next one: this one, unless it has ended."""
        try:
            self._connection.send(part.measure)
            if self._connection.poll(seconds):
                return self._connection.recv(), self
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join()
            self.end()
            return {"error": f"its process ended with code {self._process.exitcode}"}, None
        self.end()
        return {"left_out": f"it had not ended after {seconds:.0f} s"}, None

    def end(self) -> None:
        """End the process, and those that it has started."""
        if self._process.is_alive() and self._process.pid:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:  # it has not come to making its group
                self._process.kill()
        self._process.join()
        self._connection.close()


def _serve(connection: Connection) -> None:
    os.setpgid(0, 0)  # so that it can be ended together with what it starts
    while True:
        try:
            measure = connection.recv()
        except EOFError:
            return
        connection.send(measured(measure))


def measured(measure: Callable[[], Json]) -> Json:
    """The figures and the seconds that they `took`, or the `error` that came instead, or why the part is `left_out`."""
    begun = time.monotonic()
    try:
        found: dict[str, Any] = measure()
    except LeftOut as reason:
        return {"left_out": str(reason)}
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        found = {"error": text}
        if "out of memory" in text.lower() or "RESOURCE_EXHAUSTED" in text:
            found["out_of_memory"] = True
    return found | {"took": time.monotonic() - begun}
