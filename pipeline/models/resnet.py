"""ResNet for small images: He et al., "Deep Residual Learning", CVPR 2016, section 4.2 (CIFAR)."""

import torch
from torch import Tensor, nn

from pipeline.models.initial import draw_weights


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the shortcut is a 1x1 convolution where the shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, in_channels, H, W)` to `(N, channels, H / stride, W / stride)`."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        summed: Tensor = self.relu2(out + self.shortcut(x))
        return summed


class ResNet(nn.Module):
    """Three stages of basic blocks at widths `(w, 2w, 4w)`, each but the first halving the resolution."""

    def __init__(self, blocks: int, width: int, in_channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.layer1 = _stage(blocks, width, width, stride=1)
        self.layer2 = _stage(blocks, width, 2 * width, stride=2)
        self.layer3 = _stage(blocks, 2 * width, 4 * width, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(N, in_channels, H, W)` to logits `(N, classes)`."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(torch.flatten(self.pool(x), 1))
        return logits


def resnet(depth: int = 20, width: int = 16, in_channels: int = 3, classes: int = 10, seed: int = 0) -> ResNet:
    """Build a ResNet of `depth` = 6n + 2 layers, its weights drawn from `seed`.

    He et al., "Delving Deep into Rectifiers", ICCV 2015, for the weights. Raises ValueError for a depth that
    no such network has.
    """
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"depth is {depth}; a ResNet of basic blocks has 6n + 2 layers: 8, 14, 20, 32, 44, 56 …")
    model = ResNet((depth - 2) // 6, width, in_channels, classes)
    draw_weights(model, seed, "fan_out")
    return model


def resnet20(width: int = 16, in_channels: int = 3, classes: int = 10, seed: int = 0) -> ResNet:
    """Build the ResNet-20."""
    return resnet(20, width, in_channels, classes, seed)


def _stage(blocks: int, in_channels: int, channels: int, stride: int) -> nn.Sequential:
    """Stack `blocks` blocks, of which the first changes the shape."""
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))
