"""A bounded store of values that are expensive to compute."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Keeps the values of the latest keys.

    Args:
        most: how many values are kept; a further one takes the place of the oldest.
    """

    def __init__(self, most: int):
        self._most = most
        self._values: dict[K, V] = {}

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of `key`, which `make` computes if it is not kept."""
        if key not in self._values:
            if len(self._values) == self._most:
                del self._values[next(iter(self._values))]
            self._values[key] = make()
        return self._values[key]
