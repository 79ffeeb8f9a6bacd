"""What checks every call of the package in the tests; `tests/conftest.py` puts it in place."""

from collections.abc import Callable
from typing import TypeVar

from beartype import BeartypeConf, beartype

F = TypeVar("F", bound=Callable)

# As PEP 484 has it, an int may stand where a float is expected.
_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function: F) -> F:
    """The function, with its arguments and its result checked against their annotations.

    Constructors are left alone: configurations check their own fields, with errors that are written for users.
    """
    return function if function.__name__ == "__init__" else _beartype(function)
