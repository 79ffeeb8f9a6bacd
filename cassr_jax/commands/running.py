"""How a command ends and what it prints, the same for all: faults of the input are one line and exit code 2."""

import functools
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TextIO

from cassr_jax.errors import InputError, Stopped

INTERRUPTED = 130  # exit code: 128 and the number of SIGINT, as shells count

Main = Callable[..., int]
"""A program's `main(argv=None)`, which returns its exit code."""


def command(
    name: str, *, interrupted: str = "interrupted", seconds_to_stop: float | None = None
) -> Callable[[Main], Main]:
    """Makes a program's `main(argv)` end as every command here does.

    An InputError is one line on stderr and exit code 2; a run that was asked to stop and has saved is one line and 0;
    Ctrl-C is one line and 130.

    Args:
        name: what the lines on stderr begin with.
        interrupted: the line after Ctrl-C.
        seconds_to_stop: how long after Ctrl-C the process ends, even if it waits for a device then. None where it may
            have to save first.
    """

    def decorate(main: Main) -> Main:
        @functools.wraps(main)
        def run(argv: Sequence[str] | None = None) -> int:
            watch = nullcontext() if seconds_to_stop is None else _ended_within(seconds_to_stop, name, interrupted)
            try:
                with watch:
                    return main(argv)
            except Stopped as stopped:
                say(stopped)
                return 0
            except InputError as error:
                complain(error, name)
                return 2
            except KeyboardInterrupt:
                complain(interrupted, name)
                return INTERRUPTED

        return run

    return decorate


@contextmanager
def ended_after(seconds: float, message: str, name: str) -> Iterator[None]:
    """Ends the process with one line and exit code 2 if the block takes longer.

    For a call that no exception can end, such as a library's that waits for another machine.
    """

    def end() -> None:
        complain(message, name)
        os._exit(2)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def say(message: object) -> None:
    """Print a line on stdout, if anybody reads it."""
    _print(str(message), sys.stdout)


def complain(message: object, name: str) -> None:
    """Print one line on stderr that begins with the program's name."""
    _print(" ".join([f"{name}:", *str(message).splitlines()]), sys.stderr)


def _print(text: str, stream: TextIO) -> None:
    """A file name need not be valid text, nor a terminal know its characters, nor a pipe still have a reader."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except BrokenPipeError:  # Python would complain of it once more, when it closes the stream at its end
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
    except (OSError, ValueError):  # a full disk behind the stream, or a closed one: nobody can be told
        return


@contextmanager
def _ended_within(seconds: float, name: str, message: str) -> Iterator[None]:
    """Ends the process `seconds` after SIGINT, with `message`, unless the block has ended before.

    Python raises KeyboardInterrupt in the main thread between two of its own instructions, and the next one may be a
    minute away where that thread waits for a device. So another thread watches for the signal.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    watched, woken = socket.socketpair()
    woken.setblocking(False)
    ended = threading.Event()

    def watch() -> None:
        with watched:
            while number := watched.recv(1):
                if number[0] == signal.SIGINT and not ended.wait(seconds):
                    complain(message, name)
                    os._exit(INTERRUPTED)

    before = signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        woken.close()  # ends the watcher
        watcher.join()
