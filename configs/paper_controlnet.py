"""Table 2's other first stage with the paper's values: a ControlNet makes the reference.

    python train.py --config configs/paper_controlnet.py --workdir runs/paper_controlnet

Needs: what configs/paper_scedit.py needs.
Cost: memory is that of configs/sd15_controlnet.py; the time was not measured.
Result: not run yet.
"""

from dataclasses import replace

from cassr_jax.config_files import sibling

scedit = sibling(__file__, "paper_scedit.py").config
controlnet = sibling(__file__, "sd15_controlnet.py").config

config = replace(scedit, stage=controlnet.stage, new=controlnet.new)
