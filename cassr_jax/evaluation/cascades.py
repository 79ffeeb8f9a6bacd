"""How the evaluation's programs run a cascade: its options, the pictures that it makes, and its fingerprint."""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import jax
import numpy as np

import cassr_jax
from cassr_jax.cascade import CasSR
from cassr_jax.choices import DISTILLED_LORAS, PRECISIONS
from cassr_jax.commands import options
from cassr_jax.commands.fingerprint import fingerprint as fingerprint_of
from cassr_jax.commands.options import SAMPLING, Parser, local_path, number
from cassr_jax.commands.settings import loras_of
from cassr_jax.config import CascadeConfig
from cassr_jax.engine.layout import layout, tile_sizes
from cassr_jax.engine.waves import Blend
from cassr_jax.errors import InputError
from cassr_jax.evaluation.baselines import ALONE, BLURRED, SIGMAS, Autoencode, baselines, names
from cassr_jax.evaluation.restoring import KINDS, Request, Restore, Restored
from cassr_jax.files import Json
from cassr_jax.imaging.pixels import blended, to_float, to_uint8
from cassr_jax.loading import usual_dtype
from cassr_jax.models.parameters import Params, merge, select
from cassr_jax.ranges import Range
from cassr_jax.restoration import Restoration

_TILE = 1024  # side in px, a multiple of every autoencoder's factor
_OVERLAP = 0.25  # share of a tile's side that neighbours have in common
_SIGMA = Range(0, 100, above=True)

Change = Callable[[CascadeConfig], CascadeConfig]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that choose a cascade and say how it samples."""
    group = parser.add_argument_group("cascade", "An option that is left out is what the configuration says.")
    options.add_options(group, "config", "activation", "lora", "seed", *SAMPLING, "precision", "devices")


def add_sigmas(parser: Parser) -> None:
    """The option --sigma of the sceptic's rows."""
    parser.add_argument(
        "--sigma",
        type=number(_SIGMA),
        nargs="+",
        default=list(SIGMAS),
        metavar="PX",
        help="standard deviations of the Gaussian blurs of the reference, in px of the output "
        f"(default: {' '.join(f'{sigma:g}' for sigma in SIGMAS)})",
    )


def add_results(parser: Parser) -> None:
    """The option --results, folders of other programs' pictures, as pairs (name, folder)."""
    parser.add_argument(
        "--results",
        metavar="NAME=DIR",
        action="append",
        default=[],
        type=_named,
        help="a folder of another program's pictures, which the table calls NAME; may be repeated",
    )


def _named(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    taken = (*KINDS, *names(SIGMAS))
    if not (name and equals and folder) or name in taken or name.startswith(BLURRED):
        raise argparse.ArgumentTypeError(
            f"found {text!r}, expected NAME=DIR with a name that is none of {', '.join(taken)}"
        )
    return name, local_path(folder)


def settings(arguments: argparse.Namespace) -> Json:
    """The options that decide the cascade's pixels, besides the seed; None keeps the cascade's own setting.

    The precision is always named, because the usual one depends on the machine.
    """
    chosen = {name: getattr(arguments, name) for name in ("config", "activation", "precision", *SAMPLING)}
    usual = next(name for name, dtype in PRECISIONS.items() if dtype == usual_dtype())
    loras = {} if arguments.loras is None else {"loras": arguments.loras}
    return chosen | loras | {"precision": chosen["precision"] or usual}


def load_restore(chosen: Json, change: Change | None = None, devices: int | None = None) -> Restore:
    """Load a cascade and return the function that restores pictures with it.

    Args:
        chosen: what `settings` gives. With an entry `sigmas`, the function makes the sceptic's pictures too.
        change: applied to the cascade's configuration before it is loaded.
        devices: see `cassr_jax.load`.

    Raises:
        InputError: the cascade cannot be loaded, or does not take an option.
    """
    dtype = PRECISIONS.get(chosen.get("precision") or "")
    change = _with_loras(chosen, change)
    cassr = cassr_jax.load(
        chosen["config"], activation=chosen["activation"], change=change, dtype=dtype, devices=devices
    )
    options = {name: chosen[name] for name in SAMPLING if chosen.get(name) is not None}
    cassr.check(**options)

    weight = options.get("reference_weight", cassr.config.reference_weight)
    if not chosen.get("sigmas"):
        return partial(_restore, cassr, options, _pictures)
    alone = options | {"reference_weight": 0.0}  # the blend is made later: the second stage's own picture is a row too
    autoencode = make_autoencode(cassr)
    return partial(_restore, cassr, alone, partial(_with_baselines, weight, autoencode, chosen["sigmas"]))


def _restore(
    cassr: CasSR,
    options: Mapping[str, Any],
    pictures: Callable[[Restoration], Mapping[str, np.ndarray]],
    requests: Iterable[Request],
) -> Iterator[Restored | Exception]:
    """Restores pictures with a cascade, together as long as seed, scale and prompt are the same."""

    def outcomes() -> Iterator[Restoration | Exception]:
        for (seed, scale, prompt), group in groupby(requests, lambda each: (each.seed, each.scale, each.prompt)):
            own = {} if prompt is None else {"prompt": prompt}
            together = (each.picture for each in group)
            try:
                made = cassr.restore_many(together, seed=seed, scale=scale, **options, **own)
            except InputError as error:
                yield from (error for _ in together)
            else:
                yield from made

    for outcome in outcomes():
        try:
            if isinstance(outcome, Exception):
                raise outcome
            restored = Restored(pictures(outcome), outcome.seconds)
        except Exception as error:
            yield error
        else:
            yield restored


def _pictures(restoration: Restoration) -> dict[str, np.ndarray]:
    return {kind: getattr(restoration, kind) for kind in KINDS}


def _with_baselines(
    weight: float, autoencode: Autoencode, sigmas: Sequence[float], restoration: Restoration
) -> dict[str, np.ndarray]:
    """The pictures of a restoration without a share of the reference: the blend, and the sceptic's rows."""
    pictures = _pictures(restoration)
    alone = pictures["result"]
    if weight:
        pictures["result"] = blended(pictures["reference"], alone, weight)
    return pictures | ({ALONE: alone} if weight else {}) | baselines(pictures, autoencode, sigmas)


def make_autoencode(cassr: CasSR) -> Autoencode:
    """The cascade's autoencoder as a function that encodes and decodes a picture, with no diffusion in between.

    A picture whose sides are at most `_TILE` px passes whole; a larger one passes in tiles, one after the other, which
    are cut and blended as the cascade's are.
    """
    graphdef, params = cassr.networks.graphdefs["vae"], cassr.networks.params
    factor = cassr.networks.configs["vae"].factor
    size = tile_sizes(_TILE, factor, factor, _OVERLAP)[-1]

    @jax.jit
    def run(params: Params, image: jax.Array) -> jax.Array:
        vae = merge(graphdef, select(params, "vae"))
        return vae.decode(vae.encode(image[None]))[0].astype(np.float32)

    def autoencode(picture: np.ndarray) -> np.ndarray:
        image, (height, width) = to_float(picture), picture.shape[:2]
        beyond = [(0, -length % factor) for length in (height, width)]
        if max(height, width) <= _TILE:
            made = np.asarray(run(params, np.pad(image, [*beyond, (0, 0)], mode="edge")))
            return to_uint8(made[:height, :width])
        tiles = layout(height, width, (size,), factor, _OVERLAP)
        blend = Blend(tiles)
        for tile in range(tiles.count):
            blend.add(tile, np.asarray(run(params, tiles.cut(image, tile))))
        return to_uint8(blend.picture)

    return autoencode


def fingerprint(chosen: Json, change: Change | None = None) -> str:
    """SHA-256 of the configuration, the weights and the LoRAs that `settings` names, changed by `change`.

    Raises:
        InputError: the configuration cannot be read.
    """
    return fingerprint_of(chosen["config"], _with_loras(chosen, change))


def _with_loras(chosen: Json, change: Change | None) -> Change | None:
    """The change of a configuration, after the LoRAs that `settings` names or its speed needs, if there are any."""
    if "loras" not in chosen and chosen.get("speed") not in DISTILLED_LORAS:
        return change

    def changed(config: CascadeConfig) -> CascadeConfig:
        config = replace(config, loras=loras_of(config, chosen))
        return config if change is None else change(config)

    return changed
