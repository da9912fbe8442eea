"""What a model is for, and how its outputs are scored."""
