"""The row of pictures in docs/sampling.md that shows what `--fidelity` does.

    PYTHONPATH=. python docs/images/make_fidelity.py --output docs/images/fidelity.jpg

From left to right: the second stage's own picture of an example at each of `FIDELITIES`, all cut to the same part. The
line that is printed says how far each whole picture is, on average, from the last one.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import cassr_jax
from cassr_jax.imaging import io
from cassr_jax.printing import say

FIDELITIES = (0.0, 0.25, 0.5, 0.75, 1.0)
SIDE = 200  # of each part, in px of the enlarged picture
GAP = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--example", type=Path, default=Path("examples/bee.jpg"))
    parser.add_argument("--config", default="tiny")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    cassr, picture = cassr_jax.load(arguments.config), io.read(arguments.example).rgb
    made = [cassr.restore(picture, fidelity=fidelity, reference_weight=0.0).result for fidelity in FIDELITIES]
    row = np.full((SIDE, len(made) * (SIDE + GAP) - GAP, 3), 255, np.uint8)
    top, left = ((side - SIDE) // 2 for side in made[0].shape[:2])
    for index, result in enumerate(made):
        start = index * (SIDE + GAP)
        row[:, start : start + SIDE] = result[top : top + SIDE, left : left + SIDE]
    Image.fromarray(row).save(arguments.output, quality=90)
    apart = [float(np.abs(result.astype(int) - made[-1]).mean()) for result in made]
    say("mean distance to the last, in levels of 255: " + ", ".join(f"{distance:.2f}" for distance in apart))


if __name__ == "__main__":
    main()
