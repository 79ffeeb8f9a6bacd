"""Where the model fails, for docs/model_card.md: of each example the window that lies furthest from the photograph.

    python sample.py examples --output restored
    PYTHONPATH=. python docs/images/make_failures.py --photos PHOTOS --results restored --output failures.jpg

A row is bicubic enlargement, result and photograph, enlarged twice so that pixels can be seen; two rows stand side by
side. Far is LPIPS (AlexNet) on windows of 128 px, half of one apart; nobody chooses.
"""

import argparse
import runpy
from pathlib import Path

import numpy as np
from PIL import Image

from cassr_jax.evaluation.measures import make_measure, read_weights
from cassr_jax.imaging import io, resizing

SIDE = 128
ZOOM = 2
GAP = 6
COLUMNS = 2
ROOT = Path(__file__).resolve().parents[2]


def windows(image: np.ndarray) -> list[np.ndarray]:
    """Those of SIDE px on a grid of half as much, row by row."""
    height, width = image.shape[:2]
    starts = (
        (top, left) for top in range(0, height - SIDE + 1, SIDE // 2) for left in range(0, width - SIDE + 1, SIDE // 2)
    )
    return [np.ascontiguousarray(image[top : top + SIDE, left : left + SIDE]) for top, left in starts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="as examples/make_examples.py takes it")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    weights, missing = read_weights(["lpips"])
    if missing:
        parser.error(missing["lpips"])
    measure, rows = make_measure(weights), []
    for name, photo, (left, top, right, bottom) in runpy.run_path(str(ROOT / "examples" / "make_examples.py"))["CROPS"]:
        result = io.read(next(arguments.results.glob(f"{Path(name).stem}.*"))).rgb
        bicubic = resizing.bicubic(io.read(ROOT / "examples" / name).rgb, result.shape[:2])
        truth = io.read(arguments.photos / photo).rgb[top:bottom, left:right]
        cuts = list(zip(*(windows(image) for image in (bicubic, result, truth)), strict=True))
        far = [measure(cut[2], [cut[1]])[0][0]["lpips"] for cut in cuts]
        rows.append(np.concatenate(cuts[int(np.argmax(far))], axis=1).repeat(ZOOM, 0).repeat(ZOOM, 1))
    height, width = rows[0].shape[:2]
    lines = -(-len(rows) // COLUMNS)
    sheet = np.full((lines * (height + GAP) - GAP, COLUMNS * (width + GAP) - GAP, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        y, x = i // COLUMNS * (height + GAP), i % COLUMNS * (width + GAP)
        sheet[y : y + height, x : x + width] = row
    Image.fromarray(sheet).save(arguments.output, quality=90)


if __name__ == "__main__":
    main()
