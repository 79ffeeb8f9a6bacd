"""The paper's first stage: SCEdit's tuners with the values that it prints, on its five sets.

    python train.py --config configs/paper_scedit.py --workdir runs/paper_scedit

Needs: the five sets, each built by cassr_jax.commands.build (docs/data.md), and eight devices; on one GPU add
`--set accumulate=8`.
Cost: the paper gives about two days on eight A100 for a stage. Memory and FLOPs are those of configs/sd15_scedit.py.
Result: not run yet. docs/paper.md compares every value with the paper.
"""

from dataclasses import replace

from cassr_jax.config import OptimizerConfig
from cassr_jax.config_files import sibling

ours = sibling(__file__, "sd15_scedit.py").config

config = replace(
    ours,
    data=replace(
        ours.data,
        path="",
        # The paper names no shares. With the numbers of pictures as weights, all pictures are seen equally often.
        mixture={
            "data/div2k": 800,
            "data/div8k": 1500,
            "data/flickr2k": 2650,
            "data/ost": 10324,
            "data/ffhq": 10000,
        },
        sharp_fraction=0.0,
        num_workers=8,
        cache_bytes=0,  # far more pictures than memory
    ),
    # The paper prints Adam and the rate. It mentions neither warm-up nor an average of the weights.
    optimizer=OptimizerConfig(learning_rate=5e-4, warmup_steps=0, ema_decay=0.0),
    batch_size=32,  # 4 on each of 8 devices
)
