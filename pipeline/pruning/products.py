"""Convolutions and linear layers as what they are to channels: weighted sums of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

CONVOLUTIONS = frozenset(f"conv{n}d" for n in (1, 2, 3))
TRANSPOSED = frozenset(f"conv_transpose{n}d" for n in (1, 2, 3))
PRODUCTS = CONVOLUTIONS | TRANSPOSED | {"linear"}


@dataclass(frozen=True)
class Product:
    """One call of such a layer; `g` groups, each with `o` outputs and `i` inputs.

    `x` holds the values of the input channels in float64, shape (g, i, k), NaN where they depend on the model's
    input; k is 1 where no channel varies over positions. `weight` has shape (g, o, i, taps). A layer is
    `bordered` where outputs near the border see fewer taps than others do.
    """

    op: str
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    bordered: bool
    axis: int  # of the channels, in the input and in the output

    @cached_property
    def live(self) -> Tensor:
        """Which weights are not all zero, shape (g, o, i)."""
        return (self.weight != 0).any(-1)

    @cached_property
    def known(self) -> Tensor:
        """Which input channels do not depend on the model's input, shape (g, i)."""
        return ~self.x.isnan().any(-1)

    @cached_property
    def zero(self) -> Tensor:
        """Which input channels are zero everywhere, shape (g, i)."""
        return (self.x == 0).all(-1)

    @cached_property
    def adds_constant(self) -> Tensor:
        """Which input channels add the same to an output at all its positions, shape (g, i)."""
        same = self.known & (self.x == self.x[..., :1]).all(-1)
        return self.zero if self.bordered else same

    def added(self, channels: Tensor) -> Tensor:
        """Return what the `channels`, bool of shape (g, i), add to every output, shape (g * o,) in float64."""
        some = channels.any(0)
        value = torch.where(channels, self.x[..., 0], 0.0)[:, some]
        weight = self.weight[:, :, some].sum(-1, dtype=torch.float64)
        return torch.einsum("goi,gi->go", weight, value).flatten()

    def constants(self) -> Tensor:
        """Return the outputs that do not depend on the model's input, shape (g * o,), NaN for the others."""
        varies = (self.live & ~self.adds_constant[:, None]).any(-1).flatten()
        value = self.added(self.adds_constant)
        if self.bias is not None:
            value = value + self.bias.double()
        return torch.where(varies, torch.nan, value)


def product(op: str, arguments: Mapping[str, Any]) -> Product:
    """Return one of `PRODUCTS` from its arguments: values as `constants` has them, tensors full-sized."""
    x, weight = arguments["input"], arguments["weight"]
    groups = arguments.get("groups", 1)
    axis = x.ndim - 1 if op == "linear" else x.ndim - weight.ndim + 1  # inputs come with a batch dimension or without
    grouped = by_group(op, weight, groups)
    _, _, per_group, *_ = grouped.shape
    wide = x.double().expand(*x.shape[:axis], groups * per_group, *x.shape[axis + 1 :])
    profile = wide.movedim(axis, 0).reshape(groups, per_group, -1)
    taps = grouped.reshape(*grouped.shape[:3], -1)
    return Product(op, profile, taps, arguments.get("bias"), _bordered(op, arguments), axis)


def by_group(op: str, weight: Tensor, groups: int) -> Tensor:
    """Return a view of a weight in which groups, outputs and inputs per group come first, in this order."""
    split = weight.view(groups, weight.shape[0] // groups, *weight.shape[1:])
    return split.transpose(1, 2) if op in TRANSPOSED else split


def _bordered(op: str, arguments: Mapping[str, Any]) -> bool:
    padding = arguments.get("padding", 0)
    padded = padding != "valid" if isinstance(padding, str) else any(_pair(padding))
    return op in TRANSPOSED or padded


def _pair(value: int | list[int]) -> list[int]:
    return [value] if isinstance(value, int) else value
