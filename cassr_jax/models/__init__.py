"""The networks as Flax NNX modules; they know nothing of files, devices or training."""
