"""What a deliberate fault is."""

from collections.abc import Sequence
from typing import NamedTuple


class Fault(NamedTuple):
    file: str  # below the repository's root
    text: str  # occurs in it once
    faulty: str  # what stands in its place
    tests: tuple[str, ...]


def faults(file: str, tests: Sequence[str], *changes: tuple[str, str]) -> list[Fault]:
    """Several faults in one file that the same tests must catch."""
    return [Fault(file, text, faulty, tuple(tests)) for text, faulty in changes]
