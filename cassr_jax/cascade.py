"""The public face: load a cascade, give it a picture.

cassr = cassr_jax.load("tiny")
sharp = cassr.upscale(image, seed=0)         # a PIL image or an array, whichever was given
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cassr_jax import sampling as stages
from cassr_jax import second_stage
from cassr_jax.config import CascadeConfig, SamplingConfig
from cassr_jax.errors import InputError
from cassr_jax.first_stage import first_stage
from cassr_jax.first_stage.interface import MakeDenoiser
from cassr_jax.imaging import io, memory, resizing, tiling
from cassr_jax.imaging.color import COLOR_FIXES
from cassr_jax.imaging.pixels import blended, to_float, to_uint8
from cassr_jax.models.parameters import merge, select
from cassr_jax.networks import Networks, merge_all
from cassr_jax.options import Options
from cassr_jax.prompts import check_prompts, prompt_ids
from cassr_jax.sampling import Canvas, Inputs, Parts, Setting
from cassr_jax.seeds import seed_key
from cassr_jax.sharding.mesh import local_devices

_TEXTS = 8  # pairs of prompts whose embeddings are kept

StageName = Literal["reference", "result"]
"""A stage is called by what it makes."""


@dataclass(frozen=True)
class Restoration:
    """What came of one picture; (H, W, 3) uint8 each.

    `bicubic` is the input enlarged, `reference` what the first stage made of it, `result` the second stage's picture,
    into which the reference enters by `reference_weight`.
    """

    bicubic: np.ndarray
    reference: np.ndarray
    result: np.ndarray


class CasSR:
    """A loaded cascade; `cassr_jax.load` makes one.

    Args:
        config: how both stages are sampled.
        networks: what they are made of.
        tokenizer: folder or hub id of CLIP's tokenizer, where the text encoder is CLIP.
        devices: how many share the tiles of a picture; by default all accelerators of this process, or one CPU.

    Raises:
        InputError: there are fewer devices, or the configuration names no first stage that is known.
    """

    def __init__(
        self, config: CascadeConfig, networks: Networks, tokenizer: str | None = None, devices: int | None = None
    ):
        self.config = config
        self.first_stage = first_stage(config.activation)
        self._mesh = mesh_of_tiles(devices)
        if self._mesh is not None:
            everywhere = NamedSharding(self._mesh, PartitionSpec())
            networks = replace(networks, params=jax.device_put(networks.params, everywhere))
        self.networks = networks
        self._tokenizer = tokenizer
        self._texts: dict[tuple[str, str], jax.Array] = {}
        self._programs = _Programs(networks)
        self._second_stage = partial(second_stage.make_denoiser, switches=config.switches)

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
            InputError: an option is out of range, `rgb` is of another kind, the picture is too large, or numbers
                overflowed on the way.
        """
        chosen = Options(**options)
        if chosen.fidelity is not None and second_stage.FUSION not in self.networks.configs:
            raise InputError(f"fidelity is {chosen.fidelity}, expected None: this cascade has no fusion to weigh")
        bicubic, reference = self._activate(rgb, chosen)
        lq, guide = to_float(bicubic)[None], to_float(reference)[None]
        sampling = chosen.of_second_stage(self.config.sampling)
        start = {"lq": lq, "reference": guide, "noise": None}[sampling.start]
        made = self._sample("result", self._second_stage, sampling, (lq, guide), start, chosen)
        result = _finished("result", made, lq, chosen.color_fix or self.config.color_fix)
        weight = chosen.reference_weight
        if weight is None:
            weight = self.config.first_stage_setting("reference_weight")
        if weight:
            result = blended(reference, result, weight)
        return Restoration(bicubic, reference, result)

    def _activate(self, rgb: np.ndarray, chosen: Options) -> tuple[np.ndarray, np.ndarray]:
        """(bicubic, reference), rounded to 8 bit: on such pictures the second stage was trained."""
        array = isinstance(rgb, np.ndarray)
        if not array or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
            found = f"{rgb.dtype} {rgb.shape}" if array else type(rgb).__name__
            raise InputError(
                f"the picture is {found}, expected a uint8 array (height, width, 3); `upscale` takes others"
            )
        if chosen.prompt is not None:  # here, since a first stage may take long and need no prompt
            check_prompts(self.networks.configs["text_encoder"], [chosen.prompt])
        size = resizing.output_size(rgb.shape[0], rgb.shape[1], chosen.scale)
        memory.check(*size)
        bicubic = resizing.bicubic(rgb, size)
        lq = to_float(bicubic)[None]
        made = self.first_stage.reference(_Engine(self, chosen), to_float(rgb)[None], lq)
        return bicubic, _finished(
            "reference", made, lq, chosen.color_fix or self.config.first_stage_setting("color_fix")
        )

    def _sample(
        self,
        stage: StageName,
        make_denoiser: MakeDenoiser,
        sampling: SamplingConfig,
        images: tuple[np.ndarray, ...],
        start: np.ndarray | None,
        chosen: Options,
    ) -> np.ndarray:
        """One diffusion stage on pictures (1, H, W, 3) in [-1, 1]."""
        height, width = images[0].shape[1:3]
        canvas = self._canvas(height, width, chosen.tile)
        fitted = partial(_fitted, size=(canvas.pixels.height, canvas.pixels.width))
        channels = self.networks.configs["vae"].latent_channels
        key = jax.random.fold_in(seed_key(chosen.seed), stage == "result")
        inputs = Inputs(
            images=tuple(map(fitted, images)),
            start=None if start is None else fitted(start),
            noise=jax.random.normal(key, (1, canvas.tiles.height, canvas.tiles.width, channels), jnp.float32),
            encoder_hidden_states=self._text(sampling),
            trajectory=stages.make_trajectory(self.config.known_schedule, sampling),
            guidance_scale=np.float32(sampling.guidance_scale),
            fidelity=np.float32(self.config.fidelity if chosen.fidelity is None else chosen.fidelity),
        )
        parts = self._programs.parts(make_denoiser, fused=stage == "result")
        made = stages.run(
            parts, jax.device_put(inputs), Setting.of(sampling, canvas), _report(stage, canvas.tiles.count, chosen)
        )
        return np.asarray(made)[:, :height, :width]

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

    def _enlarge(self, kind: str, lr: np.ndarray, lq: np.ndarray, chosen: Options) -> np.ndarray:
        """A network that enlarges, applied to (1, h, w, 3) in tiles, and its picture resized to the size of `lq`."""
        height, width = lr.shape[1:3]
        scale = self.networks.configs[kind].scale
        side = min(max((chosen.tile or self.config.tile) // scale, 16), max(height, width, 16))
        canvas = Canvas(tiling.grid(height, width, side, side // 4), scale, 1, self._mesh)
        network = partial(self._programs.enlarge, self.networks.params, kind=kind, canvas=canvas)
        image = stages.enlarge(network, lr, canvas, _report("reference", canvas.tiles.count, chosen))
        return resizing.resized(np.clip(image[0], -1, 1), lq.shape[1:3])[None]

    def _text(self, sampling: SamplingConfig) -> jax.Array:
        """(2, L, C): the embeddings of the negative prompt and of the prompt, made once."""
        prompts = sampling.prompts
        if prompts not in self._texts:
            ids = prompt_ids(self.networks.configs["text_encoder"], self._tokenizer, prompts)
            if len(self._texts) == _TEXTS:  # pictures may have prompts of their own
                del self._texts[next(iter(self._texts))]
            self._texts[prompts] = self._programs.encode_text(self.networks.params, ids)
        return self._texts[prompts]


def mesh_of_tiles(devices: int | None) -> Mesh | None:
    """The devices that share the tiles of a picture, and hold all weights each; None for JAX's first device alone.

    Raises:
        InputError: there are fewer devices.
    """
    used = local_devices(devices)
    return Mesh(np.array(used), ("tiles",)) if len(used) > 1 else None


@dataclass(frozen=True)
class _Engine:
    """Runs networks for the first stage on one picture, as one call's options say."""

    cassr: CasSR
    chosen: Options

    def diffuse(self, make_denoiser: MakeDenoiser, images: tuple[np.ndarray, ...]) -> np.ndarray:
        sampling = self.chosen.of_first_stage(self.cassr.config.activation_sampling)
        start = None if sampling.start == "noise" else images[0]
        return self.cassr._sample("reference", make_denoiser, sampling, images, start, self.chosen)

    def enlarge(self, kind: str, lr: np.ndarray, lq: np.ndarray) -> np.ndarray:
        return self.cassr._enlarge(kind, lr, lq, self.chosen)


class _Programs:
    """The functions of `cassr_jax.sampling` over these networks, each compiled once for every `Setting`.

    Parameters are arguments of what is compiled, not constants in it. Both stages share the encoder and the decoder.
    """

    def __init__(self, networks: Networks):
        graphdefs = self._graphdefs = networks.graphdefs
        self._params = networks.params
        self._of_denoiser: dict[MakeDenoiser, tuple[Callable[..., Any], Callable[..., Any]]] = {}

        def module(kind: str, params: Any) -> Any:
            return merge(graphdefs[kind], select(params, kind))

        self._start = jax.jit(
            lambda params, inputs, setting: stages.start(module("vae", params), inputs, setting),
            static_argnames="setting",
        )
        self._decode = jax.jit(
            lambda params, carry, inputs, setting: stages.decode(module("vae", params), None, carry, inputs, setting),
            static_argnames="setting",
        )
        self._decode_fused = jax.jit(
            lambda params, carry, inputs, setting: stages.decode(
                module("vae", params), module(second_stage.FUSION, params), carry, inputs, setting
            ),
            static_argnames="setting",
        )
        self.enlarge = jax.jit(
            lambda params, lr, kind, canvas: 2 * stages.map_tiles(module(kind, params), (lr + 1) / 2, canvas) - 1,
            static_argnames=("kind", "canvas"),
        )
        self.encode_text = jax.jit(lambda params, ids: module("text_encoder", params)(ids))

    def count(self) -> int:
        """How many programs were compiled so far."""
        functions = [self._start, self._decode, self.enlarge, self.encode_text, *sum(self._of_denoiser.values(), ())]
        return sum(function._cache_size() for function in functions)

    def parts(self, make_denoiser: MakeDenoiser, *, fused: bool) -> Parts:
        """The parts of the stage whose denoiser `make_denoiser` puts together; `fused`, decoded through the fusion,
        where there is one."""
        if make_denoiser not in self._of_denoiser:
            self._of_denoiser[make_denoiser] = (
                jax.jit(
                    lambda params, inputs, setting: stages.condition(
                        make_denoiser(merge_all(self._graphdefs, params)), inputs, setting
                    ),
                    static_argnames="setting",
                ),
                jax.jit(
                    lambda params, conditions, carry, inputs, first, last, setting: stages.denoise(
                        make_denoiser(merge_all(self._graphdefs, params)),
                        conditions,
                        carry,
                        inputs,
                        first,
                        last,
                        setting,
                    ),
                    static_argnames="setting",
                ),
            )
        condition, denoise = self._of_denoiser[make_denoiser]
        decode = self._decode_fused if fused and second_stage.FUSION in self._graphdefs else self._decode
        return Parts(
            start=lambda inputs, setting: self._start(self._params, inputs, setting),
            condition=lambda inputs, setting: condition(self._params, inputs, setting),
            denoise=lambda *rest: denoise(self._params, *rest),
            decode=lambda *rest: decode(self._params, *rest),
        )


def _report(stage: StageName, tiles: int, chosen: Options) -> Callable[[int, int], None] | None:
    """What tells the caller of this call how far a stage is."""
    if chosen.progress is None:
        return None
    return partial(chosen.progress, stage if tiles == 1 else f"{stage}, {tiles} tiles")


def _fitted(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(1, h, w, 3) -> (1, H, W, 3), the border repeated below and to the right."""
    margin = [(0, full - own) for full, own in zip(size, images.shape[1:3], strict=True)]
    return np.pad(images, [(0, 0), *margin, (0, 0)], mode="edge")


def _finished(stage: StageName, made: np.ndarray, lq: np.ndarray, color_fix: str) -> np.ndarray:
    """A stage's picture (1, H, W, 3) with its colours fixed, rounded to 8 bit: (H, W, 3) uint8.

    Raises:
        InputError: it has numbers that are not finite.
    """
    image = COLOR_FIXES[color_fix](made, lq)[0]
    if not np.isfinite(image).all():
        raise InputError(
            f"the {stage} has numbers that are not finite: the weights overflow at this precision, try float32"
        )
    return to_uint8(image)
