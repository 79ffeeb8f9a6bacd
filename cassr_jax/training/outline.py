"""What a training step costs whatever its division among devices, from shapes alone."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from cassr_jax.config import Remat, TrainConfig
from cassr_jax.models.division import Place, recorded
from cassr_jax.models.parameters import Params, Shapes
from cassr_jax.training.compile_ahead import objective_of, without_weights
from cassr_jax.training.flops import traced_flops
from cassr_jax.training.objectives import Objective
from cassr_jax.training.setup import read_by
from cassr_jax.training.step import with_remat
from cassr_jax.typing import Examples, Keys

REMATS: tuple[Remat, ...] = ("none", "blocks", "all")


@dataclass(frozen=True)
class Outline:
    """What a step of a configuration costs.

    Attributes:
        trained, frozen: the shapes of the parameters.
        flops: of one example, by what is computed again.
        kept: bytes of one example that wait for the backward pass, by what is computed again.
        sums: bytes of one example's values that `tensor` sums over its devices in one pass.
        keys: bytes of one example's keys and values, which `spatial` gathers in one pass.
    """

    trained: Shapes
    frozen: Shapes
    flops: Mapping[Remat, float]
    kept: Mapping[Remat, float]
    sums: float
    keys: float


def outline_of(config: TrainConfig) -> Outline:
    """The outline of a configuration's step, for examples that all start from noise; nothing is computed.

    Raises:
        InputError: a network is missing.
    """
    config = without_weights(config)
    objective, trained, frozen = objective_of(config)
    flops, kept, places = {}, {}, {}
    for remat in REMATS:
        with recorded() as seen:
            (one, held), (two, held_by_two) = (
                _cost(with_remat(objective, remat), trained, frozen, _batch(config, size)) for size in (1, 2)
            )
        # What does not grow with the examples is not theirs.
        flops[remat], kept[remat] = two - one, held_by_two - held
        places = places or seen  # JAX traces the objective once for all that is computed again
    width = jnp.dtype(config.dtype).itemsize
    sums = _nbytes_of(places, r"^(?!vae).*\.(branch|samplers\.\d+\.output)$", width)
    return Outline(trained, frozen, flops, kept, sums, _nbytes_of(places, r"\.(keys|values)$", width))


def _batch(config: TrainConfig, size: int) -> tuple[dict[str, jax.ShapeDtypeStruct], jax.ShapeDtypeStruct]:
    """The shapes of some examples and their keys."""
    side = config.data.crop_size
    batch = {name: jax.ShapeDtypeStruct((size, side, side, 3), np.uint8) for name in read_by(config, "hr")}
    return batch, jax.eval_shape(lambda: jax.random.split(jax.random.key(0), size))


def _cost(
    objective: Objective, trained: Shapes, frozen: Shapes, examples: tuple[Shapes, jax.ShapeDtypeStruct]
) -> tuple[float, float]:
    """The FLOPs of a gradient, and the bytes that wait for its backward pass."""

    def gradient(params: Params, frozen: Params, batch: Examples, keys: Keys) -> tuple[PyTree, PyTree]:
        _, backward, _ = jax.vjp(lambda p: objective({**frozen, **p}, batch, keys), params, has_aux=True)
        return backward, backward(jnp.ones(()))

    jaxpr, (waiting, _) = jax.make_jaxpr(gradient, return_shape=True)(trained, frozen, *examples)
    return traced_flops(jaxpr.jaxpr), _nbytes(jax.tree.leaves(waiting))


def _nbytes(leaves: Iterable[jax.ShapeDtypeStruct]) -> int:
    numbers = (leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.number))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in numbers)


def _nbytes_of(places: Mapping[str, Place], pattern: str, width: int) -> float:
    return float(sum(math.prod(shape) * width for name, (shape, _) in places.items() if re.search(pattern, name)))
