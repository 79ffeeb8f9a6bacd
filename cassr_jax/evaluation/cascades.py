"""A cascade as the evaluation's programs run it: its options, the pictures that it makes, and its fingerprint."""

import argparse
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np

import cassr_jax
from cassr_jax.config import Activation, CascadeConfig, Start
from cassr_jax.config_files import to_json
from cassr_jax.diffusion.samplers import SAMPLERS
from cassr_jax.evaluation.baselines import SIGMAS, baselines, make_autoencode
from cassr_jax.imaging.color import COLOR_FIXES
from cassr_jax.imaging.manifest import sha256
from cassr_jax.loading import read_cascade, resolve
from cassr_jax.ranges import COUNT, RANGES, Range

KINDS = ("bicubic", "reference", "result")
"""What a cascade makes: the input enlarged, the first stage's picture, the second stage's."""
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
SIGMA_RANGE = Range(0, 100, above=True)

Change = Callable[[CascadeConfig], CascadeConfig]

Restore = Callable[[np.ndarray, int, float], Mapping[str, np.ndarray]]
"""(picture (h, w, 3), seed, scale) -> program -> its picture (H, W, 3); all uint8."""

_SAMPLING = ("steps", "start", "strength", "guidance_scale", "sampler", "color_fix", "reference_weight", "tile")


def number(name: str, allowed: Range) -> Callable[[str], float]:
    """A parser of the option `name`; what is outside the range is refused with the range."""

    def parse(text: str) -> float:
        try:
            return allowed.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{name}: {error}") from None

    return parse


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which cascade, and how it samples; an option left out is the cascade's own."""
    add = parser.add_argument_group("cascade", "Left out, each is what the configuration says.").add_argument

    def option(name: str, **more: Any) -> None:
        allowed = RANGES["Options"][name]
        add(f"--{name.replace('_', '-')}", type=number(name, allowed), **more)

    add("--config", default="tiny", help="as cassr_jax.load takes it (default %(default)s)")
    add("--activation", choices=get_args(Activation), help="how the reference is made")
    option("steps", metavar="N", help="sampling steps of each stage")
    add("--start", choices=get_args(Start), help="what the second stage starts from")
    option("strength", metavar="S", help="how far from its start the second stage may go, above 0, at most 1")
    option("guidance_scale", metavar="S", help="classifier-free guidance; 1 is off")
    add("--sampler", choices=sorted(SAMPLERS))
    add("--color-fix", choices=sorted(COLOR_FIXES), help="how colours are brought back to the input's")
    option("reference_weight", metavar="W", help="share of the reference in the result, 0 to 1")
    option("tile", metavar="PX", help="side of a tile of the output")
    add("--precision", choices=PRECISIONS, help="of the networks; the measures are always computed in float32")
    add("--baselines", action="store_true", help="also the sceptic's rows: blurs, autoencoder alone, means of two")
    add("--sigma", type=number("sigma", SIGMA_RANGE), nargs="+", default=SIGMAS, help="of those blurs, in px")


def add_devices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--devices",
        type=number("devices", COUNT),
        metavar="N",
        help="how many restore and measure (default: all accelerators, or one CPU)",
    )


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What decides the pixels, besides the seed and the input; None is the cascade's own."""
    return {name: getattr(arguments, name) for name in ("config", "activation", "precision", *_SAMPLING)} | (
        {"sigmas": list(arguments.sigma)} if arguments.baselines else {}
    )


def load_restore(chosen: Mapping[str, Any], change: Change | None = None, devices: int | None = None) -> Restore:
    """The cascade of `settings`, its configuration passed through `change` first.

    Raises:
        InputError: it cannot be loaded; the function itself raises it for an option out of range.
    """
    dtype: Any = PRECISIONS.get(chosen.get("precision") or "")
    cassr = cassr_jax.load(
        chosen["config"], activation=chosen["activation"], change=change, dtype=dtype, devices=devices
    )
    options = {name: chosen[name] for name in _SAMPLING if chosen.get(name) is not None}
    sigmas = chosen.get("sigmas")
    autoencode = None if sigmas is None else make_autoencode(cassr)

    def restore(lr: np.ndarray, seed: int, scale: float) -> dict[str, np.ndarray]:
        restoration = cassr.restore(lr, seed=seed, scale=scale, **options)
        pictures = {kind: getattr(restoration, kind) for kind in KINDS}
        return pictures if autoencode is None else pictures | baselines(pictures, autoencode, sigmas)

    return restore


def fingerprint(chosen: Mapping[str, Any], change: Change | None = None) -> str:
    """SHA-256 of the configuration and of the weights of the cascade of `settings`; a hub id counts by its name alone.

    Raises:
        InputError: the configuration cannot be read.
    """
    config, base = read_cascade(chosen["config"])
    config = config if change is None else change(config)
    digest = hashlib.sha256(json.dumps(to_json(config), sort_keys=True).encode())
    for _, component in sorted(config.components.items()):
        path = Path(resolve(component, base))
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in filter(Path.is_file, files):
            digest.update(sha256(file).encode())
    return digest.hexdigest()
