"""Lines and progress bars for whoever started the program, which they do not end if nobody can read them."""

import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def say(message: object) -> None:
    """Print a line on stdout."""
    _print(f"{message}\n", sys.stdout)


def complain(message: object, name: str = "") -> None:
    """Print one line on stderr, which begins with the program's name if that is given."""
    _print(" ".join([*([f"{name}:"] if name else []), *str(message).splitlines()]) + "\n", sys.stderr)


def notice(message: object, name: str = "") -> None:
    """Print one line on stderr for somebody who waits at a terminal; logs and pipes get none, as with progress bars."""
    if sys.stderr.isatty():
        complain(message, name)


def progress_bar(items: Iterable[T] = (), **settings: Any) -> "tqdm[T]":
    """tqdm's bar on stderr, shown at a terminal alone unless `disable` says otherwise."""
    return tqdm(items, **{"disable": None, "file": _Lasting(sys.stderr)} | settings)


def settle() -> None:
    """Write out what others have printed, such as a parser its help, before Python does so and fails."""
    for stream in (sys.stdout, sys.stderr):
        _print("", stream)


class _Lasting:
    """A stream to which a library can write even when its reader has gone."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> None:
        _print(text, self._stream)

    def flush(self) -> None:
        """Nothing is left to write out."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _print(text: str, stream: TextIO) -> None:
    """Print `text`, whatever it holds and whoever reads it.

    A file name need not be valid text, a terminal may lack some of its characters, and a pipe may be closed.
    """
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), end="", file=stream, flush=True)
    except BrokenPipeError:  # without this, Python complains again when it closes the stream at its end
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
    except (OSError, ValueError):  # the disk is full or the stream closed: nobody can be told
        return
