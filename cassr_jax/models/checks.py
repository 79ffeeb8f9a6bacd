"""Checks of the numbers in a network's config, for those that would otherwise fail while the network is built."""

from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MOST_LAYERS = 1000
MOST_WIDTH = 2**20


def check_widths(config: "DataclassInstance") -> None:
    """Checks every whole number of a config, alone or in a list: it says how wide, how long or how many something is.

    Raises:
        ValueError: one is not above 0 or larger than in any network, or a list is empty.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        listed = isinstance(value, tuple)
        if any(type(number) is int and not 1 <= number <= MOST_WIDTH for number in (value if listed else [value])):
            raise ValueError(f"{field.name} is {value}, expected {'numbers of ' * listed}1 to {MOST_WIDTH}")
        if value == ():
            raise ValueError(f"{field.name} is empty, expected at least one entry")


def check_divisor(name: str, divisor: int, widths: Iterable[int]) -> None:
    """Checks a field of a config whose value must divide the widths of layers; all of them are above 0.

    Raises:
        ValueError: it does not; the message gives `name`, what was found and what was expected.
    """
    widths = sorted({*widths})
    if any(width % divisor for width in widths):
        raise ValueError(f"{name} is {divisor}, expected a divisor of {' and '.join(map(str, widths))}")


def check_depth(name: str, count: int) -> None:
    """Checks a field of a config that says how many layers are built.

    Raises:
        ValueError: they are none, or more than any network has.
    """
    if not 1 <= count <= MOST_LAYERS:
        raise ValueError(f"{name} is {count}, expected 1 to {MOST_LAYERS}")
