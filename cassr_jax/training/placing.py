"""Placing of a run's parameters as they are read or drawn: straight to their shards, in their final type."""

import jax
import numpy as np
from jax.typing import ArrayLike

from cassr_jax.config import TrainConfig
from cassr_jax.imaging.memory import fitting
from cassr_jax.kinds import kind_of
from cassr_jax.sharding.placement import Placement
from cassr_jax.training.checkpoint import Digests
from cassr_jax.training.masking import is_trainable


class Placing:
    """Puts parameters on the devices one by one, so that no device ever holds the whole of a divided network.

    A new network is drawn in the host's memory, unless `JAX_PLATFORMS` leaves out the processor: then it is drawn whole
    on the first device.

    Trainable parameters become float32. Frozen ones are hashed as they come, and become `config.frozen_dtype`.

    Attributes:
        digests: hashes of the frozen parameters.
        encoder: the parameters of the U-Net from which a new network starts, on the host in their original precision,
            which the U-Net itself may have lost. Empty if nothing starts from them.
    """

    def __init__(self, config: TrainConfig, placement: Placement):
        self.digests = Digests()
        self.encoder: dict[str, np.ndarray] = {}
        self._config, self._placement = config, placement
        copies = {kind: network for kind, network in config.new.items() if kind_of(kind).copies_encoder}
        self._copied = {name for kind, network in copies.items() for name in kind_of(kind).shapes(network)}

    def __call__(self, name: str, value: ArrayLike) -> jax.Array:
        """Place the parameter `kind.path`; the parameters of a kind must come in the order of their names."""
        kind, _, path = name.partition(".")
        array = np.asarray(value)
        if kind == "unet" and path in self._copied:
            self.encoder[path] = array
        if is_trainable(name, self._config.stage):
            dtype = "float32"
        else:
            self.digests.add(name, array)
            dtype = self._config.frozen_dtype
        with fitting(name, "divide the weights over more devices, as --strategy fsdp does"):
            return self._placement.place({name: array.astype(jax.numpy.dtype(dtype), copy=False)})[name]
