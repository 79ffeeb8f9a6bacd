"""Table 2's other first stage with the paper's values: a ControlNet makes the reference.

    python train.py --config configs/paper_controlnet.py --workdir runs/paper_controlnet

Needs: what configs/paper_scedit.py needs.
Cost: memory is that of configs/sd15_controlnet.py; the time was not measured.
Result: not run yet.
"""

import runpy
from dataclasses import replace
from pathlib import Path

scedit = runpy.run_path(str(Path(__file__).with_name("paper_scedit.py")))["config"]
controlnet = runpy.run_path(str(Path(__file__).with_name("sd15_controlnet.py")))["config"]

config = replace(scedit, stage=controlnet.stage, new=controlnet.new)
