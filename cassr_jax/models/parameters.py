"""Modules as pairs of a static definition and a flat mapping of arrays.

Every parameter has one name, its dotted path in the module (`down_blocks.0.resnets.1.conv1.kernel`). Weight files,
training masks and sharding rules all use these names, so no other part of the program has to walk a module.
"""

import functools
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

M = TypeVar("M", bound=nnx.Module)
Params = dict[str, jax.Array]
Shapes = dict[str, jax.ShapeDtypeStruct]


def split(module: nnx.Module) -> tuple[nnx.GraphDef, Params]:
    """Take a module apart into its definition (static, hashable) and its parameters by dotted path."""
    graphdef, state = nnx.split(module)
    return graphdef, {".".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(state)}


def merge(graphdef: nnx.GraphDef[M], params: Mapping[str, jax.Array]) -> M:
    """Put a module together again, inside a traced function. Inverse of `split`."""
    tree: dict = {}
    for name, value in params.items():
        *parents, last = (int(part) if part.isdigit() else part for part in name.split("."))
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    return nnx.merge(graphdef, nnx.State(tree))


def abstract(factory: Callable[[nnx.Rngs], M]) -> tuple[nnx.GraphDef[M], Shapes]:
    """Definition and parameter shapes of `factory(rngs)`; no parameter is drawn.

    This takes a fifth of the time of `nnx.eval_shape`, which traces every draw.
    """
    graphdef, shapes = split(factory(cast(nnx.Rngs, _NoKeys())))
    return graphdef, {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in shapes.items()}


@functools.lru_cache(maxsize=64)
def abstract_of(make: Callable[..., nnx.Module], *args: Hashable, dtype: np.dtype) -> tuple[nnx.GraphDef, Shapes]:
    """`abstract` of `make(*args, dtype=dtype, rngs=rngs)`, computed once for reading weights and for using them."""
    return abstract(lambda rngs: make(*args, dtype=dtype, rngs=rngs))


def initialise(factory: Callable[[nnx.Rngs], M], key: jax.Array) -> tuple[nnx.GraphDef[M], Params]:
    """Definition and freshly drawn parameters of `factory(rngs)`."""
    # Not compiled as a whole: XLA takes minutes over some hundred random draws in one function.
    graphdef, params = split(factory(cast(nnx.Rngs, _Keys(key))))
    return graphdef, {name: jnp.asarray(x) for name, x in params.items()}


class _Keys:
    """Gives a new key at each call, as `nnx.Rngs` does for `rngs.params()`, but counts in Python."""

    def __init__(self, key: jax.Array):
        self.key = key
        self.count = 0

    def params(self) -> jax.Array:
        self.count += 1
        return jax.random.fold_in(self.key, self.count)


class _NoKeys:
    """Gives no keys, so that initializers give shapes (`cassr_jax.models.initializers`)."""

    def params(self) -> None:
        return None


def select(params: Mapping[str, jax.Array], prefix: str) -> Params:
    """The parameters below `prefix.`, their names relative to it."""
    start = prefix + "."
    return {name.removeprefix(start): value for name, value in params.items() if name.startswith(start)}


def nest(prefix: str, params: Mapping[str, jax.Array]) -> Params:
    """The same parameters under `prefix.`. Inverse of `select`."""
    return {f"{prefix}.{name}": value for name, value in params.items()}
