"""Work in a process of its own, for libraries that end the whole process when they fail."""

import copy
import multiprocessing
import os
import re
import signal
import tempfile
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

from cassr_jax.files import is_file

T = TypeVar("T")

_NOISE = re.compile(r"WARNING: All log messages|[IW]\d{4} ")  # how lines begin that libraries write on the way


class Died(Exception):
    """The process ended before its work was done; the message says how, and quotes its last words."""


def in_child(work: Callable[..., T], *args: object) -> T:
    """Computes `work(*args)` in a new process; the function, its arguments and its result must be picklable.

    Raises:
        Exception: whatever `work` raises.
        Died: the process was ended by a signal, or ended itself.
    """
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        errors = Path(folder) / "stderr"
        child = context.Process(target=_send, args=(sending, str(errors), work, args))
        child.start()
        sending.close()
        try:
            succeeded, result = receiving.recv()
        except (EOFError, OSError):  # the second while it was sending
            child.join()
            raise Died(f"{_end(child.exitcode or 0)}: {_said(errors)}") from None
        except BaseException:  # such as Ctrl-C, after which nobody waits for the work
            child.kill()
            raise
        finally:
            receiving.close()
        child.join()
    if not succeeded:
        raise result
    return result


def _send(sending: Connection, errors: str, work: Callable[..., object], args: tuple[object, ...]) -> None:
    with open(errors, "wb") as file:
        os.dup2(file.fileno(), 2)  # a dying library prints pages
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        sending.send((True, work(*args)))
    except Exception as error:
        sending.send((False, _whole(error)))


def _end_with_parent() -> None:
    """Ends this process when its parent has gone, which may have been killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _whole(error: Exception) -> Exception:
    """The error, or one with its words if it cannot be sent: some exceptions of libraries cannot be made again."""
    try:
        return copy.copy(error)  # which makes it as the other process would
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def _end(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in {*signal.Signals} else f"signal {-code}"
    return f"ended by {name}{', as where memory runs out' if -code == signal.SIGKILL else ''}"


def _said(errors: Path) -> str:
    """The line of a failed check, which precedes the stack trace, or else the last line."""
    lines = errors.read_text("utf-8", "replace").splitlines() if is_file(errors) else []
    lines = [line for line in lines if not _NOISE.match(line)]
    failed = [line for line in lines if line.startswith("F") and "] " in line]
    line = failed[0].partition("] ")[2] if failed else next(filter(None, map(str.strip, reversed(lines))), "no word")
    return line[:300]
