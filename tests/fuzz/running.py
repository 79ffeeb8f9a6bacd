"""Feeds a target damaged files and counts what comes of them."""

import faulthandler
import resource
import signal
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cassr_jax.errors import InputError
from tests.fuzz.mutation import mutated
from tests.fuzz.targets import TARGETS, Target, seeds_of

CORPUS = Path(__file__).parent / "corpus"
SECONDS = 5.0
"""The longest that an input of at most 64 KiB may take."""
BYTES = 2 << 30
"""The most memory that a target may take beside what its process holds at first."""


class TooSlow(BaseException):
    """An input took too long; no reader may catch this."""


@dataclass
class Found:
    """What came of the inputs of a target.

    Attributes:
        inputs, read: how many were tried, and how many of them were read and not refused.
        slowest: seconds of the slowest.
        faults: an input for each kind of fault.
    """

    inputs: int = 0
    read: int = 0
    slowest: float = 0.0
    faults: dict[str, bytes] = field(default_factory=dict)


def kept(name: str) -> list[bytes]:
    """The inputs of a target that failed once, and were mended."""
    return [file.read_bytes() for file in sorted((CORPUS / name).glob("*"))]


def attack(target: Target, data: bytes, folder: Path) -> str | None:
    """What is wrong with how a target takes an input, or None; "read" if it was read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            target.read(data, folder)
        except InputError as error:
            return None if str(error) and "\n" not in str(error) else f"a refusal that is no sentence: {error!r}"
        except TooSlow:
            return f"took more than {SECONDS:g} s"
        except Exception as error:
            where = error.__traceback__
            while where is not None and where.tb_next is not None:
                where = where.tb_next
            place = f"{Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno}" if where else ""
            return f"{type(error).__name__} at {place}"
    return "read"


def run(name: str, runs: int, seed: int = 0, seconds: float | None = None) -> Found:
    """Attacks a target with its seeds, with what failed once, and with so many variants of both.

    Args:
        seconds: stop after these, if all inputs have not been tried by then.
    """
    target, found = TARGETS[name], Found()
    seeds = [*seeds_of(target), *kept(name)]
    draw, end = np.random.default_rng(seed), None if seconds is None else time.monotonic() + seconds

    def late(number: int, frame: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, late)
    try:
        for number in range(len(seeds) + runs):
            if end is not None and time.monotonic() > end:
                break
            data = seeds[number] if number < len(seeds) else mutated(draw, seeds)
            with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
                start = time.perf_counter()
                signal.setitimer(signal.ITIMER_REAL, SECONDS)
                fault = attack(target, data, Path(folder))
                signal.setitimer(signal.ITIMER_REAL, 0)
                found.slowest = max(found.slowest, time.perf_counter() - start)
            found.inputs += 1
            found.read += fault == "read"
            if fault not in (None, "read"):
                found.faults.setdefault(fault, data)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return found


def measured(name: str, runs: int, seed: int) -> tuple[Found, int]:
    """What came of a target, and the most memory that this process has taken, in bytes."""
    return run(name, runs, seed), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def bounded() -> None:
    """Bounds the memory of this process, and says where it is if one of its libraries crashes."""
    faulthandler.enable()
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + BYTES, resource.RLIM_INFINITY))
