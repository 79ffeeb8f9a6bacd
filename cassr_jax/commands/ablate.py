"""What each part of a cascade is worth: variants of one cascade on the same pairs, in a table and in plots.

    python -m cassr_jax.commands.ablate --lr LR --hr HR --config tiny --output FOLDER --sweep-steps 1 2 4

A variant is a file of --ablations that defines `change`, a function of the cascade's configuration; --sweep-steps and
--sweep-guidance add the unchanged cascade with each of these values. One that cannot be loaded, for want of a network
say, is named and left out. The output folder gets ablations.md, ablations.json, ablations.png (LPIPS and DISTS against
steps, guidance and time) and a folder for each variant. The same command again goes on where it stopped.
"""

import argparse
import importlib.util
import runpy
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

from cassr_jax.commands.running import command
from cassr_jax.errors import InputError
from cassr_jax.evaluation.cascades import Change, add_options, fingerprint, load_restore, settings
from cassr_jax.evaluation.comparison import compare, make_measures
from cassr_jax.evaluation.pairing import Case, find_cases
from cassr_jax.evaluation.pyiqa_measures import pyiqa_measures
from cassr_jax.evaluation.report import means, table
from cassr_jax.files import replaced, write_json

PLOT = "ablations.png"
_MEASURES = {"lpips": "LPIPS (AlexNet)", "dists": "DISTS"}


@dataclass(frozen=True)
class Variant:
    """A cascade changed in one thing."""

    name: str
    change: Change | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # over those of the command line


@dataclass(frozen=True)
class Outcome:
    """A variant's means over the pictures, and the median seconds for one."""

    variant: Variant
    values: Mapping[str, float]
    seconds: float


def read_variants(folder: Path) -> list[Variant]:
    """One for each Python file, by name.

    Raises:
        InputError: there is none, or one defines no function `change`.
    """
    files = sorted(folder.glob("*.py"))
    if not files:
        raise InputError(f"{folder}: holds no Python file; expected a folder such as configs/ablations")
    variants = []
    for file in files:
        change = runpy.run_path(str(file)).get("change")
        if not callable(change):
            raise InputError(f"{file}: defines no function `change` of a cascade's configuration")
        variants.append(Variant(file.stem, cast(Change, change)))
    return variants


def sweeps(steps: Sequence[int], guidance: Sequence[float]) -> list[Variant]:
    """The unchanged cascade with each number of steps, and with each guidance scale."""
    return [
        *(Variant(f"steps_{value:02d}", options={"steps": value}) for value in steps),
        *(Variant(f"guidance_{value:g}", options={"guidance_scale": value}) for value in guidance),
    ]


def run_variant(
    variant: Variant, cases: Sequence[Case], measure: Any, chosen: Mapping[str, Any], folder: Path
) -> Outcome:
    """
    Raises:
        InputError: the variant's cascade cannot be loaded, or no picture could be measured.
    """
    chosen = {**chosen, **variant.options, "variant": variant.name, "cascade": fingerprint(chosen, variant.change)}
    found = compare(cases, partial(load_restore, chosen, variant.change), measure, folder / variant.name, chosen)
    rows = means(found)
    if not rows:
        raise InputError(f"none of {len(cases)} pictures could be measured; the first: {found[0].left_out}")
    return Outcome(variant, rows["result"], statistics.median(m.seconds for m in found if m.seconds is not None))


def plot(file: Path, outcomes: Sequence[Outcome]) -> None:
    """LPIPS and DISTS against steps, guidance and seconds a picture, as far as several variants differ in them."""
    from matplotlib.figure import Figure

    def points(place: Callable[[Outcome], Any]) -> list[tuple[Any, Outcome]]:
        return sorted(((x, o) for o in outcomes if (x := place(o)) is not None), key=lambda point: point[0])

    columns = {
        "steps": points(lambda o: o.variant.options.get("steps")),
        "guidance scale": points(lambda o: o.variant.options.get("guidance_scale")),
        "seconds a picture": points(lambda o: o.seconds),
    }
    columns = {title: found for title, found in columns.items() if len(found) > 1 or title.startswith("seconds")}
    figure = Figure(figsize=(4.5 * len(columns), 7), layout="constrained")
    grid = figure.subplots(len(_MEASURES), len(columns), squeeze=False, sharey="row")
    for (name, label), row in zip(_MEASURES.items(), grid, strict=True):
        row[0].set_ylabel(f"{label}, lower is better")
        for ax, (title, found) in zip(row, columns.items(), strict=True):
            named = title.startswith("seconds")
            ax.plot([x for x, _ in found], [o.values[name] for _, o in found], "o" if named else "o-")
            ax.set_xlabel(title)
            for x, outcome in found if named else ():
                ax.annotate(outcome.variant.name, (x, outcome.values[name]), fontsize=7)
    with replaced(file) as stream:
        figure.savefig(stream, format="png", dpi=120)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m cassr_jax.commands.ablate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--hr", type=Path, required=True, help="folder of the true pictures")
    add("--lr", type=Path, required=True, help="folder of the pictures that are restored")
    add("--output", type=Path, required=True, help="folder for the report and a folder for each variant")
    add("--ablations", type=Path, default=Path("configs/ablations"), help="folder of variants (default %(default)s)")
    add_options(parser)
    sweep = parser.add_argument_group("sweeps").add_argument
    sweep("--sweep-steps", type=int, nargs="*", default=[], metavar="N", help="numbers of steps, e.g. 5 10 20 50")
    sweep("--sweep-guidance", type=float, nargs="*", default=[], metavar="S", help="guidance scales, e.g. 1 3 5.5 8")
    add("--seed", type=int, default=0, help="of every picture's noise (default %(default)s)")
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace) -> str:
    """Every variant; returns the table."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError('the plots need matplotlib, which is not installed: pip install "cassr-jax[eval]"')
    variants = read_variants(arguments.ablations) + sweeps(arguments.sweep_steps, arguments.sweep_guidance)
    cases, unpaired = find_cases(arguments.hr, arguments.lr, {})
    of_picture, _, _ = pyiqa_measures()
    measure, missing = make_measures(of_picture)
    chosen = settings(arguments) | {"seed": arguments.seed, "pictures": [case.name for case in cases]}
    outcomes, failed = [], {}
    for variant in variants:
        print(f"{variant.name}:", file=sys.stderr, flush=True)
        try:
            outcomes.append(run_variant(variant, cases, measure, chosen, arguments.output))
        except InputError as error:
            failed[variant.name] = str(error)
            print(f"left out: {error}", file=sys.stderr, flush=True)
    if not outcomes:
        raise InputError(f"none of {len(variants)} variants could be run; the first: {next(iter(failed.values()))}")
    notes = [f"Pictures: {len(cases)}."]
    notes += [f"{o.variant.name}: {o.seconds:.1f} s a picture." for o in outcomes]
    notes += [f"Left out: {name} ({reason})." for name, reason in (unpaired | failed | missing).items()]
    text = table({o.variant.name: o.values for o in outcomes}, {})
    text += "\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"
    with replaced(arguments.output / "ablations.md") as file:
        file.write(text.encode())
    content = {
        o.variant.name: {"options": o.variant.options, "means": o.values, "seconds": o.seconds} for o in outcomes
    }
    write_json(arguments.output / "ablations.json", {"settings": chosen, "variants": content, "left_out": failed})
    plot(arguments.output / PLOT, outcomes)
    return text


@command("ablate")
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    print(run(arguments), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
