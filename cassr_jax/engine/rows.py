"""Runs the networks of a cascade on whole pictures, without tiles: the devices share the rows of one at a time.

Every position of a picture sees all of it, as far as a network looks, so nothing is blended. The compiler divides the
networks: convolutions exchange their edge rows, normalisations sum over all rows, and attention gathers the keys and
values of all rows. A picture is extended to a size that divides evenly, and the networks are compiled for each such
size.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from cassr_jax.engine.engine import Counter, Engine, Previews, Report, Stage, keys_of_fresh, normal
from cassr_jax.engine.kept import Call
from cassr_jax.engine.layout import SMALLEST, Axis, Sharing, extended
from cassr_jax.engine.programs import Order, Programs, State
from cassr_jax.models.division import divided, named
from cassr_jax.models.parameters import Params
from cassr_jax.networks import Networks
from cassr_jax.sampling import Fresh, Setting
from cassr_jax.sharding.mesh import make_mesh
from cassr_jax.sharding.placement import Placement
from cassr_jax.sharding.strategies import STRATEGIES, MeshConfig, Strategy
from cassr_jax.typing import Device

T = TypeVar("T")

ROWS = "spatial"  # the axis of the mesh
_STEP = 8  # px; the sides of pictures that a network enlarges are multiples of it, so that fewer sizes are compiled

_ALONE = Order(np.int32(1), np.int32(1))  # a wave of one tile, in one call
_EVERY = Axis(*np.zeros((3, 1, 1, 1), np.int32))
_UNSHARED = Sharing(_EVERY, _EVERY, *np.zeros((2, 1), np.int32))


def mesh_of_rows(devices: Sequence[Device]) -> Mesh:
    """The devices that share the rows of a picture; each holds all weights."""
    return make_mesh(MeshConfig(data=1, spatial=len(devices)), devices)


class RowPrograms(Programs):
    """The compiled functions of some networks for one picture at a time, whose rows all devices share.

    Args:
        mesh: see `mesh_of_rows`.
    """

    def __init__(self, networks: Networks, mesh: Mesh, at_once: int = 1):
        super().__init__(networks, mesh, at_once, keep=False)  # one fits one size alone, which seldom comes twice
        self._placement = Placement(mesh, Strategy(activations=STRATEGIES[ROWS].activations))

    @property
    def devices(self) -> int:
        return self.mesh.shape[ROWS]

    def divided(self, tree: PyTree[Array | np.ndarray]) -> PyTree[Array]:
        """Puts the arrays of a tree on the devices, divided by their rows; others lie whole on each."""
        return jax.device_put(tree, jax.tree.map(self._lying, tree))

    def _lying(self, x: Array | np.ndarray) -> NamedSharding:
        """Where an array (..., rows, columns, channels) lies."""
        shared = x.ndim >= 4 and x.shape[-3] % self.devices == 0
        spec = PartitionSpec(*[None] * (x.ndim - 3), ROWS) if shared else PartitionSpec()
        return NamedSharding(self.mesh, spec)

    def _module(self, kind: str, params: Params) -> Any:
        return named(super()._module(kind, params), kind)

    def _compiled(
        self,
        key: tuple[str, *tuple[Hashable, ...]],
        function: Callable[..., T],
        arguments: str,
        *,
        result: str = "t",
        donate: tuple[int, ...] = (),
    ) -> Callable[..., T]:
        """`function` as the compiler divides it, compiled once for each key and set of argument shapes."""
        if key not in self._functions:

            def laid_out(tree: PyTree[Array]) -> PyTree[Array]:
                return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, self._lying(x)), tree)

            def traced(*args: Any) -> T:
                with divided(self._placement.division):
                    return laid_out(function(*args))

            self._functions[key] = self.wrapped(key, jax.jit(traced, donate_argnums=donate), Call([], donate))
        return self._functions[key]


class RowEngine(Engine):
    """The networks of a cascade on devices that share the rows of one picture at a time."""

    programs: RowPrograms

    def __init__(self, programs: RowPrograms):
        super().__init__(programs, overlap=0.0)

    def tiles(self, size: tuple[int, ...], tile: int) -> int:
        """A picture is never cut."""
        return 1

    def diffuse(
        self,
        stage: Stage,
        images: tuple[Sequence[np.ndarray], ...],
        tile: int,
        report: Report | None = None,
        previews: Previews | None = None,
    ) -> list[np.ndarray]:
        """Runs a stage on pictures; `tile` does not matter. See `Engine.diffuse`."""
        steps = len(stage.course.trajectory.timesteps)
        counter = Counter(len(images[0]) * (2 + steps), report)
        pictures = enumerate(zip(*images, strict=True))
        return [self._diffused(stage, each, counter, previews, number) for number, each in pictures]

    def _diffused(
        self, stage: Stage, images: tuple[np.ndarray, ...], counter: Counter, previews: Previews | None, number: int
    ) -> np.ndarray:
        programs, factor = self.programs, self._configs["vae"].factor
        height, width = images[0].shape[:2]
        rows, columns = self._size(height, width)
        pixels = tuple(programs.divided(extended(image, rows, columns)[None]) for image in images)
        setting, run = Setting.of(stage.sampling), self.run_of(stage)

        shape = (1, rows // factor, columns // factor, self.latent_channels)
        noise = normal(stage.noise_key, math.prod(shape)).reshape(shape)
        nothing = np.zeros_like(noise)
        latents = programs.divided(nothing) if stage.start is None else programs.encode(pixels[stage.start])
        hints = programs.hints(stage.make_denoiser, stage.read(pixels))
        shared = programs.everywhere(_UNSHARED)
        carry = programs.begin(latents, programs.divided(noise), shared, run.course.trajectory, _ALONE)
        state = State(carry, programs.divided(nothing), hints, shared)
        if setting.sampler.noisy:
            corner = np.zeros(1, np.int32)
            state = state._replace(fresh=programs.everywhere(Fresh(keys_of_fresh(stage, 1), corner, corner)))
        state = state._replace(kept=programs.nothing_kept(stage.make_denoiser, run, state, setting))
        counter.add(1, state)

        steps = len(stage.course.trajectory.timesteps)
        stops = {} if previews is None else previews.stops(steps, 1)
        for first, last in counter.pieces(steps, stops):
            state = programs.denoise(stage.make_denoiser, run, state, _ALONE, first, last, setting)
            counter.add(last - first, state.carry)
            if previews is not None and last in stops:
                plain = replace(stage, decoder=previews.decoder, fusion=None)
                previews.show(number, stops[last], self._decoded(plain, state.carry.x0, pixels, height, width))
        made = self._decoded(stage, state.carry.latents, pixels, height, width)
        counter.add(1, made)
        return made

    def _decoded(
        self, stage: Stage, latents: jax.Array, pixels: tuple[jax.Array, ...], height: int, width: int
    ) -> np.ndarray:
        """The decoded picture without its extension, (height, width, 3) float32."""
        guides = pixels if stage.fusion is not None else ()
        fidelity = np.float32(stage.fidelity)
        made, _ = self.programs.decode(latents, guides, fidelity, None, stage.fusion, stage.decoder)
        return np.asarray(made)[0, :height, :width]

    def enlarge(
        self, kind: str, pictures: Sequence[np.ndarray], tile: int, report: Report | None = None
    ) -> list[np.ndarray]:
        """Enlarges pictures with a network; `tile` does not matter. See `Engine.enlarge`."""
        scale, unit = self._configs[kind].scale, math.lcm(_STEP, self.programs.devices)
        counter = Counter(len(pictures), report)
        found = []
        for picture in pictures:
            height, width = picture.shape[:2]
            whole = extended(picture, _rounded(height, unit), _rounded(width, _STEP))
            made = self.programs.enlarge(kind, self.programs.divided(whole[None]))
            counter.add(1, made)
            found.append(np.asarray(made)[0, : scale * height, : scale * width])
        return found

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """The size of a picture that is extended until each device has as many rows as the others at every level."""
        least = SMALLEST * self._unit
        return (
            _rounded(max(height, least), self._unit * self.programs.devices),
            _rounded(max(width, least), self._unit),
        )


def _rounded(side: int, unit: int) -> int:
    return -(-side // unit) * unit
