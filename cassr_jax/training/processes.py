"""What the processes of one run have to agree on before it begins."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from cassr_jax.errors import InputError
from cassr_jax.locks import claimed


def gather_texts(text: str) -> list[str]:
    """Every process's text, in their order; all have to ask."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(data)))
    rows = multihost_utils.process_allgather(np.pad(data, (0, int(sizes.max()) + 1 - len(data))))
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


def check_agreement(settings: Mapping[str, Any]) -> None:
    """Refuse processes that were told different things, in every one of them with the same words.

    Args:
        settings: what this process was told, of JSON's own types.

    Raises:
        InputError: two processes differ; names the field and both values.
    """
    first, *others = map(json.loads, gather_texts(json.dumps(settings)))
    for number, other in enumerate(others, 1):
        expected, found = flat(first), flat(other)
        for name in {**expected, **found}:
            if expected.get(name) != found.get(name):
                raise InputError(
                    f"--distributed: process {number} has {name} {found.get(name)!r}, expected "
                    f"{expected.get(name)!r} as process 0; start all processes with the same command"
                )


@contextmanager
def claimed_together(folder: Path, program: str) -> Iterator[None]:
    """`claimed` by the first process, for all of them.

    Raises:
        InputError: in every process, as `claimed` does.
    """
    with ExitStack() as stack:
        refused = ""
        if jax.process_index() == 0:
            try:
                stack.enter_context(claimed(folder, program))
            except InputError as error:
                refused = str(error)
        if refused := gather_texts(refused)[0]:
            raise InputError(refused)
        yield


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names; an empty mapping keeps its own name."""
    found = {}
    for name, value in settings.items():
        inner = flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {}
        found |= inner or {prefix + name: value}
    return found
