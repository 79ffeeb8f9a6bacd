"""A trial for `benchmarks/tiny_ablation.py`: the embedded second stage trained anew and briefly, in its one step.

    python benchmarks/tiny_ablation.py --photos PHOTOS/test --output runs/ablation --tiles 16

The benchmark changes the seed, and leaves out the multiple attention or the restored reference.

Needs: the records of configs/tiny_both.py that have SCEdit's references (docs/tiny.md).
Cost: 80 steps of 4 crops of 96 px a run; its time was not recorded.
Result: the restored reference is worth 0.0135 in LPIPS and DISTS, the multiple attention nothing that three seeds show.
"""

from dataclasses import replace

from cassr_jax.config_files import sibling

config = sibling(__file__, "tiny_cassr.py").config

config = replace(
    config,
    data=replace(config.data, path="runs/references_both/scedit", crop_size=96),
    components=config.components | {"scedit": "runs/scedit/export/scedit"},
    loss=replace(config.loss, start_fraction=1.0, image_weight=10.0, perceptual_weight=4.0),
    optimizer=replace(config.optimizer, learning_rate=1e-3, warmup_steps=10, decay="cosine", ema_decay=0.9),
    batch_size=4,
    num_steps=80,
    save_every=80,
    log_every=10,
    dtype="float32",
    frozen_dtype="float32",
)
