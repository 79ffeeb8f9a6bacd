"""The networks of a cascade: the definition, configuration and parameters of each kind."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from cassr_jax.errors import InputError
from cassr_jax.kinds import KINDS, kind_of
from cassr_jax.models.parameters import Params, Shapes, merge, nest, select
from cassr_jax.typing import Configs, Device, Modules
from cassr_jax.weights.configs import Config
from cassr_jax.weights.lora import LoRA, with_loras
from cassr_jax.weights.tensors import Weights

# Puts a parameter on its devices, given its name `kind.path` and its values. It is called for the parameters of a
# network in the order of their names.
Place = Callable[[str, ArrayLike], jax.Array]


@dataclass(frozen=True)
class Networks:
    """Some networks: by kind, `configs`, the `dtypes` they compute in and their `graphdefs`; and the parameters of all.

    The parameters' names are `kind.path`.
    """

    configs: Configs = field(default_factory=dict)
    graphdefs: dict[str, nnx.GraphDef] = field(default_factory=dict)
    params: Params = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)

    def with_read(
        self,
        kind: str,
        source: str,
        dtype: DTypeLike,
        param_dtype: DTypeLike | None = None,
        place: Place | None = None,
        loras: Sequence[LoRA] = (),
    ) -> "Networks":
        """These networks and one more, `kind`, which is read from a folder, a file or a hub id and computes in `dtype`.

        Each parameter is read, cast to `param_dtype` (by default the file's own) and placed before the next is read, so
        no second copy of a network is ever held.

        Args:
            place: puts a parameter on its devices; by default on JAX's first device.
            loras: what they hold for this kind is added to each parameter as it is read, before it is cast.
        """
        return self.with_weights(kind, with_loras(kind_of(kind).open(source), kind, loras), dtype, param_dtype, place)

    def with_weights(
        self,
        kind: str,
        weights: Weights,
        dtype: DTypeLike,
        param_dtype: DTypeLike | None = None,
        place: Place | None = None,
    ) -> "Networks":
        """These networks and one more, whose weights have been opened; see `with_read`."""
        put = place or (lambda _, array: jax.device_put(array))
        placed = {name: put(f"{kind}.{name}", weights.read(name, param_dtype)) for name in sorted(weights.shapes)}
        params = {name: placed[name] for name in weights.shapes}
        return self._with(kind, weights.config, dtype, kind_of(kind).abstract(weights.config, dtype)[0], params)

    def with_new(
        self,
        kind: str,
        config: Config,
        dtype: DTypeLike,
        key: jax.Array,
        place: Place | None = None,
        encoder: Mapping[str, ArrayLike] | None = None,
    ) -> "Networks":
        """These networks and a freshly drawn one. A ControlNet starts as a copy of the U-Net's encoder.

        Args:
            place: puts a parameter on its devices, from the host's memory, where the network is then drawn; by default
                it is drawn on JAX's first device and stays there.
            encoder: the parameters of that encoder; by default those of the `unet` among these networks.

        Raises:
            InputError: there is no encoder to copy.
        """
        entry = kind_of(kind)
        with nullcontext() if place is None else jax.default_device(host()):
            graphdef, params = entry.draw(config, dtype, key)
            if entry.copies_encoder:
                encoder = encoder or select(self.params, "unet")
                if not encoder:
                    raise InputError(f"the new {kind} starts as a copy of a U-Net's encoder, expected a unet before it")
                params |= {name: jnp.array(encoder[name]) for name in params if name in encoder}
        if place is not None:
            placed = {name: place(f"{kind}.{name}", params.pop(name)) for name in sorted(params)}
            params = {name: placed[name] for name in entry.shapes(config)}
        return self._with(kind, config, dtype, graphdef, params)

    def with_shapes(self, kind: str, config: Config, dtype: DTypeLike) -> "Networks":
        """These networks and one that has only the shapes of its parameters, for planning."""
        graphdef, shapes = kind_of(kind).abstract(config, dtype)
        return self._with(kind, config, dtype, graphdef, cast(Params, shapes))

    def _with(self, kind: str, config: Config, dtype: DTypeLike, graphdef: nnx.GraphDef, params: Params) -> "Networks":
        return Networks(
            self.configs | {kind: config},
            self.graphdefs | {kind: graphdef},
            self.params | nest(kind, params),
            self.dtypes | {kind: jnp.dtype(dtype).name},
        )


def open_all(sources: Mapping[str, str], loras: Sequence[LoRA] = ()) -> dict[str, Weights]:
    """The weights of the networks among `sources`, with their LoRAs, checked and not yet read."""
    kinds = [kind for kind in sources if kind in KINDS]
    return {kind: with_loras(kind_of(kind).open(sources[kind]), kind, loras) for kind in kinds}


def host() -> Device | None:
    """The processor as a device of JAX, which has the host's memory; None where JAX was told to leave it out."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def merge_all(graphdefs: Mapping[str, nnx.GraphDef], params: Mapping[str, jax.Array]) -> Modules:
    """The modules of all kinds; call this inside a traced function."""
    return {kind: merge(graphdef, select(params, kind)) for kind, graphdef in graphdefs.items()}


def why_not_finite(params: Mapping[str, jax.Array]) -> str:
    """Why networks with these parameters give numbers that are not finite: the end of a sentence, with advice."""
    precision = str(next((array.dtype for array in params.values() if array.dtype != jnp.float32), "float32"))
    advice = "" if precision == "float32" else f" in {precision}, so try float32"
    for name, array in params.items():
        if not jnp.isfinite(array).all():
            found = array[~jnp.isfinite(array)][0]
            return f"{name} holds {found}" + (advice or ", so these weights are damaged; expected others")
    return "the networks overflow" + (advice or " even in float32, as after a training run that failed")


def shapes_of(kind: str, config: Config) -> Shapes:
    """The shapes of a network's parameters by name; nothing is computed."""
    return kind_of(kind).shapes(config)


def write_network(
    folder: Path, kind: str, config: Config, params: Mapping[str, ArrayLike], dtype: DTypeLike | None = None
) -> None:
    """Write one network as a folder that `with_read` can read; floats are cast to `dtype` if it is given."""
    kind_of(kind).write(folder, config, params, dtype)
