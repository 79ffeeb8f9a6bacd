#!/usr/bin/env python
"""Measure what the parts of the second stage are worth, by several trainings of each arrangement.

    python benchmarks/tiny_ablation.py --photos PHOTOS --output runs/ablation

trains `configs/tiny_ablation.py` with several seeds in each arrangement: whole, without one attention or both, and with
the LR image in place of the restored reference. All are measured on the same degraded tiles of photographs. The tables
show means and standard errors over the seeds, and the differences from the whole that was trained with the same seed. A
run that exists is continued if it is not finished, and measured.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import cassr_jax
from cassr_jax.commands.options import number
from cassr_jax.commands.running import command
from cassr_jax.data.presets import PRESETS
from cassr_jax.errors import InputError
from cassr_jax.evaluation.measures import Measure, make_measure, read_weights
from cassr_jax.evaluation.statistics import mean
from cassr_jax.evaluation.tiles import Pair, degraded_tiles
from cassr_jax.files import write_json
from cassr_jax.printing import complain, progress_bar, say
from cassr_jax.ranges import COUNT

ROOT = Path(__file__).resolve().parents[1]
WHOLE = "whole"
ARRANGEMENTS = {
    WHOLE: [],
    "no multiple attention": ["switches.reference_attention=false", "switches.lr_attention=false"],
    "no attention to the reference": ["switches.reference_attention=false"],
    "no attention to the LR image": ["switches.lr_attention=false"],
    "LR image as reference": ["activation=identity"],
}
TITLES = {"lpips": "LPIPS", "dists": "DISTS", "psnr_y": "PSNR-Y"}

Values = Mapping[str, float]


def train(config: Path, workdir: Path, changes: Sequence[str], seed: int) -> None:
    """Train one arrangement; CalledProcessError if that fails, with the reason on stderr."""
    command = [sys.executable, str(ROOT / "train.py"), "--config", str(config), "--workdir", str(workdir)]
    subprocess.run([*command, "--set", f"seed={seed}", *changes], check=True, stdout=subprocess.DEVNULL)


def measure_tiles(workdir: Path, tiles: Sequence[Pair], measure: Measure) -> Values:
    """The means of the measures over the tiles that the trained cascade restores."""
    cassr = cassr_jax.load(workdir)
    found = []
    for seed, tile in enumerate(progress_bar(tiles, desc=workdir.name, leave=False)):
        found += measure(tile.hr, [cassr.restore(tile.lr, seed=seed).result])[0]
    return {name: float(np.mean([values[name] for values in found])) for name in TITLES}


def table(runs: Mapping[str, Sequence[Values]]) -> str:
    """A Markdown table of mean ± standard error over the seeds.

    It has a row for each arrangement, and one for its difference from the whole that was trained with the same seed.
    """

    def spread(values: Sequence[float], sign: str = "") -> str:
        found = mean(values)
        return f"{found.value:{sign}.4f}" + (f" ± {found.error:.4f}" if found.count > 1 else "")

    rows = [f"| arrangement | {' | '.join(TITLES.values())} |", "|---" * (1 + len(TITLES)) + "|"]
    for name, values in runs.items():
        rows.append(f"| {name} | {' | '.join(spread([v[m] for v in values]) for m in TITLES)} |")
    for name, values in runs.items():
        if name != WHOLE:
            pairs = list(zip(values, runs[WHOLE], strict=True))
            rows.append(
                f"| {name} - {WHOLE} | {' | '.join(spread([a[m] - b[m] for a, b in pairs], '+') for m in TITLES)} |"
            )
    return "\n".join(rows)


@command("tiny_ablation")
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--photos", type=Path, required=True, help="folder of photographs that no network saw")
    add("--output", type=Path, required=True, help="folder for the runs and ablation.json")
    add(
        "--config",
        type=Path,
        default=ROOT / "configs" / "tiny_ablation.py",
        help="the training configuration (default: configs/tiny_ablation.py)",
    )
    add("--seeds", type=number(COUNT), default=3, help="number of trainings of each arrangement (default: %(default)s)")
    add("--tiles", type=number(COUNT), default=20, help="number of tiles (default: %(default)s)")
    add("--preset", default="light", choices=PRESETS, help="damage of the tiles (default: %(default)s)")
    arguments = parser.parse_args(argv)
    tiles = degraded_tiles(arguments.photos, arguments.tiles, PRESETS[arguments.preset])
    weights, missing = read_weights(["lpips", "dists"])
    if missing:
        raise InputError("; ".join(missing.values()))
    measure = make_measure(weights)
    runs: dict[str, list[Values]] = {name: [] for name in ARRANGEMENTS}
    for seed in range(arguments.seeds):
        for name, changes in ARRANGEMENTS.items():
            workdir = arguments.output / f"{name.replace(' ', '_').lower()}_{seed}"
            try:
                train(arguments.config, workdir, changes, seed)
            except subprocess.CalledProcessError as error:
                complain(f"training failed with exit code {error.returncode}", "tiny_ablation")
                return error.returncode
            runs[name].append(measure_tiles(workdir, tiles, measure))
            complain(f"{name}, seed {seed}: {json.dumps(runs[name][-1])}", "tiny_ablation")
    settings = {"tiles": arguments.tiles, "preset": arguments.preset, "seeds": arguments.seeds}
    write_json(arguments.output / "ablation.json", {"settings": settings, "runs": runs})
    say(table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
