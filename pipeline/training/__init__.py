"""Training a model: the loop, its checkpoints, BatchNorm statistics."""
