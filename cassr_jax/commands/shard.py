"""One machine's part of the pictures that several machines restore."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """Every `count`th item, from number `index` on, counted from 1."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The `type` of an option that names a shard, such as 2/8: part 2 of 8."""
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise argparse.ArgumentTypeError(f"found {text!r}, expected I/N with I from 1 to N, such as 2/8")
        return cls(int(index), int(count))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """This part of the items."""
        return items[self.index - 1 :: self.count]
