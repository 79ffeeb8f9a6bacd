"""What the processes of a run do together: they agree before it begins, and the first one speaks for all."""

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from cassr_jax.buckets import Folder, in_bucket, leased
from cassr_jax.data.workforce import usable_cores
from cassr_jax.errors import InputError
from cassr_jax.locks import claimed
from cassr_jax.printing import notice, say


def say_once(message: object) -> None:
    """Print a line on stdout, in the first process alone."""
    if jax.process_index() == 0:
        say(message)


def notice_once(message: object) -> None:
    """Print a line for somebody who waits at a terminal, in the first process alone."""
    if jax.process_index() == 0:
        notice(message)


def gather_texts(text: str) -> list[str]:
    """The texts of all processes, in order; every process must call this."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(errors="surrogateescape"), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(data)))
    rows = multihost_utils.process_allgather(np.pad(data, (0, int(sizes.max()) + 1 - len(data))))
    return [bytes(row[:size]).decode(errors="surrogateescape") for row, size in zip(rows, sizes, strict=True)]


def cores_of_process() -> int:
    """The cores that this process may count on: its share where several processes may use the same ones.

    Every process must call this.
    """
    cores = usable_cores()
    shared = gather_texts(f"{socket.gethostname()} {sorted(cores)}")
    return max(len(cores) // shared.count(shared[jax.process_index()]), 1)


def check_agreement(settings: Mapping[str, object], advice: str = "start all processes with the same command") -> None:
    """Refuse processes with different settings; the error is the same in all of them.

    Args:
        settings: this process's settings, in JSON's own types.
        advice: what to do if they differ, the end of the message.

    Raises:
        InputError: two processes differ; the message names the field and both values.
    """
    first, *others = map(json.loads, gather_texts(json.dumps(settings)))
    for number, other in enumerate(others, 1):
        expected, found = flat(first), flat(other)
        for name in {**expected, **found}:
            if expected.get(name) != found.get(name):
                raise InputError(
                    f"--distributed: process {number} has {name} {found.get(name)!r}, expected "
                    f"{expected.get(name)!r} as process 0; {advice}"
                )


@contextmanager
def refused_together() -> Iterator[None]:
    """A block that every process passes or none: an InputError in one of them is raised in all.

    A process that ends alone leaves the others waiting. In the block itself, processes must not wait for each other.
    """
    refused = ""
    try:
        yield
    except InputError as error:
        refused = str(error)
    if refusals := [text for text in gather_texts(refused) if text]:
        raise InputError(refusals[0])


@contextmanager
def claimed_together(folder: Folder, program: str) -> Iterator[None]:
    """A block in which the first process owns `folder` for all of them; see `claimed` and, for a bucket, `leased`.

    Raises:
        InputError: the folder cannot be claimed; every process gets the error.
    """
    with ExitStack() as stack:
        with refused_together():
            if jax.process_index() == 0:
                stack.enter_context(leased(folder, program) if in_bucket(folder) else claimed(Path(folder), program))
        yield


def flat(settings: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested settings under dotted names; an empty mapping keeps its own name."""
    found = {}
    for name, value in settings.items():
        inner = flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {}
        found |= inner or {prefix + name: value}
    return found
