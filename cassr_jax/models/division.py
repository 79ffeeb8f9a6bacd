"""How a computation is divided among devices, told to the layers that are traced within it.

Most layers leave their division to the compiler. Attention's kernels cannot be divided by it, and a strategy may say
where the values between layers lie.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, TypeVar

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, NamedSharding

from cassr_jax.typing import AnyFloat

M = TypeVar("M", bound=nnx.Module)

_PATH = "path"  # the attribute of a module with its path in the networks

BLOCK_OUTPUT = "block_output"
"""The name of the values that a training step may keep for the backward pass when it computes the rest again."""


def _nowhere(_name: str, _shape: Sequence[int]) -> None:
    return None


class Division(NamedTuple):
    """How an automatically divided computation lies on a mesh.

    Attributes:
        batch: the axes that divide the examples.
        heads: the axes that divide the heads of attention.
        rows: the axes that divide the rows of pictures, and so the queries of attention to pictures.
        place: from the name of a place in a network and an array's shape to where the array lies, or None for where the
            compiler chooses.
    """

    mesh: Mesh
    batch: tuple[str, ...]
    heads: tuple[str, ...]
    rows: tuple[str, ...] = ()
    place: Callable[[str, Sequence[int]], NamedSharding | None] = _nowhere


_division: ContextVar[Division | None] = ContextVar("division", default=None)


Place = tuple[tuple[int, ...], NamedSharding | None]
"""The shape of an array, and where it lies; None for where the compiler chooses."""

_seen: ContextVar[dict[str, Place] | None] = ContextVar("seen", default=None)


@contextmanager
def recorded() -> Iterator[dict[str, Place]]:
    """A block that gives all places that are traced within it, by name."""
    places: dict[str, Place] = {}
    token = _seen.set(places)
    try:
        yield places
    finally:
        _seen.reset(token)


@contextmanager
def divided(division: Division) -> Iterator[None]:
    """A block in which layers that are traced for several devices know how these divide the work.

    Under `jax.shard_map` no such block is needed.
    """
    token = _division.set(division)
    try:
        yield
    finally:
        _division.reset(token)


def current() -> Division | None:
    """The division in force."""
    return _division.get()


def named(module: M, name: str) -> M:
    """The module, each part of which knows its path, `name` first; places in it are named by these paths."""
    for path, part in nnx.iter_modules(module):
        setattr(part, _PATH, ".".join((name, *map(str, path))))
    return module


def placed(x: AnyFloat, part: nnx.Module, place: str) -> AnyFloat:
    """`x`, lying on the devices as the division in force says of the place `part.place`."""
    division, seen = _division.get(), _seen.get()
    if division is None and seen is None:
        return x
    name = f"{getattr(part, _PATH, '')}.{place}"
    sharding = None if division is None else division.place(name, x.shape)
    if seen is not None:
        seen[name] = x.shape, sharding
    return x if sharding is None else jax.lax.with_sharding_constraint(x, sharding)


def block_output(x: AnyFloat, part: nnx.Module) -> AnyFloat:
    """`x` as the output of a block: its place is `output`, and a training step may keep it."""
    return checkpoint_name(placed(x, part, "output"), BLOCK_OUTPUT)
