"""The paper's CasSR: its second stage with the values that it prints, and the cascade that results.

    python train.py --config configs/paper_cassr.py --workdir runs/paper_cassr
    python sample.py photo.jpg --config configs/paper_cassr.py

Needs: what configs/paper_scedit.py trains, in data/paper_pairs the references made with it (docs/paper.md has the
command), and eight devices; on one GPU add `--set accumulate=8` to the first command.
Cost: the paper gives about two days on eight A100 for a stage. Memory and FLOPs are those of configs/sd15_cassr.py.
Result: not run yet. docs/paper.md compares every value with the paper.
"""

from dataclasses import replace

from cassr_jax.config_files import sibling

scedit = sibling(__file__, "paper_scedit.py").config
ours = sibling(__file__, "sd15_cassr.py").config
sd15 = sibling(__file__, "sd15.py").cascade

tuner = {"scedit": "runs/paper_scedit/export/scedit"}

config = replace(
    scedit,
    stage=ours.stage,
    activation=ours.activation,
    data=replace(scedit.data, path="data/paper_pairs", mixture={}),
    components=scedit.components | tuner,
    new=ours.new,
)
cascade = replace(
    sd15,
    components=sd15.components
    | tuner
    | {
        "activation_controlnet": "runs/paper_controlnet/export/activation_controlnet",  # read for Table 2 alone
        "controlnet": "runs/paper_cassr/export/controlnet",
        "multiple_attention": "runs/paper_cassr/export/multiple_attention",
    },
)
