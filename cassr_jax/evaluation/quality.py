"""How good a cascade is: a table, a JSON file and a contact sheet.

python -m cassr_jax.evaluation.quality --photos FOLDER --config tiny --tiles 40 --preset light --output FOLDER
python -m cassr_jax.evaluation.quality --pairs FOLDER --config tiny --output FOLDER

With `--photos`, sharp 256 px tiles of a folder's pictures are degraded and restored; with `--pairs`, the pictures of
`FOLDER/lr` are restored and compared with those of `FOLDER/hr`. Measured are the bicubic enlargement, the first stage's
reference and the result.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from cassr_jax.data.degradation import PRESETS
from cassr_jax.errors import InputError
from cassr_jax.evaluation.cascades import KINDS, Restore, add_options, load_restore, settings
from cassr_jax.evaluation.measures import COLUMNS, Measure, Values, make_measure, spread, table
from cassr_jax.evaluation.tiles import Pair, degraded_tiles, ready_pairs
from cassr_jax.files import replaced, write_json
from cassr_jax.imaging import io

_SHEET_ROWS, _SHEET_CELL, _SHEET_GAP = 24, 256, 4


@dataclass(frozen=True)
class Record:
    """What was measured of one pair: values by kind of picture."""

    name: str
    values: dict[str, Values]


def evaluate(
    pairs: Sequence[Pair], restore: Restore, measure: Measure, show: Callable[[Sequence[np.ndarray]], None]
) -> Iterator[Record]:
    """Restores pair i with seed i and measures it; `show` is given the bicubic, reference, result and true pictures."""
    for seed, pair in enumerate(pairs):
        pictures = restore(pair.lr, seed, pair.scale)
        show([*pictures, pair.hr])
        yield Record(pair.name, dict(zip(KINDS, measure(pair.hr, pictures), strict=True)))


def contact_sheet(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Rows of pictures, each shrunk into a square cell of 256 px, on white; uint8 (H, W, 3)."""
    pitch = _SHEET_CELL + _SHEET_GAP
    sheet = np.full((len(rows) * pitch - _SHEET_GAP, len(rows[0]) * pitch - _SHEET_GAP, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            shrink = min(_SHEET_CELL / max(picture.shape[:2]), 1)
            if shrink < 1:
                size = tuple(max(1, round(side * shrink)) for side in picture.shape[1::-1])
                picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            height, width = picture.shape[:2]
            sheet[i * pitch : i * pitch + height, j * pitch : j * pitch + width] = picture
    return sheet


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

    def show(pictures: Sequence[np.ndarray]) -> None:
        if len(sheet) < _SHEET_ROWS:
            sheet.append(pictures)

    records = list(tqdm(evaluate(pairs, restore, measure, show), "restoring", len(pairs), unit="picture"))
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
