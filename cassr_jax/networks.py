"""The networks of a cascade: definitions, configurations and parameters of each kind, side by side."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from cassr_jax.kinds import kind_of
from cassr_jax.models.parameters import Params, Shapes, merge, nest, select

# Puts a parameter, given its name `kind.path` and its values, where it is to lie. Those of a network come one after the
# other, in the order of their names.
Place = Callable[[str, ArrayLike], jax.Array]


@dataclass(frozen=True)
class Networks:
    """`params` holds all parameters as `kind.path`; `configs` and `graphdefs` have one entry a kind."""

    configs: dict[str, Any] = field(default_factory=dict)
    graphdefs: dict[str, nnx.GraphDef] = field(default_factory=dict)
    params: Params = field(default_factory=dict)

    def with_read(
        self,
        kind: str,
        source: str,
        dtype: DTypeLike,
        param_dtype: DTypeLike | None = None,
        place: Place | None = None,
    ) -> "Networks":
        """With the network `kind` from a folder, a file or a hub id; computing in `dtype`.

        Parameters are read one after the other, each cast to `param_dtype` (by default the file's own) and put in its
        place before the next: no second copy of a network is ever held.

        Args:
            place: by default, JAX's first device.
        """
        entry = kind_of(kind)
        weights = entry.open(source)
        put = place or (lambda _, array: jax.device_put(array))
        placed = {name: put(f"{kind}.{name}", weights.read(name, param_dtype)) for name in sorted(weights.shapes)}
        params = {name: placed[name] for name in weights.shapes}
        return self._with(kind, weights.config, entry.abstract(weights.config, dtype)[0], params)

    def with_new(
        self,
        kind: str,
        config: Any,
        dtype: DTypeLike,
        key: jax.Array,
        place: Place | None = None,
        encoder: Mapping[str, ArrayLike] | None = None,
    ) -> "Networks":
        """With a freshly drawn network. A ControlNet is born as a copy of the encoder beside which it stands.

        Args:
            place: as in `with_read`.
            encoder: that encoder's parameters, by default those of the `unet` here.
        """
        entry = kind_of(kind)
        graphdef, params = entry.draw(config, dtype, key)
        if entry.copies_encoder:
            encoder = encoder or select(self.params, "unet")
            params |= {name: jnp.array(encoder[name]) for name in params if name in encoder}
        if place is not None:
            placed = {name: place(f"{kind}.{name}", params.pop(name)) for name in sorted(params)}
            params = {name: placed[name] for name in entry.shapes(config)}
        return self._with(kind, config, graphdef, params)

    def with_shapes(self, kind: str, config: Any, dtype: DTypeLike) -> "Networks":
        """With a network whose parameters are shapes alone, to reason about."""
        return self._with(kind, config, *kind_of(kind).abstract(config, dtype))

    def _with(self, kind: str, config: Any, graphdef: nnx.GraphDef, params: Mapping[str, Any]) -> "Networks":
        return Networks(
            self.configs | {kind: config}, self.graphdefs | {kind: graphdef}, self.params | nest(kind, params)
        )


def merge_all(graphdefs: Mapping[str, nnx.GraphDef], params: Mapping[str, jax.Array]) -> dict[str, Any]:
    """The modules of all kinds, to be called inside a traced function."""
    return {kind: merge(graphdef, select(params, kind)) for kind, graphdef in graphdefs.items()}


def shapes_of(kind: str, config: Any) -> Shapes:
    """Shapes of a network's parameters by name; nothing is computed."""
    return kind_of(kind).shapes(config)


def write_network(
    folder: Path, kind: str, config: Any, params: Mapping[str, ArrayLike], dtype: DTypeLike | None = None
) -> None:
    """One network as a folder that `with_read` takes; floats are cast to `dtype` where one is given."""
    kind_of(kind).write(folder, config, params, dtype)
