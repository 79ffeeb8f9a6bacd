"""The parts of the denoising loss, as pure functions: all randomness comes from the key."""

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.errors import InputError
from cassr_jax.typing import Latents, PerImage, Timesteps


def sample_timesteps(key: PRNGKeyArray, batch: int, schedule: Schedule, maximum: int | None = None) -> Timesteps:
    """Draw timesteps uniformly from 0 to `maximum`, both ends included; int32, by default from the whole schedule.

    With a `maximum` below T - 1, training covers only starts at partial strength.

    Raises:
        InputError: the schedule has no such timestep.
    """
    last = schedule.num_train_timesteps - 1
    maximum = last if maximum is None else maximum
    if not 0 <= maximum <= last:
        raise InputError(f"the noisiest training timestep is {maximum}, expected 0 to {last}")
    return jax.random.randint(key, (batch,), 0, maximum + 1, dtype=jnp.int32)


def training_target(schedule: Schedule, x0: Latents, noise: Latents, t: Timesteps) -> Latents:
    """What the network should predict at `schedule.add_noise(x0, noise, t)`, for the prediction type; float32."""
    if schedule.prediction_type == "epsilon":
        return noise.astype(jnp.float32)
    if schedule.prediction_type == "v_prediction":
        return schedule.velocity(x0, noise, t)
    return x0.astype(jnp.float32)


def min_snr_weight(schedule: Schedule, t: Timesteps, gamma: float | None = 5.0) -> PerImage:
    """The min-SNR-gamma weights (Hang et al. 2023, arXiv 2303.09556) of timesteps; with `gamma` None, all are 1.

    They weigh the squared error in x_0 by min(SNR, gamma). As factors of the squared error of the network's own output,
    they are min(SNR, gamma) / SNR for epsilon, min(SNR, gamma) / (SNR + 1) for v, and min(SNR, gamma) for x_0.
    """
    snr = schedule.snr(t)
    if gamma is None:
        return jnp.ones_like(snr)
    clipped = jnp.minimum(snr, gamma)
    if schedule.prediction_type == "epsilon":
        return clipped / snr
    if schedule.prediction_type == "v_prediction":
        return clipped / (snr + 1)
    return clipped


def denoising_loss(
    schedule: Schedule,
    model_output: Latents,
    x0: Latents,
    noise: Latents,
    t: Timesteps,
    *,
    gamma: float | None = None,
) -> PerImage:
    """The weighted mean squared error of each image; the caller takes the mean over the batch.

    Args:
        schedule: says what the network predicts.
        model_output: in any float dtype.
        x0: the clean latents.
        noise: the noise that was added.
        t: the timestep of each image.
        gamma: see `min_snr_weight`; None weighs all timesteps alike.
    """
    error = model_output.astype(jnp.float32) - training_target(schedule, x0, noise, t)
    per_image = jnp.mean(jnp.square(error), axis=(1, 2, 3))
    return min_snr_weight(schedule, t, gamma) * per_image
