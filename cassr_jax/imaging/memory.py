"""The memory a picture needs, estimated before any work starts."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cassr_jax.errors import InputError, ran_out

COPIES = 12
"""The memory for a picture, in float32 RGB pictures of the output's size; `tests/end_to_end` measures it.

They are the enlarged input, the blended tiles, the stages' pictures, the colour bands, and what the devices hold of
many tiles. Beyond one tile's memory, `tiny` took 8.1 for 2048x2048 px, and narrow networks in tiles of 64 px took 11.7.
"""

ROOM = 500_000_000
"""The bytes that a CPU needs besides: at Stable Diffusion 1.5's size, 16 tiles' embeddings take 427 MB in float32."""

LEAST_SIDE = 256
"""A shorter side of an output, in px, needs as much: a narrow picture is extended to the tiles that networks see."""

LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # of a container


def need(height: int, width: int) -> int:
    """The bytes that an output of that size needs, besides the networks."""
    return ROOM + COPIES * 3 * 4 * max(height, LEAST_SIDE) * max(width, LEAST_SIDE)


def installed() -> int | None:
    """The bytes of memory in this machine, or allowed to its container; None if the system does not say."""
    found = [int(text) for text in map(_text, LIMITS) if text.isdecimal()]
    with suppress(AttributeError, ValueError, OSError):  # not every system has them
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(found, default=None)


def check(height: int, width: int) -> None:
    """Checks that there is memory for an output of that size.

    Raises:
        InputError: it needs more than the machine has.
    """
    check_bytes(need(height, width), f"{width}x{height} px of output", "choose a smaller scale or crop")


def check_bytes(needed: int, what: str, advice: str) -> None:
    """Checks that there are so many bytes of memory.

    Args:
        what: what needs them, in the plural, for the message.
        advice: what to do if they are missing.

    Raises:
        InputError: it needs more than the machine has.
    """
    present = installed()
    if present is not None and needed > present:
        raise InputError(
            f"{what} need about {in_words(needed)} of memory, expected at most {in_words(present)}, which this machine "
            f"has; {advice}"
        )


@contextmanager
def fitting(what: str, advice: str) -> Iterator[None]:
    """A block that puts arrays on devices; if the memory of one does not hold them, that is one sentence.

    Raises:
        InputError: it does not; the message names `what` and ends with `advice`.
    """
    try:
        yield
    except Exception as error:
        if not ran_out(error):
            raise
        raise InputError(f"{what}: does not fit into the memory of a device; {advice}") from error


def in_words(size: int) -> str:
    """A number of bytes for a person: "11.5 GB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{max(size / 1e6, 1):.0f} MB"


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
