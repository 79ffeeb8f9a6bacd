"""A plain ControlNet as the second stage on Stable Diffusion 1.5, trained under CasSR's settings, for a comparison.

    python train.py --config configs/sd15_residuals.py --workdir runs/sd15_residuals

It reads the reference, and adds its residuals to the U-Net; nothing attends to pictures.

Needs: in data/pairs the records of configs/sd15_cassr.py, and its first stage.
Cost: 361 million trained parameters; memory and time were not measured.
Result: not run yet.
"""

from dataclasses import replace

from cassr_jax.config_files import sibling

cassr = sibling(__file__, "sd15_cassr.py").config

config = replace(cassr, stage="residuals", new={"controlnet": cassr.new["controlnet"]})
