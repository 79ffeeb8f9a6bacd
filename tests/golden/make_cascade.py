"""Write cascade.npz: two whole steps of each stage of a narrow random cascade, in torch, before rounding to 8 bit.

Run from the repository root, with the extra `reference` installed: `python -m tests.golden.make_cascade`.
"""

import json
import tempfile
from pathlib import Path

import diffusers
import numpy as np
import torch
from PIL import Image

from tests import torch_cascade
from tests.random_cascade import TILE
from tests.test_cascade_golden import CASES, GOLDEN, GUIDANCE_SCALE, SEED, SIZE, STEPS, noises, picture, write_cascade


def main() -> None:
    bicubic = np.asarray(Image.fromarray(picture()).resize(SIZE[::-1], Image.Resampling.BICUBIC))
    arrays = {"bicubic": bicubic, "noises": noises()}
    sampling = torch_cascade.Sampling(STEPS, GUIDANCE_SCALE, SIZE, side=TILE)
    with tempfile.TemporaryDirectory() as name:
        untrained = write_cascade(Path(name) / "untrained", trained=False)
        made = torch_cascade.run_stable_diffusion(untrained, bicubic, arrays["noises"], sampling)
        arrays |= {f"untrained/{n}": x.astype(np.float32) for n, x in zip(("reference", "result"), made, strict=True)}
        folder = write_cascade(Path(name) / "trained")
        for kind, start in CASES.items():
            reference, result = torch_cascade.run(folder, kind, bicubic, arrays["noises"], start, sampling)
            arrays |= {f"{kind}/reference": reference.astype(np.float32), f"{kind}/result": result.astype(np.float32)}
    np.savez_compressed(
        GOLDEN,
        **arrays,
        settings=json.dumps([SEED, STEPS, GUIDANCE_SCALE, *SIZE]),
        versions=json.dumps({"torch": torch.__version__, "diffusers": diffusers.__version__}),
    )


if __name__ == "__main__":
    main()
