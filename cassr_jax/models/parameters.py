"""Modules as a pair of a static definition and a flat mapping of arrays.

Every parameter has one name, its dotted path in the module (`down_blocks.0.resnets.1.conv1.kernel`). Weight files,
training masks and sharding rules all speak of these names, so no other part of the program has to walk a module.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar, cast

import jax
from flax import nnx

M = TypeVar("M", bound=nnx.Module)
Params = dict[str, jax.Array]
Shapes = dict[str, jax.ShapeDtypeStruct]


def split(module: nnx.Module) -> tuple[nnx.GraphDef, Params]:
    """Take a module apart into its definition (static, hashable) and its parameters by dotted path."""
    graphdef, state = nnx.split(module)
    return graphdef, {".".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(state)}


def merge(graphdef: nnx.GraphDef[M], params: Mapping[str, jax.Array]) -> M:
    """The module again, to be called inside a traced function. Inverse of `split`."""
    tree: dict = {}
    for name, value in params.items():
        *parents, last = (int(part) if part.isdigit() else part for part in name.split("."))
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    return nnx.merge(graphdef, nnx.State(tree))


def abstract(factory: Callable[[nnx.Rngs], M]) -> tuple[nnx.GraphDef[M], Shapes]:
    """Definition and parameter shapes of `factory(rngs)`, without computing or allocating any array."""
    graphdef, shapes = split(nnx.eval_shape(lambda: factory(nnx.Rngs(0))))
    return graphdef, cast(Shapes, shapes)


def initialise(factory: Callable[[nnx.Rngs], M], key: jax.Array) -> tuple[nnx.GraphDef[M], Params]:
    """Definition and freshly drawn parameters of `factory(rngs)`, all drawn in one compiled function."""
    graphdef, _ = abstract(factory)
    return graphdef, jax.jit(lambda key: split(factory(nnx.Rngs(key)))[1])(key)


def select(params: Mapping[str, jax.Array], prefix: str) -> Params:
    """The parameters below `prefix.`, their names relative to it."""
    start = prefix + "."
    return {name.removeprefix(start): value for name, value in params.items() if name.startswith(start)}


def nest(prefix: str, params: Mapping[str, jax.Array]) -> Params:
    """The same parameters under `prefix.`. Inverse of `select`."""
    return {f"{prefix}.{name}": value for name, value in params.items()}
