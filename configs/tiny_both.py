"""The embedded model, last: the second stage on references of both kinds, SCEdit's own and Real-ESRGAN's.

    python train.py --config configs/tiny_both.py --workdir runs/both

One set of weights then serves both first stages.

Needs: what configs/tiny_sharpen.py trains, and four sets of 384 records with references (docs/tiny.md).
Cost: 14 minutes on two CPU cores, for 160 steps of 8 crops of 128 px.
Result: the ControlNet and the multiple attention of the embedded cascade. docs/tiny.md has its figures.
"""

from dataclasses import replace

from cassr_jax.config_files import sibling

config = sibling(__file__, "tiny_sharpen.py").config

config = replace(
    config,
    data=replace(config.data, path="runs/references_both"),
    components=config.components
    | {
        "controlnet": "runs/sharpen/export/controlnet",
        "multiple_attention": "runs/sharpen/export/multiple_attention",
    },
    optimizer=replace(config.optimizer, decay="constant"),
    num_steps=160,
    save_every=40,
    log_every=10,
)
