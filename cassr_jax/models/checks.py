"""Checks of the numbers in a network's config, for those that would otherwise fail while the network is built."""

from collections.abc import Iterable

MOST_LAYERS = 1000


def check_divisor(name: str, divisor: int, widths: Iterable[int]) -> None:
    """Checks a field of a config whose value must divide the widths of layers.

    Raises:
        ValueError: it does not; the message gives `name`, what was found and what was expected.
    """
    widths = sorted({*widths})
    if divisor < 1 or any(width % divisor for width in widths):
        raise ValueError(f"{name} is {divisor}, expected a divisor of {' and '.join(map(str, widths))}")


def check_depth(name: str, count: int) -> None:
    """Checks a field of a config that says how many layers are built.

    Raises:
        ValueError: they are none, or more than any network has.
    """
    if not 1 <= count <= MOST_LAYERS:
        raise ValueError(f"{name} is {count}, expected 1 to {MOST_LAYERS}")
