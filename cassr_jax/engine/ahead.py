"""The engine's programs for devices that are not here: they are lowered and counted, and nothing is computed."""

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.stages import Lowered, Wrapped
from jaxtyping import PyTree

from cassr_jax.engine.kept import Call, shapes_of
from cassr_jax.engine.programs import Programs
from cassr_jax.networks import Networks


@dataclass(frozen=True)
class Known:
    """A function for arguments of certain shapes.

    Attributes:
        name: which of the engine's functions it is.
        lowered: what can be compiled.
        arguments: their shapes and places; the parameters come first in functions that run a network.
    """

    name: str
    lowered: Lowered
    arguments: tuple[PyTree[jax.ShapeDtypeStruct], ...]


class Ahead(Programs):
    """Programs of networks that have only the shapes of parameters; they return zeros.

    Attributes:
        stage: what is being computed, a name that the caller sets.
        known: every function that was called, by its key.
        calls: the calls of each, by stage and key.
        units: the same of the units of the sampling loop, and `turns` of those that end a step.
    """

    def __init__(self, networks: Networks, mesh: Mesh, at_once: int):
        super().__init__(networks, mesh, at_once)
        self.stage = ""
        self.known: dict[Hashable, Known] = {}
        self.calls: Counter[tuple[str, Hashable]] = Counter()
        self.units: Counter[tuple[str, Hashable]] = Counter()
        self.turns: Counter[tuple[str, Hashable]] = Counter()

    def divided(self, tree: PyTree) -> PyTree:
        return tree

    def everywhere(self, tree: PyTree) -> PyTree:
        return tree

    def wrapped(self, key: tuple[Hashable, ...], function: Wrapped, call: Call) -> Callable[..., Any]:
        name = str(key[0])

        def counted(*args: Any) -> Any:
            shapes = shapes_of(args, call, self.mesh)
            leaves, structure = jax.tree.flatten(shapes)
            full = (key, structure, *((x.shape, x.dtype) for x in leaves))
            if full not in self.known:
                self.known[full] = Known(name, function.lower(*shapes), tuple(shapes))
            self.calls[self.stage, full] += 1
            if name == "denoise":
                order, first, last = args[-3:]
                self.units[self.stage, full] += int(last - first)
                self.turns[self.stage, full] += int(last // order.calls - first // order.calls)
            made = self.known[full].lowered.out_info
            return jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), made)

        return counted
