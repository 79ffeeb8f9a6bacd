#!/usr/bin/env python
"""Judge whether a small cascade's second stage earns its place, on photographs that it never saw.

    python benchmarks/tiny_quality.py --photos PHOTOS --pairs REAL --results OSEDiff=OSEDIFF --output runs/quality

Sharp 256 px tiles of the photographs are degraded to 64 px by the presets `light` and `realesrgan` and restored. NIQE,
which needs more blocks than a tile has, is measured on the sharpest 512 px crop of each photograph. --pairs adds a
folder with lr/ and hr/ of real pictures, and --results another program's pictures of them. Beside the result stand the
sceptic's rows: the first stage's picture, blurred or passed through the autoencoder, and the means of any two pictures.

The bar:
- On tiles, the result must beat its reference in LPIPS and DISTS by two standard errors of the difference.
- On real pairs, it must beat its reference in DISTS by two standard errors and in LPIPS by 0.02, and the best of all
  other rows in LPIPS by two standard errors. Its NIQE may not be higher and its PSNR not lower than the reference's.
- It must beat another program in LPIPS, DISTS and PSNR, with a NIQE at most 0.1 higher.
- With our own first stage (--activation scedit) and `light`, LPIPS must be 40 % and DISTS 20 % below bicubic's.

The output folder gets quality.md, quality.json and a folder for each set. Run the same command again to continue.
Exit code: 0 if the bar is met, 1 if it is not, 2 if an argument is wrong.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

from cassr_jax.commands.options import number
from cassr_jax.commands.running import command
from cassr_jax.commands.testset import Planned, build, sharpest_pairs, tiled_pairs
from cassr_jax.data.presets import PRESETS
from cassr_jax.errors import InputError
from cassr_jax.evaluation.cascades import add_options, add_results, add_sigmas, fingerprint, load_restore, settings
from cassr_jax.evaluation.comparison import Measured, compare
from cassr_jax.evaluation.measures import Measure, make_measure, read_naturalness, read_weights
from cassr_jax.evaluation.pairing import Case, find_cases
from cassr_jax.evaluation.report import SHOWN, difference_table, differences, means, table
from cassr_jax.evaluation.restoring import Restore
from cassr_jax.evaluation.statistics import Mean
from cassr_jax.files import replaced, write_json
from cassr_jax.printing import say
from cassr_jax.ranges import COUNT, FROM_ZERO

DAMAGE = ("light", "realesrgan")
PAIRS = "real pairs"
OTHERS = "best other row"  # the row with the best mean, not counting the result


@dataclass(frozen=True)
class Bar:
    """What the result must reach in one measure.

    Attributes:
        measure: a name of `report.SHOWN`.
        against: the program that the result is compared with, or OTHERS.
        gain: the least amount by which the result must be better.
        relative: whether `gain` is a share of that program's mean.
        errors: the result must also be better by so many standard errors of the difference.
    """

    measure: str
    against: str
    gain: float = 0.0
    relative: bool = False
    errors: float = 0.0


ON_TILES = (Bar("lpips", "reference", errors=2), Bar("dists", "reference", errors=2))
OWN_FIRST_STAGE = (Bar("lpips", "bicubic", 0.40, relative=True), Bar("dists", "bicubic", 0.20, relative=True))
ON_PAIRS = (
    Bar("lpips", "reference", 0.02),
    Bar("lpips", OTHERS, errors=2),
    Bar("dists", "reference", errors=2),
    Bar("niqe", "reference"),
    Bar("psnr_y", "reference"),
)


def against_peer(name: str) -> tuple[Bar, ...]:
    """The bars against another program."""
    return Bar("lpips", name), Bar("dists", name), Bar("niqe", name, -0.1), Bar("psnr_y", name)


@dataclass(frozen=True)
class Line:
    """One bar on one set: the values that were found, and whether they are enough."""

    set: str
    bar: Bar
    against: str
    result: float
    other: float
    gain: float  # positive where the result is the better one
    error: float
    passed: bool

    def __str__(self) -> str:
        column, bar = SHOWN[self.bar.measure], self.bar
        needed = f"{bar.gain:.0%}" if bar.relative else f"{bar.gain:.{column.digits}f}"
        needed += f" and {bar.errors:g} standard errors" if bar.errors else ""
        cells = (
            self.set,
            column.title,
            f"{self.result:.{column.digits}f}",
            f"{self.other:.{column.digits}f} ({self.against})",
            f"{self.gain:+.{column.digits}f} ± {self.error:.{column.digits}f}",
            needed,
            "met" if self.passed else "missed",
        )
        return f"| {' | '.join(cells)} |"


TITLES = "| set | measure | result | compared with | gain | needed | |\n|---|---|---|---|---|---|---|"


def judge(name: str, bars: Sequence[Bar], found: Sequence[Measured]) -> list[Line]:
    """The lines of one set, for the measures that were taken."""
    rows = means(found)
    return [_line(name, bar, found, rows) for bar in bars if bar.measure in rows["result"]]


def _line(name: str, bar: Bar, found: Sequence[Measured], rows: Mapping[str, Mapping[str, Mean]]) -> Line:
    sign = 1 if SHOWN[bar.measure].higher_is_better else -1
    against = bar.against
    if against == OTHERS:
        against = max(rows.keys() - {"result"}, key=lambda program: (sign * rows[program][bar.measure].value, program))
    other, difference = rows[against][bar.measure].value, differences(found, against)["result"][bar.measure].mean
    gain, needed = sign * difference.value, bar.gain * (other if bar.relative else 1)
    passed = gain >= needed and (not bar.errors or gain > bar.errors * difference.error)
    return Line(name, bar, against, rows["result"][bar.measure].value, other, gain, difference.error, passed)


def merged(tiles: Sequence[Measured], crops: Sequence[Measured]) -> str:
    """The two tables of a set, with NIQE from the crops and the other measures from the tiles."""
    rows, compared = means(tiles), differences(tiles, "reference")
    if crops:
        of_crops = means(crops), differences(crops, "reference")
        rows = {program: {**row, "niqe": of_crops[0][program]["niqe"]} for program, row in rows.items()}
        compared = {program: {**row, "niqe": of_crops[1][program]["niqe"]} for program, row in compared.items()}
    return f"{table(rows)}\n\n{difference_table(compared, 'reference')}"


@dataclass(frozen=True)
class Bench:
    """What all sets share: the settings, the function that loads the cascade, and the output folder."""

    chosen: Mapping[str, object]
    load: Callable[[], Restore]
    output: Path

    def measure(self, cases: Sequence[Case], measure: Measure, name: str) -> list[Measured]:
        """Measure the cases of a set that have no values yet; return the values of all."""
        chosen = {**self.chosen, "pictures": [case.name for case in cases]}
        found = compare(cases, self.load, measure, self.output / name, chosen)
        if left_out := [m for m in found if not m.values]:
            raise InputError(f"{name}: {left_out[0].name} could not be measured ({left_out[0].left_out})")
        return found

    def made(self, planned: Sequence[Planned], name: str) -> list[Case]:
        """The cases of a test set, which is made unless it exists."""
        folder = self.output / name / "set"
        build(planned, {}, {"kind": name}, folder)
        return find_cases(folder / "hr", folder / "lr", {})[0]


def run(arguments: argparse.Namespace) -> list[Line]:
    """Measure every set, write the report, and return the lines of the verdict."""
    weights, missing = read_weights(["lpips", "dists"])
    alone, missing_niqe = read_naturalness()
    if missing | missing_niqe:
        raise InputError("; ".join((missing | missing_niqe).values()))
    distances, niqe = make_measure(weights, devices=arguments.devices), make_measure({}, alone)
    everything = make_measure(weights, alone, arguments.devices)
    cascade = settings(arguments) | {"sigmas": list(arguments.sigma), "seed": arguments.seed}
    bench = Bench(
        cascade | {"cascade": fingerprint(cascade)},
        cache(partial(load_restore, cascade, devices=arguments.devices)),
        arguments.output,
    )
    lines, texts, details = [], [], {}
    for preset in arguments.preset or DAMAGE if arguments.photos else ():
        damage = PRESETS[preset]
        cases = bench.made(tiled_pairs(arguments.photos, damage, arguments.tiles), f"{preset}/tiles")
        tiles, crops = bench.measure(cases, distances, f"{preset}/tiles"), []
        if arguments.crops:
            cases = bench.made(sharpest_pairs(arguments.photos, damage, arguments.crops), f"{preset}/crops")
            crops = bench.measure(cases, niqe, f"{preset}/crops")
        own = OWN_FIRST_STAGE if arguments.activation == "scedit" and preset == "light" else ()
        lines += judge(preset, ON_TILES + own, tiles)
        texts.append(f"{preset}: {len(tiles)} tiles, {len(crops)} crops\n\n{merged(tiles, crops)}")
        details[preset] = {"tiles": [asdict(m) for m in tiles], "crops": [asdict(m) for m in crops]}
        say(texts[-1] + "\n")
    if arguments.pairs:
        results = dict(arguments.results)
        cases, _ = find_cases(arguments.pairs / "hr", arguments.pairs / "lr", results)
        found = bench.measure(cases, everything, "pairs")
        lines += judge(PAIRS, (*ON_PAIRS, *(bar for name in results for bar in against_peer(name))), found)
        texts.append(f"{PAIRS}: {len(found)}\n\n{merged(found, found)}")
        details[PAIRS] = [asdict(m) for m in found]
        say(texts[-1] + "\n")
    verdict = "\n".join([TITLES, *map(str, lines)])
    with replaced(arguments.output / "quality.md") as file:
        file.write("\n\n".join([*texts, verdict, ""]).encode())
    content = {"settings": bench.chosen, "lines": [asdict(line) for line in lines], "pictures": details}
    write_json(arguments.output / "quality.json", content)
    say(verdict)
    return lines


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--photos", type=Path, help="folder of photographs that no network saw")
    add("--pairs", type=Path, help="folder with lr/ and hr/ of real pictures that chose no setting")
    add_results(parser)
    add("--tiles", type=number(COUNT), default=100, help="number of tiles (default: %(default)s)")
    add("--crops", type=number(FROM_ZERO), default=12, help="most crops for NIQE, 0 for none (default: %(default)s)")
    add("--preset", choices=PRESETS, action="append", help="damage; may be repeated (default: light, realesrgan)")
    add("--output", type=Path, required=True, help="folder for the sets and the report")
    add_options(parser)
    add_sigmas(parser)
    arguments = parser.parse_args(argv)
    if arguments.photos is None and arguments.pairs is None:
        parser.error("there is nothing to judge: expected --photos, --pairs, or both")
    return arguments


@command("tiny_quality")
def main(argv: Sequence[str] | None = None) -> int:
    lines = run(parse(argv))
    met = sum(line.passed for line in lines)
    say(f"{met} of {len(lines)} met")
    return 0 if met == len(lines) else 1


if __name__ == "__main__":
    sys.exit(main())
