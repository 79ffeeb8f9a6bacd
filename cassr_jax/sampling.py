"""A diffusion stage on a batch of tiles, as pure functions: shared embeddings, one prediction, the whole stage.

A tile is a square that the networks see whole. `sample` runs a stage on independent tiles, such as the crops of a
training batch, inside a traced function. `cassr_jax.engine` calls the same functions for pictures of any size, whose
tiles overlap.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from cassr_jax.config import SamplingConfig
from cassr_jax.diffusion.guidance import guide
from cassr_jax.diffusion.samplers import make_sampler
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.diffusion.trajectory import Carry, Sampler, Trajectory, begin, start_latents, take_step
from cassr_jax.errors import InputError
from cassr_jax.models.denoisers import ControlledDenoiser, Denoiser
from cassr_jax.models.fusion import Fusion
from cassr_jax.models.guided_decoder import GuidedDecoder, decode_guided
from cassr_jax.models.vae import AutoencoderKL
from cassr_jax.typing import Flag, Images, Keys, Latents, PromptPair, Scalar, Step

# The scopes of the conditions on a step, by which a plan finds them in the compiled program.
GUIDANCE, RENEWAL = "guidance", "renewal_of_control"

_FRESH = 2**32 - 1  # more than any number of values that are drawn from one key

Pictures = Float[Array | np.ndarray, "batch height width 3"]


@dataclass(frozen=True)
class Setting:
    """The settings of a stage that affect compilation.

    Attributes:
        sampler: takes one step.
        guided: the steps in which the denoiser runs on the negative prompt too.
        keeps_control: whether a ControlNet's features may serve several steps.
    """

    sampler: Sampler
    guided: Literal["never", "some", "always"]
    keeps_control: bool = False

    @classmethod
    def of(cls, sampling: SamplingConfig) -> "Setting":
        some = "some" if sampling.guided_steps else "never"
        guided = "always" if sampling.guided_steps == range(sampling.num_steps) else some
        return cls(make_sampler(sampling.sampler, sampling.eta), guided, sampling.control_every > 1)


class Course(NamedTuple):
    """What a run does in each of its steps, as data.

    Attributes:
        trajectory: the timesteps and coefficients.
        guidance_scale: () float32.
        first_guided, stop_guided: () int32; the steps from the first up to the second, without it, are guided.
        control_every: () int32, the number of steps for which the features of a ControlNet are kept.
        fidelity: () float32, how much the pictures that control the denoiser count, 0 to 1.
    """

    trajectory: Trajectory
    guidance_scale: ArrayLike
    first_guided: ArrayLike
    stop_guided: ArrayLike
    control_every: ArrayLike
    fidelity: ArrayLike = np.float32(1)

    def guided(self, step: Step) -> Flag:
        return jnp.logical_and(self.first_guided <= step, step < self.stop_guided)

    def renews_control(self, step: Step) -> Flag:
        """Whether the ControlNet runs: also where guidance begins or ends, since the kept prompts are other ones."""
        changes = jnp.logical_or(step == self.first_guided, step == self.stop_guided)
        return jnp.logical_or(step % self.control_every == 0, changes)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Inputs:
    """The arrays that `sample` takes; H and W are a tile's sides in pixels, h and w in latents.

    Attributes:
        images: the images that the denoiser reads, (B, H, W, 3) in [-1, 1] each.
        start: the picture (B, H, W, 3) in [-1, 1] whose latents the noise is mixed into; None for noise alone.
        noise: (B, h, w, C) unit normal.
        encoder_hidden_states: (2, L, C), the embeddings of the negative prompt and the prompt.
        course: what the run does in each step.
        fidelity: () float32, how much the pictures count, for the denoiser and for a fusion, 0 to 1.
        guides: the pictures that guide a fusion, (B, H, W, 3) in [-1, 1] each.
        keys: (B,), the key of each tile's fresh noise (see `key_of_fresh`); None if the sampler takes none.
    """

    images: tuple[Pictures, ...]
    start: Pictures | None
    noise: Latents
    encoder_hidden_states: PromptPair
    course: Course
    fidelity: float | Scalar = 1.0
    guides: tuple[Pictures, ...] = ()
    keys: Keys | None = None


class Fresh(NamedTuple):
    """What decides the fresh noise of B tiles; tiles of one key agree wherever they overlap.

    Attributes:
        keys: (B,), see `key_of_fresh`.
        top, left: (B,) int32, the row and the column of each tile's first latent in its picture.
    """

    keys: Keys
    top: Int[ArrayLike, " batch"]
    left: Int[ArrayLike, " batch"]


class Embeddings(NamedTuple):
    """Embeddings that all steps and tiles share, computed once.

    Attributes:
        text: the keys and values for one call of the denoiser.
        temb: the time embeddings of all steps, (S, ...).
    """

    text: PyTree[Array]
    temb: PyTree[Array]


def make_course(schedule: Schedule, sampling: SamplingConfig) -> Course:
    """The course of a run, which starts at the share `sampling.strength` of the schedule.

    Raises:
        InputError: the steps do not fit into that share, guidance ends before it begins, or the sampler has no `eta`.
    """
    if sampling.guidance_from > sampling.guidance_to:
        raise InputError(
            f"guidance_from is {sampling.guidance_from} and guidance_to {sampling.guidance_to}, expected the first not "
            "to be above the second; a guidance_scale of 1 switches guidance off"
        )
    sampler = make_sampler(sampling.sampler, sampling.eta)
    first = None if sampling.strength == 1 else round(sampling.strength * (schedule.num_train_timesteps - 1))
    try:
        trajectory = sampler.trajectory(schedule, sampling.num_steps, first)
    except InputError as error:
        if first is None:
            raise
        raise InputError(f"strength is {sampling.strength}, which starts at timestep {first}: {error}") from error
    if sampling.added_noise_level is not None:
        if first is not None:
            raise InputError(
                f"added_noise_level is {sampling.added_noise_level} and strength {sampling.strength}, expected no "
                "added noise or a strength of 1: a start within the schedule would be noisier than its timestep"
            )
        trajectory = _noised_again(trajectory, schedule, sampling.added_noise_level)
    guided = sampling.guided_steps
    steps = (np.int32(step) for step in (guided.start, guided.stop, sampling.control_every))
    return Course(trajectory, np.float32(sampling.guidance_scale), *steps)


def _noised_again(trajectory: Trajectory, schedule: Schedule, timestep: int) -> Trajectory:
    """The trajectory whose start has the noise of its first timestep and then that of another (PASD's pipeline).

    Raises:
        InputError: the schedule has no such timestep.
    """
    last = schedule.num_train_timesteps - 1
    if timestep > last:
        raise InputError(f"added_noise_level is {timestep}, expected a timestep of at most {last}")
    signal, noise = trajectory.signal.copy(), trajectory.noise.copy()
    signal[0] *= np.sqrt(schedule.alphas_cumprod[timestep])
    noise[0] = np.sqrt(1 - signal[0] ** 2)
    return trajectory._replace(signal=signal, noise=noise)


def embed(
    denoiser: Denoiser, encoder_hidden_states: PromptPair, trajectory: Trajectory, batch: int, setting: Setting
) -> Embeddings:
    """The text and time embeddings for calls on `batch` tiles."""
    prompts = encoder_hidden_states[1:] if setting.guided == "never" else encoder_hidden_states
    text = denoiser.embed_text(jnp.repeat(prompts, batch, axis=0))
    return Embeddings(text, denoiser.embed_time(jnp.asarray(trajectory.timesteps)))


def predict(
    denoiser: Denoiser,
    embeddings: Embeddings,
    latents: Latents,
    hints: PyTree[Array],
    step: Step,
    course: Course,
    setting: Setting,
    kept: PyTree[Array] = None,
) -> tuple[Latents, PyTree[Array]]:
    """Calls the denoiser once on a batch of tiles.

    Args:
        kept: the features of the ControlNet of an earlier step, if the setting keeps them.

    Returns:
        (B, h, w, C) float32 in the schedule's prediction type, and the features to keep.
    """
    temb = jax.tree.map(lambda table: jax.lax.dynamic_index_in_dim(table, step, keepdims=True), embeddings.temb)
    fidelity = jnp.asarray(course.fidelity)

    def call(latents: Latents, text: PyTree[Array], kept: PyTree[Array]) -> tuple[Latents, PyTree[Array]]:
        if not setting.keeps_control:
            return denoiser(latents, temb, text, hints, fidelity).astype(jnp.float32), kept
        assert isinstance(denoiser, ControlledDenoiser), "nothing_kept has refused any other"
        renewed = partial(denoiser.control, latents, temb, text, hints)
        with jax.named_scope(RENEWAL):
            control = jax.lax.cond(course.renews_control(step), renewed, lambda: kept)
        return denoiser.predict(latents, temb, text, control, fidelity).astype(jnp.float32), control

    def guided() -> tuple[Latents, PyTree[Array]]:
        both, control = call(jnp.concatenate([latents] * 2), embeddings.text, kept)
        negative, positive = jnp.split(both, 2)
        return guide(negative, positive, jnp.asarray(course.guidance_scale)), control

    def unguided() -> tuple[Latents, PyTree[Array]]:
        """The call for the prompt alone, which is the second half of what is kept for both."""
        text, own = (jax.tree.map(lambda x: x[len(x) // 2 :], tree) for tree in (embeddings.text, kept))
        made, control = call(latents, text, own)
        return made, jax.tree.map(lambda x, new: jnp.concatenate([x[: len(x) // 2], new]), kept, control)

    if setting.guided == "never":
        return call(latents, embeddings.text, kept)
    if setting.guided == "always":
        return guided()
    with jax.named_scope(GUIDANCE):
        return jax.lax.cond(course.guided(step), guided, unguided)


def nothing_kept(
    denoiser: Denoiser, embeddings: Embeddings, latents: Latents, hints: PyTree[Array], setting: Setting
) -> PyTree[Array]:
    """Zeros in the place of the features that are kept between the steps on a batch of tiles, or None."""
    if not setting.keeps_control:
        return None
    if not isinstance(denoiser, ControlledDenoiser):
        raise InputError("control_every is above 1, expected 1: this stage has no ControlNet")
    doubled = latents if setting.guided == "never" else jnp.concatenate([latents] * 2)
    temb = jax.tree.map(lambda table: table[:1], embeddings.temb)
    shapes = jax.eval_shape(denoiser.control, doubled, temb, embeddings.text, hints)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def key_of_fresh(key: PRNGKeyArray) -> PRNGKeyArray:
    """The key of the fresh noise of a run whose first noise is drawn from `key` itself, and independent of that."""
    return jax.random.fold_in(key, _FRESH)


def fresh_noise(fresh: Fresh, step: Step, like: Latents) -> Latents:
    """Unit normal noise of the shape of `like`, which depends on a tile's key, the step and the place alone."""
    _, height, width, channels = like.shape

    def at(key: PRNGKeyArray, row: Step, column: Step) -> Float[Array, " latent_channels"]:
        key = jax.random.fold_in(jax.random.fold_in(key, row), column)
        return jax.random.normal(key, (channels,), jnp.float32)

    def of_tile(key: PRNGKeyArray, top: Step, left: Step) -> Float[Array, "latent_height latent_width latent_channels"]:
        rows, columns = top + jnp.arange(height), left + jnp.arange(width)
        of_row = jax.vmap(at, in_axes=(None, None, 0))
        return jax.vmap(of_row, in_axes=(None, 0, None))(jax.random.fold_in(key, step), rows, columns)

    return jax.vmap(of_tile)(*map(jnp.asarray, fresh))


def sample(
    vae: AutoencoderKL,
    denoiser: Denoiser,
    inputs: Inputs,
    setting: Setting,
    fusion: Fusion | GuidedDecoder | None = None,
) -> Images:
    """Runs a whole stage on B tiles: (B, H, W, 3) float32, about [-1, 1], not clipped."""
    course, trajectory = inputs.course._replace(fidelity=inputs.fidelity), inputs.course.trajectory
    latents = jnp.zeros_like(inputs.noise) if inputs.start is None else vae.encode(jnp.asarray(inputs.start))
    images = tuple(map(jnp.asarray, inputs.images))
    embeddings = embed(denoiser, inputs.encoder_hidden_states, trajectory, len(inputs.noise), setting)
    hints = denoiser.embed_images(*images) if images else None
    fresh = None
    if setting.sampler.noisy:
        assert inputs.keys is not None, "a noisy sampler is given keys"
        corner = jnp.zeros(len(inputs.noise), jnp.int32)
        fresh = Fresh(inputs.keys, corner, corner)

    def step(i: Step, state: tuple[Carry, PyTree[Array]]) -> tuple[Carry, PyTree[Array]]:
        carry, kept = state
        output, kept = predict(denoiser, embeddings, carry.latents, hints, i, course, setting, kept)
        noise = None if fresh is None else fresh_noise(fresh, i, carry.latents)
        return take_step(setting.sampler, trajectory, carry, output, i, noise), kept

    carry = begin(start_latents(trajectory, latents, inputs.noise))
    kept = nothing_kept(denoiser, embeddings, carry.latents, hints, setting)
    carry, _ = jax.lax.fori_loop(0, len(trajectory.timesteps), step, (carry, kept))
    guides = tuple(map(jnp.asarray, inputs.guides))
    return decode_guided(vae, fusion, carry.latents, guides, inputs.fidelity).astype(jnp.float32)
