"""A cascade as the evaluation's programs run it: its options, the three pictures that it makes of one, their values."""

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

import cassr_jax
from cassr_jax.config import Activation, CascadeConfig, Start
from cassr_jax.config_files import to_json
from cassr_jax.evaluation.measures import Values
from cassr_jax.evaluation.tiles import Pair
from cassr_jax.imaging.manifest import sha256
from cassr_jax.loading import read_cascade, resolve

KINDS = ("bicubic", "reference", "result")
"""What is judged: the input enlarged, the first stage's picture, the second stage's."""

Change = Callable[[CascadeConfig], CascadeConfig]

Restore = Callable[[np.ndarray, int, float], Sequence[np.ndarray]]
"""(picture (h, w, 3), seed, scale) -> one picture (H, W, 3) for each of KINDS, uint8"""

_SAMPLING = ("steps", "start", "strength", "guidance_scale", "sampler", "color_fix", "reference_weight")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which cascade, and how it samples; an option left out is the cascade's own."""
    add = parser.add_argument_group("cascade", "Left out, each is what the configuration says.").add_argument
    add("--config", default="tiny", help="as cassr_jax.load takes it (default %(default)s)")
    add("--activation", choices=get_args(Activation), help="how the reference is made")
    add("--steps", type=int, help="of both stages")
    add("--start", choices=get_args(Start), help="what the second stage starts from")
    add("--strength", type=float, help="of the second stage, above 0, at most 1")
    add("--guidance-scale", type=float)
    add("--sampler")
    add("--color-fix")
    add("--reference-weight", type=float, help="share of the reference in the result, 0 to 1")


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What decides the pixels, besides the seed; None is the cascade's own."""
    return {name: getattr(arguments, name) for name in ("config", "activation", *_SAMPLING)}


def load_restore(chosen: Mapping[str, Any], change: Change | None = None) -> Restore:
    """The cascade of `settings`, its configuration passed through `change` first.

    Raises:
        InputError: it cannot be loaded; the function itself raises it for an option out of range.
    """
    cassr = cassr_jax.load(chosen["config"], activation=chosen["activation"], change=change)
    options = {name: chosen[name] for name in _SAMPLING if chosen.get(name) is not None}

    def restore(lr: np.ndarray, seed: int, scale: float) -> tuple[np.ndarray, ...]:
        restoration = cassr.restore(lr, seed=seed, scale=scale, **options)
        return tuple(getattr(restoration, kind) for kind in KINDS)

    return restore


def fingerprint(chosen: Mapping[str, Any], change: Change | None = None) -> str:
    """SHA-256 of the configuration and the weights of the cascade of `settings`; of what no file holds, its name.

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


@dataclass(frozen=True)
class Record:
    """What was measured of one pair: values by kind of picture."""

    name: str
    values: dict[str, Values]


def evaluate(
    pairs: Sequence[Pair], restore: Restore, measure: Callable[[Pair, Sequence[np.ndarray]], list[Values]]
) -> Iterator[Record]:
    """Restores pair i with seed i and measures its pictures of KINDS."""
    for seed, pair in enumerate(pairs):
        values = measure(pair, restore(pair.lr, seed, pair.scale))
        yield Record(pair.name, dict(zip(KINDS, values, strict=True)))
