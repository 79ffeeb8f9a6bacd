"""The public face: load a cascade, give it a picture.

cassr = cassr_jax.load("tiny")
sharp = cassr.upscale(image, seed=0)         # a PIL image or an array, whichever was given
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cassr_jax import sampling as stages
from cassr_jax.config import CascadeConfig, SamplingConfig, Start
from cassr_jax.diffusion.samplers import SAMPLERS, Carry, Trajectory
from cassr_jax.errors import InputError
from cassr_jax.imaging import io, tiling
from cassr_jax.imaging.color import COLOR_FIXES
from cassr_jax.imaging.pixels import to_float, to_uint8
from cassr_jax.models.denoisers import CasSRDenoiser, ControlNetDenoiser, Denoiser, SCEditDenoiser
from cassr_jax.models.parameters import Params, merge, select
from cassr_jax.networks import Networks, merge_all
from cassr_jax.prompts import prompt_ids
from cassr_jax.sampling import Canvas, Condition, Method
from cassr_jax.seeds import check_seed, seed_key

Progress = Callable[[str, int, int], None]
Stage = Literal["reference", "result"]

_MAX_REPORTS = 20  # of progress in one stage: each one waits for the device


@dataclass(frozen=True)
class Restoration:
    """What came of one picture; (H, W, 3) uint8 each.

    `bicubic` is the input enlarged, `reference` what the first stage made of it, `result` the second stage's picture,
    into which the reference enters by `reference_weight`.
    """

    bicubic: np.ndarray
    reference: np.ndarray
    result: np.ndarray


@dataclass(frozen=True)
class Options:
    """One call's settings; None keeps the cascade's own.

    Attributes:
        scale: output side over input side.
        seed: of the noise, 0 <= seed < 2**63: the same seed, the same pixels.
        steps, guidance_scale, sampler: of both stages.
        start, strength: of the second stage; see `SamplingConfig`.
        color_fix: adain, contrast, wavelet or none.
        reference_weight: share of the reference in the result, 0 to 1; the cascade's own is an RRDBNet's alone.
        tile: side of a tile in px of the output.
        progress: called as `progress(stage, steps done, steps in all)`, stage "reference" or "result", with the number
            of tiles where there are several.
    """

    scale: float = 4
    seed: int = 0
    steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    start: Start | None = None
    strength: float | None = None
    color_fix: str | None = None
    reference_weight: float | None = None
    tile: int | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        for name, choices in (("sampler", SAMPLERS), ("start", get_args(Start)), ("color_fix", COLOR_FIXES)):
            if getattr(self, name) not in (None, *choices):
                raise InputError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(choices)}")
        check_seed(self.seed)
        if self.strength is not None and not 0 < self.strength <= 1:
            raise InputError(f"strength is {self.strength}, expected more than 0 and at most 1")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"steps is {self.steps}, expected at least 1")

    def applied(self, sampling: SamplingConfig) -> SamplingConfig:
        """A stage's own settings with these in their place."""
        changes = {
            "num_steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "sampler": self.sampler,
            "start": self.start,
            "strength": self.strength,
        }
        return replace(sampling, **{name: value for name, value in changes.items() if value is not None})


class CasSR:
    """A loaded cascade; `cassr_jax.load` makes one.

    Args:
        config: how both stages are sampled.
        networks: what they are made of.
        tokenizer: folder or hub id of CLIP's tokenizer, where the text encoder is CLIP.
        devices: how many share the tiles of a picture; by default all accelerators of this process, or one CPU.

    Raises:
        InputError: there are fewer devices.
    """

    def __init__(
        self, config: CascadeConfig, networks: Networks, tokenizer: str | None = None, devices: int | None = None
    ):
        self.config = config
        self._mesh = _mesh(devices)
        if self._mesh is not None:
            everywhere = NamedSharding(self._mesh, PartitionSpec())
            networks = replace(networks, params=jax.device_put(networks.params, everywhere))
        self.networks = networks
        self._tokenizer = tokenizer
        self._texts: dict[tuple[str, str], jax.Array] = {}
        # Compiled once for what is static in a call: the canvas, and how it is sampled. Both stages share the encoder
        # and the decoder.
        graphdefs = networks.graphdefs
        self._start = jax.jit(partial(_start, graphdefs), static_argnames="canvas")
        self._decode = jax.jit(partial(_decode, graphdefs), static_argnames="canvas")
        self._condition, self._denoise = (
            {
                name: jax.jit(partial(function, graphdefs, denoiser), static_argnames=("canvas", "method"))
                for name, denoiser in (("reference", _activation(config)), ("result", _restoration(config)))
            }
            for function in (_condition, _denoise)
        )
        self._enlarge = jax.jit(partial(_enlarge, graphdefs), static_argnames="canvas")

    def upscale(self, image: Any, **options: Any) -> Any:
        """The picture restored and enlarged: a PIL image for a PIL image, an array for an array.

        Args:
            image: a PIL image of any mode, or a uint8 array (H, W), (H, W, 3) or (H, W, 4); alpha is enlarged and kept.
            options: see `Options`.
        """
        return io.upscale(image, lambda rgb: self.restore(rgb, **options).result)

    def reference(self, image: Any, **options: Any) -> Any:
        """The first stage alone: what `upscale` is guided by."""
        return io.upscale(image, lambda rgb: self._activate(rgb, Options(**options))[1])

    def restore(self, rgb: np.ndarray, **options: Any) -> Restoration:
        """Both stages on uint8 RGB (h, w, 3); see `Options`.

        Raises:
            InputError: an option out of range, a picture too large, or numbers that overflowed on the way.
        """
        chosen = Options(**options)
        weight = chosen.reference_weight
        if weight is None:
            weight = self.config.rrdbnet_weight if self.config.activation == "rrdbnet" else 0.0
        if not 0 <= weight <= 1:
            raise InputError(f"reference_weight is {weight}, expected 0 to 1")
        bicubic, reference = self._activate(rgb, chosen)
        sampling = chosen.applied(self.config.sampling)
        start = {"lr": bicubic, "reference": reference, "noise": None}[sampling.start]
        result = self._sample("result", sampling, (bicubic, reference), start, bicubic, chosen)
        if weight:
            result = to_uint8(weight * to_float(reference) + (1 - weight) * to_float(result))
        return Restoration(bicubic, reference, result)

    def _activate(self, rgb: np.ndarray, chosen: Options) -> tuple[np.ndarray, np.ndarray]:
        """(bicubic, reference) in uint8: the second stage was trained on images rounded to 8 bit."""
        size = io.output_size(rgb.shape[0], rgb.shape[1], chosen.scale)
        bicubic = io.bicubic(rgb, size)
        match self.config.activation:
            case "identity":
                return bicubic, bicubic
            case "rrdbnet":
                made = to_float(io.bicubic(self._run_rrdbnet(rgb, chosen), size))
                fix = COLOR_FIXES[chosen.color_fix or self.config.rrdbnet_color_fix]
                return bicubic, to_uint8(fix(made, to_float(bicubic)))
        sampling = replace(chosen, start=None, strength=None).applied(self.config.activation_sampling)
        start = None if sampling.start == "noise" else bicubic
        return bicubic, self._sample("reference", sampling, (bicubic,), start, bicubic, chosen)

    def _sample(
        self,
        stage: Stage,
        sampling: SamplingConfig,
        images: tuple[np.ndarray, ...],
        start: np.ndarray | None,
        bicubic: np.ndarray,
        chosen: Options,
    ) -> np.ndarray:
        """One diffusion stage on pictures of one size, (H, W, 3) uint8 in and out."""
        trajectory, method = stages.make_trajectory(self.config.schedule, sampling), stages.make_method(sampling)
        height, width = bicubic.shape[:2]
        canvas = self._canvas(height, width, chosen.tile)
        size = canvas.pixels.height, canvas.pixels.width
        params, scale = self.networks.params, np.float32(sampling.guidance_scale)
        key = jax.random.fold_in(seed_key(chosen.seed), stage == "result")

        carry = self._start(params, None if start is None else _to_canvas(start, size), key, trajectory, canvas=canvas)
        on_canvas = tuple(_to_canvas(image, size) for image in images)
        conditions = self._condition[stage](
            params, self._text(sampling), on_canvas, trajectory, canvas=canvas, method=method
        )
        for first, last in _pieces(sampling.num_steps, 1 if chosen.progress is None else _MAX_REPORTS):
            carry = self._denoise[stage](
                params, conditions, carry, trajectory, scale, first, last, canvas=canvas, method=method
            )
            if chosen.progress is not None:
                jax.block_until_ready(carry)
                count = canvas.tiles.count
                label = stage if count == 1 else f"{stage}, {count} tiles"
                chosen.progress(label, last, sampling.num_steps)
        image = np.asarray(self._decode(params, carry, canvas=canvas))[0, :height, :width]
        fix = COLOR_FIXES[chosen.color_fix or self.config.color_fix]
        return _checked(fix(image, to_float(bicubic)), stage)

    def _canvas(self, height: int, width: int, tile: int | None) -> Canvas:
        """Tiles over a canvas a little larger than the picture: a whole number of the U-Net's coarsest positions, or,
        below a tile, of an eighth of a tile, so that pictures of many sizes share a few compiled functions."""
        configs = self.networks.configs
        factor = configs["vae"].factor
        unit = factor * 2 ** (len(configs["unet"].block_out_channels) - 1)
        wanted = tile or self.config.tile
        if wanted < unit:
            raise InputError(f"tile is {wanted} px, expected at least {unit}")
        longest = wanted - wanted % unit
        step = -(-longest // 8 // unit) * unit
        least = min(4 * unit, longest)  # a network that sees a single coarse position drifts in colour
        rows, columns = (
            max(-(-side // s) * s, least) for side in (height, width) for s in (step if side <= longest else unit,)
        )
        side = min(longest, max(rows, columns)) // factor
        tiles = tiling.grid(rows // factor, columns // factor, side, int(side * self.config.tile_overlap))
        return Canvas(tiles, factor, self.config.tiles_at_once, self._mesh)

    def _run_rrdbnet(self, rgb: np.ndarray, chosen: Options) -> np.ndarray:
        """Enlarged by the network's own scale, in tiles; (h * s, w * s, 3) uint8."""
        height, width = rgb.shape[:2]
        scale = self.networks.configs["rrdbnet"].scale
        side = min(max((chosen.tile or self.config.tile) // scale, 16), max(height, width, 16))
        tiles = tiling.grid(height, width, side, side // 4)
        canvas = Canvas(tiles, scale, 1, self._mesh)
        image = self._enlarge(self.networks.params, rgb[None].astype(np.float32) / 255, canvas=canvas)
        return _checked(np.asarray(image)[0] * 2 - 1, "reference")

    def _text(self, sampling: SamplingConfig) -> jax.Array:
        """(2, L, C): the embeddings of the negative prompt and of the prompt, made once."""
        prompts = (sampling.negative_prompt, sampling.prompt)
        if prompts not in self._texts:
            ids = prompt_ids(self.networks.configs["text_encoder"], self._tokenizer, prompts, sampling.prompt)
            graphdef = self.networks.graphdefs["text_encoder"]
            encode = jax.jit(lambda params, ids: merge(graphdef, params)(ids))
            self._texts[prompts] = encode(select(self.networks.params, "text_encoder"), ids)
        return self._texts[prompts]


# What is compiled: the functions of `cassr_jax.sampling`, from parameters instead of modules.

GraphDefs = Mapping[str, nnx.GraphDef]
MakeDenoiser = Callable[[Mapping[str, Any]], Denoiser]


def _start(
    graphdefs: GraphDefs,
    params: Params,
    image: jax.Array | None,
    key: jax.Array,
    trajectory: Trajectory,
    *,
    canvas: Canvas,
) -> Carry:
    vae = merge(graphdefs["vae"], select(params, "vae"))
    shape = (1, canvas.tiles.height, canvas.tiles.width, vae.config.latent_channels)
    return stages.start(vae, image, jax.random.normal(key, shape, jnp.float32), trajectory, canvas)


def _condition(
    graphdefs: GraphDefs,
    make: MakeDenoiser,
    params: Params,
    text: jax.Array,
    images: tuple[jax.Array, ...],
    trajectory: Trajectory,
    *,
    canvas: Canvas,
    method: Method,
) -> Condition:
    return stages.condition(make(merge_all(graphdefs, params)), text, images, trajectory, canvas, method)


def _denoise(
    graphdefs: GraphDefs,
    make: MakeDenoiser,
    params: Params,
    conditions: Condition,
    carry: Carry,
    trajectory: Trajectory,
    scale: jax.Array,
    first: jax.Array,
    last: jax.Array,
    *,
    canvas: Canvas,
    method: Method,
) -> Carry:
    denoiser = make(merge_all(graphdefs, params))
    return stages.denoise(denoiser, conditions, carry, trajectory, scale, first, last, canvas, method)


def _decode(graphdefs: GraphDefs, params: Params, carry: Carry, *, canvas: Canvas) -> jax.Array:
    return stages.decode(merge(graphdefs["vae"], select(params, "vae")), carry, canvas)


def _enlarge(graphdefs: GraphDefs, params: Params, rgb: jax.Array, *, canvas: Canvas) -> jax.Array:
    return stages.enlarge(merge(graphdefs["rrdbnet"], select(params, "rrdbnet")), rgb, canvas)


def _mesh(devices: int | None) -> Mesh | None:
    present = jax.local_devices()
    wanted = (1 if present[0].platform == "cpu" else len(present)) if devices is None else devices
    if not 1 <= wanted <= len(present):
        raise InputError(f"devices is {wanted}, expected 1 to {len(present)}, as many as there are")
    return None if wanted == 1 else Mesh(np.array(present[:wanted]), ("tiles",))


def _activation(config: CascadeConfig) -> MakeDenoiser:
    if config.activation == "controlnet":
        return lambda modules: ControlNetDenoiser(modules["unet"], modules["activation_controlnet"])
    return lambda modules: SCEditDenoiser(modules["unet"], modules["scedit"])


def _restoration(config: CascadeConfig) -> MakeDenoiser:
    return lambda modules: CasSRDenoiser(
        modules["unet"], modules["controlnet"], modules["multiple_attention"], config.switches
    )


def _pieces(steps: int, most: int) -> list[tuple[int, int]]:
    """(first, last) of at most so many runs of steps, together all of them."""
    size = -(-steps // most)
    return [(first, min(first + size, steps)) for first in range(0, steps, size)]


def _to_canvas(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (h, w, 3) -> float32 (1, H, W, 3) in [-1, 1], the border repeated below and to the right."""
    margin = [(0, full - own) for full, own in zip(size, image.shape[:2], strict=True)]
    return np.pad(to_float(image), [*margin, (0, 0)], mode="edge")[None]


def _checked(image: np.ndarray, stage: Stage) -> np.ndarray:
    """Of a picture in [-1, 1], its 8 bit.

    Raises:
        InputError: it has numbers that are not finite.
    """
    if not np.isfinite(image).all():
        raise InputError(
            f"the {stage} has numbers that are not finite: the weights overflow at this precision, try float32"
        )
    return to_uint8(image)
