"""Networks with channels that are dead, and what has to hold once those are gone."""

import torch
import torch.nn.functional as F
from pruning_nets import lively, relative
from torch import Tensor, nn

from pipeline.pruning import DeadResult, count, remove_dead


def zero_filters(model: nn.Module, share: float, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            gone = torch.rand(module.weight.shape[0], generator=generator) < share
            module.weight.data[gone] = 0
    return model


def checked(model: nn.Module, x: Tensor, tolerance: float = 1e-5) -> DeadResult:
    """Remove, and compare outputs for the inputs given; costs are what a fresh count finds."""
    before = {k: v.clone() for k, v in model.state_dict().items()}
    result = remove_dead(model, x, real_inputs=x)
    with torch.no_grad():
        assert relative(result.model.eval()(x), model.eval()(x)) <= tolerance
    assert result.max_rel_error <= tolerance
    counts = count(result.model, x)
    assert (counts.params, counts.macs) == (result.params_after, result.macs_after)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    return result


def widths(result: DeadResult) -> dict[str, tuple[int, int]]:
    return {g.name: (g.before, g.after) for g in result.plan.groups}


class Chain(nn.Module):
    """Two convolutions, a norm between if asked for, and a linear layer; `kind` is the second's padding."""

    def __init__(self, *, norm: bool = False, padding: int = 0, mode: str = "zeros", bias: bool = True) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=not norm)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.second = nn.Conv2d(8, 6, 3, padding=padding, padding_mode=mode, bias=bias)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.norm(self.first(x)))))
        return self.head(x.mean((2, 3)))


def chain(dead: dict[int, float], **options: bool | int | str) -> Chain:
    """A chain whose first convolution has filters of zeros that emit the given constants."""
    torch.manual_seed(0)
    model = lively(Chain(**options))
    model.first.weight.data[list(dead)] = 0
    for channel, value in dead.items():
        if isinstance(model.norm, nn.BatchNorm2d):
            model.norm.running_mean.data[channel] = 0
            model.norm.bias.data[channel] = value
        else:
            model.first.bias.data[channel] = value
    return model


X = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))


def positions(result: DeadResult, layer: str) -> set[int]:
    return set(result.plan.kept[f"{layer}.weight"][0])
