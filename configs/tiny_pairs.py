"""The embedded model's records: sharp windows of photographs and their degraded versions, for all of its stages.

    python -m cassr_jax.commands.references --config configs/tiny_pairs.py --records 4096 --output runs/pairs

Needs: photographs in data/photos, or elsewhere with `--set data.path=PHOTOS`.
Cost: the time was not recorded. All records fit a GPU's memory.
Result: the embedded model's were 14 sets of 576 records with two presets (docs/tiny.md).
"""

from cassr_jax.config import TrainConfig
from cassr_jax.data.config import DataConfig

config = TrainConfig(
    stage="scedit",
    data=DataConfig(path="data/photos", crop_size=256, preset="light", num_threads=1),
    batch_size=64,
)
