"""The noise schedule, samplers, guidance and the loss; networks are known by their call alone."""
