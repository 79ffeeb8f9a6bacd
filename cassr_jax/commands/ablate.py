"""Measure what a trained cascade loses when a part is switched off: run variants of it on the same pairs.

    python -m cassr_jax.commands.ablate --lr LR --hr HR --config tiny --output FOLDER --sweep-steps 1 2 4

This shows what the weights use, not what a part is worth: a network always suffers from the loss of a part that it was
trained with. A variant is a file of --ablations that defines `change`, a function of the cascade's configuration. The
options of this command hold for every variant, unless the variant changes the same thing. --sweep-steps and
--sweep-guidance add the unchanged cascade with each of the given values. A variant that cannot be loaded, for example
because a network is missing, is named and left out. Every mean comes with its standard error, and a second table
compares each variant with --against, picture by picture. The output folder gets ablations.md, ablations.json,
ablations.png (LPIPS and DISTS against steps, guidance and time) and a folder for each variant. Run the same command
again to continue a run that was stopped.
"""

import argparse
import importlib.util
import statistics
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from cassr_jax.commands.options import local_path, number
from cassr_jax.commands.running import command
from cassr_jax.commands.settings import with_options
from cassr_jax.compiled import keep_compiled_functions
from cassr_jax.config import CascadeConfig
from cassr_jax.config_files import naming, run_file
from cassr_jax.errors import InputError
from cassr_jax.evaluation.cascades import Change, add_options, fingerprint, load_restore, settings
from cassr_jax.evaluation.comparison import Measured, compare
from cassr_jax.evaluation.installed import find_measures
from cassr_jax.evaluation.measures import Measure
from cassr_jax.evaluation.pairing import Case, find_cases
from cassr_jax.evaluation.report import difference_table, differences, means, table
from cassr_jax.evaluation.restoring import Request, Restore, Restored
from cassr_jax.evaluation.statistics import Mean, to_json
from cassr_jax.files import Json, check_outside, replaced, write_json
from cassr_jax.locks import claimed
from cassr_jax.printing import complain, say
from cassr_jax.ranges import GUIDANCE_SCALE, STEPS

PLOT = "ablations.png"
WHOLE = "whole"
_MEASURES = {"lpips": "LPIPS (AlexNet)", "dists": "DISTS"}


@dataclass(frozen=True)
class Variant:
    """One variant of the cascade: a change of its configuration, or other options."""

    name: str
    change: Change | None = None
    options: Mapping[str, object] = field(default_factory=dict)  # in place of the command line's


@dataclass(frozen=True)
class Outcome:
    """The values of one variant for each picture, and the median time that it took for a picture."""

    variant: Variant
    found: Sequence[Measured]
    seconds: float


def read_variants(folder: Path) -> list[Variant]:
    """One variant for each Python file of a folder, by name.

    Raises:
        InputError: there is no file, or one fails or defines no function `change`.
    """
    files = sorted(folder.glob("*.py"))
    if not files:
        raise InputError(f"{folder}: holds no Python file, expected a folder such as configs/ablations")
    return [Variant(file.stem, _read_change(file)) for file in files]


def _read_change(file: Path) -> Change:
    defined = run_file(file, "a Python file that defines `change`").get("change")
    if not callable(defined):
        raise InputError(f"{file}: defines no function `change` of a cascade's configuration")

    def change(config: CascadeConfig) -> CascadeConfig:
        with naming(file):
            changed = defined(config)
        if not isinstance(changed, CascadeConfig):
            raise InputError(f"{file}: `change` returns {type(changed).__name__}, expected a CascadeConfig")
        return changed

    return change


def sweeps(steps: Sequence[int], guidance: Sequence[float]) -> list[Variant]:
    """The unchanged cascade with each number of steps, and with each guidance scale."""
    return [
        *(Variant(f"steps_{value:02d}", options={"steps": value}) for value in steps),
        *(Variant(f"guidance_{value:g}", options={"guidance_scale": value}) for value in guidance),
    ]


def run_variant(
    variant: Variant,
    cases: Sequence[Case],
    measure: Measure,
    chosen: Json,
    folder: Path,
    devices: int | None,
) -> Outcome:
    """Measure a variant on every picture, in a folder of its own.

    Raises:
        InputError: the variant's cascade cannot be loaded, or no picture could be measured.
    """
    own = {**chosen, **variant.options}

    def change(config: CascadeConfig) -> CascadeConfig:
        config = with_options(config, own)
        return config if variant.change is None else variant.change(config)

    # The options are in the configuration, where a variant can change them, so none is given once more.
    unchanged = {"config": chosen["config"], "activation": None, "precision": chosen["precision"]}

    def load() -> Restore:
        return _warmed(load_restore(unchanged, change, devices))

    comparison = own | {"variant": variant.name, "cascade": fingerprint(chosen, change)}
    found = compare(cases, load, measure, folder / variant.name, comparison)
    seconds = [m.seconds for m in found if m.values and m.seconds is not None]
    if not seconds:
        raise InputError(f"none of the {len(cases)} pictures could be measured; the first one: {found[0].left_out}")
    return Outcome(variant, found, statistics.median(seconds))


def _warmed(restore: Restore) -> Restore:
    """Restores the first picture once before all others, so that their times hold no compilation."""

    def restored(requests: Iterable[Request]) -> Iterator[Restored | Exception]:
        requests = iter(requests)
        for first in requests:
            deque(restore([first]), maxlen=0)
            yield from restore(chain([first], requests))

    return restored


def side_by_side(outcomes: Sequence[Outcome]) -> list[Measured]:
    """The variants' results as if each variant were a program, for the pictures that all of them have."""
    pictures = zip(*(o.found for o in outcomes), strict=True)
    return [
        replace(
            together[0],
            values={o.variant.name: m.values["result"] for o, m in zip(outcomes, together, strict=True)},
        )
        for together in pictures
        if all(m.values for m in together)
    ]


def plot(file: Path, outcomes: Sequence[Outcome], rows: Mapping[str, Mapping[str, Mean]]) -> None:
    """Plot LPIPS and DISTS against steps, guidance scale and seconds per picture.

    Steps and guidance scale have a column only if several variants sweep them.
    """
    from matplotlib.figure import Figure

    def points(coordinate: Callable[[Outcome], object]) -> list[tuple[object, Outcome]]:
        return sorted(((x, o) for o in outcomes if (x := coordinate(o)) is not None), key=lambda point: point[0])

    columns = {
        "steps": points(lambda o: o.variant.options.get("steps")),
        "guidance scale": points(lambda o: o.variant.options.get("guidance_scale")),
        "seconds per picture": points(lambda o: o.seconds),
    }
    columns = {title: found for title, found in columns.items() if len(found) > 1 or title.startswith("seconds")}
    figure = Figure(figsize=(4.5 * len(columns), 7), layout="constrained")
    measures = {name: label for name, label in _MEASURES.items() if all(name in row for row in rows.values())}
    grid = figure.subplots(len(measures), len(columns), squeeze=False, sharey="row")
    for (name, label), row in zip(measures.items(), grid, strict=True):
        row[0].set_ylabel(f"{label}, lower is better")
        for ax, (title, found) in zip(row, columns.items(), strict=True):
            named = title.startswith("seconds")
            shown = {o.variant.name: rows[o.variant.name][name] for _, o in found}
            values, errors = [m.value for m in shown.values()], [m.error for m in shown.values()]
            ax.errorbar([x for x, _ in found], values, errors, fmt="o" if named else "o-", elinewidth=0.5)
            ax.set_xlabel(title)
            for x, outcome in found if named else ():
                ax.annotate(outcome.variant.name, (x, shown[outcome.variant.name].value), fontsize=7)
    with replaced(file) as stream:
        figure.savefig(stream, format="png", dpi=120)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m cassr_jax.commands.ablate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--hr", type=local_path, required=True, help="folder of the true, high-resolution pictures")
    add("--lr", type=local_path, required=True, help="folder of low-resolution pictures for the cascade to restore")
    add("--output", type=local_path, required=True, help="folder for the report and a folder for each variant")
    add(
        "--ablations",
        type=local_path,
        default=Path("configs/ablations"),
        help="folder of variants (default: %(default)s)",
    )
    add(
        "--against",
        metavar="VARIANT",
        help="variant that the others are compared with (default: whole or the first)",
    )
    add_options(parser)
    sweep = parser.add_argument_group("sweeps").add_argument
    steps, scale = number(STEPS), number(GUIDANCE_SCALE)
    sweep("--sweep-steps", type=steps, nargs="*", default=[], metavar="N", help="numbers of steps, e.g. 5 10 20 50")
    sweep("--sweep-guidance", type=scale, nargs="*", default=[], metavar="S", help="guidance scales, e.g. 1 3 5.5 8")
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace) -> str:
    """Run every variant and return the tables."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError('matplotlib is not installed, expected it for the plots: pip install "cassr-jax[eval]"')
    variants = read_variants(arguments.ablations) + sweeps(arguments.sweep_steps, arguments.sweep_guidance)
    names = [variant.name for variant in variants]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise InputError(f"two variants are called {repeated[0]}, expected a name of its own for each")
    baseline = arguments.against or (WHOLE if WHOLE in names else names[0])
    if baseline not in names:
        raise InputError(f"--against is {baseline!r}, expected one of {', '.join(names)}")
    cases, unpaired = find_cases(arguments.hr, arguments.lr, {})
    measures = find_measures(False, arguments.devices)
    if measures.missing.keys() >= _MEASURES.keys():
        raise InputError("neither LPIPS nor DISTS is installed, expected one of them to plot; see docs/evaluation.md")
    chosen = settings(arguments) | {
        "seed": arguments.seed,
        "pictures": [case.name for case in cases],
        "missing": sorted(measures.missing),
    }
    outcomes, failed, measure = [], {}, measures.of_pictures
    for variant in variants:
        complain(f"{variant.name}:")
        try:
            outcomes.append(run_variant(variant, cases, measure, chosen, arguments.output, arguments.devices))
        except InputError as error:
            failed[variant.name] = str(error)
            complain(f"left out: {error}")
    if not outcomes:
        raise InputError(
            f"none of the {len(variants)} variants could be run; the first one: {next(iter(failed.values()))}"
        )
    return write_report(arguments.output, chosen, outcomes, baseline, failed, {**unpaired, **measures.missing})


def write_report(
    folder: Path,
    chosen: Json,
    outcomes: Sequence[Outcome],
    baseline: str,
    failed: Mapping[str, str],
    missing: Mapping[str, str],
) -> str:
    """Write ablations.md, ablations.json and ablations.png, and return the text of ablations.md.

    Args:
        folder: where they are written.
        chosen: the settings that all variants share.
        outcomes: the variants that could be run.
        baseline: the variant that the others are compared with.
        failed: variant -> why it could not be run.
        missing: picture or measure -> why it is left out.

    Raises:
        InputError: no picture was measured under every variant.
    """
    found = side_by_side(outcomes)
    if not found:
        raise InputError("no picture was measured under every variant, expected at least one; run fewer variants")
    rows = means(found)
    compared = differences(found, baseline) if baseline in rows else {}
    notes = [f"Pictures: {len(found)}. The number after ± is the standard error."]
    if compared:
        notes.append("The number in brackets says on how many pictures the variant is better.")
    notes += [f"{o.variant.name}: {o.seconds:.1f} s per picture." for o in outcomes]
    notes += [f"Left out: {name} ({reason})." for name, reason in {**missing, **failed}.items()]
    tables = [table(rows), *([difference_table(compared, baseline)] if compared else [])]
    text = "\n\n".join([*tables, "\n".join(f"- {note}" for note in notes)]) + "\n"
    with replaced(folder / "ablations.md") as file:
        file.write(text.encode())
    content = {
        o.variant.name: {
            "options": o.variant.options,
            "means": {name: to_json(mean) for name, mean in rows[o.variant.name].items()},
            "seconds": o.seconds,
        }
        for o in outcomes
    }
    write_json(folder / "ablations.json", {"settings": chosen, "variants": content, "left_out": failed})
    plot(folder / PLOT, outcomes, rows)
    return text


@command("ablate")
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    for name, folder in (("--hr", arguments.hr), ("--lr", arguments.lr)):
        check_outside(arguments.output, folder, name)
    keep_compiled_functions()
    with claimed(arguments.output, "ablate"):
        say(run(arguments).removesuffix("\n"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
