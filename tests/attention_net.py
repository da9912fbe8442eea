"""A small network with attention heads, for what looks at groups of every kind."""

import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Patches, a block of attention with four heads of width six, a block of two linear layers, and a classifier."""

    def __init__(self, width: int = 16, heads: int = 4, per_head: int = 6, classes: int = 10) -> None:
        super().__init__()
        self.heads, self.per_head = heads, per_head
        self.stem = nn.Sequential(nn.Conv2d(3, width, 4, stride=4), nn.BatchNorm2d(width), nn.ReLU())
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * heads * per_head)
        self.proj = nn.Linear(heads * per_head, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        n, length, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).view(n, length, 3, self.heads, self.per_head).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + self.mlp(x)
        y: Tensor = self.head(x.mean(1))
        return y
