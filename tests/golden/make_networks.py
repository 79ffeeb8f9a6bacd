"""Write networks.npz: outputs and weight names of torch diffusers' narrow networks, for tests that run without torch.

Run from the repository root, with the extra `reference` installed: `python -m tests.golden.make_networks`.
"""

import json
from pathlib import Path

import diffusers
import numpy as np
import torch

from tests import references
from tests.narrow import CONTROLNET, UNETS, VAES


def main() -> None:
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__, "numpy": np.__version__}
    arrays, shapes = {}, {}
    for name, config in UNETS.items():
        arrays |= {f"{name}/{key}": value for key, value in references.run_diffusion(name).items()}
        shapes[f"unet/{name}"] = references.shapes(references.unet(config))
        shapes[f"controlnet/{name}"] = references.shapes(references.controlnet(config, CONTROLNET))
    for name, config in VAES.items():
        arrays |= {f"{name}/{key}": value for key, value in references.run_vae(name).items()}
        shapes[f"vae/{name}"] = references.shapes(references.vae(config))
    np.savez_compressed(
        Path(__file__).with_name("networks.npz"),
        **arrays,
        versions=json.dumps(versions),
        seeds=json.dumps({"unet": 0, "controlnet": 1, "vae": 0, "inputs": 0}),
        shapes=json.dumps(shapes),
    )


if __name__ == "__main__":
    main()
