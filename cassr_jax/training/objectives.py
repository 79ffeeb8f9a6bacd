"""The losses of the stages: pure functions of parameters, a batch and one key for each example.

Batches hold uint8 images (B, S, S, 3): `hr`, and for the conditioned stages `lq` (the low-resolution image upsampled to
the same size) and `reference`. If the target was encoded beforehand, `latents` (B, s, s, C) takes the place of `hr`. It
is the mean of the latents; `latents_std`, of the same shape, is beside it if a sample is drawn in every step.
Validation adds `timesteps` (B,), which are otherwise drawn.

An example's random numbers come from its own key, so they depend neither on the device nor on the part of the batch. A
loss is the mean over examples, so equal parts of a batch average to the whole.
"""

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Key

from cassr_jax.config import TrainConfig
from cassr_jax.diffusion.loss import denoising_loss, sample_timesteps
from cassr_jax.imaging.pixels import to_float
from cassr_jax.models.controlnet import ControlNet
from cassr_jax.models.division import named
from cassr_jax.models.guided_decoder import decode_guided
from cassr_jax.models.layers import NETWORK_INPUT
from cassr_jax.models.parameters import Params, merge, select
from cassr_jax.training.image_loss import image_loss_of
from cassr_jax.training.stages import denoiser_and_pictures, guides_read, stage_named, start_read
from cassr_jax.typing import Examples, Images, Keys, Latents, Metrics, PromptIds, Scalar

Objective = Callable[[Params, Examples, Keys], tuple[Scalar, Metrics]]
GraphDefs = Mapping[str, nnx.GraphDef]


def make_objective(config: TrainConfig, graphdefs: GraphDefs, prompt_ids: PromptIds | None) -> Objective:
    """The loss of `config.stage`; `prompt_ids` (2, ...) are the tokens of the empty prompt and `config.prompt`."""
    if config.stage == "vae":
        return partial(_vae_loss, config, graphdefs)
    return partial(_diffusion_loss, config, graphdefs, prompt_ids)


def _vae_loss(
    config: TrainConfig, graphdefs: GraphDefs, params: Params, batch: Examples, keys: Keys
) -> tuple[Scalar, Metrics]:
    """L1 + perceptual + KL, per pixel (Rombach et al. 2022, arXiv 2112.10752, without the adversary)."""
    loss_config = config.loss
    vae = named(merge(graphdefs["vae"], select(params, "vae")), "vae")
    images = to_float(batch["hr"])
    sample_keys, noise_keys = _split(keys, 2)
    mean, logvar = vae.moments(images)
    latents = _sampled(mean, jnp.exp(0.5 * logvar), sample_keys)
    if loss_config.latent_noise:
        # A decoder trained on slightly wrong latents copes better with those of a diffusion model.
        level = loss_config.latent_noise * jax.lax.stop_gradient(jnp.std(mean, axis=(1, 2), keepdims=True))
        latents = latents + level * _normal(noise_keys, mean.shape)
    decoded = vae.decode(latents * vae.config.scaling_factor).astype(jnp.float32)
    image_loss, metrics = image_loss_of(loss_config, graphdefs, params, decoded, images)
    kl = 0.5 * jnp.mean(jnp.sum(mean**2 + jnp.exp(logvar) - 1 - logvar, axis=(1, 2, 3)))
    return image_loss + loss_config.kl_weight * kl, metrics | {"kl": kl}


def _diffusion_loss(
    config: TrainConfig,
    graphdefs: GraphDefs,
    prompt_ids: PromptIds | None,
    params: Params,
    batch: Examples,
    keys: Keys,
) -> tuple[Scalar, Metrics]:
    """|| target - network(x_t, t, text, images) ||^2 at uniformly drawn timesteps (the paper's equation 5).

    In its first step, a model that samples in a few steps meets the noised latents of the LQ image or the reference,
    not those of the target. `start_fraction` of the examples are of this kind; their target is the output that leads to
    the same x_0. `image_weight` adds the loss of the decoded x_0 as a picture. A stage that trains the decoder has that
    loss alone.
    """
    settings, schedule = config.loss, config.known_schedule
    modules = {name: named(merge(graphdef, select(params, name)), name) for name, graphdef in graphdefs.items()}
    latent_keys, noise_keys, time_keys, drop_keys = _split(keys, 4)
    if "latents" in batch:
        latents = batch["latents"].astype(jnp.float32)
        if "latents_std" in batch:
            latents = _sampled(latents, batch["latents_std"].astype(jnp.float32), latent_keys)
    else:
        mean, logvar = modules["vae"].moments(to_float(batch["hr"]))
        sampled = _sampled(mean, jnp.exp(0.5 * logvar), latent_keys)
        latents = jax.lax.stop_gradient(sampled * modules["vae"].config.scaling_factor)
    latents = checkpoint_name(latents, NETWORK_INPUT)
    size = len(latents)
    times = partial(sample_timesteps, batch=1, schedule=schedule, maximum=settings.max_timestep)
    timesteps = batch["timesteps"] if "timesteps" in batch else jax.vmap(times)(time_keys)[:, 0]
    noise = jax.vmap(lambda key: jax.random.normal(key, latents.shape[1:]))(noise_keys)
    noisy = schedule.add_noise(latents, noise, timesteps)
    started = round(settings.start_fraction * size)
    if started:
        image = to_float(batch[start_read(config)][:started])
        begun = checkpoint_name(jax.lax.stop_gradient(modules["vae"].encode(image)), NETWORK_INPUT)
        timesteps = timesteps.at[:started].set(settings.start_timestep)
        noisy = noisy.at[:started].set(schedule.add_noise(begun, noise[:started], settings.start_timestep))
        noise = schedule.implied_noise(latents, noisy, timesteps)

    empty, prompt = modules["text_encoder"](prompt_ids)
    dropped = jax.vmap(partial(jax.random.bernoulli, p=settings.condition_dropout))(drop_keys)
    text = checkpoint_name(jnp.where(dropped[:, None, None], empty, prompt), NETWORK_INPUT)

    denoiser, pictures = denoiser_and_pictures(config, modules, batch)
    hints = denoiser.embed_images(*map(to_float, pictures))
    prediction = denoiser(noisy, denoiser.embed_time(timesteps), denoiser.embed_text(text), hints)
    losses = denoising_loss(schedule, prediction, latents, noise, timesteps, gamma=settings.snr_gamma)
    loss, parts = jnp.mean(losses), {}
    if settings.rgb_weight:
        rgb_loss = _rgb_loss(modules["controlnet"], to_float(batch["lq"]), to_float(batch["hr"]))
        parts = {"diffusion": loss, "rgb": rgb_loss}
        loss = loss + settings.rgb_weight * rgb_loss
    if not settings.image_weight:
        return loss, parts
    x0 = schedule.to_x0(prediction, noisy, timesteps)[:started]
    guides = tuple(to_float(batch[name][:started]) for name in guides_read(config))
    decoded = decode_guided(modules["vae"], modules.get("fusion"), x0, guides).astype(jnp.float32)
    image_loss, metrics = image_loss_of(settings, graphdefs, params, decoded, to_float(batch["hr"][:started]))
    if stage_named(config.stage).decodes:  # the denoiser is frozen, and its own loss takes the target's latents
        return settings.image_weight * image_loss, metrics
    return loss + settings.image_weight * image_loss, metrics | {"diffusion": loss} | parts


def _rgb_loss(controlnet: ControlNet, lq: Images, hr: Images) -> Scalar:
    """The sum, over the resolutions of a hint network, of the L1 between its picture there and the target (PASD)."""
    made = controlnet.embed_rgbs((lq + 1) / 2)
    targets = [jax.image.resize(hr, rgb.shape, "linear", antialias=False) for rgb in made]
    losses = [jnp.mean(jnp.abs(rgb.astype(jnp.float32) - x)) for rgb, x in zip(made, targets, strict=True)]
    return jnp.sum(jnp.stack(losses))


def _split(keys: Keys, num: int) -> Key[Array, "{num} batch"]:
    """Keys (B,) -> (num, B)."""
    return jax.vmap(partial(jax.random.split, num=num), out_axes=1)(keys)


def _sampled(mean: Latents, std: Latents, keys: Keys) -> Latents:
    return mean + std * _normal(keys, mean.shape)


def _normal(keys: Keys, shape: tuple[int, ...]) -> Float[Array, "batch ..."]:
    """Unit normal (B, ...), each example drawn with its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, shape[1:]))(keys)
