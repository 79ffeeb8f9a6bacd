"""Training data: pictures, their degradation, batches of both, and references made beforehand."""
