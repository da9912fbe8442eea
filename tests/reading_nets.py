"""What a layer reads, by plain loops in float64, to compare statistics of contributions with; and a small net."""

import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from tests.pruning_nets import lively

Array = NDArray[np.float64]


def unfolded(layer: nn.Module, value: Tensor) -> list[Array]:
    """Return the inputs of every output place of a layer, (places, channels of a group, kernel), by conv group."""
    x = value.detach().double().numpy()
    if isinstance(layer, nn.Linear):
        return [x.reshape(-1, x.shape[-1])[:, :, None]]
    assert isinstance(layer, nn.Conv2d)
    (kh, kw), (sh, sw), (dh, dw) = layer.kernel_size, layer.stride, layer.dilation
    if layer.padding == "same":
        pads = [((d * (k - 1)) // 2, d * (k - 1) - (d * (k - 1)) // 2) for k, d in ((kh, dh), (kw, dw))]
    else:
        pads = [(p, p) for p in layer.padding]
    x = np.pad(x, [(0, 0), (0, 0), *pads])
    rows = range(0, x.shape[2] - dh * (kh - 1), sh)
    columns = range(0, x.shape[3] - dw * (kw - 1), sw)
    each = x.shape[1] // layer.groups
    found: list[list[Array]] = [[] for _ in range(layer.groups)]
    for image, i, j in itertools.product(range(len(x)), rows, columns):
        patch = x[image][:, [i + a * dh for a in range(kh)]][:, :, [j + b * dw for b in range(kw)]]
        for group in range(layer.groups):
            found[group].append(patch[group * each : (group + 1) * each].reshape(each, -1))
    return [np.stack(some) for some in found]


def added(layer: nn.Module, value: Tensor, units: list[list[int]]) -> Array:
    """Return what the input channels of each unit add to every output, (units, outputs × places)."""
    weight = layer.weight.detach().double().numpy()
    patches = unfolded(layer, value)
    each, rows = weight.shape[1], weight.shape[0] // len(patches)
    result = []
    for channels in units:
        total = np.zeros((len(patches[0]), weight.shape[0]))
        for c in channels:
            group, place = divmod(c, each)
            for o in range(group * rows, (group + 1) * rows):
                total[:, o] += patches[group][:, place] @ weight[o, place].reshape(-1)
        result.append(total.ravel())
    return np.stack(result)


def seen_by(model: nn.Module, names: list[str], x: Tensor) -> dict[str, Tensor]:
    """Return what layers get as input."""
    found: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: found.__setitem__(name, args[0].clone())
        )
        for name in names
    ]
    with torch.no_grad():
        model.eval()(x)
    for hook in hooks:
        hook.remove()
    return found


class Pair(nn.Module):
    """One group of eight channels, and the layer that reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(F.relu(self.a(x)))
        return y


def pair() -> Pair:
    """Return one with lively values."""
    torch.manual_seed(0)
    model = Pair()
    lively(model)
    return model
