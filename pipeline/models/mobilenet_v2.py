"""MobileNetV2 for small images: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.models.initial import draw_weights

# Expansion, channels, blocks, stride of the first: as the paper's table 2, cut down from 224 pixels to 28 or 32.
ROWS = ((1, 16, 1, 1), (4, 24, 2, 2), (4, 40, 3, 1))
STEM, HEAD = 16, 160  # channels of the first convolution and of the last
MULTIPLE = 8  # of which widths are


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times the channels, 3x3 depthwise, linear 1x1 back; the input is added where shapes allow."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.expand = _layer(in_channels, inner, 1) if expansion > 1 else nn.Sequential()
        self.depthwise = _layer(inner, inner, 3, stride, groups=inner)
        self.project = _layer(inner, channels, 1)[:2]  # linear: an activation would lose too much of so few channels
        self.residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, in_channels, H, W)` to `(N, channels, H / stride, W / stride)`."""
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + out if self.residual else out


class MobileNetV2(nn.Module):
    """A convolution, rows of inverted residuals, a 1x1 convolution, the mean over positions, a linear layer."""

    def __init__(self, rows: Sequence[tuple[int, int, int, int]], ends: tuple[int, int], inputs: int, classes: int):
        super().__init__()
        stem, head = ends
        self.stem = _layer(inputs, stem, 3, stride=2)
        blocks: list[nn.Module] = []
        width = stem
        for expansion, channels, count, stride in rows:
            for i in range(count):
                blocks.append(InvertedResidual(width, channels, stride if i == 0 else 1, expansion))
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = _layer(width, head, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(head, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(N, in_channels, H, W)` to logits `(N, classes)`."""
        x = self.head(self.blocks(self.stem(x)))
        logits: Tensor = self.fc(torch.flatten(self.pool(x), 1))
        return logits


def mobilenet_v2(width: float = 1.0, in_channels: int = 3, classes: int = 10, seed: int = 0) -> MobileNetV2:
    """Build a MobileNetV2 for images of about 28 pixels, `width` times as wide, its weights drawn from `seed`.

    He et al., "Delving Deep into Rectifiers", ICCV 2015, for the weights. Raises ValueError for a width that is
    not positive.
    """
    if width <= 0:
        raise ValueError(f"width is {width}; give a factor of the channels, 0.5 or 1 say")
    rows = [(expansion, _times(width, channels), count, stride) for expansion, channels, count, stride in ROWS]
    model = MobileNetV2(rows, (_times(width, STEM), _times(width, HEAD)), in_channels, classes)
    draw_weights(model, seed, "fan_in")
    return model


def _times(width: float, channels: int) -> int:
    """Widen `channels`, to the nearest multiple of 8."""
    return max(MULTIPLE, round(channels * width / MULTIPLE) * MULTIPLE)


def _layer(inputs: int, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolve, normalise, cut at 0 and 6."""
    return nn.Sequential(
        nn.Conv2d(inputs, channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU6(),
    )
