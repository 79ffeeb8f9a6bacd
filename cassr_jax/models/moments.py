"""Group normalisation by moments that were measured elsewhere.

Cut into tiles, a picture would be normalised tile by tile, each by its own mean and variance: a tile of plain sky would
have its little contrast stretched to that of all others, and neighbours would not fit. Instead the network runs once on
a small view of the whole, where the moments of every normalisation are recorded, and then on the tiles with those:

    with recorded() as moments:
        network(view)
    with given(moments):
        network(tiles)

What is traced within such a block is meant, in the order in which the network calls its normalisations.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from jaxtyping import Array, Float32


class Moments(NamedTuple):
    """Mean and variance of every group."""

    mean: Float32[Array, "batch groups 1"]
    variance: Float32[Array, "batch groups 1"]


_Source = Callable[[Callable[[], Moments]], Moments]
_source: ContextVar[_Source] = ContextVar("source", default=lambda measure: measure())


def moments(measure: Callable[[], Moments]) -> Moments:
    """What a normalisation goes by: its input's own moments, which `measure` computes, or the given ones."""
    return _source.get()(measure)


@contextmanager
def recorded() -> Iterator[list[Moments]]:
    """A list that grows by the moments of each normalisation as it runs; nothing else changes."""
    record: list[Moments] = []

    def measured(measure: Callable[[], Moments]) -> Moments:
        record.append(measure())
        return record[-1]

    with _through(measured):
        yield record


@contextmanager
def given(record: Sequence[Moments]) -> Iterator[None]:
    """Normalisations take their moments from the record, one after the other, all of them.

    Raises:
        ValueError: there were fewer or more normalisations than moments.
    """
    remaining = list(reversed(record))

    def next_one(measure: Callable[[], Moments]) -> Moments:
        del measure
        if not remaining:
            raise ValueError(f"more normalisations than the {len(record)} recorded: this is another network")
        return remaining.pop()

    with _through(next_one):
        yield
    if remaining:
        raise ValueError(f"{len(remaining)} of {len(record)} moments were not asked for: this was another network")


@contextmanager
def _through(source: _Source) -> Iterator[None]:
    token = _source.set(source)
    try:
        yield
    finally:
        _source.reset(token)
