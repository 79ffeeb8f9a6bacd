"""Outcomes: for each of some pictures what was made of it, or the exception that says why nothing was."""

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
Made = TypeVar("Made")


def known(outcome: T | Exception) -> T:
    """What was made; the exception is raised if there is one."""
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def of_the_sound(
    make: Callable[[list[T], list[int]], list[Made | Exception]], outcomes: Sequence[T | Exception], first: int
) -> list[Made | Exception]:
    """Applies `make` to the outcomes that are not errors, and to their numbers, counted from `first`.

    Errors keep their places.
    """
    sound = {number: each for number, each in enumerate(outcomes, first) if not isinstance(each, Exception)}
    made = iter(make([*sound.values()], [*sound]))
    return [outcome if isinstance(outcome, Exception) else next(made) for outcome in outcomes]
