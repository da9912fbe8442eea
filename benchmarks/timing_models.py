"""The models that benchmarks/timing.py times."""

from pathlib import Path

import torch

from benchmarks.builtin import dense
from pipeline.exporting import to_onnx
from pipeline.models.mobilenet_v2 import mobilenet_v2
from pipeline.models.resnet import resnet

MODELS = ("resnet20", "mobilenet_v2", "resnet56", "tiny")  # tiny: what a call itself costs shows there


def exported(name: str, folder: Path) -> Path:
    """The model as an ONNX file, exported when first asked for."""
    path = folder / name / "model.onnx"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        made = {
            "resnet20": dense,
            "mobilenet_v2": lambda: mobilenet_v2().eval(),
            "tiny": lambda: mobilenet_v2(in_channels=1).eval(),
            "resnet56": lambda: resnet(depth=56, width=32, in_channels=3).eval(),
        }[name]()
        shape = {"resnet56": (3, 32, 32), "mobilenet_v2": (3, 112, 112)}.get(name, (1, 28, 28))
        to_onnx(made, torch.randn(4, *shape).numpy(), path, 1)
    return path
