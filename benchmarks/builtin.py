"""The network that the package ships, as several benchmarks start from it."""

from importlib.resources import files
from pathlib import Path

from torch import nn

from pipeline.checkpoint import load_weights
from pipeline.models.resnet import resnet20


def dense() -> nn.Module:
    """The built-in ResNet-20 with its weights, in evaluation mode."""
    model = resnet20(width=32, in_channels=1)
    load_weights(model, Path(str(files("pipeline.models") / "fashion_resnet20.safetensors")))
    return model.eval()
