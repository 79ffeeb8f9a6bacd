"""How good a cascade is: a table, a JSON file and a contact sheet.

python -m cassr_jax.evaluation.quality --photos FOLDER --config tiny --tiles 40 --preset light --output FOLDER
python -m cassr_jax.evaluation.quality --pairs FOLDER --config tiny --output FOLDER

With `--photos`, sharp 256 px tiles of a folder's pictures are degraded and restored; with `--pairs`, the pictures of
`FOLDER/lr` are restored and compared with those of `FOLDER/hr`. Measured are the bicubic enlargement, the first stage's
reference and the result.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cassr_jax.data.degradation import PRESETS
from cassr_jax.errors import InputError
from cassr_jax.evaluation.cascades import KINDS, Record, Restore, add_options, evaluate, load_restore, settings
from cassr_jax.evaluation.measures import COLUMNS, Measure, Values, make_measure, spread, table
from cassr_jax.evaluation.sheet import contact_sheet
from cassr_jax.evaluation.tiles import Pair, degraded_tiles, ready_pairs
from cassr_jax.files import replaced, write_json
from cassr_jax.imaging import io

_SHEET_ROWS = 24


def write_report(folder: Path, records: Sequence[Record], chosen: dict[str, object]) -> str:
    """Writes quality.md (the table) and quality.json (every value, and how it came about); returns the table."""
    rows = {kind: [record.values[kind] for record in records] for kind in KINDS}
    text = table(rows)
    means = {
        kind: {
            name: dict(zip(("mean", "deviation"), spread([v[name] for v in values]), strict=True)) for name in COLUMNS
        }
        for kind, values in rows.items()
    }
    versions = {name: version(name) for name in ("jax", "jaxlib", "numpy")}
    content = {"settings": chosen, "versions": versions, "summary": means, "pictures": [asdict(r) for r in records]}
    with replaced(folder / "quality.md") as file:
        file.write((text + "\n").encode())
    write_json(folder / "quality.json", content)
    return text


def run(pairs: Sequence[Pair], restore: Restore, measure: Measure, output: Path, chosen: dict[str, object]) -> str:
    """Restores and measures all pairs, writes the report and the contact sheet of the first ones; returns the table."""
    sheet: list[Sequence[np.ndarray]] = []

    def judge(pair: Pair, pictures: Sequence[np.ndarray]) -> list[Values]:
        if len(sheet) < _SHEET_ROWS:
            sheet.append([*pictures, pair.hr])
        return measure(pair.hr, pictures)

    records = list(tqdm(evaluate(pairs, restore, judge), "restoring", len(pairs), unit="picture"))
    io.write(output / "sheet.png", io.Picture(contact_sheet(sheet)))
    return write_report(output, records, chosen)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m cassr_jax.evaluation.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--photos", type=Path, help="folder of pictures; their sharp tiles are degraded and restored")
    what.add_argument("--pairs", type=Path, help="folder with lr/ and hr/")
    parser.add_argument("--output", type=Path, required=True, help="folder for quality.md, quality.json, sheet.png")
    parser.add_argument("--tiles", type=int, default=40, help="how many tiles, or pairs at most (default %(default)s)")
    parser.add_argument("--preset", default="light", choices=PRESETS, help="of the degradation (default %(default)s)")
    add_options(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    try:
        if arguments.tiles < 1:
            raise InputError(f"--tiles is {arguments.tiles}, expected at least 1")
        if arguments.photos is not None:
            pairs = degraded_tiles(arguments.photos, arguments.tiles, PRESETS[arguments.preset])
        else:
            pairs = list(islice(ready_pairs(arguments.pairs), arguments.tiles))
        measure = make_measure()
        chosen = settings(arguments)
        tested = {"pictures": (arguments.photos or arguments.pairs).name, "preset": arguments.preset}
        print(run(pairs, load_restore(chosen), measure, arguments.output, chosen | tested))
    except InputError as error:
        print(f"quality: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
