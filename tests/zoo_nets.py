"""Models of one's own for the zoo: functions that return a model and its example inputs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Model = tuple[nn.Module, tuple[Tensor, ...]]


class Attention(nn.Module):
    """One head over the positions of a feature map, with a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).chunk(3, -1)
        weights = F.softmax(q @ k.transpose(1, 2), -1)
        return self.head((x + weights @ v).mean(1))


class TwoHeads(nn.Module):
    """A plain trunk; both heads make outputs, one of them through a permutation."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU())
        self.boxes = nn.Conv2d(16, 4, 1)
        self.classes = nn.Conv2d(16, 6, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.trunk(x)
        return {"boxes": self.boxes(x).permute(0, 2, 3, 1).flatten(1, 2), "classes": torch.sigmoid(self.classes(x))}


def attention() -> Model:
    """Attention over 6 × 6 positions."""
    return Attention(), (torch.randn(2, 3, 8, 8),)


def two_heads() -> Model:
    """Convolutions only."""
    return TwoHeads(), (torch.randn(2, 3, 8, 8),)


def misfit() -> Model:
    """Inputs that the model does not take."""
    return TwoHeads(), (torch.randn(2, 1, 8, 8),)
