"""How a cascade, and other programs, do on pairs of pictures: the paper's measures in one table.

    python -m cassr_jax.evaluation --lr LR --hr HR --config tiny --output FOLDER
    python -m cassr_jax.evaluation --hr HR --results osediff=FOLDER --results seesr=FOLDER --output FOLDER

With --lr, the cascade restores its pictures; --results takes what another program made, so that all stand in the same
table. Pictures belong together by name, suffixes apart; what does not pair or fit is listed. The output folder gets
table.md, values.csv, comparison.json, sheet.png (the worst and the best pictures) and the restored pictures. The same
command again goes on where it stopped.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from cassr_jax.errors import InputError
from cassr_jax.evaluation.cascades import KINDS, add_options, fingerprint, load_restore, settings
from cassr_jax.evaluation.comparison import compare, make_measures, result_file
from cassr_jax.evaluation.frechet import vgg16_distance
from cassr_jax.evaluation.pairing import find_cases
from cassr_jax.evaluation.pyiqa_measures import linked, pyiqa_measures
from cassr_jax.evaluation.report import means, paper_sets, write_report, write_sheet
from cassr_jax.weights.perceptual import lpips_weights


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m cassr_jax.evaluation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--hr", type=Path, required=True, help="folder of the true pictures")
    add("--lr", type=Path, help="folder of the pictures that the cascade restores")
    add("--results", metavar="NAME=DIR", action="append", default=[], type=_named, help="another program's pictures")
    add("--output", type=Path, required=True, help="folder for the report, one for each comparison")
    add("--paper", choices=paper_sets(), help="quote what the paper says of this test set")
    add("--vgg16", action="store_true", help="also LPIPS of VGG16, and the Frechet distance on its features; slow")
    add("--seed", type=int, default=0, help="of every picture's noise (default %(default)s)")
    add_options(parser)
    arguments = parser.parse_args(argv)
    if arguments.lr is None and not arguments.results:
        parser.error("nothing to judge: expected --lr, --results, or both")
    return arguments


def _named(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder) or name in KINDS:
        raise argparse.ArgumentTypeError(f"{text!r}, expected NAME=DIR with a name that is none of {', '.join(KINDS)}")
    return name, Path(folder)


def run(arguments: argparse.Namespace) -> str:
    """The whole comparison; returns the table."""
    results = dict(arguments.results)
    cases, unpaired = find_cases(arguments.hr, arguments.lr, results)
    of_picture, of_set, missing = pyiqa_measures()
    vgg16 = lpips_weights("vgg16") if arguments.vgg16 else None
    if vgg16 is not None:
        of_set["frechet_vgg16"] = vgg16_distance(vgg16)
    measure, missing_too = make_measures(of_picture, vgg16)
    missing |= missing_too
    cascade = settings(arguments)
    chosen = {
        "hr": str(arguments.hr.resolve()),
        "lr": None if arguments.lr is None else str(arguments.lr.resolve()),
        "results": {name: str(folder.resolve()) for name, folder in results.items()},
        "pictures": [case.name for case in cases],
        "missing": sorted(missing),
        "vgg16": arguments.vgg16,
    } | ({} if arguments.lr is None else cascade | {"seed": arguments.seed, "cascade": fingerprint(cascade)})
    load = None if arguments.lr is None else partial(load_restore, chosen)
    found = compare(cases, load, measure, arguments.output, chosen)
    rows = means(found)
    if not rows:
        raise InputError(f"none of {len(cases)} pictures could be measured; the first: {found[0].left_out}")
    measured = [case for case, of in zip(cases, found, strict=True) if of.values]
    files = {program: [result_file(arguments.output, case, program) for case in measured] for program in rows}
    for name, of in of_set.items():
        for program, row in rows.items():
            with linked(files[program]) as made, linked([case.hr for case in measured]) as truths:
                row[name] = of(made, truths)
    write_sheet(arguments.output, cases, found)
    return write_report(arguments.output, chosen, found, rows, missing, unpaired, arguments.paper)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    try:
        print(run(arguments), end="")
    except InputError as error:
        print(f"evaluation: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
