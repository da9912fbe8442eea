"""Blocks of random networks over (N, L, C): what transformers are made of, in as many spellings."""

import torch
import torch.nn.functional as F
from random_blocks import Block, Spot
from torch import Tensor, nn

LENGTH = 4  # of every sequence


def norm(spot: Spot, channels: int) -> nn.Module:
    return (nn.LayerNorm, nn.RMSNorm, nn.Identity, nn.LayerNorm)[spot.variant](channels)


class Dense(Block):
    def __init__(self, spot: Spot) -> None:
        super().__init__(spot, spot.width)
        self.linear = nn.Linear(spot.channels, spot.width, bias=spot.variant != 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.linear(x))


class Mlp(Block):
    def __init__(self, spot: Spot) -> None:
        super().__init__(spot, spot.channels)
        self.norm = norm(spot, spot.channels)
        self.a, self.b = nn.Linear(spot.channels, spot.width), nn.Linear(spot.width, spot.channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(self.act(self.a(self.norm(x))))


class Gated(Block):
    """SwiGLU: of one layer's two halves, or of two layers."""

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot, spot.channels)
        self.fused = spot.variant % 2
        self.a = nn.Linear(spot.channels, spot.width * (1 + self.fused))
        self.b = None if self.fused else nn.Linear(spot.channels, spot.width)
        self.c = nn.Linear(spot.width, spot.channels)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x).chunk(2, -1) if self.fused else (self.a(x), self.b(x))
        return x + self.c(F.silu(a) * b)


class Fused(Block):
    """Attention whose queries, keys and values are rows of one layer."""

    hard_within_heads = True

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot, spot.channels)
        self.variant, self.heads, self.width = str(spot.variant), spot.width // 4, 4
        self.hard = self.heads == self.width  # nothing tells which of the two a 4 is
        self.norm = norm(spot, spot.channels)
        self.qkv, self.proj = nn.Linear(spot.channels, 3 * spot.width), nn.Linear(spot.width, spot.channels)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        y = self.qkv(self.norm(x))
        if self.variant == "0":
            q, k, v = y.reshape(n, length, 3, self.heads, self.width).permute(2, 0, 3, 1, 4).unbind(0)
        elif self.variant == "1":
            q, k, v = (t.view(n, length, self.heads, self.width).transpose(1, 2) for t in y.chunk(3, -1))
        elif self.variant == "2":
            sizes = [self.heads * self.width] * 3
            q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in y.split(sizes, -1))
        else:
            q, k, v = y.view(n, length, self.heads, 3 * self.width).transpose(1, 2).chunk(3, -1)
        if self.variant in "13":
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q @ k.transpose(-2, -1)) * self.width**-0.5).softmax(-1) @ v
        return x + self.proj(y.transpose(1, 2).reshape(n, length, -1))


class Separate(Block):
    """Attention from three layers; keys and values with as many heads as queries, or with one for two."""

    hard_within_heads = True

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot, spot.channels)
        self.variant, self.width, self.each, self.shared = (
            str(spot.variant),
            spot.width,
            2,
            spot.variant == 3 and spot.width > 4,
        )
        rows = spot.width // 2 if self.shared else spot.width
        self.q, self.proj = nn.Linear(spot.channels, spot.width), nn.Linear(spot.width, spot.channels)
        self.k, self.v = nn.Linear(spot.channels, rows), nn.Linear(spot.channels, rows)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (-1, self.each)) for layer in (self.q, self.k, self.v))
        if self.shared:
            k, v = k.repeat_interleave(2, 2), v.repeat_interleave(2, 2)
        if self.variant == "0":
            weights = torch.einsum("nqhd,nkhd->nhqk", q, k).mul(0.5).softmax(-1)
            y = torch.einsum("nhqk,nkhd->nqhd", weights, v)
        else:
            y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)
        return x + self.proj(y.flatten(2) if self.variant in "01" else y.reshape(*x.shape[:2], self.width))


class Multihead(Block):
    """torch's own attention, whose heads together must be as wide as what comes in: neither can go alone."""

    hard = True

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot, spot.channels)
        self.weights = spot.variant == 1
        heads = next(n for n in (4, 2, 1) if spot.channels % n == 0)
        self.attention = nn.MultiheadAttention(spot.channels, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x, x, x, need_weights=self.weights)[0]


class Mixer(Block):
    """Tokens mixed by a layer along them."""

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot, spot.channels)
        self.norm = norm(spot, spot.channels)
        self.a, self.b = nn.Linear(LENGTH, spot.width), nn.Linear(spot.width, LENGTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(self.act(self.a(self.norm(x).transpose(1, 2)))).transpose(1, 2)


class Product(Block):
    """A product with a parameter outside modules, the second time transposed."""

    by_hand = False

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot, spot.channels)
        self.weight, self.tied = nn.Parameter(torch.randn(spot.channels, spot.width) / 4), spot.variant % 2
        self.back = None if self.tied else nn.Parameter(torch.randn(spot.width, spot.channels) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x @ self.weight) @ (self.weight.t() if self.tied else self.back)


class Place(Block):
    """A parameter for every place of the sequence, or a token put before it and taken off again."""

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot, spot.channels)
        self.token = spot.variant % 2
        self.place = nn.Parameter(torch.randn(1, 1 if self.token else LENGTH, spot.channels))
        self.mix = nn.Linear(spot.channels, spot.channels) if self.token else None

    def forward(self, x: Tensor) -> Tensor:
        if self.mix is None:
            return x + self.place
        longer = torch.cat([self.place.expand(x.shape[0], -1, -1), x], 1)
        return x + F.relu(self.mix(longer))[:, 1:] * longer[:, :1]


class Line(Block):
    """A convolution along the sequence."""

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot, spot.width)
        self.conv = nn.Conv1d(spot.channels, spot.width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x.transpose(1, 2)).transpose(1, 2))
