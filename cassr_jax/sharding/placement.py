"""Where the arrays of a training step lie: a strategy, applied to a mesh and to the names and shapes of arrays."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike
from jaxtyping import PyTree

from cassr_jax.errors import InputError
from cassr_jax.models.division import Division
from cassr_jax.sharding.mesh import make_mesh
from cassr_jax.sharding.strategies import BATCH_AXES, Rule, Strategy
from cassr_jax.typing import Device

T = TypeVar("T")
Leaf = jax.Array | np.ndarray | jax.ShapeDtypeStruct


@dataclass(frozen=True)
class Placement:
    """A mesh of devices, and the strategy by which arrays lie on it.

    The trees that its methods take are flat mappings by parameter name, or contain such mappings, as the state of an
    optimizer does: the last name on the path of a leaf decides where it lies.
    """

    mesh: Mesh
    strategy: Strategy

    @classmethod
    def of(cls, strategy: Strategy, devices: Sequence[Device] | None = None) -> "Placement":
        """The placement of a strategy over `devices`, by default all of them."""
        return cls(make_mesh(strategy.mesh, devices), strategy)

    @property
    def whole(self) -> NamedSharding:
        """The sharding of an array that every device holds whole."""
        return NamedSharding(self.mesh, P())

    @property
    def batch_shards(self) -> int:
        """The number of parts into which the examples of a batch are divided."""
        return math.prod(self.mesh.shape[axis] for axis in BATCH_AXES)

    @property
    def division(self) -> Division:
        """What the layers of a network are told of this placement."""
        return Division(self.mesh, BATCH_AXES, ("tensor",), ("spatial",), self.activation)

    def spec(self, name: str, shape: Sequence[int]) -> P:
        """The axes by which the rules divide the parameter `name`."""
        for rule in self.strategy.rules:
            if re.search(rule.pattern, name) and self._fits(rule, shape):
                return P(*[None] * (len(shape) - len(rule.spec)), *map(self._entry, rule.axes))
        return P()

    def activation(self, name: str, shape: Sequence[int]) -> NamedSharding | None:
        """Where the activation `name`, an array (B, ...), lies; None if no rule speaks of it."""
        if shape[0] % self.batch_shards:
            return None
        for rule in self.strategy.activations:
            if re.search(rule.pattern, name) and self._fits(rule, shape):
                axes = map(self._entry, rule.axes)
                if len(rule.spec) == len(shape):
                    return NamedSharding(self.mesh, P(*axes))
                if {*BATCH_AXES} & {axis for each in rule.axes for axis in each}:
                    raise InputError(
                        f"strategy.activations: {rule.pattern!r} names {' or '.join(BATCH_AXES)} for {name}, expected "
                        f"them only in a spec of all {len(shape)} dimensions: they divide the examples"
                    )
                free = [P.UNCONSTRAINED] * (len(shape) - len(rule.spec) - 1)
                return NamedSharding(self.mesh, P(BATCH_AXES, *free, *axes))
        return None

    def _fits(self, rule: Rule, shape: Sequence[int]) -> bool:
        if len(rule.spec) > len(shape):
            return False
        last = shape[len(shape) - len(rule.spec) :]
        return all(size % self._count(axes) == 0 for size, axes in zip(last, rule.axes, strict=True))

    def _count(self, axes: Sequence[str]) -> int:
        return math.prod(self.mesh.shape[axis] for axis in axes)

    def _entry(self, axes: Sequence[str]) -> str | tuple[str, ...] | None:
        # An axis of one device divides nothing. Without it, specs of equal layouts are equal.
        wide = tuple(axis for axis in axes if self.mesh.shape[axis] > 1)
        return wide[0] if len(wide) == 1 else wide or None

    def stored(self, tree: PyTree[Leaf]) -> PyTree[NamedSharding]:
        """The shardings of the leaves as the rules divide them."""
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: NamedSharding(self.mesh, self.spec(_name(path), leaf.shape)), tree
        )

    def used(self, tree: PyTree[Leaf]) -> PyTree[NamedSharding]:
        """The shardings of the parameters while the networks run.

        They are gathered over the axes that divide the examples, which divide only what is stored.
        """

        def gathered(sharding: NamedSharding) -> NamedSharding:
            entries = ((entry,) if isinstance(entry, str) else entry or () for entry in sharding.spec)
            kept = ([axis for axis in entry if axis not in BATCH_AXES] for entry in entries)
            return NamedSharding(self.mesh, P(*map(self._entry, kept)))

        return jax.tree.map(gathered, self.stored(tree))

    def held(self, params: PyTree[Leaf]) -> PyTree[NamedSharding]:
        """The shardings of the parameters between steps."""
        return self.stored(params) if self.strategy.zero == 3 else self.used(params)

    def sum(self, gradients: T) -> T:
        """Lay out gradients, inside a traced function, as they lie once they are summed over the examples."""
        if self.mesh.shape["spatial"] > 1 or self.strategy.zero == 1:
            # With divided rows, XLA (of jaxlib 0.10) fails to sum and scatter the kernels of 1x1 convolutions at once.
            gradients = jax.lax.with_sharding_constraint(gradients, self.used(gradients))
        if self.strategy.zero == 1:
            return gradients
        return jax.lax.with_sharding_constraint(gradients, self.stored(gradients))

    @property
    def examples(self) -> NamedSharding:
        """The sharding of an array (B, ...), whose examples are divided over `data` and `fsdp`."""
        return NamedSharding(self.mesh, P(BATCH_AXES))

    def divide(self, batch: T) -> T:
        """Divide a batch inside a traced function: examples over the batch axes, rows of pictures over `spatial`.

        Pictures are the arrays (B, H, W, C).
        """
        pictures = NamedSharding(self.mesh, P(BATCH_AXES, "spatial"))
        return jax.tree.map(
            lambda x: jax.lax.with_sharding_constraint(x, pictures if x.ndim == 4 else self.examples), batch
        )

    def place(self, params: Mapping[str, jax.Array | np.ndarray]) -> dict[str, jax.Array]:
        """Lay out parameters that every process holds whole as they are held between steps."""
        return jax.tree.map(_placed, dict(params), self.held(dict(params)))

    def place_whole(self, tree: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Copy arrays that every process holds whole to every device."""
        return {name: _placed(value, self.whole) for name, value in tree.items()}

    def place_batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Join the examples of all processes into one batch.

        Args:
            batch: this process's examples; those of process p become the p-th block of the whole batch.
        """
        return {
            name: jax.make_array_from_process_local_data(self.examples, np.asarray(value))
            for name, value in batch.items()
        }


def gathered(tree: T) -> T:
    """The same arrays, each of them whole in every process. All processes must call this together."""
    return jax.tree.map(
        lambda x: x if x.is_fully_addressable else multihost_utils.process_allgather(x, tiled=True), tree
    )


def _name(path: jax.tree_util.KeyPath) -> str:
    names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
    return str(names[-1]) if names else ""


def _placed(value: ArrayLike, sharding: NamedSharding) -> jax.Array:
    """Lay out one array that every process holds whole.

    Unlike `device_put`, this does not compare the values of all processes. An array that lies there already stays.
    """
    if isinstance(value, jax.Array) and value.sharding == sharding:
        return value
    if sharding.is_fully_addressable:
        return jax.device_put(value, sharding)
    value = np.asarray(value)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])
