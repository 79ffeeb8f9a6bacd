"""Record what torch diffusers' narrow `AutoencoderTiny` gives with random weights: `taesd.npz`.

Run from the repository root with the extra `reference` installed: `python -m tests.golden.make_taesd`.
"""

import json
from pathlib import Path

import diffusers
import numpy as np
import torch

from tests import references
from tests.narrow import TAESD


def main() -> None:
    np.savez_compressed(
        Path(__file__).with_name("taesd.npz"),
        **references.run_taesd(TAESD),
        versions=json.dumps({"torch": torch.__version__, "diffusers": diffusers.__version__}),
        seeds=json.dumps({"weights": 0, "inputs": 0}),
        shapes=json.dumps(references.shapes(references.taesd(TAESD))),
    )


if __name__ == "__main__":
    main()
