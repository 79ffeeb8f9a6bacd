#!/usr/bin/env python
"""Choose the embedded cascade's settings on photographs that are kept apart for this purpose.

    python benchmarks/tiny_settings.py --photos CHOOSING --output runs/settings

No network is trained or tested on these photographs. Their sharp tiles of 256 px are degraded to 64 px by `light` and
`realesrgan`, restored, and compared with the truth. The setting with the lowest LPIPS + DISTS, averaged over all tiles,
is chosen, in this order:

1. the colour fix of the reference; "none" is shown but cannot be chosen, because Real-ESRGAN shifts plain colours,
2. with that fix, the share of the reference in the result, and the sigma of the Gaussian blur of the reference that
   stands as the sceptic's row beside every result; a share of 1, the first stage alone, is shown but cannot be chosen.

The program prints tables of all settings, with standard errors, how far each setting's LPIPS + DISTS is from that of
the choice, and the choices. Run the same command again to continue.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np

import cassr_jax
from cassr_jax.choices import ColorFix
from cassr_jax.commands.options import add_options, number
from cassr_jax.commands.running import command
from cassr_jax.commands.testset import SCALE, build, tiled_pairs
from cassr_jax.config import CascadeConfig, FirstStageConfig
from cassr_jax.data.crops import TILE
from cassr_jax.data.presets import PRESETS
from cassr_jax.errors import InputError
from cassr_jax.evaluation.baselines import blurred
from cassr_jax.evaluation.cascades import fingerprint
from cassr_jax.evaluation.comparison import Measured, compare
from cassr_jax.evaluation.measures import make_measure, read_weights
from cassr_jax.evaluation.pairing import Case, find_cases
from cassr_jax.evaluation.report import difference_table, differences, means, table
from cassr_jax.evaluation.restoring import Request, Restore, Restored
from cassr_jax.evaluation.statistics import difference
from cassr_jax.files import write_json
from cassr_jax.imaging import resizing
from cassr_jax.imaging.color import COLOR_FIXES
from cassr_jax.imaging.pixels import blended, to_float, to_uint8
from cassr_jax.printing import say
from cassr_jax.ranges import COUNT

DAMAGE = ("light", "realesrgan")
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
ALONE, UNFIXED = "share 1", "colour fix none"
# These are shown but cannot be chosen: the first leaves out the second stage, the second does not keep plain colours.
NO_CHOICE = (ALONE, UNFIXED)
SIGMAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def make_tiles(photos: Path, count: int, output: Path) -> list[Case]:
    """Make test sets of `count` sharp tiles below `output`, one for each preset."""
    cases = []
    for preset in DAMAGE:
        settings = {"kind": "tiles", "preset": preset, "scale": SCALE, "hr": TILE}
        build(tiled_pairs(photos, PRESETS[preset], count), {}, settings, output / preset)
        found, _ = find_cases(output / preset / "hr", output / preset / "lr", {})
        cases += [replace(case, name=f"{preset}/{case.name}") for case in found]
    return cases


def with_fix(fix: ColorFix, config: CascadeConfig) -> CascadeConfig:
    """The cascade with this colour fix and without a share of the reference in the result."""
    return replace(config, first_stages={"rrdbnet": FirstStageConfig(color_fix=fix, reference_weight=0.0)})


def one_by_one(restore: Callable[[Request], Mapping[str, np.ndarray]]) -> Restore:
    """The pictures of `restore`, which makes those of one request."""

    def all_restored(requests: Iterable[Request]) -> Iterator[Restored | Exception]:
        for request in requests:
            try:
                restored = Restored(restore(request))
            except Exception as error:
                yield error
            else:
                yield restored

    return all_restored


def restore_fixes(config: str) -> Restore:
    """Load the function that makes the reference with each colour fix."""
    cassr = cassr_jax.load(config, change=partial(with_fix, "none"))

    def restore(request: Request) -> Mapping[str, np.ndarray]:
        reference = to_float(cassr.reference(request.picture, seed=request.seed, scale=request.scale))
        height, width = reference.shape[:2]
        source = to_float(resizing.bicubic(request.picture, (height, width)))
        return {f"colour fix {name}": to_uint8(fix(reference, source)) for name, fix in COLOR_FIXES.items()}

    return one_by_one(restore)


def restore_shares(config: str, fix: ColorFix) -> Restore:
    """Load the function that makes the result with each share of the reference, and each blur of the reference."""
    cassr = cassr_jax.load(config, change=partial(with_fix, fix))

    def restore(request: Request) -> Mapping[str, np.ndarray]:
        found = cassr.restore(request.picture, seed=request.seed, scale=request.scale, reference_weight=0.0)
        shares = {f"share {share:g}": blended(found.reference, found.result, share) for share in SHARES}
        return shares | {f"sigma {sigma:g}": blurred(found.reference, sigma) for sigma in SIGMAS}

    return one_by_one(restore)


def best(found: Sequence[Measured], kind: str) -> str:
    """The value of the setting `kind` with the lowest mean LPIPS + DISTS."""
    rows = {name: row for name, row in means(found).items() if name.startswith(kind) and name not in NO_CHOICE}
    return min(rows, key=lambda name: rows[name]["lpips"].value + rows[name]["dists"].value).removeprefix(f"{kind} ")


def report(found: Sequence[Measured], baseline: str) -> str:
    """The tables of the means and of the differences from `baseline`."""
    return f"{table(means(found))}\n\n{difference_table(differences(found, baseline), baseline)}\n"


def behind(found: Sequence[Measured], kind: str, choice: str) -> str:
    """A table of LPIPS + DISTS, by which a setting of this kind is chosen: each setting's minus that of the choice."""

    def sums(name: str) -> list[float]:
        return [m.values[name]["lpips"] + m.values[name]["dists"] for m in found if m.values]

    chosen, lines = f"{kind} {choice}", [f"| minus {kind} {choice} | LPIPS + DISTS ↓ |", "|---|---|"]
    for name in means(found):
        if name.startswith(kind) and name != chosen:
            of = difference(sums(name), sums(chosen), higher_is_better=False)
            lines.append(f"| {name} | {of.mean.value:+.4f} ± {of.mean.error:.4f} ({of.better}) |")
    return "\n".join(lines) + "\n"


def run(arguments: argparse.Namespace) -> dict[str, str]:
    """Measure all settings, print the tables, and return the choices."""
    cases = make_tiles(arguments.photos, arguments.tiles, arguments.output / "tiles")
    weights, missing = read_weights(["lpips", "dists"])
    if missing:
        raise InputError("; ".join(missing.values()))
    measure = make_measure(weights)
    cascade = fingerprint({"config": arguments.config}, partial(with_fix, "none"))
    chosen = {"cascade": cascade, "tiles": [case.name for case in cases], "seed": 0}
    fixes = compare(cases, lambda: restore_fixes(arguments.config), measure, arguments.output / "fixes", chosen)
    fix = cast(ColorFix, best(fixes, "colour fix"))
    say(report(fixes, UNFIXED))
    say(behind(fixes, "colour fix", fix))
    shares = compare(
        cases,
        lambda: restore_shares(arguments.config, fix),
        measure,
        arguments.output / f"shares_{fix}",
        chosen | {"fix": fix},
    )
    say(report(shares, ALONE))
    found = {kind: best(shares, kind) for kind in ("share", "sigma")}
    for kind, choice in found.items():
        say(behind(shares, kind, choice))
    choices = {"color_fix": fix, **found}
    write_json(arguments.output / "choices.json", choices)
    return choices


@command("tiny_settings")
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--photos", type=Path, required=True, help="folder of the photographs that are kept apart")
    add("--output", type=Path, required=True, help="folder for the tiles, the pictures and the choices")
    add("--tiles", type=number(COUNT), default=20, help="number of tiles for each preset (default: %(default)s)")
    add_options(parser, "config")
    choices = run(parser.parse_args(argv))
    say("\n".join(f"{name}: {choice}" for name, choice in choices.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
