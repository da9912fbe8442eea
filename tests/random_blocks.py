"""Blocks of random networks over (N, C, *space): what convolutional networks are made of, in as many spellings."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
ACTIVATIONS = (F.relu, F.silu, torch.tanh, F.gelu)


@dataclass(frozen=True)
class Spot:
    """Where a block goes: the channels that come in, the width asked for, and which of its spellings it has."""

    channels: int
    width: int  # a multiple of 4
    variant: int  # 0 to 3
    space: int = 2  # how many spatial dimensions


class Block(nn.Module):
    """One step of a network; `out` channels leave it."""

    by_hand = True  # whether zeros where layers read, and norms over what stays, are all that masking takes
    hard = False  # whether a size is written into the forward
    hard_within_heads = False  # whether one size must fit layers that do not shrink alike, unless whole heads go

    def __init__(self, spot: Spot, out: int) -> None:
        super().__init__()
        self.out = out
        self.act = ACTIVATIONS[spot.variant]


def conv(spot: Spot, cin: int, cout: int, k: int = 3, groups: int = 1) -> nn.Module:
    return CONVS[spot.space - 1](cin, cout, k, padding=k // 2, groups=groups)


def divisor(of: int, largest: int) -> int:
    return next(n for n in range(largest, 0, -1) if of % n == 0)


def norm(spot: Spot, channels: int) -> nn.Module:
    if spot.variant == 0:
        return BATCH_NORMS[spot.space - 1](channels)
    if spot.variant == 1:
        return nn.GroupNorm(divisor(channels, 4), channels)
    if spot.variant == 2:
        return INSTANCE_NORMS[spot.space - 1](channels, affine=True)
    return nn.GroupNorm(1, channels)


class Plain(Block):
    def __init__(self, spot: Spot) -> None:
        super().__init__(spot, spot.width)
        self.conv = conv(spot, spot.channels, spot.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class Normed(Block):
    def __init__(self, spot: Spot) -> None:
        super().__init__(spot, spot.width)
        self.conv, self.norm = conv(spot, spot.channels, spot.width), norm(spot, spot.width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class Residual(Block):
    def __init__(self, spot: Spot) -> None:
        super().__init__(spot, spot.channels)
        self.norm = norm(spot, spot.channels)
        self.a, self.b = conv(spot, spot.channels, spot.width), conv(spot, spot.width, spot.channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(self.act(self.a(self.norm(x))))


class Grouped(Block):
    def __init__(self, spot: Spot) -> None:
        super().__init__(spot, spot.width)
        groups = divisor(spot.channels, (1, 2, 4, 4)[spot.variant])
        self.conv = conv(spot, spot.channels, spot.width, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class Depthwise(Block):
    def __init__(self, spot: Spot) -> None:
        out = spot.channels * (1 + spot.variant % 2)
        super().__init__(spot, out)
        self.conv = conv(spot, spot.channels, out, groups=spot.channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class Transposed(Block):
    """Variant 1 is depthwise, 2 has two groups."""

    def __init__(self, spot: Spot) -> None:
        groups = {1: spot.channels, 2: 2}.get(spot.variant, 1)
        super().__init__(spot, spot.channels if groups > 2 else spot.width)
        self.up = TRANSPOSED[spot.space - 1](spot.channels, self.out, 3, padding=1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.up(x))


class Twice(Block):
    """One module called twice, or two that share a weight."""

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot, spot.channels)
        self.a = conv(spot, spot.channels, spot.channels)
        self.b = self.a if spot.variant % 2 else conv(spot, spot.channels, spot.channels)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.act(self.a(x)))


class Cat(Block):
    def __init__(self, spot: Spot) -> None:
        super().__init__(spot, spot.channels + spot.width)
        self.conv, self.last = conv(spot, spot.channels, spot.width, 1), spot.variant % 2

    def forward(self, x: Tensor) -> Tensor:
        parts = [x, self.act(self.conv(x))]
        return torch.cat(parts if self.last else parts[::-1], 1)


class Gate(Block):
    """Squeeze and excite: over space, or over channels."""

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot, spot.channels)
        self.over, self.axes = spot.variant == 3, tuple(range(2, 2 + spot.space))
        self.by_hand = not self.over
        self.a = conv(spot, 2 if self.over else spot.channels, spot.width, 1)
        self.b = conv(spot, spot.width, 1 if self.over else spot.channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.over:
            seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        else:
            seen = x.mean(self.axes, keepdim=True)
        return x * self.b(self.act(self.a(seen))).sigmoid()


class Halves(Block):
    """Two halves of a layer's channels, multiplied: by chunk, split, slices or glu."""

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot, spot.width)
        self.conv, self.variant = conv(spot, spot.channels, 2 * spot.width), str(spot.variant)
        self.half = spot.width

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.variant == "0":
            a, b = x.chunk(2, 1)
        elif self.variant == "1":
            a, b = x.split(self.half, 1)
        elif self.variant == "2":
            a, b = x[:, : self.half], x[:, self.half :]
        else:
            return F.glu(x, 1)
        return F.relu(a) * b


class Parts(Block):
    """Unequal parts, put together in another order: by sizes, slices, narrow, or a size in the forward."""

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot, spot.width)
        self.conv = conv(spot, spot.channels, spot.width)
        self.sizes = [spot.width // 4, spot.width - spot.width // 4]
        self.variant, self.first = str(spot.variant), spot.width // 4
        first, self.hard = self.first, spot.variant == 3
        self.cut: Callable[[Tensor], tuple[Tensor, Tensor]] = lambda x: (x[:, :first], x[:, first:])

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.variant == "0":
            a, b = x.split(self.sizes, 1)
        elif self.variant == "1":
            a, b = x[:, : self.first], x[:, self.first :]
        elif self.variant == "2":
            a, b = x.narrow(1, 0, self.first), x[:, self.first :]
        else:
            a, b = self.cut(x)
        return torch.cat([b.sigmoid(), F.relu(a)], 1)


class Shuffle(Block):
    """Channel shuffle: sizes from the input, stored, by flatten and unflatten, or in the forward."""

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot, spot.channels)
        self.variant, self.groups, self.each = str(spot.variant), 2, spot.channels // 2
        each, self.hard = self.each, spot.variant == 3
        self.apart: Callable[[Tensor], Tensor] = lambda x: x.view(-1, 2, each, *x.shape[2:])

    def forward(self, x: Tensor) -> Tensor:
        n, c, *space = x.shape
        if self.variant == "0":
            x = x.view(n, self.groups, c // self.groups, *space)
        elif self.variant == "1":
            x = x.reshape(n, self.groups, self.each, *space)
        elif self.variant == "2":
            x = x.unflatten(1, (self.groups, -1))
        else:
            x = self.apart(x)
        return x.transpose(1, 2).flatten(1, 2)


class Maxout(Block):
    """The larger of two channels, wherever they lie."""

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot, spot.width)
        self.conv, self.width = conv(spot, spot.channels, 2 * spot.width), spot.width
        self.sizes = (2, spot.width) if spot.variant % 2 else (spot.width, 2)
        self.axis = self.sizes.index(2) + 1

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).unflatten(1, self.sizes).amax(self.axis)


class Pixels(Block):
    """Channels to space, or space to channels."""

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot, spot.width)
        self.up = spot.variant % 2
        self.a = conv(spot, spot.channels, spot.width * (4 if self.up else 1))
        self.b = conv(spot, spot.width * (1 if self.up else 4), spot.width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        if self.up:
            return F.avg_pool2d(self.b(F.pixel_shuffle(x, 2)), 2)
        return F.interpolate(self.b(F.pixel_unshuffle(x, 2)), scale_factor=2.0)


class Outside(Block):
    """Parameters outside modules: a scale and a shift, or a convolution's weight."""

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot, spot.width if spot.variant % 2 else spot.channels)
        ones = (1,) * spot.space
        self.weight = nn.Parameter(torch.randn(spot.width, spot.channels, *ones)) if spot.variant % 2 else None
        self.scale = nn.Parameter(torch.rand(self.out, *ones) + 0.5)
        self.shift = nn.Parameter(torch.randn(1, self.out, *ones))
        self.by_hand = self.weight is None
        self.op = (F.conv1d, F.conv2d, F.conv3d)[spot.space - 1]

    def forward(self, x: Tensor) -> Tensor:
        return (x if self.weight is None else self.op(x, self.weight)) * self.scale + self.shift


class Copies(Block):
    """Channels repeated, or padded with zeros."""

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot, spot.channels + 4 if spot.variant > 1 else 2 * spot.channels)
        self.variant, self.space = str(spot.variant), spot.space

    def forward(self, x: Tensor) -> Tensor:
        if self.variant == "0":
            return x.repeat(1, 2, *(1,) * self.space)
        if self.variant == "1":
            return x.repeat_interleave(2, 1)
        return F.pad(x, (0, 0) * self.space + (1, 3))


class Last(Block):
    """A layer norm over channels, moved last for it."""

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot, spot.channels)
        self.norm = (nn.LayerNorm if spot.variant % 2 else nn.RMSNorm)(spot.channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)
