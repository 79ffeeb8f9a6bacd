"""Permissions for tests, which may run as root, whom no permission stops."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_NOBODY = 65534


@contextmanager
def as_anybody() -> Iterator[None]:
    """A block in which root has no more rights than any other user; for others nothing changes."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(_NOBODY, _NOBODY, 0)  # the last one lets root come back
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
