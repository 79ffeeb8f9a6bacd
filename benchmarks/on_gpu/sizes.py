"""What is measured, at Stable Diffusion 1.5's widths or at narrow ones, and random weights for it."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from cassr_jax.choices import DType
from cassr_jax.config import CascadeConfig, TrainConfig
from cassr_jax.config_files import read_config
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.loading import read_cascade
from cassr_jax.models.clip_text import LearnedContextConfig
from cassr_jax.models.scedit import SCEditConfig
from cassr_jax.models.unet import UNetConfig
from cassr_jax.models.vae import VAEConfig
from cassr_jax.networks import Networks
from cassr_jax.typing import Configs
from cassr_jax.weights.configs import AttachedConfig

CONFIGS = Path(__file__).parents[2] / "configs"
TOKENS = 77  # of a prompt


@dataclass(frozen=True)
class Sizes:
    """The sizes of one run of the benchmark.

    Attributes:
        kinds: the configuration of every network of the cascade and of its training.
        cascade: how the cascade samples.
        train: the training step.
        sides: sides of the pictures in px, the tile's own and a larger one.
        batches: the batches of the U-Net's step and the numbers of pictures of the cascade, rising.
        attention: (channels of a head, tokens) of each attention.
        heads: the heads of an attention, over all examples.
        runs: how often each thing is timed.
    """

    kinds: Configs
    cascade: CascadeConfig
    train: TrainConfig
    sides: tuple[int, int]
    batches: tuple[int, ...]
    attention: tuple[tuple[int, int], ...]
    heads: tuple[int, int]
    runs: int

    @property
    def dtype(self) -> DType:
        """The precision in which the networks compute."""
        return self.train.dtype


@cache
def sizes(narrow: bool) -> Sizes:
    """Stable Diffusion 1.5's sizes, or some that a CPU computes in seconds."""
    cascade, train = read_cascade(CONFIGS / "sd15.py")[0], read_config(CONFIGS / "sd15_cassr.py")
    # A learned context takes the place of CLIP, whose tokenizer is a file; it knows the empty negative prompt alone.
    sampling = replace(cascade.sampling, negative_prompt="")
    cascade = replace(cascade, components={}, sampling=sampling, activation_sampling=sampling)
    train = replace(train, schedule=Schedule())
    if not narrow:
        unet = UNetConfig()
        kinds = {
            "unet": unet,
            "vae": VAEConfig(),
            "text_encoder": LearnedContextConfig(num_tokens=TOKENS, hidden_size=unet.cross_attention_dim),
            "scedit": AttachedConfig(unet, SCEditConfig()),
            **train.new,
        }
        attention = ((40, 4096), (80, 1024), (160, 256))
        return Sizes(kinds, cascade, train, (512, 1024), (1, 4, 16, 32), attention, heads=(8, 8), runs=10)
    from tests.random_cascade import NETWORKS, SAMPLING, TILE

    cascade = replace(cascade, sampling=SAMPLING, activation_sampling=SAMPLING, tile=TILE)
    data = replace(train.data, crop_size=TILE)
    train = replace(train, data=data, dtype="float32", frozen_dtype="float32")  # as on any CPU
    attention = ((40, 1280), (160, 256))
    return Sizes(NETWORKS, cascade, train, (TILE, 2 * TILE), (1, 2), attention, heads=(1, 2), runs=2)


def with_random(
    networks: Networks, kind: str, config: Any, dtype: DTypeLike, param_dtype: DTypeLike | None = None
) -> Networks:
    """These networks and one that computes in `dtype`, with random weights on the host, of the same type by default.

    The weights are small enough that nothing overflows. They repeat themselves, since drawing a billion takes long.
    """
    networks = networks.with_shapes(kind, config, dtype)
    noise = (0.02 * np.random.default_rng(0).standard_normal(1 << 20, np.float32)).astype(
        jnp.dtype(param_dtype or dtype)
    )

    def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
        return np.ones(shape, noise.dtype) if name.endswith("scale") else np.resize(noise, shape)

    new = {name: drawn(name, x.shape) for name, x in networks.params.items() if isinstance(x, jax.ShapeDtypeStruct)}
    return replace(networks, params=networks.params | new)
