"""Group normalisation by moments that were measured elsewhere.

If every tile of a picture were normalised by its own mean and variance, the faint contrast of plain sky would be
stretched to that of all other tiles, and neighbours would not fit. Instead the network first runs on a small view of
the whole, which records the moments of every normalisation, and then on the tiles with those moments:

    with recorded() as moments:
        network(view)
    with given(moments):
        network(tiles)

The blocks affect whatever is traced inside them, in the order in which the network calls its normalisations.
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
    """The moments for a normalisation: those of its input, which `measure` computes, or given ones."""
    return _source.get()(measure)


@contextmanager
def recorded() -> Iterator[list[Moments]]:
    """A block that gives a list, to which each normalisation adds its moments; nothing else changes."""
    record: list[Moments] = []

    def measured(measure: Callable[[], Moments]) -> Moments:
        record.append(measure())
        return record[-1]

    with _through(measured):
        yield record


@contextmanager
def given(record: Sequence[Moments]) -> Iterator[None]:
    """A block in which the normalisations take their moments from the record, in order.

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
