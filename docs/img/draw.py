"""Draws the pictures of docs/pruning.md: the built-in ResNet-20, half of the channels of what may go.

python docs/img/draw.py
"""

from pathlib import Path

import torch

from pipeline.models.resnet import resnet20
from pipeline.pruning import prune
from pipeline.pruning.layers import compare
from pipeline.report.widths import picture

FOLDER = Path(__file__).parent
PICTURES = {"hourglass": ("filter",), "even": ("filter", "stage")}


def draw(granularity: tuple[str, ...]) -> str:
    """Prune with these granularities and draw the result; only widths show, so the weights do not matter."""
    model, image = resnet20(width=32, in_channels=1), torch.zeros(1, 1, 28, 28)
    pruned = prune(model, image, ratio=0.5, granularity=granularity).model
    return picture(compare(model, pruned, image), f"ResNet-20, {' and '.join(granularity)}, ratio 0.5")


if __name__ == "__main__":
    for name, granularity in PICTURES.items():
        (FOLDER / f"{name}.svg").write_text(draw(granularity), encoding="utf-8")
