"""Figure 6: the paper's second stage trained without multiple attention. The ControlNet's features are only added.

    python train.py --config configs/paper_no_attention.py --workdir runs/paper_no_attention
    python sample.py photo.jpg --config configs/paper_no_attention.py

Needs: what configs/paper_cassr.py needs.
Cost: an example costs 0.6 TFLOP less than with configs/paper_cassr.py (docs/training.md); the time was not measured.
Result: not run yet.
"""

from dataclasses import replace

from cassr_jax.config_files import sibling
from cassr_jax.models.multiple_attention import GuidanceSwitches

paper = sibling(__file__, "paper_cassr.py")

switches = GuidanceSwitches(reference_attention=False, lr_attention=False)
config = replace(paper.config, switches=switches)
cascade = replace(
    paper.cascade,
    components=paper.cascade.components
    | {
        "controlnet": "runs/paper_no_attention/export/controlnet",
        "multiple_attention": "runs/paper_no_attention/export/multiple_attention",  # loaded, and switched off
    },
    switches=switches,
)
