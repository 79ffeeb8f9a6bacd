"""The compiled functions of the engine: tiles have a fixed size, and their numbers and places are data.

A wave has a fixed number of places for tiles, divided evenly among the devices (`State`). A call of a network always
takes `at_once` tiles on each device. The number of calls is data too, and networks are never called for empty places
alone. So a function is compiled once for each size of tile, and the sampling loop also for each number of places, of
which there are few.
"""

from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.stages import Wrapped
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Float32, PyTree

from cassr_jax.diffusion.trajectory import (
    Carry,
    Coefficients,
    CorrectedCoefficients,
    NoisyCoefficients,
    Trajectory,
    begin,
    start_latents,
    take_step,
)
from cassr_jax.engine.kept import Call, Store, register
from cassr_jax.engine.layout import Axis, Places, Sharing
from cassr_jax.imaging.pixels import to_float
from cassr_jax.models.controlnet import ControlNetOutput
from cassr_jax.models.denoisers import MakeDenoiser, TextPair, TimePair
from cassr_jax.models.guided_decoder import decode_guided
from cassr_jax.models.moments import Moments, given, recorded
from cassr_jax.models.parameters import Params, merge, select
from cassr_jax.models.unet import TextKeyValues
from cassr_jax.networks import Networks
from cassr_jax.sampling import Course, Embeddings, Fresh, Setting, embed, fresh_noise, nothing_kept, predict
from cassr_jax.typing import Latents, Modules, Pixels, PromptIds, PromptPair, Scalar, Step

T = TypeVar("T")

TILES = "tiles"  # the axis of the mesh
TURN = "turn_of_step"  # the scope of the condition on a unit, by which a plan finds it in the compiled program
_EVERYWHERE, _DIVIDED = PartitionSpec(), PartitionSpec(TILES)

Taken = Float[Array, "call side side latent_channels"]  # the tiles of one call
Made = Float32[Array, "batch _ _ 3"]  # pictures of tiles

LoopState = tuple[Carry, Latents, PyTree[Array]]  # a carry, the output for the coming step, and what is kept


class State(NamedTuple):
    """A wave of N tiles of one size during sampling: arrays (N, ...) divided among the devices.

    Attributes:
        carry: the sampler's state. Every tile has its own copy of the latents that it shares.
        output: the network's predictions for the current step, as far as they are computed.
        hints: the denoiser's embeddings of the images; or, if there are so many tiles that every call embeds its own
            anew, the images themselves, (N, H, W, 3) each.
        sharing: the tiles whose mean gives the prediction at each position.
        kept: what the denoiser keeps from step to step, (calls, ...) on each device; None for nothing.
        fresh: what decides the fresh noise of every step; None if the sampler takes none.
    """

    carry: Carry
    output: Latents
    hints: PyTree[Array]
    sharing: Sharing
    kept: PyTree[Array] = None
    fresh: Fresh | None = None


class Run(NamedTuple):
    """What all tiles of a run share."""

    embeddings: Embeddings
    course: Course


class Order(NamedTuple):
    """How the tiles of a wave are divided among the devices: int32 each.

    Attributes:
        share: the number of tiles for each device; the first `share` tiles are the first device's.
        calls: the number of calls in which a network gets through a device's share.
    """

    share: ArrayLike
    calls: ArrayLike


register(
    *(Axis, Carry, ControlNetOutput, Coefficients, CorrectedCoefficients, Course, Embeddings, Fresh, Moments),
    *(NoisyCoefficients, Order, Places, Run, Sharing, TextKeyValues, TextPair, TimePair, Trajectory),
)


class Programs:
    """The compiled functions of some networks, on the devices of a mesh with one axis.

    Args:
        networks: the networks; a copy of all parameters is put on every device.
        mesh: the devices.
        at_once: tiles on each device in one call of a network.
        keep: whether compiled programs are kept on disk for later runs, where `Store.of` has a place for them.
    """

    def __init__(self, networks: Networks, mesh: Mesh, at_once: int, *, keep: bool = True):
        self.mesh, self.at_once = mesh, at_once
        self.networks = replace(networks, params=self.everywhere(networks.params))
        self._graphdefs, self._params = networks.graphdefs, self.networks.params
        self._store = Store.of(mesh, (networks.configs, networks.dtypes, at_once)) if keep else None
        self._selected: dict[str, Params] = {}
        self._functions: dict[tuple[str, *tuple[Hashable, ...]], Callable[..., Any]] = {}

    def count(self) -> dict[str, int]:
        """The number of programs compiled so far, by function."""
        found: dict[str, int] = {}
        for (name, *_), function in self._functions.items():
            found[name] = found.get(name, 0) + function._cache_size()
        return found

    def divided(self, tree: PyTree[Array | np.ndarray]) -> PyTree[Array]:
        """Puts the arrays of a tree on the devices, divided along their first axis."""
        return jax.device_put(tree, NamedSharding(self.mesh, _DIVIDED))

    def everywhere(self, tree: PyTree[ArrayLike]) -> PyTree[Array]:
        """Puts a copy of the arrays of a tree on every device."""
        return jax.device_put(tree, NamedSharding(self.mesh, _EVERYWHERE))

    def encode_text(self, ids: PromptIds) -> PromptPair:
        """Embeds prompts: (prompts, tokens) int32 -> (prompts, tokens, channels)."""

        def run(params: Params, ids: PromptIds) -> PromptPair:
            return self._module("text_encoder", params)(ids)

        return self._compiled(("encode_text",), run, "..", result=".")(self._of("text_encoder"), ids)

    def embed(
        self, make: MakeDenoiser, encoder_hidden_states: PromptPair, trajectory: Trajectory, setting: Setting
    ) -> Embeddings:
        """Computes the embeddings that all steps and tiles share."""

        def run(params: Params, states: PromptPair, trajectory: Trajectory) -> Embeddings:
            return embed(make(self._modules(params)), states, trajectory, self.at_once, setting)

        program = self._compiled(("embed", make, setting), run, "...", result=".")
        return program(self._params, encoder_hidden_states, trajectory)

    def encode(self, images: Pixels) -> Latents:
        """Encodes tiles: (devices x at_once, H, W, 3) -> latents (devices x at_once, h, w, C)."""

        def run(params: Params, images: Pixels) -> Latents:
            return self._module("vae", params).encode(to_float(images))

        return self._compiled(("encode",), run, ".t")(self._of("vae"), images)

    def hints(self, make: MakeDenoiser, images: tuple[Pixels, ...]) -> PyTree[Array]:
        """Computes the denoiser's embeddings of tiles of its images, (devices x at_once, H, W, 3) each."""

        def run(params: Params, images: tuple[Pixels, ...]) -> PyTree[Array]:
            return make(self._modules(params)).embed_images(*map(to_float, images))

        return self._compiled(("hints", make), run, ".t")(self._params, images)

    def places(self, made: PyTree[Array], capacity: int) -> PyTree[Array]:
        """Zeros in the places for the results of all calls, `capacity` on each device; `made` is one call's result."""
        count = capacity * self.mesh.size
        return self.divided(jax.tree.map(lambda x: np.zeros((count, *x.shape[1:]), x.dtype), made))

    def put(self, places: PyTree[Array], made: PyTree[Array], call: int) -> PyTree[Array]:
        """Writes the result of one call into `places`, which are donated."""

        def run(places: PyTree[Array], made: PyTree[Array], call: Step) -> PyTree[Array]:
            at = call * self.at_once
            return jax.tree.map(
                lambda many, few: jax.lax.dynamic_update_slice_in_dim(many, few, at, axis=0), places, made
            )

        return self._compiled(("put",), run, "tt.", donate=(0,))(places, made, np.int32(call))

    def begin(self, latents: Latents, noise: Latents, sharing: Sharing, trajectory: Trajectory, order: Order) -> Carry:
        """The sampler's state before the first step; `latents` and `noise` are donated."""

        def run(latents: Latents, noise: Latents, sharing: Sharing, trajectory: Trajectory, order: Order) -> Carry:
            return begin(start_latents(trajectory, _shared(latents, sharing, order), noise))

        return self._compiled(("begin",), run, "ttt..", donate=(0, 1))(latents, noise, sharing, trajectory, order)

    def denoise(
        self,
        make: MakeDenoiser,
        run: Run,
        state: State,
        order: Order,
        first: int,
        last: int,
        setting: Setting,
        embedded: bool = True,
    ) -> State:
        """Runs the units first <= i < last of the sampling loop; the state's carry and output are donated.

        Unit `step * order.calls + call` is one call of the network on every device; the last unit of a step takes the
        step.

        Args:
            embedded: whether the state's hints are embeddings, and not the images.
        """

        def loop(
            params: Params,
            state: LoopState,
            hints: PyTree[Array],
            sharing: Sharing,
            fresh: Fresh | None,
            run: Run,
            order: Order,
            first: Step,
            last: Step,
        ) -> LoopState:
            denoiser = make(self._modules(params))

            def step_taken(carry: Carry, output: Latents, step: Step) -> Carry:
                shared = _shared(output, sharing, order)
                noise = None if fresh is None else fresh_noise(fresh, step, carry.latents)
                return take_step(setting.sampler, run.course.trajectory, carry, shared, step, noise)

            def unit(i: Step, state: LoopState) -> LoopState:
                carry, output, all_kept = state
                step, call = i // order.calls, i % order.calls
                at = call * self.at_once
                cut = partial(jax.lax.dynamic_slice_in_dim, start_index=at, slice_size=self.at_once)
                tiles, their_hints = cut(carry.latents), jax.tree.map(cut, hints)
                if not embedded:
                    their_hints = denoiser.embed_images(*map(to_float, their_hints))
                kept = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, call, keepdims=False), all_kept)
                made, kept = predict(denoiser, run.embeddings, tiles, their_hints, step, run.course, setting, kept)
                all_kept = jax.tree.map(
                    lambda x, new: jax.lax.dynamic_update_index_in_dim(x, new, call, axis=0), all_kept, kept
                )
                output = jax.lax.dynamic_update_slice_in_dim(output, made, at, axis=0)
                done = call == order.calls - 1
                with jax.named_scope(TURN):
                    carry = jax.lax.cond(done, step_taken, lambda carry, *_: carry, carry, output, step)
                return carry, output, all_kept

            return jax.lax.fori_loop(first, last, unit, state)

        program = self._compiled(("denoise", make, setting, embedded), loop, ".tttt....", donate=(1,))
        loop_state = (state.carry, state.output, state.kept)
        numbers = self.everywhere((order, np.int32(first), np.int32(last)))
        carry, output, kept = program(self._params, loop_state, state.hints, state.sharing, state.fresh, run, *numbers)
        return state._replace(carry=carry, output=output, kept=kept)

    def nothing_kept(self, make: MakeDenoiser, run: Run, state: State, setting: Setting) -> PyTree[Array]:
        """Zeros for what the denoiser keeps from step to step, (devices x calls, ...); None for nothing."""
        if not setting.keeps_control:
            return None

        def zeros(params: Params, latents: Latents, hints: PyTree[Array], embeddings: Embeddings) -> PyTree[Array]:
            calls = len(latents) // self.at_once
            tiles, their_hints = jax.tree.map(lambda x: x[: self.at_once], (latents, hints))
            kept = nothing_kept(make(self._modules(params)), embeddings, tiles, their_hints, setting)
            return jax.tree.map(lambda x: jnp.zeros((calls, *x.shape), x.dtype), kept)

        program = self._compiled(("nothing_kept", make, setting), zeros, ".tt.")
        return program(self._params, state.carry.latents, state.hints, run.embeddings)

    def take(self, latents: Latents, places: Places, order: Order) -> Taken:
        """Picks the latents of a wave at some places: (devices x at_once, h, w, C)."""

        def run(latents: Latents, places: Places, order: Order) -> Taken:
            side = latents.shape[1]
            whole = jax.lax.all_gather(latents, TILES, tiled=True).reshape(-1, latents.shape[-1])
            return whole[(_index(places.tile, order, len(latents)) * side + places.row) * side + places.column]

        return self._compiled(("take",), run, "tt.")(latents, self.divided(places), order)

    def decode(
        self,
        latents: Latents,
        images: tuple[Pixels, ...],
        fidelity: ArrayLike,
        moments: list[Moments] | None,
        fusion: str | None,
        decoder: str,
    ) -> tuple[Made, list[Moments]]:
        """Decodes tiles: (devices x at_once, H, W, 3) float32, about [-1, 1], and their own moments if these were used.

        Args:
            latents: (devices x at_once, h, w, C).
            images: tiles of the stage's images for the fusion; empty without one.
            moments: the moments of a view of each tile's picture; None for the tiles' own.
            fusion: the kind of network that guides the decoder of the `vae`; None for the plain decoder.
            decoder: the kind of autoencoder that decodes.
        """

        def run(
            params: Params,
            latents: Latents,
            images: tuple[Pixels, ...],
            moments: list[Moments] | None,
            fidelity: Scalar,
        ) -> tuple[Made, list[Moments]]:
            guided_by = None if fusion is None else self._module(fusion, params)
            autoencoder, guides = self._module(decoder, params), tuple(map(to_float, images))
            with recorded() if moments is None else given(moments) as own:
                made = decode_guided(autoencoder, guided_by, latents, guides, fidelity).astype(jnp.float32)
            return made, own or []

        program = self._compiled(("decode", decoder, fusion, moments is None), run, ".ttt.")
        params = self._of(decoder) if fusion is None else self._of(decoder) | self._of(fusion)
        return program(params, latents, images, moments, fidelity)

    def enlarge(self, kind: str, images: Pixels) -> Made:
        """Enlarges tiles with a network: (devices x at_once, h, w, 3) -> float32 in [-1, 1]."""

        def run(params: Params, images: Pixels) -> Made:
            made = self._module(kind, params)(images.astype(jnp.float32) / 255)
            return jnp.clip(2 * made.astype(jnp.float32) - 1, -1, 1)

        return self._compiled(("enlarge", kind), run, ".t")(self._of(kind), images)

    def _module(self, kind: str, params: Params) -> Any:
        return merge(self._graphdefs[kind], select(params, kind))

    def _modules(self, params: Params) -> Modules:
        return {kind: self._module(kind, params) for kind in self._graphdefs}

    def _of(self, kind: str) -> Params:
        """The parameters of one network, under their full names."""
        if kind not in self._selected:
            prefix = f"{kind}."
            self._selected[kind] = {name: x for name, x in self._params.items() if name.startswith(prefix)}
        return self._selected[kind]

    def _compiled(
        self,
        key: tuple[str, *tuple[Hashable, ...]],
        function: Callable[..., T],
        arguments: str,
        *,
        result: str = "t",
        donate: tuple[int, ...] = (),
    ) -> Callable[..., T]:
        """`function` on every device, compiled once for each key and set of argument shapes, and kept by a store.

        Args:
            key: a name, and everything else that affects tracing.
            arguments: a character for each argument: t for tiles, divided among the devices, a point for a whole copy
                on every device.
            result: the same for the results.
            donate: the numbers of the donated arguments.
        """
        if key not in self._functions:
            axes = [TILES if letter == "t" else None for letter in arguments]
            mapped = jax.shard_map(
                function,
                mesh=self.mesh,
                in_specs=tuple(_EVERYWHERE if axis is None else _DIVIDED for axis in axes),
                out_specs=_DIVIDED if result == "t" else _EVERYWHERE,
                check_vma=False,  # the loop's state mixes divided arrays with whole copies
            )
            self._functions[key] = self.wrapped(key, jax.jit(mapped, donate_argnums=donate), Call(axes, donate))
        return self._functions[key]

    def wrapped(self, key: tuple[Hashable, ...], function: Wrapped, call: Call) -> Callable[..., Any]:
        """What runs the jitted `function`: the store's program if there is a store."""
        return function if self._store is None else self._store.wrapped(key, function, call)


def _index(number: ArrayLike, order: Order, capacity: int) -> jax.Array:
    """The places of tiles in the wave, by their numbers; each device has `capacity` places."""
    device, slot = jnp.divmod(number, order.share)
    return device * capacity + slot


def _shared(values: Latents, sharing: Sharing, order: Order) -> Latents:
    """The weighted mean of all tiles that share each position of this device's tiles, (N, side, side, C).

    The few tiles that cover a position are gathered in a fixed order, so the sum is the same on every device and beside
    any other pictures.
    """
    rows, columns = sharing.rows, sharing.columns
    covers = rows.tile.shape[-1]
    if covers == 1:
        return values
    side, capacity = values.shape[1], len(values)
    whole = jax.lax.all_gather(values, TILES, tiled=True).reshape(-1, values.shape[-1])
    first, across = (x[:, None, None] for x in (sharing.first, sharing.across))
    total = jnp.zeros_like(values)
    for k, m in product(range(covers), repeat=2):
        down, right = (axis.tile[..., i] for axis, i in ((rows, k), (columns, m)))
        number = first + down[:, :, None] * across + right[:, None, :]
        row, column = rows.offset[:, :, None, k], columns.offset[:, None, :, m]
        weight = rows.weight[:, :, None, k] * columns.weight[:, None, :, m]
        total += weight[..., None] * whole[(_index(number, order, capacity) * side + row) * side + column]
    return total
