#!/usr/bin/env python
"""Whether a small cascade meets its bar, on photographs that it never saw.

    python benchmarks/tiny_quality.py --photos PHOTOS --output quality.json

100 sharp tiles of the photographs, 256 px, are degraded to 64 px by the presets `light` and `realesrgan` and restored,
tile i with seed i both times. Against the bicubic enlargement the result's mean LPIPS (AlexNet) must be lower by 35 %
(`realesrgan`: 25 %) and its mean DISTS by 25 % (15 %); its PSNR on Y may be lower by 1.5 dB. NIQE needs more blocks
than a tile has: it is measured on one 512 px crop of each photograph, the sharpest, and must be below bicubic's.

Settings are chosen on the training photographs: `--photos` with their folder, a smaller `--limit`.
Exit code: 0 the bar is met, 1 it is not, 2 an argument is wrong.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from cassr_jax.data.degradation import PRESETS
from cassr_jax.errors import InputError
from cassr_jax.evaluation.cascades import KINDS, Record, add_options, evaluate, load_restore, settings
from cassr_jax.evaluation.measures import make_measure
from cassr_jax.evaluation.naturalness import niqe, pristine_statistics
from cassr_jax.evaluation.tiles import degraded_crops, degraded_tiles
from cassr_jax.files import write_json

Means = Mapping[str, Mapping[str, float]]  # measure -> kind of picture -> mean

# Largest relative change of a mean against bicubic's.
BARS = {"light": {"lpips": -0.35, "dists": -0.25}, "realesrgan": {"lpips": -0.25, "dists": -0.15}}
LARGEST_LOSS = 1.5  # of PSNR-Y, in dB
TITLES = {"lpips": "LPIPS-Alex", "dists": "DISTS", "niqe": "NIQE", "psnr_y": "PSNR-Y"}


@dataclass(frozen=True)
class Line:
    """One measure under one preset: what was found, and whether it is enough."""

    preset: str
    measure: str
    bicubic: float
    reference: float
    result: float
    change: float  # of the result against bicubic: relative, for PSNR-Y in dB
    bar: float
    passed: bool

    def __str__(self) -> str:
        values = "  ".join(f"{getattr(self, kind):8.4f}" for kind in KINDS)
        unit = (lambda x: f"{x:+.2f} dB") if self.measure == "psnr_y" else (lambda x: f"{x:+.1%}")
        verdict = "pass" if self.passed else "FAIL"
        name = TITLES[self.measure]
        return f"{self.preset:<11} {name:<11} {values}  {unit(self.change):>9}  {unit(self.bar):>9}  {verdict}"


def judge(preset: str, means: Means) -> list[Line]:
    """The lines of one preset; a preset without a bar of its own is held to that of `realesrgan`."""
    bars = BARS.get(preset, BARS["realesrgan"]) | {"niqe": 0.0, "psnr_y": -LARGEST_LOSS}
    lines = []
    for measure, bar in bars.items():
        if measure not in means:
            continue
        bicubic, reference, result = (means[measure][kind] for kind in KINDS)
        if measure == "psnr_y":
            change = result - bicubic
            passed = change >= bar
        else:
            change = result / bicubic - 1
            passed = change < bar if measure == "niqe" else change <= bar
        lines.append(Line(preset, measure, bicubic, reference, result, change, bar, passed))
    return lines


def mean(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    names = records[0].values[KINDS[0]]
    return {name: {kind: float(np.mean([r.values[kind][name] for r in records])) for kind in KINDS} for name in names}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--photos", type=Path, required=True, help="folder of photographs")
    add("--limit", type=int, default=100, help="how many tiles (default %(default)s)")
    add("--crops", type=int, default=12, help="how many crops for NIQE at most, 0 for none (default %(default)s)")
    add("--preset", choices=PRESETS, action="append", help="may be repeated (default: light and realesrgan)")
    add("--output", type=Path, help="JSON file for all values")
    add_options(parser)
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace) -> list[Line]:
    start = time.monotonic()
    restore, learned = load_restore(settings(arguments)), make_measure()
    statistics = pristine_statistics() if arguments.crops else None
    lines, details = [], {}
    for preset in arguments.preset or BARS:
        tiles = degraded_tiles(arguments.photos, arguments.limit, PRESETS[preset])
        crops = degraded_crops(arguments.photos, arguments.crops, PRESETS[preset]) if arguments.crops else []
        tile_values, crop_values = (
            list(tqdm(evaluate(pairs, restore, measure), f"{preset}, {what}", len(pairs), disable=None))
            for what, pairs, measure in (
                ("tiles", tiles, lambda pair, pictures: learned(pair.hr, pictures)),
                ("crops", crops, lambda _, pictures: [{"niqe": niqe(picture, statistics)} for picture in pictures]),
            )
        )
        found = judge(preset, mean(tile_values) | (mean(crop_values) if crop_values else {}))
        print(*found, sep="\n", flush=True)
        lines += found
        details[preset] = {
            what: [{"name": record.name} | record.values for record in records]
            for what, records in (("tiles", tile_values), ("crops", crop_values))
        }
    content = {
        "settings": settings(arguments) | {"photos": arguments.photos.name, "tiles": arguments.limit},
        "jax": jax.__version__,
        "seconds": round(time.monotonic() - start, 1),
        "lines": [asdict(line) for line in lines],
        "pictures": details,
    }
    if arguments.output:
        write_json(arguments.output, content)
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    try:
        if arguments.limit < 1 or arguments.crops < 0:
            raise InputError(f"--limit {arguments.limit} --crops {arguments.crops}: expected at least 1 and 0")
        kinds = "  ".join(f"{kind[:8]:>8}" for kind in KINDS)
        print(f"{'preset':<11} {'measure':<11} {kinds}  {'change':>9}  {'bar':>9}")
        lines = run(arguments)
    except InputError as error:
        print(f"tiny_quality: {error}", file=sys.stderr)
        return 2
    met = sum(line.passed for line in lines)
    print(f"{met} of {len(lines)} met")
    return 0 if met == len(lines) else 1


if __name__ == "__main__":
    sys.exit(main())
