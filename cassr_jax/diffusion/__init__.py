"""The noise schedule, samplers, guidance and the loss. Networks appear here only as functions that are called."""
