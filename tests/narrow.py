"""Narrow Stable Diffusion networks with random weights, their inputs, and what this package's classes make of them.

`tests.references` has the same cases in torch diffusers; names of weights and outputs agree, so that a test compares
two mappings. Nothing here needs torch.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cassr_jax.models.controlnet import ControlNet, ControlNetConfig
from cassr_jax.models.parameters import Params, Shapes, abstract, merge
from cassr_jax.models.scedit import SCEditConfig
from cassr_jax.models.taesd import AutoencoderTiny, TAESDConfig
from cassr_jax.models.unet import UNet, UNetConfig
from cassr_jax.models.vae import AutoencoderKL, VAEConfig
from cassr_jax.weights.convert import from_torch, torch_name
from tests.random_weights import random_state_dict

M = TypeVar("M", bound=nnx.Module)
Arrays = dict[str, np.ndarray]

UNETS = {
    # Stable Diffusion's order of blocks: attention everywhere but at the deepest level.
    "deepest_plain": UNetConfig(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(32, 64),
        attention_head_dim=4,
        cross_attention_dim=24,
        norm_num_groups=16,
    ),
    # The small cascade's order: attention where it is cheap, none at the full resolution.
    "shallowest_plain": UNetConfig(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 48, 64),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=20,
        norm_num_groups=8,
    ),
}
# For what needs several networks or gradients: as little as shows everything.
SMALL = UNetConfig(
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(16, 32),
    layers_per_block=1,
    attention_head_dim=2,
    cross_attention_dim=12,
    norm_num_groups=4,
)
SCEDIT = SCEditConfig(hint_channels=(8, 12, 16), ratio=0.75, control_scale=0.8)
CONTROLNET = ControlNetConfig(conditioning_embedding_out_channels=(16, 24, 40))
VAES = {
    "with_attention": VAEConfig(block_out_channels=(32, 48, 64), norm_num_groups=16),
    "without_attention": VAEConfig(
        block_out_channels=(16, 32, 32), layers_per_block=1, norm_num_groups=8, mid_block_add_attention=False
    ),
}
# Four pixels a latent; halves that differ in everything in which they may.
TAESD = TAESDConfig(
    encoder_block_out_channels=(8, 8, 8),
    decoder_block_out_channels=(12, 12, 12),
    num_encoder_blocks=(1, 2, 1),
    num_decoder_blocks=(2, 1, 1),
)


class Inputs(NamedTuple):
    """`latents` have sides that do not halve evenly: 7 -> 4 -> 2 and 5 -> 3 -> 2."""

    latents: np.ndarray  # (2, 7, 5, 4)
    timesteps: np.ndarray  # (2,)
    context: np.ndarray  # (2, 7, C)
    images: np.ndarray  # (2, 28, 20, 3) in [0, 1], four pixels a latent unless another factor is asked for


def inputs(context_dim: int = 1, seed: int = 0, factor: int = 4) -> Inputs:
    rng = np.random.default_rng(seed)
    return Inputs(
        latents=rng.normal(size=(2, 7, 5, 4)).astype(np.float32),
        timesteps=np.array([7, 801], np.int32),
        images=rng.uniform(size=(2, 7 * factor, 5 * factor, 3)).astype(np.float32),
        context=rng.normal(size=(2, 7, context_dim)).astype(np.float32),
    )


def skip_arrays(config: UNetConfig, seed: int) -> list[np.ndarray]:
    """Random arrays in the shapes of the U-Net's skips for `inputs`, shallowest first."""
    rng, (batch, height, width, _), result = np.random.default_rng(seed), inputs().latents.shape, []
    for channels, down in config.skips:
        if down:
            height, width = (height + 1) // 2, (width + 1) // 2
        result.append(rng.normal(size=(batch, height, width, channels)).astype(np.float32))
    return result


def random_params(shapes: Shapes, seed: int = 0, gain: float = 1.0) -> Params:
    """The weights that `random_state_dict` gives the torch network of the same names, kernels times `gain`."""
    theirs = {}
    for name, shape in shapes.items():
        dims = shape.shape
        if name.endswith(".kernel"):
            dims = (dims[3], dims[2], *dims[:2]) if len(dims) == 4 else dims[::-1]
        theirs[torch_name(name)] = dims
    state = random_state_dict(theirs, seed)
    return from_torch({k: v * np.float32(gain) if v.ndim > 1 else v for k, v in state.items()}, shapes)


def random_network(
    factory: Callable[[nnx.Rngs], M], seed: int = 0, gain: float = 1.0
) -> tuple[nnx.GraphDef[M], Params]:
    """Definition and random weights of `factory(rngs)`."""
    graphdef, shapes = abstract(factory)
    return graphdef, random_params(shapes, seed, gain)


def unet_factory(name: str, dtype: Any = jnp.float32) -> Callable[[nnx.Rngs], UNet]:
    return lambda rngs: UNet(UNETS[name], dtype=dtype, rngs=rngs)


def controlnet_factory(name: str, dtype: Any = jnp.float32) -> Callable[[nnx.Rngs], ControlNet]:
    return lambda rngs: ControlNet(UNETS[name], CONTROLNET, dtype=dtype, rngs=rngs)


def vae_factory(name: str, dtype: Any = jnp.float32) -> Callable[[nnx.Rngs], AutoencoderKL]:
    return lambda rngs: AutoencoderKL(VAES[name], dtype=dtype, rngs=rngs)


def diffusion_outputs(unet: UNet, controlnet: ControlNet, given: Inputs) -> dict[str, jax.Array]:
    """`sample` of the U-Net alone, the ControlNet's `residual.<i>` and `middle`, and `controlled`: both together."""
    latents, timesteps, context, images = given
    temb, text = unet.embed_time(timesteps), unet.text_key_values(context)
    h, skips = unet.encode(latents, temb, text)
    control = controlnet(
        latents, controlnet.embed_time(timesteps), controlnet.text_key_values(context), controlnet.embed_hint(images)
    )
    edited = [skip + residual for skip, residual in zip(skips, control.residuals, strict=True)]
    return {
        "sample": unet.decode(h, skips, temb, text),
        **{f"residual.{i}": residual for i, residual in enumerate(control.residuals)},
        "middle": control.middle,
        "controlled": unet.decode(h + control.middle, edited, temb, text),
    }


def vae_outputs(vae: AutoencoderKL, given: Inputs) -> dict[str, jax.Array]:
    """`mean` and `logvar` of the images, moved to [-1, 1], and the latents `decoded`."""
    mean, logvar = vae.moments(2 * given.images - 1)
    return {"mean": mean, "logvar": logvar, "decoded": vae.decode(given.latents)}


@cache
def run_diffusion(name: str, dtype: Any = jnp.float32, gain: float = 1.0) -> dict[str, jax.Array]:
    unet, unet_params = random_network(unet_factory(name, dtype), gain=gain)
    controlnet, controlnet_params = random_network(controlnet_factory(name, dtype), seed=1, gain=gain)
    given = inputs(UNETS[name].cross_attention_dim)

    @jax.jit
    def run(unet_params: Params, controlnet_params: Params, given: Inputs) -> dict[str, jax.Array]:
        return diffusion_outputs(merge(unet, unet_params), merge(controlnet, controlnet_params), given)

    return run(unet_params, controlnet_params, given)


@cache
def run_vae(name: str, dtype: Any = jnp.float32, gain: float = 1.0) -> dict[str, jax.Array]:
    graphdef, params = random_network(vae_factory(name, dtype), gain=gain)
    return jax.jit(lambda params, given: vae_outputs(merge(graphdef, params), given))(params, inputs())


def run_taesd(config: TAESDConfig) -> dict[str, jax.Array]:
    """What the autoencoder with random weights gives: the images `encoded`, and the latents, up to 12, `decoded`."""
    graphdef, params = random_network(lambda rngs: AutoencoderTiny(config, rngs=rngs))

    @jax.jit
    def run(params: Params, given: Inputs) -> dict[str, jax.Array]:
        net = merge(graphdef, params)
        return {"encoded": net.encode(2 * given.images - 1), "decoded": net.decode(4 * given.latents)}

    return run(params, inputs(factor=config.factor))


def relative_l2(actual: Any, expected: Any) -> float:
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def errors(actual: dict[str, Any], expected: dict[str, Any]) -> dict[str, float]:
    """Relative L2 error of every output; both must have the same ones."""
    assert sorted(actual) == sorted(expected)
    return {name: relative_l2(actual[name], expected[name]) for name in expected}


def attention_by_hand(query: np.ndarray, key: np.ndarray, value: np.ndarray, num_heads: int) -> np.ndarray:
    """softmax(Q K^T / sqrt(d)) V in float64."""
    q, k, v = (x.astype(np.float64).reshape(*x.shape[:2], num_heads, -1) for x in (query, key, value))
    scores = np.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhnm,bmhd->bnhd", weights / weights.sum(-1, keepdims=True), v).reshape(query.shape)
