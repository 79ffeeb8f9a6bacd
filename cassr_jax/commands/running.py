"""What all commands have in common: how they end, with which exit code, and with which line."""

import functools
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

from cassr_jax.errors import InputError, Stopped
from cassr_jax.extras import lacking
from cassr_jax.printing import complain, say, settle

STOPPED = os.EX_TEMPFAIL  # 75, "try again": a scheduler must tell a run that has saved from one that is finished
INTERRUPTED = 130  # the exit code after Ctrl-C: 128 plus the number of SIGINT, as in shells

Main = Callable[..., int]
"""A program's `main(argv=None)`, which returns its exit code."""


def command(
    name: str, *, interrupted: str = "interrupted", seconds_to_stop: float | None = None, tidies: bool = False
) -> Callable[[Main], Main]:
    """A decorator that makes a program's `main(argv)` end like every command here.

    After an InputError, or where an extra of the package is missing, it prints one line on stderr and returns 2. After
    a run that was asked to stop and has saved, it prints one line and returns 75. After Ctrl-C it prints one line and
    returns 130. Standard streams that were closed (`2>&-` in a shell) lead nowhere.

    Args:
        name: the word with which the lines on stderr begin.
        interrupted: the line to print after Ctrl-C.
        seconds_to_stop: the process ends at most so long after Ctrl-C, even while it waits for a device. None leaves it
            the time that it needs, for example to save.
        tidies: whether SIGTERM ends the program as Ctrl-C does, so that it removes what it has begun to write; its exit
            code is then 143. Others end at once.
    """

    def decorate(main: Main) -> Main:
        @functools.wraps(main)
        @_standard_streams()
        def run(argv: Sequence[str] | None = None) -> int:
            watch = nullcontext() if seconds_to_stop is None else _ended_within(seconds_to_stop, name, interrupted)
            try:
                with watch, _tidied() if tidies else nullcontext():
                    return main(argv)
            except Stopped as stopped:
                say(stopped)
                return STOPPED
            except InputError as error:
                complain(error, name)
                return 2
            except ModuleNotFoundError as error:
                if (sentence := lacking(error)) is None:
                    raise
                complain(sentence, name)
                return 2
            except KeyboardInterrupt:
                complain(interrupted, name)
                return INTERRUPTED
            finally:
                settle()

        return run

    return decorate


@contextmanager
def _tidied() -> Iterator[None]:
    """A block that SIGTERM leaves by an exception, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
        yield
        return

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def ended_after(seconds: float, message: str, name: str) -> Iterator[None]:
    """End the process with one line and exit code 2 if the block takes longer than `seconds`.

    This is for calls that no exception can end, such as a library's call that waits for another machine.
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


@contextmanager
def _standard_streams() -> Iterator[None]:
    """A context in which stdout and stderr are there for every library, even if they were closed.

    Python has None in their places, which progress bars cannot write to. The system gives their numbers to the next
    files that are opened, into which libraries in C would then print.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # the lowest free number: a closed standard stream's
    os.close(number)
    with open(os.devnull, "w") as nowhere:
        closed = [name for name in ("stdout", "stderr") if getattr(sys, name) is None]
        for name in closed:
            setattr(sys, name, nowhere)
        try:
            yield
        finally:
            for name in closed:
                setattr(sys, name, None)


@contextmanager
def _ended_within(seconds: float, name: str, message: str) -> Iterator[None]:
    """End the process with `message` `seconds` after SIGINT, unless the block has ended before.

    Python raises KeyboardInterrupt in the main thread, between two of its own instructions. While that thread waits for
    a device, its next instruction may be a minute away, so another thread watches for the signal.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
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
