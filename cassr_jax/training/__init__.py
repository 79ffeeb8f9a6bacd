"""Training: the stages, one step, checkpoints, and the loop around them."""
