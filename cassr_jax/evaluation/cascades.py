"""A cascade as the evaluation's programs run it: its options, the pictures that it makes, and its fingerprint."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np

import cassr_jax
from cassr_jax import second_stage
from cassr_jax.cascade import CasSR
from cassr_jax.choices import PRECISIONS
from cassr_jax.commands import options
from cassr_jax.commands.fingerprint import fingerprint as fingerprint_of
from cassr_jax.commands.options import SAMPLING, number
from cassr_jax.config import CascadeConfig, FirstStageConfig
from cassr_jax.errors import InputError
from cassr_jax.evaluation.baselines import ALONE, SIGMAS, Autoencode, baselines
from cassr_jax.first_stage import NAMES
from cassr_jax.imaging import tiling
from cassr_jax.imaging.pixels import blended, to_float, to_uint8
from cassr_jax.models.parameters import Params, merge, select
from cassr_jax.options import Options
from cassr_jax.ranges import Range

KINDS = ("bicubic", "reference", "result")
"""What a cascade makes: the input enlarged, the first stage's picture, the second stage's."""

_TILE = 1024  # px of a side, a multiple of every autoencoder's factor
_SIGMA = Range(0, 100, above=True)

Change = Callable[[CascadeConfig], CascadeConfig]

Restore = Callable[[np.ndarray, int, float], Mapping[str, np.ndarray]]
"""(picture (h, w, 3), seed, scale) -> program -> its picture (H, W, 3); all uint8."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that choose a cascade and say how it samples."""
    group = parser.add_argument_group("cascade", "An option that is left out is what the configuration says.")
    options.add_options(group, "config", "activation", "seed", *SAMPLING, "precision", "devices")


def add_sigmas(parser: Any) -> None:
    """The option --sigma of the sceptic's rows; `parser` may be a group of one."""
    parser.add_argument(
        "--sigma",
        type=number(_SIGMA),
        nargs="+",
        default=list(SIGMAS),
        metavar="PX",
        help="standard deviations of the Gaussian blurs of the reference, in px of the output "
        f"(default: {' '.join(f'{sigma:g}' for sigma in SIGMAS)})",
    )


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What decides the cascade's pixels, besides the seed and the input; None is the cascade's own."""
    return {name: getattr(arguments, name) for name in ("config", "activation", "precision", *SAMPLING)}


def with_options(config: CascadeConfig, chosen: Mapping[str, Any]) -> CascadeConfig:
    """The configuration with the options of `settings` written into it, so that a variant can change it further.

    Raises:
        InputError: an option is out of range, or weighs a fusion that the cascade does not have.
    """
    given = Options(**{name: chosen[name] for name in SAMPLING if chosen.get(name) is not None})
    if given.fidelity is not None and second_stage.FUSION not in config.components:
        raise InputError(f"fidelity is {given.fidelity}, expected None: this cascade has no fusion to weigh")
    own = {name: getattr(given, name) for name in ("color_fix", "fidelity", "tile")} | {
        "activation": chosen.get("activation")
    }
    of_first_stages = _given({"color_fix": given.color_fix, "reference_weight": given.reference_weight})
    stages = {name: config.first_stages.get(name, FirstStageConfig()) for name in NAMES if of_first_stages}
    return replace(
        config,
        **_given(own),
        first_stages={**config.first_stages, **{name: replace(s, **of_first_stages) for name, s in stages.items()}},
        sampling=given.of_second_stage(config.sampling),
        activation_sampling=given.of_first_stage(config.activation_sampling),
    )


def _given(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if value is not None}


def load_restore(chosen: Mapping[str, Any], change: Change | None = None, devices: int | None = None) -> Restore:
    """Loads the cascade of `settings`, its configuration passed through `change` first.

    Where `chosen` names `sigmas`, the function that is returned makes the sceptic's pictures too.

    Raises:
        InputError: it cannot be loaded; the function itself raises it for an option out of range.
    """
    dtype = PRECISIONS.get(chosen.get("precision") or "")
    cassr = cassr_jax.load(
        chosen["config"], activation=chosen["activation"], change=change, dtype=dtype, devices=devices
    )
    options = {name: chosen[name] for name in SAMPLING if chosen.get(name) is not None}

    def restore(lr: np.ndarray, seed: int, scale: float) -> dict[str, np.ndarray]:
        restoration = cassr.restore(lr, seed=seed, scale=scale, **options)
        return {kind: getattr(restoration, kind) for kind in KINDS}

    def restore_with_baselines(lr: np.ndarray, seed: int, scale: float) -> dict[str, np.ndarray]:
        pictures = restore(lr, seed, scale)
        alone = pictures["result"]
        if weight:
            pictures["result"] = blended(pictures["reference"], alone, weight)
        return pictures | ({ALONE: alone} if weight else {}) | baselines(pictures, autoencode, chosen["sigmas"])

    if not chosen.get("sigmas"):
        return restore
    weight = options.get("reference_weight", cassr.config.first_stage_setting("reference_weight"))
    options["reference_weight"] = 0.0  # blended here, so that the second stage's picture is at hand by itself too
    autoencode = make_autoencode(cassr)
    return restore_with_baselines


def make_autoencode(cassr: CasSR) -> Autoencode:
    """The cascade's autoencoder alone: a picture encoded and decoded, with no diffusion between.

    A picture of up to `_TILE` px a side passes whole, a larger one in tiles, one after the other.
    """
    graphdef, params = cassr.networks.graphdefs["vae"], cassr.networks.params
    factor = cassr.networks.configs["vae"].factor

    @partial(jax.jit, static_argnames="tiles")
    def run(params: Params, image: jax.Array, *, tiles: tiling.Grid | None) -> jax.Array:
        vae = merge(graphdef, select(params, "vae"))
        if tiles is None:
            return vae.decode(vae.encode(image)).astype(np.float32)
        decoded = jax.lax.map(lambda cut: vae.decode(vae.encode(cut[None]))[0], tiling.gather(image, tiles))
        return tiling.merge(decoded.astype(np.float32), tiles)

    def autoencode(picture: np.ndarray) -> np.ndarray:
        height, width = picture.shape[:2]
        rows, columns = (-(-side // factor) * factor for side in (height, width))
        image = np.pad(to_float(picture), ((0, rows - height), (0, columns - width), (0, 0)), mode="edge")[None]
        whole = max(rows, columns) <= _TILE
        tiles = None if whole else tiling.grid(rows, columns, _TILE, _TILE // 4)
        return to_uint8(np.asarray(run(params, image, tiles=tiles))[0, :height, :width])

    return autoencode


def fingerprint(chosen: Mapping[str, Any], change: Change | None = None) -> str:
    """SHA-256 of the configuration and of the weights of the cascade of `settings`; a hub id counts by its name alone.

    Raises:
        InputError: the configuration cannot be read.
    """
    return fingerprint_of(chosen["config"], change)
