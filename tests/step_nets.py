"""Small random networks as chains of steps, for properties that need many cheap cases."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

ACTIVATIONS = {"relu": F.relu, "relu6": F.relu6, "tanh": torch.tanh, "silu": F.silu, "sigmoid": torch.sigmoid}


@dataclass(frozen=True)
class Step:
    kind: str
    width: int  # multiple of 4
    activation: str


class Net(nn.Module):
    """A chain of steps with branches, ended by a flatten or a mean and a linear layer."""

    def __init__(self, steps: list[Step], flatten: bool) -> None:
        super().__init__()
        self.steps, self.flatten = steps, flatten
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layers = nn.ModuleList()
        channels = 8
        for step in steps:
            layer, channels = self.build(step, channels)
            self.layers.append(layer)
        self.head = nn.Linear(channels * (4 if flatten else 1), 5)

    @staticmethod
    def build(step: Step, c: int) -> tuple[nn.Module, int]:
        w = step.width
        if step.kind == "conv":
            return nn.Sequential(nn.Conv2d(c, w, 3, padding=1, bias=False), nn.BatchNorm2d(w)), w
        if step.kind == "grouped":
            return nn.Conv2d(c, w, 3, padding=1, groups=4 if c % 4 == 0 else 1), w
        if step.kind == "depthwise":
            return nn.Conv2d(c, c, 3, padding=1, groups=c), c
        if step.kind == "cat":
            return nn.Conv2d(c, w, 1), c + w
        if step.kind == "gate":
            return nn.ModuleList([nn.Conv2d(c, w, 1), nn.Conv2d(w, c, 1)]), c
        return nn.Conv2d(c, c, 3, padding=1), c  # residual; twice, the same module called two times

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for step, layer in zip(self.steps, self.layers, strict=True):
            f = ACTIVATIONS[step.activation]
            if step.kind == "residual":
                x = f(x + layer(x))
            elif step.kind == "twice":
                x = layer(f(layer(x)))
            elif step.kind == "cat":
                x = torch.cat([x, f(layer(x))], 1)
            elif step.kind == "gate":
                x = x * layer[1](f(layer[0](x.mean((2, 3), keepdim=True)))).sigmoid()
            else:
                x = f(layer(x))
        x = F.adaptive_avg_pool2d(x, 2)
        return self.head(x.flatten(1) if self.flatten else x.mean((2, 3)))


KINDS = ["conv", "grouped", "depthwise", "residual", "twice", "cat", "gate"]
STEP = st.builds(Step, st.sampled_from(KINDS), st.sampled_from([4, 8, 12, 16]), st.sampled_from(sorted(ACTIVATIONS)))
