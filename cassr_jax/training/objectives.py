"""What each stage minimises: pure functions of parameters, a batch and a key.

Batches hold uint8 images (B, S, S, 3): `hr`, and for the conditioned stages `lq` (the low-resolution image upsampled to
the same size) and `reference`. Where the target was encoded beforehand, `latents` (B, s, s, C) stands instead of `hr`.
"""

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cassr_jax.config import LossConfig, TrainConfig
from cassr_jax.data.resident import draw
from cassr_jax.diffusion.loss import denoising_loss, sample_noise, sample_timesteps
from cassr_jax.evaluation.perceptual import lpips
from cassr_jax.models.denoisers import BaseDenoiser, CasSRDenoiser, ControlNetDenoiser, Denoiser, SCEditDenoiser
from cassr_jax.models.multiple_attention import GuidanceSwitches
from cassr_jax.models.parameters import Params, merge, select

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
Objective = Callable[[Params, Batch, jax.Array], tuple[jax.Array, Metrics]]
GraphDefs = Mapping[str, nnx.GraphDef]


def to_float(images: jax.Array) -> jax.Array:
    """uint8 [0, 255] -> float32 [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1


def make_objective(config: TrainConfig, graphdefs: GraphDefs, prompt_ids: np.ndarray | None) -> Objective:
    """The loss of `config.stage`. `prompt_ids` (2, ...) are the tokens of the empty prompt and of `config.prompt`."""
    if config.stage == "vae":
        return partial(_vae_loss, config, graphdefs)
    return partial(_diffusion_loss, config, graphdefs, prompt_ids)


def _vae_loss(
    config: TrainConfig, graphdefs: GraphDefs, params: Params, batch: Batch, key: jax.Array
) -> tuple[jax.Array, Metrics]:
    """L1 + perceptual + KL, per pixel (Rombach et al. 2022, arXiv 2112.10752, without the adversary)."""
    loss_config = config.loss
    vae = merge(graphdefs["vae"], select(params, "vae"))
    images = to_float(batch["hr"])
    sample_key, noise_key = jax.random.split(key)
    mean, logvar = vae.moments(images)
    latents = mean + jnp.exp(0.5 * logvar) * jax.random.normal(sample_key, mean.shape)
    if loss_config.latent_noise:
        # A decoder that has seen slightly wrong latents forgives those that a diffusion model makes.
        level = loss_config.latent_noise * jax.lax.stop_gradient(jnp.std(mean, axis=(0, 1, 2)))
        latents = latents + level * jax.random.normal(noise_key, mean.shape)
    decoded = vae.decode(latents * vae.config.scaling_factor).astype(jnp.float32)
    image_loss, metrics = _image_loss(loss_config, params, decoded, images)
    kl = 0.5 * jnp.mean(jnp.sum(mean**2 + jnp.exp(logvar) - 1 - logvar, axis=(1, 2, 3)))
    return image_loss + loss_config.kl_weight * kl, metrics | {"kl": kl}


def from_pool(objective: Objective, batch_size: int, crop_size: int) -> Objective:
    """The same objective on batches drawn, on the device, of a set that lies there (`cassr_jax.data.resident`)."""

    def loss(params: Params, pool: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        draw_key, key = jax.random.split(key)
        return objective(params, draw(pool, draw_key, batch_size, crop_size), key)

    return loss


def needs_lpips(config: TrainConfig) -> bool:
    """Whether the stage's loss reads LPIPS's weights, `lpips.*`, beside the networks'."""
    return bool(config.loss.perceptual_weight and (config.stage == "vae" or config.loss.image_weight))


def _image_loss(config: LossConfig, params: Params, decoded: jax.Array, images: jax.Array) -> tuple[jax.Array, Metrics]:
    """L1 + LPIPS on VGG16 of pictures (B, S, S, 3) in [-1, 1]."""
    l1 = jnp.mean(jnp.abs(decoded - images))
    perceptual = jnp.zeros(())
    if config.perceptual_weight:
        perceptual = jnp.mean(lpips(select(params, "lpips"), decoded, images, "vgg16", precision=None))
    return l1 + config.perceptual_weight * perceptual, {"l1": l1, "lpips": perceptual}


def _diffusion_loss(
    config: TrainConfig,
    graphdefs: GraphDefs,
    prompt_ids: np.ndarray | None,
    params: Params,
    batch: Batch,
    key: jax.Array,
) -> tuple[jax.Array, Metrics]:
    """|| target - network(x_t, t, text, images) ||^2 at uniformly drawn timesteps (the paper's equation 5).

    A model that samples in a few steps meets, in the first of them, the noised latents of the LR image or of the
    reference, not those of the target: `start_fraction` of the examples are of that kind. Their target is the one
    that leads to the same x_0. `image_weight` adds what the decoded x_0 lacks as a picture.
    """
    settings = config.loss
    modules = {name: merge(graphdef, select(params, name)) for name, graphdef in graphdefs.items()}
    latent_key, noise_key, time_key, drop_key = jax.random.split(key, 4)
    if "latents" in batch:
        latents = batch["latents"].astype(jnp.float32)
    else:
        latents = jax.lax.stop_gradient(modules["vae"].encode(to_float(batch["hr"]), latent_key))
    size = len(latents)
    timesteps = sample_timesteps(time_key, size, config.schedule, maximum=config.loss.max_timestep)
    noise = sample_noise(noise_key, latents.shape)
    noisy = config.schedule.add_noise(latents, noise, timesteps)
    started = round(settings.start_fraction * size)
    if started:
        image = to_float(batch["reference" if settings.start == "reference" else "lq"][:started])
        begun = jax.lax.stop_gradient(modules["vae"].encode(image))
        timesteps = timesteps.at[:started].set(settings.start_timestep)
        noisy = noisy.at[:started].set(config.schedule.add_noise(begun, noise[:started], settings.start_timestep))
        noise = config.schedule.implied_noise(latents, noisy, timesteps)

    empty, prompt = modules["text_encoder"](prompt_ids)
    dropped = jax.random.bernoulli(drop_key, config.loss.condition_dropout, (size, 1, 1))
    text = jnp.where(dropped, empty, prompt)

    denoiser, images = _denoiser(config, modules, batch)
    prediction = denoiser(
        noisy, denoiser.embed_time(timesteps), denoiser.embed_text(text), denoiser.embed_images(*images)
    )
    losses = denoising_loss(config.schedule, prediction, latents, noise, timesteps, gamma=settings.snr_gamma)
    loss = jnp.mean(losses)
    if not settings.image_weight:
        return loss, {}
    x0 = config.schedule.to_x0(prediction, noisy, timesteps)[:started]
    decoded = modules["vae"].decode(x0).astype(jnp.float32)
    image_loss, metrics = _image_loss(settings, params, decoded, to_float(batch["hr"][:started]))
    return loss + settings.image_weight * image_loss, metrics | {"diffusion": loss}


def _denoiser(
    config: TrainConfig, modules: Mapping[str, nnx.Module], batch: Batch
) -> tuple[Denoiser, tuple[jax.Array, ...]]:
    """The networks of the stage, and the images in [-1, 1] that they read."""
    m: dict = dict(modules)
    match config.stage:
        case "scedit":
            return SCEditDenoiser(m["unet"], m["scedit"]), (to_float(batch["lq"]),)
        case "controlnet":
            return ControlNetDenoiser(m["unet"], m["activation_controlnet"]), (to_float(batch["lq"]),)
        case "cassr":
            denoiser = CasSRDenoiser(m["unet"], m["controlnet"], m["multiple_attention"], GuidanceSwitches())
            return denoiser, (to_float(batch["lq"]), to_float(batch["reference"]))
        case _:
            return BaseDenoiser(m["unet"]), ()
