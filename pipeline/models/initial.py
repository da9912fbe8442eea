"""The weights that convolutional networks start from."""

from typing import Literal

import torch
from torch import nn


def draw_weights(model: nn.Module, seed: int, mode: Literal["fan_in", "fan_out"]) -> None:
    """Draw the weights of convolutions and linear layers anew, in place, from `seed` alone.

    He et al., "Delving Deep into Rectifiers", ICCV 2015. `mode` is the variance that convolutions keep: that of what
    they compute (fan_in) or of the gradients (fan_out).
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01, generator=generator)
            nn.init.zeros_(module.bias)
