"""One diffusion stage of the cascade as pure functions: start, condition, denoise, decode.

A picture is a canvas of latents covered by tiles of one size. In every step all tiles are denoised, a few at a time,
and their predictions merged with Gaussian weights (MultiDiffusion, arXiv 2302.08113), so that the sampler itself sees
one picture. Encoding, hints and decoding go by the same tiles: nothing larger than a few of them is ever inside a
network, and memory grows with the picture's own arrays only. The decoder normalises all tiles of a picture by the
moments of a view of the whole, so that they fit. Several devices share the tiles.

`run` is the one caller of the four parts. A caller that traces a whole stage gives it `traced`; the cascade gives it
parts that it has compiled one by one, since both its stages share the encoder and the decoder, and since a loop that is
run in a few pieces can report its progress.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from cassr_jax.config import SamplingConfig
from cassr_jax.diffusion.guidance import guide
from cassr_jax.diffusion.samplers import Carry, Sampler, Trajectory, advance, begin, make_sampler, start_latents
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.imaging import tiling
from cassr_jax.models.denoisers import Denoiser
from cassr_jax.models.fusion import Fusion, decode_guided
from cassr_jax.models.moments import Moments, given, recorded
from cassr_jax.models.vae import AutoencoderKL

T = TypeVar("T")

_MAX_REPORTS = 20  # of progress in one run: each one waits for the device


@dataclass(frozen=True)
class Canvas:
    """What is static about a picture's size.

    Attributes:
        tiles: over the latents.
        factor: pixels per latent along a side.
        at_once: tiles in one call of a network, on each device.
        mesh: of one axis, the devices that share the tiles; None for one device.
    """

    tiles: tiling.Grid
    factor: int
    at_once: int
    mesh: Mesh | None = None

    @property
    def pixels(self) -> tiling.Grid:
        return self.tiles.scaled(self.factor)

    def in_a_call(self, count: int) -> int:
        """How many of `count` tiles a network is given at once on each device."""
        return min(self.at_once, -(-count // (self.mesh.size if self.mesh else 1)))


@dataclass(frozen=True)
class Setting:
    """What is static about a run.

    Attributes:
        canvas: the picture's size and its tiles.
        sampler: how a step is taken.
        guided: whether negative prompts are denoised too.
    """

    canvas: Canvas
    sampler: Sampler
    guided: bool

    @classmethod
    def of(cls, sampling: SamplingConfig, canvas: Canvas) -> "Setting":
        return cls(canvas, make_sampler(sampling.sampler), sampling.guidance_scale != 1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Inputs:
    """The arrays that a stage is run on; H and W, h and w are the canvas's in pixels and in latents.

    Attributes:
        images: what the denoiser reads, (B, H, W, 3) in [-1, 1] each.
        start: the picture (B, H, W, 3) in [-1, 1] whose latents the noise is mixed into; None for noise alone.
        noise: (B, h, w, C) unit normal.
        encoder_hidden_states: (2, L, C), of the negative prompt and of the prompt.
        trajectory: timesteps and coefficients of the run.
        guidance_scale: () float32.
        fidelity: () float32, how much the decoder takes from `images` directly, 0 to 1; without effect where the stage
            has no fusion.
    """

    images: tuple[ArrayLike, ...]
    start: ArrayLike | None
    noise: jax.Array
    encoder_hidden_states: jax.Array
    trajectory: Trajectory
    guidance_scale: ArrayLike
    fidelity: ArrayLike = 1.0


class Condition(NamedTuple):
    """What stays the same over the steps, computed once."""

    text: Any  # keys and values for one call of the network
    hints: Any  # (B * N, ...) for all tiles
    temb: Any  # (S, ...) for all steps


class Parts(NamedTuple):
    """The functions of a stage with their networks bound, traced where they are called or compiled one by one."""

    start: Callable[[Inputs, Setting], Carry]
    condition: Callable[[Inputs, Setting], Condition]
    denoise: Callable[[Condition, Carry, Inputs, Any, Any, Setting], Carry]
    decode: Callable[[Carry, Inputs, Setting], jax.Array]


def traced(vae: AutoencoderKL, denoiser: Denoiser, fusion: Fusion | None = None) -> Parts:
    """The parts of a stage for a caller that is traced itself."""
    return Parts(
        start=lambda inputs, setting: start(vae, inputs, setting),
        condition=lambda inputs, setting: condition(denoiser, inputs, setting),
        denoise=lambda *arguments: denoise(denoiser, *arguments),
        decode=lambda *arguments: decode(vae, fusion, *arguments),
    )


def run(parts: Parts, inputs: Inputs, setting: Setting, report: Callable[[int, int], None] | None = None) -> jax.Array:
    """A whole stage on B pictures of one size: (B, H, W, 3) float32, about [-1, 1], not clipped.

    Args:
        report: called as `report(done, in all)` a few times during the run, each time the device is done; encoding,
            reading the images and decoding count as a step each.
    """
    steps = len(inputs.trajectory.timesteps)

    def done(count: int, value: T) -> T:
        if report is not None:
            jax.block_until_ready(value)
            report(count, steps + 3)
        return value

    carry = done(1, parts.start(inputs, setting))
    conditions = done(2, parts.condition(inputs, setting))
    for first, last in _pieces(steps, 1 if report is None else _MAX_REPORTS):
        carry = done(2 + last, parts.denoise(conditions, carry, inputs, first, last, setting))
    return done(steps + 3, parts.decode(carry, inputs, setting))


def make_trajectory(schedule: Schedule, sampling: SamplingConfig) -> Trajectory:
    """Timesteps and coefficients of a run; all its steps lie below `sampling.strength` of the schedule."""
    last = schedule.num_train_timesteps - 1
    first = None if sampling.strength == 1 else max(round(sampling.strength * last), sampling.num_steps)
    return make_sampler(sampling.sampler).trajectory(schedule, sampling.num_steps, first)


def start(vae: AutoencoderKL, inputs: Inputs, setting: Setting) -> Carry:
    """The sampler's state before the first step."""
    canvas, latents = setting.canvas, jnp.zeros_like(inputs.noise)
    if inputs.start is not None:
        cuts = tiling.gather(inputs.start, canvas.pixels)
        latents = _merge(map_tiles(vae.encode, cuts, canvas), canvas.tiles, canvas)
    return begin(start_latents(inputs.trajectory, latents, inputs.noise))


def condition(denoiser: Denoiser, inputs: Inputs, setting: Setting) -> Condition:
    """Text, hints and time embeddings."""
    canvas = setting.canvas
    cuts = tuple(tiling.gather(image, canvas.pixels) for image in inputs.images)
    hints = map_tiles(lambda cut: denoiser.embed_images(*cut), cuts, canvas) if cuts else None
    prompts = inputs.encoder_hidden_states if setting.guided else inputs.encoder_hidden_states[1:]
    at_once = canvas.in_a_call(len(inputs.noise) * canvas.tiles.count)
    text = denoiser.embed_text(jnp.repeat(prompts, at_once, axis=0))
    return Condition(text, hints, denoiser.embed_time(jnp.asarray(inputs.trajectory.timesteps)))


def denoise(
    denoiser: Denoiser,
    conditions: Condition,
    carry: Carry,
    inputs: Inputs,
    first: jax.Array | int,
    last: jax.Array | int,
    setting: Setting,
) -> Carry:
    """The sampling loop: steps first <= i < last."""
    canvas = setting.canvas

    def predict(x: jax.Array, step: jax.Array) -> jax.Array:
        temb = jax.tree.map(lambda table: jax.lax.dynamic_index_in_dim(table, step, keepdims=True), conditions.temb)

        def predict_tiles(chunk: tuple[jax.Array, Any]) -> jax.Array:
            cut, hints = chunk
            if not setting.guided:
                return denoiser(cut, temb, conditions.text, hints).astype(jnp.float32)
            both = denoiser(jnp.concatenate([cut] * 2), temb, conditions.text, hints)
            negative, positive = jnp.split(both, 2)
            return guide(negative, positive, jnp.asarray(inputs.guidance_scale))

        cuts = (tiling.gather(x, canvas.tiles), conditions.hints)
        return _merge(map_tiles(predict_tiles, cuts, canvas), canvas.tiles, canvas)

    return advance(predict, setting.sampler, inputs.trajectory, carry, first, last)


def decode(vae: AutoencoderKL, fusion: Fusion | None, carry: Carry, inputs: Inputs, setting: Setting) -> jax.Array:
    """(B, H, W, 3) float32, about [-1, 1], not clipped; guided by the stage's images where there is a `fusion`."""
    canvas = setting.canvas
    guides = () if fusion is None else tuple(map(jnp.asarray, inputs.images))

    def decode_tiles(cut: tuple[jax.Array, tuple[jax.Array, ...]]) -> jax.Array:
        return decode_guided(vae, fusion, *cut, jnp.asarray(inputs.fidelity)).astype(jnp.float32)

    def decode_alike(cut: tuple[Any, list[Moments]]) -> jax.Array:
        with given(cut[1]):
            return decode_tiles(cut[0])

    cuts = tiling.gather(carry.latents, canvas.tiles), tuple(tiling.gather(x, canvas.pixels) for x in guides)
    if canvas.tiles.count == 1:
        return _merge(map_tiles(decode_tiles, cuts, canvas), canvas.pixels, canvas)
    # The encoder and the denoiser go by each tile's own moments: by those of a view, a photograph in small tiles came
    # nearer to the one in one tile, and a plain ramp went further off.
    with recorded() as moments:
        views = tuple(tiling.survey(x, canvas.tiles, canvas.factor) for x in guides)
        decode_tiles((tiling.survey(carry.latents, canvas.tiles), views))
    moments = jax.tree.map(lambda x: jnp.repeat(x, canvas.tiles.count, axis=0), moments)
    return _merge(map_tiles(decode_alike, (cuts, moments), canvas), canvas.pixels, canvas)


def enlarge(
    network: Callable[[np.ndarray], ArrayLike],
    rgb: np.ndarray,
    canvas: Canvas,
    report: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """(B, h, w, 3) through a network that enlarges by the canvas's factor, on the host: (B, h * factor, w * factor, 3).

    Args:
        network: compiled; maps tiles (N, t, t, 3), N always the same, to tiles (N, t * factor, t * factor, 3).
        report: called as `report(tiles done, tiles in all)` a few times.
    """
    tiles, devices = tiling.gather(rgb, canvas.tiles), canvas.mesh.size if canvas.mesh else 1
    pieces = [(devices * first, devices * last) for first, last in _pieces(-(-len(tiles) // devices), _MAX_REPORTS)]
    made = []
    for first, last in pieces:
        filled_up = np.minimum(np.arange(first, first + pieces[0][1]), len(tiles) - 1)
        made.append(np.asarray(network(tiles[filled_up])))
        if report is not None:
            report(min(last, len(tiles)), len(tiles))
    return tiling.merge(np.concatenate(made)[: len(tiles)], canvas.pixels)


def map_tiles(function: Callable[[Any], Any], tiles: Any, canvas: Canvas) -> Any:
    """`function` over the first axis of a tree, a few entries a call, all calls of one shape.

    Each device of the canvas has its share of the entries.
    """
    count = len(jax.tree.leaves(tiles)[0])
    at_once = canvas.in_a_call(count)
    if canvas.mesh is None:
        return _map_calls(function, tiles, at_once)
    axis, filled_up = PartitionSpec(*canvas.mesh.axis_names), _filled_up(count, canvas.mesh.size)
    mapped = jax.shard_map(
        lambda share: _map_calls(function, share, at_once), mesh=canvas.mesh, in_specs=axis, out_specs=axis
    )(jax.tree.map(lambda x: x[filled_up], tiles))
    return jax.tree.map(lambda x: x[:count], mapped)


def _map_calls(function: Callable[[Any], Any], tiles: Any, at_once: int) -> Any:
    count = len(jax.tree.leaves(tiles)[0])
    if count <= at_once:
        return function(tiles)
    index = jnp.asarray(_filled_up(count, at_once).reshape(-1, at_once))
    mapped = jax.lax.map(lambda i: function(jax.tree.map(lambda x: x[i], tiles)), index)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], mapped)


def _filled_up(count: int, unit: int) -> np.ndarray:
    """Indices of `count` entries, the last repeated up to a multiple of `unit`."""
    return np.minimum(np.arange(-(-count // unit) * unit), count - 1)


def _merge(tiles: jax.Array, grid: tiling.Grid, canvas: Canvas) -> jax.Array:
    """The plane of tiles, whole on every device: what follows is little work, and always laid out the same."""
    if canvas.mesh is not None:
        tiles = jax.lax.with_sharding_constraint(tiles, NamedSharding(canvas.mesh, PartitionSpec()))
    return tiling.merge(tiles, grid)


def _pieces(count: int, most: int) -> list[tuple[int, int]]:
    """Divide `count` steps or tiles into at most `most` runs of consecutive ones: (first, last) of each."""
    size = -(-count // most)
    return [(first, min(first + size, count)) for first in range(0, count, size)]
