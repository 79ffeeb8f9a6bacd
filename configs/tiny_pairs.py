"""The embedded model's records: sharp windows of photographs and their degraded versions, from which all its stages
draw. `python -m cassr_jax.commands.references` makes them; they fit a GPU's memory as a whole."""

from cassr_jax.config import TrainConfig
from cassr_jax.data.config import DataConfig

config = TrainConfig(
    stage="scedit",
    data=DataConfig(path="../shared/photos/train", crop_size=256, preset="light", num_threads=1),
    batch_size=64,
)
