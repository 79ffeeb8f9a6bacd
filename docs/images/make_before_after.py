"""The picture at the top of README.md, from what `sample.py` makes of the examples.

    python sample.py examples --output restored
    PYTHONPATH=. python docs/images/make_before_after.py --results restored --output docs/images/before_after.jpg

Left of each pair the bicubic enlargement, right the result, both cut to the same part and nothing else done to them.
Two pairs stand in a row.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from cassr_jax.imaging import io, resizing

SIDE = 352  # of each part, in px of the enlarged picture
GAP = 6
COLUMNS = 2


def part(image: np.ndarray) -> np.ndarray:
    """The middle SIDE x SIDE of a picture."""
    top, left = ((side - SIDE) // 2 for side in image.shape[:2])
    return image[top : top + SIDE, left : left + SIDE]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=Path, default=Path("examples"))
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    pairs = []
    for example in sorted(arguments.examples.glob("*.jpg")):
        result = io.read(next(arguments.results.glob(f"{example.stem}.*"))).rgb
        bicubic = resizing.bicubic(io.read(example).rgb, result.shape[:2])
        pairs.append(np.concatenate([part(bicubic), part(result)], axis=1))
    rows = -(-len(pairs) // COLUMNS)
    sheet = np.full((rows * (SIDE + GAP) - GAP, COLUMNS * (2 * SIDE + GAP) - GAP, 3), 255, np.uint8)
    for i, pair in enumerate(pairs):
        top, left = i // COLUMNS * (SIDE + GAP), i % COLUMNS * (2 * SIDE + GAP)
        sheet[top : top + SIDE, left : left + 2 * SIDE] = pair
    Image.fromarray(sheet).save(arguments.output, quality=90)


if __name__ == "__main__":
    main()
