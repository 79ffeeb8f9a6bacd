"""Write denoisers.npz: what the three denoisers predict in torch, each of CasSR's ablations included.

Run from the repository root, with the extra `reference` installed: `python -m tests.golden.make_denoisers`.
"""

import json
from pathlib import Path

import diffusers
import numpy as np
import torch

from tests import narrow, references, torch_denoisers
from tests.narrow_denoisers import ABLATIONS, CONFIG, KINDS


def main() -> None:
    cases = [(kind, "whole") for kind in KINDS] + [("cassr", switches) for switches in ABLATIONS]
    arrays = {
        f"{kind}.{switches}/{name}": value.astype(np.float32)
        for kind, switches in cases
        for name, value in torch_denoisers.run(kind, switches).items()
    }
    unet = references.unet(CONFIG)
    attention = torch_denoisers.multiple_attention(unet, references.controlnet(CONFIG, narrow.CONTROLNET))
    np.savez_compressed(
        Path(__file__).with_name("denoisers.npz"),
        **arrays,
        shapes=json.dumps(references.shapes(attention)),
        versions=json.dumps({"torch": torch.__version__, "diffusers": diffusers.__version__}),
    )


if __name__ == "__main__":
    main()
