"""Compare a cascade, and other programs, on pairs of pictures: the paper's measures in one table.

    python -m cassr_jax.evaluation --lr LR --hr HR --config tiny --baselines --output FOLDER
    python -m cassr_jax.evaluation --hr HR --results osediff=FOLDER --results seesr=FOLDER --output FOLDER

With --lr, the cascade restores the pictures of that folder; --results adds a folder of another program's pictures to
the same table. Pictures with the same name belong together, whatever their suffixes; those that do not pair or fit are
listed. Every mean comes with its standard error, and a second table compares each program with --against, picture by
picture. The output folder gets table.md, values.csv, comparison.json, sheet.png (the worst and the best pictures) and
the restored pictures. Run the same command again to continue a comparison that was stopped.
"""

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from cassr_jax.commands import options
from cassr_jax.commands.about import add_about, called
from cassr_jax.commands.options import local_path
from cassr_jax.commands.prompts import read_prompts
from cassr_jax.commands.running import command
from cassr_jax.compiled import keep_compiled_functions
from cassr_jax.errors import InputError
from cassr_jax.evaluation import baselines
from cassr_jax.evaluation.cascades import add_options, add_results, add_sigmas, fingerprint, load_restore, settings
from cassr_jax.evaluation.comparison import Measured, compare, result_file
from cassr_jax.evaluation.installed import find_measures
from cassr_jax.evaluation.pairing import Case, find_cases
from cassr_jax.evaluation.pyiqa_measures import SetMeasure, linked
from cassr_jax.evaluation.report import means, paper_sets, write_report, write_sheet
from cassr_jax.evaluation.restoring import KINDS
from cassr_jax.evaluation.statistics import Mean
from cassr_jax.files import check_outside
from cassr_jax.printing import say


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=called("python -m cassr_jax.evaluation"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--hr", type=local_path, required=True, help="folder of the true, high-resolution pictures")
    add("--lr", type=local_path, help="folder of low-resolution pictures for the cascade to restore")
    add_results(parser)
    add("--output", type=local_path, required=True, help="folder for the report; each comparison needs its own")
    add(
        "--against",
        metavar="NAME",
        help="program that the others are compared with (default: reference, or else the first)",
    )
    add("--paper", choices=paper_sets(), help="add the paper's own figures for this test set")
    add(
        "--vgg16",
        action="store_true",
        help="also measure LPIPS with VGG16 and the Fréchet distance on its features; slow",
    )
    add_options(parser)
    options.add_options(parser, "prompts")
    sceptic = parser.add_argument_group("sceptic's rows", "Pictures that cost no second stage; see docs/evaluation.md.")
    sceptic.add_argument(
        "--baselines", action="store_true", help="add them: blurs of the reference, the autoencoder alone, means of two"
    )
    add_sigmas(sceptic)
    add_about(parser, "hr", "lr", "output", "config", "prompts")
    arguments = parser.parse_args(argv)
    if arguments.lr is None and not arguments.results:
        parser.error("there is nothing to compare: expected --lr, --results, or both")
    if arguments.prompts is not None and arguments.lr is None:
        parser.error("--prompts is given without --lr, expected both: prompts are for the pictures of --lr")
    names = [name for name, _ in arguments.results]
    if repeated := [name for name in names if names.count(name) > 1]:
        parser.error(f"--results gives {repeated[0]} twice, expected a name of its own for each folder")
    _check_baseline(arguments.against, _programs(arguments))
    return arguments


def _programs(arguments: argparse.Namespace) -> list[str]:
    """The programs that a table may have, before anything is restored."""
    own = [] if arguments.lr is None else [*KINDS, *(baselines.names(arguments.sigma) if arguments.baselines else ())]
    return own + [name for name, _ in arguments.results]


def _check_baseline(name: str | None, programs: Iterable[str]) -> None:
    if name is not None and name not in programs:
        raise InputError(f"--against is {name!r}, expected one of {', '.join(programs)}")


def run(arguments: argparse.Namespace) -> str:
    """Run the whole comparison and return its tables."""
    results = dict(arguments.results)
    read = {"--hr": arguments.hr, "--lr": arguments.lr} | {f"--results {name}": at for name, at in results.items()}
    for name, folder in read.items():
        if folder is not None:
            check_outside(arguments.output, folder, name)
    cases, unpaired = find_cases(arguments.hr, arguments.lr, results)
    prompts = {}
    if arguments.prompts is not None:
        prompts = read_prompts(arguments.prompts, [case.name for case in cases], unpaired)
        cases = [replace(case, prompt=prompts[case.name]) for case in cases]
    measures = find_measures(arguments.vgg16, arguments.devices)
    cascade = settings(arguments) | ({"sigmas": list(arguments.sigma)} if arguments.baselines else {})
    chosen = {
        "hr": str(arguments.hr.absolute()),
        "lr": None if arguments.lr is None else str(arguments.lr.absolute()),
        "results": {name: str(folder.absolute()) for name, folder in results.items()},
        "pictures": [case.name for case in cases],
        "missing": sorted(measures.missing),
        "vgg16": arguments.vgg16,
    } | ({} if arguments.lr is None else cascade | {"seed": arguments.seed, "cascade": fingerprint(cascade)})
    if prompts:
        chosen["prompts"] = prompts
    load = None if arguments.lr is None else partial(load_restore, chosen, devices=arguments.devices)
    found = compare(cases, load, measures.of_pictures, arguments.output, chosen)
    rows = means(found)
    if not rows:
        raise InputError(f"none of the {len(cases)} pictures could be measured; the first one: {found[0].left_out}")
    baseline = arguments.against or ("reference" if "reference" in rows else next(iter(rows)))
    _check_baseline(baseline, rows)  # "second stage alone" is a row only where the result is a blend
    missing = dict(measures.missing)
    pictures = sum(bool(m.values) for m in found)
    for name, set_measure in measures.of_sets.items():
        values, reason = measure_set(set_measure, cases, found, arguments.output)
        missing |= {name: reason} if reason else {}
        for program, row in rows.items():
            row[name] = Mean(values[program], math.nan, pictures) if program in values else Mean(math.nan, math.nan, 0)
    text = write_report(
        arguments.output, chosen, found, rows, missing, unpaired, arguments.paper, baseline if len(rows) > 1 else None
    )
    write_sheet(arguments.output, cases, found)
    return text


def measure_set(
    set_measure: SetMeasure, cases: Sequence[Case], found: Sequence[Measured], output: Path
) -> tuple[dict[str, float], str]:
    """A set's measure, by program, and why it is not defined for the programs that lack it."""
    measured = [case for case, m in zip(cases, found, strict=True) if m.values]
    values, reason = {}, ""
    for program in next(m.values for m in found if m.values):
        files = [result_file(output, case, program) for case in measured]
        with linked(files) as made, linked([case.hr for case in measured]) as truths:
            try:
                values[program] = set_measure(made, truths)
            except InputError as error:
                reason = str(error)
    return values, reason


@command("evaluation")
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    keep_compiled_functions()
    say(run(arguments).removesuffix("\n"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
