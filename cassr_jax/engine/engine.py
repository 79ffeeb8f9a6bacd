"""Runs the networks of a cascade on pictures of any size, whose tiles fill the devices together.

Pictures whose tiles have the same size go through a stage as a wave. The host cuts a wave, one call's tiles at a time,
and blends the decoded tiles. The devices hold the networks, the latents, and what the denoiser has computed from the
images. No picture's result depends on the others.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from cassr_jax.config import SamplingConfig
from cassr_jax.engine.layout import (
    ENOUGH,
    Layout,
    Places,
    TileSize,
    halved,
    layout,
    origins,
    sharing,
    tile_sizes,
    view,
    view_of_pixels,
    whole_tile,
)
from cassr_jax.engine.programs import Programs, Run, State
from cassr_jax.engine.recent import Recent
from cassr_jax.engine.waves import Blend, Wave, in_calls, waves
from cassr_jax.errors import InputError
from cassr_jax.models.denoisers import MakeDenoiser
from cassr_jax.models.moments import Moments
from cassr_jax.sampling import Course, Fresh, Setting, key_of_fresh
from cassr_jax.typing import Keys

_LEAST_NOISE = 2**16  # values drawn at least; a larger picture draws 4, 16, ... times as many
_RUNS = 4  # runs whose embeddings are kept, up to 59 MB each at SD-1.5's size: both stages' of two prompts
_LONGER = 2  # how many times as long as a stage's tile one of a network that enlarges may be
_MOST_REPORTS = 20  # progress reports of a sampling loop; each one waits for the devices

Report = Callable[[int, int], None]
"""A progress function, called as report(calls done, calls in all); a call runs a network on all devices."""

T = TypeVar("T")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Stage:
    """A diffusion stage and its settings.

    Attributes:
        make_denoiser: builds the denoiser. A stage must always pass the same function, which is a key of the compiled
            programs.
        sampling: how the stage is sampled.
        course: the run of `sampling` on the cascade's schedule.
        encoder_hidden_states: (2, L, C), the embeddings of the negative prompt and the prompt.
        start: index of the image whose latents the noise is mixed into; None for noise alone.
        noise_key: the random key of the noise.
        reads: indices of the images that the denoiser reads, in its order; the others are for the start or the fusion.
        fusion: the kind of network that guides the decoder; None for the plain decoder.
        fidelity: how much the images count, for the denoiser and for a fusion, 0 to 1.
        decoder: the kind of autoencoder that decodes the result: vae, or taesd, which takes no fusion.
    """

    make_denoiser: MakeDenoiser
    sampling: SamplingConfig
    course: Course
    encoder_hidden_states: jax.Array
    start: int | None
    noise_key: jax.Array
    reads: tuple[int, ...] = (0,)
    fusion: str | None = None
    fidelity: float = 1.0
    decoder: str = "vae"

    def read(self, images: tuple[T, ...]) -> tuple[T, ...]:
        """Those of all images that the denoiser reads."""
        return tuple(images[index] for index in self.reads)

    def calls_of_views(self, wave: Wave) -> list[list[int | None]]:
        """The decoder's calls on views of whole pictures, from which it takes the moments of its normalisations."""
        return wave.calls_of_views if self.decoder == "vae" else []  # the others have no normalisation


@dataclass(frozen=True)
class Previews:
    """Pictures of what a sampling loop expects to end at, the latest predictions of x_0, while it runs.

    Attributes:
        every: steps from one preview to the next.
        decoder: the kind of autoencoder that decodes them, plainly.
        show: called as show(picture, steps taken, preview) with a picture's number in the caller's list and its preview
            (H, W, 3) float32, about [-1, 1], not clipped.
    """

    every: int
    decoder: str
    show: Callable[[int, int, np.ndarray], None]

    def stops(self, steps: int, calls: int) -> dict[int, int]:
        """The steps after which there are previews, by the calls done by then; `calls` make one step."""
        return {step * calls: step for step in range(self.every, steps + 1, self.every)}


class Engine:
    """The networks of a cascade on their devices.

    Args:
        programs: the functions of these networks, and the devices that share the tiles.
        overlap: share of a tile's side that neighbours have in common.
    """

    def __init__(self, programs: Programs, *, overlap: float):
        self.programs, self._overlap = programs, overlap
        self._runs: Recent[tuple[MakeDenoiser, SamplingConfig, float], Run] = Recent(_RUNS)
        self._configs = programs.networks.configs
        self._seating = (programs.mesh.size, programs.at_once)

    @property
    def latent_channels(self) -> int:
        return self._configs["vae"].latent_channels

    @property
    def _unit(self) -> int:
        """The pixels of one of the U-Net's coarsest positions."""
        return self._configs["vae"].factor * 2 ** (len(self._configs["unet"].block_out_channels) - 1)

    def tiles(self, size: tuple[int, ...], tile: int) -> int:
        """The number of tiles of a picture of size (H, W); see `layout`."""
        return self.layout(size, tile).count

    def diffuse(
        self,
        stage: Stage,
        images: tuple[Sequence[np.ndarray], ...],
        tile: int,
        report: Report | None = None,
        previews: Previews | None = None,
    ) -> list[np.ndarray]:
        """Runs a stage on pictures; gives (H, W, 3) float32 for each, about [-1, 1], not clipped.

        Args:
            images: the stage's images; each is a sequence over the pictures, (H, W, 3), all of uint8 or all of
                uint16.
            tile: largest side of a tile in px.
        """
        layouts = [self.layout(picture.shape[:2], tile) for picture in images[0]]
        all_waves = waves(layouts, *self._seating)
        steps = len(stage.course.trajectory.timesteps)
        calls = sum(
            wave.seats.calls * (1 + steps) + len(wave.calls_of_decoder) + len(stage.calls_of_views(wave))
            for wave in all_waves
        )
        counter = Counter(calls, report)
        made: dict[int, np.ndarray] = {}
        for wave in all_waves:
            own = tuple([image[number] for number in wave.numbers] for image in images)
            made |= zip(wave.numbers, Passage(self, stage, wave, own, counter, previews).made(), strict=True)
        return [made[number] for number in range(len(layouts))]

    def enlarge(
        self, kind: str, pictures: Sequence[np.ndarray], tile: int, report: Report | None = None
    ) -> list[np.ndarray]:
        """Enlarges pictures (h, w, 3) with a network; gives (h scale, w scale, 3) float32 in [-1, 1] for each.

        Args:
            tile: largest side of a stage's tiles in px of the output. Here it may be `_LONGER` times as long: these
                networks need less memory, and repeat less work where tiles overlap.
        """
        scale = self._configs[kind].scale
        side = max(tile // scale // 8, 2) * 8
        smaller = halved(side, 8, 8, ENOUGH // scale)
        sizes = (*(TileSize(each, scale, 1) for each in smaller), TileSize(_LONGER * side, scale, 2))
        layouts = [layout(scale * len(lr), scale * lr.shape[1], sizes, scale, 0.25) for lr in pictures]
        all_waves = waves(layouts, *self._seating)
        all_calls = [in_calls(range(wave.seats.count), wave.seats.width) for wave in all_waves]
        counter = Counter(sum(map(len, all_calls)), report)
        made: dict[int, np.ndarray] = {}
        for wave, calls in zip(all_waves, all_calls, strict=True):
            cut = partial(wave.cut_source, [pictures[number] for number in wave.numbers])

            def call(
                numbers: list[int | None], cut: Callable[[int], np.ndarray] = cut, side: int = wave.size.side
            ) -> jax.Array:
                return self.programs.enlarge(kind, self.put(numbers, cut, side))

            made |= zip(wave.numbers, self.blended(wave, calls, call, counter), strict=True)
        return [made[number] for number in range(len(layouts))]

    def blended(
        self,
        wave: Wave,
        calls: Sequence[list[int | None]],
        make: Callable[[list[int | None]], jax.Array],
        counter: "Counter",
    ) -> list[np.ndarray]:
        """Blends the pictures of a wave, (H, W, 3) float32 each, from the tiles that `make` computes call by call.

        The devices compute the tiles of the next call while those of the last are copied to the host.
        """
        tiles, blends = wave.tiles, [Blend(each) for each in wave.layouts]
        for numbers, found in _started_early(calls, make):
            counter.add(1, found)
            for number, tile in zip(numbers, np.asarray(found), strict=True):
                if number is not None:
                    picture, which = tiles[number]
                    blends[picture].add(which, tile)
        return [blend.picture for blend in blends]

    def layout(self, size: tuple[int, ...], tile: int) -> Layout:
        """The layout of a picture of size (H, W) in tiles of at most `tile` px a side.

        Raises:
            InputError: the tile is smaller than one of the U-Net's coarsest positions.
        """
        factor, unit = self._configs["vae"].factor, self._unit
        if tile < unit:
            raise InputError(f"tile is {tile} px, expected at least {unit}")
        return layout(size[0], size[1], tile_sizes(tile, unit, factor, self._overlap), unit, self._overlap)

    def put(self, tiles: Sequence[int | None], cut: Callable[[int], np.ndarray], side: int) -> jax.Array:
        """Puts one call's tiles on the devices: (devices x at_once, side, side, 3), black in empty places."""
        found = {place: cut(tile) for place, tile in enumerate(tiles) if tile is not None}
        pixels = np.zeros((len(tiles), side, side, 3), next(iter(found.values())).dtype)
        for place, own in found.items():
            pixels[place] = own
        return self.programs.divided(pixels)

    def run_of(self, stage: Stage) -> Run:
        """What all pictures of a stage share, on the devices; computed once for each denoiser and setting."""

        def run() -> Run:
            course = self.programs.everywhere(stage.course._replace(fidelity=np.float32(stage.fidelity)))
            setting = Setting.of(stage.sampling)
            embeddings = self.programs.embed(
                stage.make_denoiser, stage.encoder_hidden_states, course.trajectory, setting
            )
            return Run(embeddings, course)

        return self._runs.get((stage.make_denoiser, stage.sampling, stage.fidelity), run)


@dataclass(frozen=True)
class Passage:
    """The passage of one wave through a stage: `read`, then `denoise`, then `decode`.

    Attributes:
        images: the stage's images; each is a sequence over the wave's pictures, (H, W, 3).
    """

    engine: Engine
    stage: Stage
    wave: Wave
    images: tuple[Sequence[np.ndarray], ...]
    counter: "Counter"
    previews: Previews | None = None

    @property
    def setting(self) -> Setting:
        """The stage's setting; features of the ControlNet are kept where the embeddings of the images are."""
        setting = Setting.of(self.stage.sampling)
        return setting if self.wave.seats.keeps_hints else replace(setting, keeps_control=False)

    def made(self) -> list[np.ndarray]:
        """The pictures, (H, W, 3) float32 each."""
        return self.decode(self.denoise(self.read()))

    def read(self) -> State:
        """The state before the first step, for which the networks have read every tile."""
        programs, stage, seats = self.engine.programs, self.stage, self.wave.seats
        tiles: dict[str, PyTree[Array]] = {}
        for call in range(seats.calls):
            images = self._put(seats.of_call(call))
            read = stage.read(images)
            made = {"hints": programs.hints(stage.make_denoiser, read) if seats.keeps_hints else read}
            if stage.start is not None:
                made["latents"] = programs.encode(images[stage.start])
            tiles = programs.put(tiles or programs.places(made, seats.capacity), made, call)
            self.counter.add(1, made)
        noise = self.wave.cut_latents(partial(normal, stage.noise_key), self.engine.latent_channels)
        latents = tiles["latents"] if "latents" in tiles else programs.divided(np.zeros_like(noise))
        shared = programs.divided(jax.tree.map(seats.placed, sharing(self.wave.layouts)))
        run = self.engine.run_of(stage)
        carry = programs.begin(latents, programs.divided(noise), shared, run.course.trajectory, seats.order)
        state = State(carry, programs.divided(np.zeros_like(noise)), tiles["hints"], shared)
        if self.setting.sampler.noisy:
            top, left = programs.divided([seats.placed(each) for each in origins(self.wave.layouts)])
            state = state._replace(fresh=Fresh(programs.divided(keys_of_fresh(stage, len(noise))), top, left))
        return state._replace(kept=programs.nothing_kept(stage.make_denoiser, run, state, self.setting))

    def denoise(self, state: State) -> jax.Array:
        """Runs the sampling loop; returns the latents of all tiles."""
        stage, seats, run = self.stage, self.wave.seats, self.engine.run_of(self.stage)
        steps = len(stage.course.trajectory.timesteps)
        stops = {} if self.previews is None else self.previews.stops(steps, seats.calls)
        for first, last in self.counter.pieces(seats.calls * steps, stops):
            state = self.engine.programs.denoise(
                stage.make_denoiser, run, state, seats.order, first, last, self.setting, seats.keeps_hints
            )
            self.counter.add(last - first, state.carry)
            if self.previews is not None and last in stops:
                self._preview(self.previews, stops[last], state.carry.x0)
        return state.carry.latents

    def _preview(self, previews: Previews, step: int, x0: jax.Array) -> None:
        plain = replace(self.stage, decoder=previews.decoder, fusion=None)
        made = replace(self, stage=plain, counter=Counter(0, None)).decode(x0)
        for number, picture in zip(self.wave.numbers, made, strict=True):
            previews.show(number, step, picture)

    def decode(self, latents: jax.Array) -> list[np.ndarray]:
        """The decoded pictures, (H, W, 3) float32 each, about [-1, 1], not clipped.

        A picture of one tile is normalised by its own moments, as in training. The tiles of a larger picture use the
        moments of a view of the whole, so that neighbours fit. The encoder and the denoiser always use each tile's own
        moments. With those of a view, a photograph in small tiles came closer to the same photograph in one tile, but a
        plain ramp moved further away.
        """
        wave, width = self.wave, self.wave.seats.width
        moments = self._moments(latents)

        def call(numbers: list[int | None]) -> jax.Array:
            places = [None if number is None else whole_tile(number, wave.size.side) for number in numbers]
            images = () if self.stage.fusion is None else self._put(numbers)
            known = [moments[picture] for picture in wave.pictures_of(numbers) if picture in moments]
            given = None
            if known:  # either all of a call's tiles have moments or none; empty places repeat the first
                known += [known[0]] * (width - len(known))
                given = self.engine.programs.divided(jax.tree.map(lambda *each: np.stack(each), *known))
            return self._decoded(latents, places, images, given)[0]

        return self.engine.blended(wave, wave.calls_of_decoder, call, self.counter)

    def _moments(self, latents: jax.Array) -> dict[int, list[Moments]]:
        """The moments of the decoder's normalisations on a view of each picture of several tiles, by picture."""
        wave, found = self.wave, {}
        for chosen in self.stage.calls_of_views(wave):
            places = [None if p is None else view(wave.layouts[p], wave.first_tile(p)) for p in chosen]
            images = ()
            if self.stage.fusion is not None:
                images = tuple(
                    self.engine.put(
                        chosen, lambda p, own=own: view_of_pixels(wave.layouts[p], own[p]), wave.size.pixels
                    )
                    for own in self.images
                )
            measured = self._decoded(latents, places, images, None)[1]
            self.counter.add(1, measured)
            made = jax.device_get(measured)
            for place, picture in enumerate(chosen):
                if picture is not None:
                    found[picture] = jax.tree.map(lambda x, place=place: x[place], made)
        return found

    def _decoded(
        self,
        latents: jax.Array,
        places: list[Places | None],
        images: tuple[jax.Array, ...],
        given: list[Moments] | None,
    ) -> tuple[jax.Array, list[Moments]]:
        nowhere = whole_tile(0, self.wave.size.side)
        stacked = Places(*map(np.stack, zip(*(nowhere if p is None else p for p in places), strict=True)))
        taken = self.engine.programs.take(latents, stacked, self.wave.seats.order)
        fidelity = np.float32(self.stage.fidelity)
        return self.engine.programs.decode(taken, images, fidelity, given, self.stage.fusion, self.stage.decoder)

    def _put(self, numbers: Sequence[int | None]) -> tuple[jax.Array, ...]:
        """Puts one call's tiles of all images on the devices."""
        return tuple(
            self.engine.put(numbers, partial(self.wave.cut, own), self.wave.size.pixels) for own in self.images
        )


class Counter:
    """Counts calls of networks and reports them, if a report is wanted."""

    def __init__(self, total: int, report: Report | None):
        self.report, self._total, self._done = report, total, 0

    def pieces(self, calls: int, stops: Iterable[int] = ()) -> list[tuple[int, int]]:
        """Divides calls into as few runs as reports and stops need, from the first up to the last: (first, last) each.

        Args:
            stops: numbers of calls, each of which ends a run.
        """
        reported = _pieces(calls, 1 if self.report is None else _MOST_REPORTS)
        return list(pairwise(sorted({0, *stops, *(last for _, last in reported)})))

    def add(self, calls: int, made: PyTree[Array]) -> None:
        """Count some calls; a report waits until their results are there."""
        self._done += calls
        if self.report is not None:
            jax.block_until_ready(made)
            self.report(self._done, self._total)


def _started_early(calls: Iterable[T], make: Callable[[T], Made]) -> Iterator[tuple[T, Made]]:
    """Pairs of a call and its result `make(call)`; the next call is always started before a pair is handed out."""
    waiting: tuple[T, Made] | None = None
    for call in calls:
        coming = (call, make(call))
        if waiting is not None:
            yield waiting
        waiting = coming
    if waiting is not None:
        yield waiting


def keys_of_fresh(stage: Stage, count: int) -> Keys:
    """The key of a stage's fresh noise, once for each of `count` tiles."""
    return jnp.broadcast_to(key_of_fresh(stage.noise_key), count)


def normal(key: jax.Array, count: int) -> np.ndarray:
    """The first values (count,) float32 of one endless sequence; only few lengths are drawn, so few are compiled."""
    drawn = _LEAST_NOISE
    while drawn < count:
        drawn *= 4
    return np.asarray(_draw(key, drawn))[:count]


@partial(jax.jit, static_argnames="count")
def _draw(key: jax.Array, count: int) -> jax.Array:
    return jax.random.normal(key, (count,), jnp.float32)


def _pieces(steps: int, most: int) -> list[tuple[int, int]]:
    """Divide `steps` into at most `most` runs of consecutive steps: (first, last) of each."""
    size = -(-steps // most)
    return [(first, min(first + size, steps)) for first in range(0, steps, size)]
