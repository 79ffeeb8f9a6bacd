"""The networks of a cascade: definitions, configurations and parameters of each kind, side by side."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cassr_jax.models.discriminator import Discriminator, DiscriminatorConfig
from cassr_jax.models.parameters import Params, Shapes, abstract_of, initialise, merge, nest, select
from cassr_jax.models.rrdbnet import RRDBNet, RRDBNetConfig
from cassr_jax.weights import components
from cassr_jax.weights.rrdbnet import load_rrdbnet


@dataclass(frozen=True)
class Networks:
    """`params` holds all parameters as `kind.path`; `configs` and `graphdefs` have one entry a kind."""

    configs: dict[str, Any] = field(default_factory=dict)
    graphdefs: dict[str, nnx.GraphDef] = field(default_factory=dict)
    params: Params = field(default_factory=dict)

    def with_read(self, kind: str, source: str, dtype: DTypeLike, param_dtype: DTypeLike | None = None) -> "Networks":
        """With the network `kind` from a folder, a file or a hub id; computing in `dtype`."""
        if kind == "rrdbnet":
            config, found = load_rrdbnet(source)
            params = {name: jnp.asarray(value, param_dtype) for name, value in found.items()}
        else:
            config, params = components.load_weights(source, _published(kind), dtype=param_dtype)
        return self._with(kind, config, _abstract(kind, config, dtype)[0], params)

    def with_new(self, kind: str, config: Any, dtype: DTypeLike, key: jax.Array) -> "Networks":
        """With a freshly drawn network. A ControlNet is born as a copy of the encoder beside which it stands."""
        make, *args = _maker(kind, config)
        graphdef, params = initialise(lambda rngs: make(*args, dtype=jnp.dtype(dtype), rngs=rngs), key)
        if kind in ("controlnet", "activation_controlnet"):
            encoder = select(self.params, "unet")
            params |= {name: jnp.copy(encoder[name]) for name in params if name in encoder}
        return self._with(kind, config, graphdef, params)

    def with_shapes(self, kind: str, config: Any, dtype: DTypeLike) -> "Networks":
        """With a network whose parameters are shapes alone, to reason about."""
        return self._with(kind, config, *_abstract(kind, config, dtype))

    def _with(self, kind: str, config: Any, graphdef: nnx.GraphDef, params: Mapping[str, Any]) -> "Networks":
        return Networks(
            self.configs | {kind: config}, self.graphdefs | {kind: graphdef}, self.params | nest(kind, params)
        )


def merge_all(graphdefs: Mapping[str, nnx.GraphDef], params: Mapping[str, jax.Array]) -> dict[str, Any]:
    """The modules of all kinds, to be called inside a traced function."""
    return {kind: merge(graphdef, select(params, kind)) for kind, graphdef in graphdefs.items()}


def _maker(kind: str, config: Any) -> tuple[Any, ...]:
    """What makes the network, and its arguments besides `dtype` and `rngs`."""
    if isinstance(config, RRDBNetConfig):
        return RRDBNet, config
    if isinstance(config, DiscriminatorConfig):
        return Discriminator, config
    return components.build, _published(kind), config


def _abstract(kind: str, config: Any, dtype: DTypeLike) -> tuple[nnx.GraphDef, Shapes]:
    return abstract_of(*_maker(kind, config), dtype=jnp.dtype(dtype))


def shapes_of(kind: str, config: Any) -> Shapes:
    """Shapes of a network's parameters by name; nothing is computed."""
    return _abstract(kind, config, jnp.float32)[1]


def write_network(folder: Path, kind: str, config: Any, params: Params, dtype: DTypeLike | None = None) -> None:
    """One network as a folder that `with_read` takes."""
    components.write_component(folder, _published(kind), config, params, dtype=dtype)


def _published(kind: str) -> str:
    """The kind under which a network's format is published: both stages' ControlNets are ControlNets."""
    return "controlnet" if kind == "activation_controlnet" else kind
